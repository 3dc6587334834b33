"""`edge-interleave chat`: a conversation about images and videos, on a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import EdgeInterleaveError, MediaError, UsageError
from ..messages import Image, Media, Video
from ..store import expanded
from . import output
from .ask import stats_lines
from .interrupts import set_by_interrupt
from .options import Choices, MediaCommand, answer_options, media_in_order, media_options, model_options

if TYPE_CHECKING:
    from ..chat import Chat
    from ..generation import Answer

_HELP = """\
/image PATH   show an image with the next question
/video PATH   show a video with the next question
/stats        what the last answer cost
/reset        forget the conversation
/quit         end it (or ctrl-D); ctrl-C ends an answer"""


@click.command(cls=MediaCommand)
@media_options
@model_options
@click.option("--system", help="A message that goes before the conversation.")
@answer_options
@click.pass_context
def chat(
    ctx: click.Context,
    /,
    image: tuple[Path, ...],
    video: tuple[Path, ...],
    model: str | None,
    backend: str | None,
    context: int | None,
    threads: int | None,
    system: str | None,
    chosen: Choices,
) -> None:
    """Talk about images and videos, turn by turn; images given here go with the first question.

    Each line is a question; /help lists what else can be typed. Through a pipe the answers alone go to stdout, and the
    first error ends the conversation.
    """
    from ..model import load

    with load(model, backend=backend, context=context, threads=threads) as opened, opened.chat(system) as talk:
        repl = _Repl(talk, chosen, media_in_order(ctx, image, video))
        if repl.interactive:
            output.note(f"{opened.bundle.manifest.name}; /help lists the commands, ctrl-D ends")
        repl.run()


class _Repl:
    """Reads lines, answers them."""

    def __init__(self, talk: Chat, chosen: Choices, pending: list[Media]) -> None:
        self.talk = talk
        self.chosen = chosen
        self.pending = pending
        """Images and videos that go with the next question."""
        self.last: Answer | None = None
        self.interactive = sys.stdin.isatty()

    def run(self) -> None:
        for line in self.lines():
            try:
                if line in ("/quit", "/exit"):
                    return
                self.command(line) if line.startswith("/") else self.ask(line)
            except EdgeInterleaveError as error:
                if not self.interactive:
                    raise
                if isinstance(error, MediaError) and self.pending:
                    self.pending = []
                output.note(f"error: {error}")

    def lines(self) -> Iterator[str]:
        """What is typed, without empty lines."""
        if not self.interactive:
            yield from (line.strip() for line in sys.stdin if line.strip())
            return
        with suppress(ImportError):
            import readline  # noqa: F401 - gives `input` a history and line editing
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                output.note("")
                return
            except KeyboardInterrupt:
                output.note("\nctrl-D ends the conversation")
                continue
            if line:
                yield line

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says."""
        name, _, rest = line.partition(" ")
        rest = rest.strip().strip("'\"")
        if name in ("/image", "/video") and rest:
            self.pending.append(_opened(name, expanded(rest)))
            output.note(f"{len(self.pending)} for the next question")
        elif name == "/reset":
            self.talk.reset()
            self.pending, self.last = [], None
            output.note("begun anew")
        elif name == "/stats":
            output.note(stats_lines(self.last.stats) if self.last else "nothing was answered yet")
        elif name == "/help":
            output.note(_HELP)
        elif name in ("/image", "/video"):
            raise UsageError(f"{name} needs a path: {name} PATH")
        else:
            raise UsageError(f"no command {name}; /help lists them")

    def ask(self, question: str) -> None:
        """Answer a question, piece by piece."""
        with set_by_interrupt() as cancel:
            stream = self.talk.stream(
                [*self.pending, question],
                max_tokens=self.chosen.max_tokens,
                stop=self.chosen.stop,
                sampling=self.chosen.sampling,
                frames=self.chosen.frames,
                pool=self.chosen.pool,
                tiles=self.chosen.tiles,
                cancel=cancel,
            )
            for piece in stream:
                output.write(piece)
        output.write("\n")
        self.last, self.pending = stream.answer, []
        if self.last.finish_reason == "cancelled":
            output.note("(stopped)")


def _opened(name: str, path: Path) -> Media:
    """The image or video at the path, looked at now, so that a wrong path is told at once."""
    if name == "/image":
        from ..vision.image import open_image

        open_image(path)
        return Image(path)
    if not path.exists():
        raise MediaError(f"{path}: no such file; check the path")
    return Video(path)
