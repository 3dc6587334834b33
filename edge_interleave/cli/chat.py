"""`edge-interleave chat`: a conversation about images and videos, on a terminal or through a pipe."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_interleave.cli import output
from edge_interleave.cli.answer_text import AnswerText, note_if_cut_off, note_if_unfamiliar
from edge_interleave.cli.ask import answer_json, checked_text, stats_lines
from edge_interleave.cli.interrupts import interrupt_event
from edge_interleave.cli.line_editor import LineEditor, split_paths
from edge_interleave.cli.media_arguments import (
    IMAGE,
    STDIN,
    VIDEO,
    MediaCommand,
    check_readable,
    media_in_order,
    named_media,
)
from edge_interleave.cli.options import (
    AnswerSettings,
    ModelChoice,
    answer_options,
    json_option,
    media_options,
    model_options,
    system_option,
)
from edge_interleave.cli.status_line import StatusLine
from edge_interleave.errors import EdgeInterleaveError, MediaError, UsageError
from edge_interleave.prompt.messages import Image, Media, Message
from edge_interleave.util.atomic_file import check_writable
from edge_interleave.util.regular_file import open_regular_file

if TYPE_CHECKING:
    from edge_interleave.answer import Answer
    from edge_interleave.chat import Chat
    from edge_interleave.prompt.familiarity import QuestionModel
    from edge_interleave.remote.model import RemoteChat

_HELP = """\
/image PATH...   show images with the next question
/video PATH...   show videos with the next question
/stats           show tokens, times and memory of the last answer
/clear           begin a new conversation (or /reset)
/quit            end the program (or exit, /bye, ctrl-D); ctrl-C ends an answer
/help            show this list
\"""              begin or end a question of several lines"""
_SHOW = {"/image": IMAGE, "/video": VIDEO}
_CLEAR = ("/clear", "/reset")
_QUIT = ("/quit", "/exit", "/bye", "exit", "quit")
_COMMANDS = (*_SHOW, "/stats", *_CLEAR, "/quit", "/exit", "/bye", "/help")
_FENCE = '"""'


@click.command(cls=MediaCommand)
@media_options
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with a saved conversation.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the conversation to this file when it ends.")
@model_options
@system_option
@answer_options
@json_option("Print one JSON object for each answer.")
@click.pass_context
def chat(
    ctx: click.Context,
    /,
    image: tuple[str, ...],
    video: tuple[str, ...],
    resume: Path | None,
    save: Path | None,
    system: str | None,
    as_json: bool,
    settings: AnswerSettings,
    model_choice: ModelChoice,
) -> None:
    """Talk about images and videos, turn by turn. Images given here go with the first question.

    Each line is a question; /help lists the commands. If questions come through a pipe, stdout gets the answers and
    nothing else, and the first error ends the conversation.

    With --save the conversation is written to a file when it ends; --resume goes on with it, without computing its
    images again. The file can be the same.
    """
    media = media_in_order(ctx, image, video, stdin_is="the conversation")
    for one in media:
        check_readable(one)
    if resume is not None:
        open_regular_file(resume).close()
    if save is not None:
        check_writable(save, "choose another place")
    system = system and checked_text(system)
    with StatusLine() as status, model_choice.open(status) as opened, opened.chat(system, resume=resume) as talk:
        status.stop()
        repl = _Repl(talk, opened.questions, settings, media, status, as_json=as_json)
        if repl.interactive:
            output.note(f"{opened.name}; /help lists the commands, ctrl-D ends")
            repl.note_resumed()
            repl.note_pending()
        try:
            repl.run()
        finally:
            if save is not None:
                talk.save(save)
        if save is not None:
            output.note(f"saved; go on with: edge-interleave chat --resume {shlex.quote(str(save))}")


