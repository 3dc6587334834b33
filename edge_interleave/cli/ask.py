"""`edge-interleave ask`: answers one question about images and videos."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge_interleave.cli import output
from edge_interleave.cli.answer_text import AnswerText, note_if_cut_off, note_if_unfamiliar
from edge_interleave.cli.media_arguments import STDIN, MediaCommand, media_in_order
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
from edge_interleave.errors import UsageError
from edge_interleave.prompt.messages import Message

if TYPE_CHECKING:
    from edge_interleave.answer import Answer, Choice, Stats

_QUESTION_CHARACTERS_MAX = 1 << 20
_TOTAL = "total_probability"


@click.command(cls=MediaCommand)
@click.argument("question")
@media_options
@model_options
@click.option("--choose", "options", multiple=True, metavar="ANSWER", help="A possible answer; repeat for each.")
@system_option
@answer_options
@click.option("--stats", "with_stats", is_flag=True, help="Show tokens, times and memory on stderr.")
@json_option()
@click.pass_context
def ask(
    ctx: click.Context,
    /,
    question: str,
    image: tuple[str, ...],
    video: tuple[str, ...],
    options: tuple[str, ...],
    system: str | None,
    with_stats: bool,
    as_json: bool,
    settings: AnswerSettings,
    model_choice: ModelChoice,
) -> None:
    """Ask QUESTION about images and videos. QUESTION - reads it from stdin, --image - reads a picture.

    Images and videos come before the question, in the order given. An <image> marker in the question puts one in its
    place. --image also takes patterns ('pics/*.png'). Nothing is fetched from the network.

    Without --model the small embedded model answers. It knows drawn shapes, everyday things and signs, and no
    photographs.
    """
    if options and settings.schema is not None:
        raise UsageError("give --choose or --schema, not both")
    if options and with_stats:
        raise UsageError("--stats has figures of a written answer, which --choose has not; give one of them")
    media = media_in_order(ctx, image, video, stdin_is="the question" if question == STDIN else None)
    text = checked_text(_from_stdin() if question == STDIN else question)
    if not text.strip():
        raise UsageError("the question is empty; type one, or pipe it in with -")
    content: list[Any] = [Message("user", (*media, text))]
    if system is not None:
        content.insert(0, Message("system", (checked_text(system),)))
    with StatusLine() as status, model_choice.open(status) as opened:
        if options:
            answers = [checked_text(option) for option in options]
            found = opened.choose(content, answers, **settings.media_options())
            status.stop()
            _show_choices(found, as_json)
            note_if_unfamiliar(text, opened.questions)
            return
        stream = opened.stream(content, **settings.ask_options())
        if as_json:
            answer = stream.wait()
        else:
            answer_text = AnswerText()
            for piece in stream:
                status.stop()
                answer_text.push(piece)
            answer_text.end()
            answer = stream.answer
    if as_json:
        output.print_json(answer_json(answer))
        return
    note_if_unfamiliar(text, opened.questions)
    note_if_cut_off(answer, settings.max_tokens)
    if with_stats:
        output.note(stats_lines(answer.stats))


def answer_json(answer: Answer) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "familiar": answer.familiar,
        "stats": asdict(answer.stats),
    }


def stats_lines(stats: Stats) -> str:
    """The figures of an answer, as lines of text."""
    cached = f", {stats.cached_tokens} of them cached" if stats.cached_tokens else ""
    on = f" on {output.engine_name(stats.vision_provider)}" if stats.vision_provider else ""
    return (
        f"prompt   {stats.prompt_tokens} tokens, {stats.visual_tokens} of them visual{cached}\n"
        f"encode   {stats.encode_s:.2f} s{on}\n"
        f"prefill  {stats.prefill_s:.2f} s, {stats.prefill_tokens_per_s:.0f} tokens/s\n"
        f"answer   {stats.answer_tokens} tokens, {stats.decode_tokens_per_s:.1f} tokens/s, "
        f"the first after {stats.first_token_s:.2f} s\n"
        f"memory   {output.size(stats.peak_memory_bytes)} at most"
    )


def _show_choices(found: list[Choice], as_json: bool) -> None:
    from edge_interleave.answer import UNLIKELY

    best = max(found, key=lambda choice: choice.probability)
    total = best.total_probability
    if as_json:
        choices = [{name: value for name, value in asdict(choice).items() if name != _TOTAL} for choice in found]
        output.print_json({"answer": best.option, _TOTAL: total, "choices": choices})
    else:
        for choice in sorted(found, key=lambda choice: choice.probability, reverse=True):
            output.write(f"{choice.probability:6.1%}  {choice.option}\n")
        output.note(f"probability of any of these options: {output.probability(total)}")
    if total < UNLIKELY:
        output.note(
            f"the model would answer something else (the options have {output.probability(total)} together), so the "
            "shares say little; ask without --choose, then word the options as the model answers"
        )


def checked_text(typed: str) -> str:
    """Typed text, read as UTF-8 even if the locale has another encoding.

    Raises UsageError for other bytes: the model would get another question than the one typed.
    """
    try:
        return os.fsencode(typed).decode("utf-8") if any("\udc80" <= c <= "\udcff" for c in typed) else typed
    except UnicodeError:
        raise UsageError(f"{ascii(typed)[:60]} has bytes that are not UTF-8; convert the text to UTF-8") from None


def _from_stdin() -> str:
    if sys.stdin.isatty():
        output.note("type the question, then ctrl-D")
    try:
        text = sys.stdin.read(_QUESTION_CHARACTERS_MAX + 1).strip()
    except UnicodeDecodeError:
        raise UsageError("the question on stdin is not UTF-8 text; convert it to UTF-8") from None
    if len(text) > _QUESTION_CHARACTERS_MAX:
        raise UsageError(f"the question on stdin is longer than {_QUESTION_CHARACTERS_MAX} characters")
    if not text:
        raise UsageError("the question on stdin is empty; type or pipe a question")
    return text
