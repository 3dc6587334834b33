"""`edge-interleave watch`: a camera, a video, a folder or a stream, asked about for as long as it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import EventFolder
from edge_interleave.alerts.outbox import Delivery, Outbox
from edge_interleave.alerts.rule import Alarm, Rule
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.cli import output
from edge_interleave.cli.durations import duration
from edge_interleave.cli.interrupts import set_by_interrupt
from edge_interleave.cli.options import (
    COUNT,
    ModelChoice,
    complete_path,
    json_option,
    max_tokens_option,
    model_options,
    strides,
    system_option,
    window_option,
)
from edge_interleave.cli.waiting import Waiting
from edge_interleave.cli.watch_looks import AskNowAndThen, LookOut, Looks
from edge_interleave.cli.watch_views import Outlasting, View, open_view, stats_lines
from edge_interleave.errors import UsageError
from edge_interleave.planning.system_memory import in_words

if TYPE_CHECKING:
    from edge_interleave.live.live import Live
    from edge_interleave.live.stats import LiveStats
    from edge_interleave.media.reader import SourceStatus
    from edge_interleave.planning.plan import Plan

ASK_EVERY_S = 2.0
DELIVERY_PATIENCE_S = 60.0
"""At a source's end, for alerts that are still under way."""
_TICK_S = 0.1
_OUT = Path("edge-interleave-events")
_ONLY_WHEN = ("above", "looks", "below", "command", "webhook")