class _Repl:
    """Reads lines and answers them."""

    def __init__(
        self,
        talk: Chat | RemoteChat,
        known_questions: QuestionModel | None,
        settings: AnswerSettings,
        pending: list[Media],
        status: StatusLine,
        *,
        as_json: bool,
    ) -> None:
        self.talk = talk
        self.known_questions = known_questions
        self.noted_unfamiliar = False
        """Whether the questions that the model knows were listed; they are listed once."""
        self.settings = settings
        self.pending = pending
        """Images and videos that go with the next question."""
        self.status = status
        self.as_json = as_json
        self.last: Answer | None = None
        self.interactive = sys.stdin.isatty()
        self.editor = LineEditor(_COMMANDS, tuple(_SHOW)) if self.interactive else None

    def run(self) -> None:
        for line in self.questions():
            try:
                if line in _QUIT:
                    return
                self.command(line) if line.startswith("/") else self.ask(checked_text(line))
            except EdgeInterleaveError as error:
                if not self.interactive or isinstance(error, output.OutputError):
                    raise
                output.note(f"error: {error}")

    def questions(self) -> Iterator[str]:
        """The typed lines, without empty ones. Lines between two fences are one question."""
        fenced: list[str] = []
        while True:
            try:
                line = self.line("... " if fenced else "> ")
            except KeyboardInterrupt:
                output.note("\n(question dropped)" if fenced else "\nctrl-D ends the conversation")
                fenced = []
                continue
            if line is None:
                break
            if not fenced and not line.strip().startswith(_FENCE):
                if line.strip():
                    yield line.strip()
                continue
            fenced.append(line)
            text = "\n".join(fenced).strip()
            if text.endswith(_FENCE) and len(text) >= 2 * len(_FENCE):
                fenced = []
                question = text.removeprefix(_FENCE).removesuffix(_FENCE).strip()
                if question:
                    yield question
        if fenced:
            raise UsageError(f"a question begins with {_FENCE} and does not end; end it with {_FENCE}")

    def line(self, prompt: str) -> str | None:
        """The next typed line; None at the end."""
        if self.editor is None:
            try:
                return sys.stdin.readline() or None
            except UnicodeDecodeError:
                raise UsageError("stdin is not UTF-8 text; convert the questions to UTF-8") from None
        try:
            if sys.stdout.isatty():
                return self.editor.read(prompt)
            # `input` would write the prompt to stdout, among the answers.
            print(prompt, end="", file=sys.stderr, flush=True)
            return self.editor.read("")
        except EOFError:
            output.note("")
            return None

    def command(self, line: str) -> None:
        """Run a command: a line that begins with a slash."""
        name, _, rest = line.partition(" ")
        if name in _SHOW:
            self.pending += _named(name, rest.strip())
            self.note_pending()
        elif name in _CLEAR:
            self.talk.reset()
            self.pending, self.last = [], None
            output.note("new conversation")
        elif name == "/stats":
            output.note(stats_lines(self.last.stats) if self.last is not None else "no answer yet")
        elif name in ("/help", "/?"):
            output.note(_HELP)
        else:
            raise UsageError(f"unknown command {name}; /help lists the commands")

    def ask(self, question: str) -> None:
        """Answer a question and write the answer piece by piece."""
        try:
            with self.status, interrupt_event() as cancel:
                message = Message("user", (*self.pending, question))
                stream = self.talk.stream(message, **self.settings.ask_options(cancel))
                if self.as_json:
                    output.print_json(answer_json(stream.wait()))
                else:
                    self.write(stream)
        except MediaError:
            self.pending = [media for media in self.pending if _is_readable(media)]
            raise
        self.last, self.pending = stream.answer, []
        if self.last.finish_reason == "cancelled":
            output.note("(stopped)")
        note_if_cut_off(self.last, self.settings.max_tokens)
        if not self.noted_unfamiliar:
            self.noted_unfamiliar = note_if_unfamiliar(question, self.known_questions)

    def write(self, pieces: Iterator[str]) -> None:
        """Write an answer piece by piece."""
        text = AnswerText()
        for piece in pieces:
            self.status.stop()
            text.push(piece)
        self.status.stop()
        text.end()

    def note_resumed(self) -> None:
        """Show where a resumed conversation stands: its last question and answer."""
        texts = [part for message in self.talk.messages[-2:] for part in message.parts if isinstance(part, str)]
        if any(message.role == "assistant" for message in self.talk.messages):
            output.note("resumed after:\n" + "\n".join(f"  {text}" for text in texts))

    def note_pending(self) -> None:
        """Name the images and videos that go with the next question."""
        names = [str(media.source if isinstance(media, Image) else media.path) for media in self.pending]
        if names:
            output.note(f"with the next question: {', '.join(names)}")


def _named(command: str, text: str) -> list[Media]:
    """The images or videos that a command names. Each is opened once, so a bad file is reported at once."""
    if not text:
        raise UsageError(f"{command} needs a path: {command} PATH")
    try:
        names = [text] if os.path.lexists(os.path.expanduser(text)) else split_paths(text)
    except ValueError as error:
        raise UsageError(f"{command} {text}: {error}; close the quotes") from None
    if STDIN in names:
        raise UsageError("stdin holds the conversation; save the picture to a file")
    found = [media for name in names for media in named_media(_SHOW[command], os.path.expanduser(name))]
    for media in found:
        check_readable(media)
    return found


def _is_readable(media: Media) -> bool:
    try:
        check_readable(media)
    except MediaError:
        return False
    return True