@click.command()
@click.argument("source", shell_complete=complete_path)
@click.option("--ask", "question", metavar="QUESTION", help="Ask this again and again.")
@click.option("--when", "when", metavar="QUESTION", help="Raise an alert when the answer to this becomes yes.")
@click.option(
    "--every",
    callback=duration,
    metavar="TIME",
    help="How often: 500ms, 2s, 1m (default: 2s; with --when each frame).",
)
@click.option(
    "--above", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Probability of yes that counts."
)
@click.option("--for", "looks", type=COUNT, default=3, show_default=True, help="So many looks in a row raise an alert.")
@click.option(
    "--below", type=click.FloatRange(0, 1), help="Below this the alert is over, and another may come (default: 0.5)."
)
@click.option("--exec", "command", metavar="COMMAND", help="Run this for each alert, without a shell (see above).")
@click.option("--webhook", metavar="URL", help="Post each alert there, as JSON.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where events and frames are kept.")
@window_option(8)
@click.option("--pool", callback=strides, default="2", show_default=True, help="Pooling stride, or a pattern: 1,4,4,4.")
@click.option(
    "--mode", type=click.Choice(["sliding", "exact"]), default="sliding", show_default=True, help="exact: slow."
)
@click.option("--keep-answers", is_flag=True, help="The model sees its last few answers.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="At most so many frames a second.")
@click.option("--change", type=click.FloatRange(min=0), help="Skip frames that differ less than this from the last.")
@click.option(
    "--memory", metavar="SIZE", help="Stay within 2GB, 800MB or 50% of what is free; plans frames and pooling."
)
@click.option("--realtime", is_flag=True, help="A video plays at its own pace.")
@model_options
@system_option
@max_tokens_option()
@click.option("--stats", "with_stats", is_flag=True, help="Show what it cost at the end, on stderr.")
@json_option("Print one JSON object a line.")
@click.pass_context
def watch(
    ctx: click.Context,
    /,
    source: str,
    question: str | None,
    when: str | None,
    every: float | None,
    above: float,
    looks: int,
    below: float | None,
    command: str | None,
    webhook: str | None,
    out: Path | None,
    window: int,
    pool: tuple[int, ...],
    mode: Literal["sliding", "exact"],
    keep_answers: bool,
    fps: float | None,
    change: float | None,
    memory: str | None,
    realtime: bool,
    system: str | None,
    max_tokens: int,
    with_stats: bool,
    as_json: bool,
    opening: ModelChoice,
) -> None:
    """Watch SOURCE: camera:0, a video, a folder that fills up, http(s)://... (MJPEG) or rtsp://...

    With --ask, answers come as the frames do. With --when, an alert is raised where the probability of yes has been at
    or above --above for --for looks in a row, and no other until it has been below --below: a line of JSON with the
    frames that raised it, in --out (default: ./edge-interleave-events).

    --exec runs a program, and what it prints goes to stderr. In its arguments {time}, {probability}, {question},
    {number}, {frame}, {frames} and {json} stand for the alert's time, probability, question, frame number, newest saved
    picture, all saved pictures, and line.

    A video ends the watch when it is through, with exit code 0; ctrl-C ends it at once, with 130.
    """
    if question is not None and when is not None:
        raise UsageError("give --ask or --when, not both; start a second watch for the other")
    if question is None and when is None:
        raise UsageError("give a question to ask again and again (--ask), or one to be alerted by (--when)")
    if below is not None and below > above:
        raise UsageError(f"--below must be at most --above ({above:g}), not {below:g}")
    rule = None if when is None else Rule(when, above, looks, below)
    if rule is None:
        _refuse(ctx, _ONLY_WHEN, "is about alerts; it goes with --when")
    else:
        _refuse(ctx, ("max_tokens",), "is about answers; it goes with --ask")
    deliveries: list[Delivery] = [] if command is None else [Command(command, say=lambda line: view.say(line))]
    deliveries += [] if webhook is None else [Webhook(webhook)]
    from edge_interleave.media.sources.open import open_source

    frames = open_source(source, realtime=realtime)
    out = _OUT if out is None and rule else out
    view = open_view(as_json)
    outlasting = Outlasting(view) if out is not None else None
    view = outlasting or view

    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(closing(EventFolder(out, view.say)))
        if memory is None:
            with Waiting() as waiting:
                opened = opening.open(waiting)
        else:
            planned = _planned(ctx, source, memory, window, pool, keep_answers, opening)
            view.say(
                f"{planned.frames} frames, pooling {','.join(map(str, planned.pool))}, in {in_words(planned.estimate)}"
            )
            window, pool, opened = planned.frames, planned.pool, planned.open()
        stack.enter_context(opened)
        live = opened.live(window, pool, mode=mode, keep_answers=keep_answers, system=system)
        stack.enter_context(live)
        outboxes = [stack.enter_context(closing(Outbox(delivery, view.say))) for delivery in deliveries]
        interrupted = stack.enter_context(set_by_interrupt())
        stack.enter_context(output.abandoned_by(interrupted))
        looker: Looks
        if rule is None:
            looker = AskNowAndThen(live, str(question), every or ASK_EVERY_S, view, folder, interrupted, max_tokens)
        else:
            looker = LookOut(live, Alarm(rule, folder, outboxes), every or 0.0, view, interrupted)
            view.say(f"alerts are kept in {out}")
        view.begin(live)
        stack.callback(view.close)
        live.watch(
            frames,
            fps=fps,
            change=change,
            on_frame=looker.frame,
            on_unchanged=None if rule is None else looker.unchanged,
            on_status=lambda status: _show_status(view, status),
        )
        _until_the_end(live, looker, outboxes, interrupted)
        view.close()
        figures, error = live.stats(), live.error
        live.close()
        for outbox in outboxes:
            outbox.close()
        with suppress(output.Abandoned):
            _tell(figures, folder, outboxes, as_json, with_stats)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if error is not None:
        raise error
    if outlasting is not None and outlasting.lost is not None:
        raise outlasting.lost


def _planned(
    ctx: click.Context,
    source: str,
    memory: str,
    window: int,
    pool: tuple[int, ...],
    keep_answers: bool,
    opening: ModelChoice,
) -> Plan:
    """A window that fits into the memory; what was not given on the command line is the plan's to choose."""
    from edge_interleave.bundle.manifest import open_bundle
    from edge_interleave.bundle.store import resolve
    from edge_interleave.planning.planner import plan

    if _given(ctx, "context"):
        raise UsageError("with --memory the context is planned; leave --context out")
    return plan(
        open_bundle(resolve(opening.model)),
        memory,
        frames=window if _given(ctx, "window") else None,
        pool=pool if _given(ctx, "pool") else None,
        keep_answers=keep_answers,
        source=source,
        backend=opening.backend,
        threads=opening.threads,
        kv_precision=opening.kv_precision if _given(ctx, "kv_precision") else None,
    )


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that would be silently ignored."""
    for parameter in ctx.command.params:
        if parameter.name in names and _given(ctx, parameter.name):
            raise UsageError(f"{parameter.opts[0]} {why}")


def _until_the_end(live: Live, looker: Looks, outboxes: Sequence[Outbox], interrupted: threading.Event) -> None:
    """Until the source has ended and all is said and delivered, or until ctrl-C."""
    while not live.ended:
        if interrupted.wait(_TICK_S):
            return
    if live.error is None:
        looker.end()
    until = time.monotonic() + DELIVERY_PATIENCE_S
    while not all(outbox.idle for outbox in outboxes) and time.monotonic() < until:
        if interrupted.wait(_TICK_S):
            return


def _show_status(view: View, status: SourceStatus) -> None:
    view.say(status.line)
    view.status(status)


def _tell(
    stats: LiveStats, folder: EventFolder | None, outboxes: Sequence[Outbox], as_json: bool, with_stats: bool
) -> None:
    """What it cost and what became of the alerts; losses are said in any case."""
    delivered = {outbox.name: outbox.stats() for outbox in outboxes}
    unwritten = folder.unwritten if folder else 0
    if as_json:
        deliveries = {name: asdict(counts) for name, counts in delivered.items()}
        output.print_json({"event": "end", "stats": asdict(stats), "unwritten": unwritten, "deliveries": deliveries})
    if with_stats:
        output.note(stats_lines(stats))
    for name, counts in delivered.items():
        if with_stats or counts.failed or counts.dropped:
            output.note(f"{name}: {counts.sent} delivered, {counts.failed} failed, {counts.dropped} dropped")
    if unwritten:
        output.note(f"{unwritten} lines or pictures could not be written")
