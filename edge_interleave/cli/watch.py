"""`edge-interleave watch`: ask about a camera, a video, a folder or a stream, or be alerted by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edge_interleave.alerts.alarm import Alarm
from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import EventFolder
from edge_interleave.alerts.outbox import Delivery, Outbox
from edge_interleave.alerts.ring import LONGEST_S, FrameRing
from edge_interleave.alerts.rule import Rule
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.cli import output
from edge_interleave.cli.durations import duration
from edge_interleave.cli.interrupts import interrupt_event
from edge_interleave.cli.options import (
    COUNT,
    ModelChoice,
    complete_path,
    is_given,
    json_option,
    max_tokens_option,
    model_options,
    refuse_given,
    schema_option,
    strides,
    system_option,
    window_option,
)
from edge_interleave.cli.status_line import StatusLine
from edge_interleave.cli.watch_views import LossTolerantView, open_view, stats_lines
from edge_interleave.errors import UsageError
from edge_interleave.household.handlers import FrameHandler, PeriodicAsker, RuleWatcher, describing
from edge_interleave.planning.system_memory import format_memory

if TYPE_CHECKING:
    from edge_interleave.live.live import Live
    from edge_interleave.live.stats import LiveStats
    from edge_interleave.media.frame import Frame
    from edge_interleave.media.sources.base import Source
    from edge_interleave.model import Model
    from edge_interleave.options import AnswerOptions
    from edge_interleave.planning.plan import Plan
    from edge_interleave.remote.live import RemoteLive
    from edge_interleave.remote.model import RemoteModel

ASK_EVERY_S = 2.0
DELIVERY_WAIT_S = 60.0
"""How long to wait for queued alerts after the source has ended."""
_TICK_S = 0.1
_OUT = Path("edge-interleave-events")
_RULE_OPTIONS = ("above", "checks", "below", "cooldown", "before", "describe", "command", "webhook")
_WITH_CONFIG = ("config", "only_check", "as_json", "with_stats")


@click.command()
@click.argument("source", required=False, shell_complete=complete_path)
@click.option("--ask", "question", metavar="QUESTION", help="Ask this at intervals.")
@click.option("--when", "when", metavar="QUESTION", help="Raise an alert when the answer to this becomes yes.")
@click.option(
    "--every",
    callback=duration,
    metavar="TIME",
    help="Interval: 500ms, 2s, 1m (default: 2s; with --when every frame).",
)
@click.option(
    "--above",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Lowest probability of yes at which a check counts.",
)
@click.option("--for", "checks", type=COUNT, default=3, show_default=True, help="Checks in a row that raise an alert.")
@click.option(
    "--below", type=click.FloatRange(0, 1), help="Below this the alert ends and another can follow (default: 0.5)."
)
@click.option("--cooldown", callback=duration, metavar="TIME", help="Shortest time from one alert to the next.")
@click.option("--before", callback=duration, metavar="TIME", help="Save this much before each alert, as a video.")
@click.option("--describe", metavar="QUESTION", help="Ask this when an alert is raised; the answer goes with it.")
@click.option("--exec", "command", metavar="COMMAND", help="Run this for each alert, without a shell (see above).")
@click.option("--webhook", metavar="URL", help="Post each alert to this URL, as JSON.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for events and their frames.")
@window_option(8)
@click.option("--pool", callback=strides, default="2", show_default=True, help="Pooling stride, or a pattern: 1,4,4,4.")
@click.option(
    "--mode",
    type=click.Choice(["sliding", "exact"]),
    default="sliding",
    show_default=True,
    help="exact recomputes the window for each question.",
)
@click.option("--keep-answers", is_flag=True, help="The model sees its last few answers.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Frames per second, at most.")
@click.option("--change", type=click.FloatRange(min=0), help="Skip frames that differ less than this from the last.")
@click.option(
    "--memory", metavar="SIZE", help="Stay within 2GB, 800MB or 50% of the free memory: plans frames and pooling."
)
@click.option("--realtime", is_flag=True, help="Play a video at its own speed.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Watch the sources of this file (TOML) instead."
)
@click.option("--check", "only_check", is_flag=True, help="With --config: check the file and end.")
@model_options
@system_option
@max_tokens_option()
@schema_option
@click.option("--stats", "with_stats", is_flag=True, help="Print figures at the end, on stderr.")
@json_option("Print each event as one line of JSON.")
@click.pass_context
def watch(
    ctx: click.Context,
    /,
    source: str | None,
    question: str | None,
    when: str | None,
    every: float | None,
    above: float,
    checks: int,
    below: float | None,
    cooldown: float | None,
    before: float | None,
    describe: str | None,
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
    config: Path | None,
    only_check: bool,
    system: str | None,
    max_tokens: int,
    schema: dict[str, Any] | None,
    with_stats: bool,
    as_json: bool,
    model_choice: ModelChoice,
) -> None:
    """Watch SOURCE: camera:0, a video, a folder that fills up, http(s)://... (MJPEG), rtsp://... or
    frigate:CAMERA.

    --ask answers a question about the latest frames, at intervals. --when checks a yes-or-no question on every frame
    and raises an alert after --for checks in a row with a probability of yes of --above or more; the next alert can
    come after a check below --below. Each alert is saved in --out (default: ./edge-interleave-events) as a line of
    JSON, with the frames that raised it.

    --exec runs a program; its output goes to stderr. Its arguments may contain {time}, {probability}, {question},
    {number} (of the frame), {frame} (the newest saved picture), {best} (the likeliest), {frames} (all), {clip} (the
    video of --before), {description} and {json} (the alert's line).

    --config watches several sources with one model, each with its rules and deliveries. SIGHUP reads the file again.

    The watch ends with exit code 0 at the end of a video, and with 130 on ctrl-C.
    """
    if config is not None:
        names = [parameter.name for parameter in ctx.command.params if parameter.name not in _WITH_CONFIG]
        refuse_given(ctx, [name for name in names if name], "does not go with --config; the file says it")
        from edge_interleave.cli.watch_config import watch_config

        watch_config(config, only_check=only_check, as_json=as_json, with_stats=with_stats)
        return
    if only_check:
        raise UsageError("--check checks a file of settings; give it with --config")
    if source is None:
        raise UsageError("give a SOURCE such as camera:0, or a file of settings with --config")
    if question is not None and when is not None:
        raise UsageError("give --ask or --when, not both; start a second watch for the other one")
    if question is None and when is None:
        raise UsageError("give a question: --ask to get answers, --when to get alerts")
    if before is not None and before > LONGEST_S:
        raise UsageError(f"--before must be at most {LONGEST_S:g} s, not {before:g} s; the frames are kept in memory")
    if below is not None and below > above:
        raise UsageError(f"--below must be at most --above ({above:g}), not {below:g}")
    rule = None if when is None else Rule(when, above, checks, below, cooldown or 0.0)
    if rule is None:
        refuse_given(ctx, _RULE_OPTIONS, "concerns alerts; it needs --when")
    else:
        refuse_given(ctx, ("max_tokens", "schema"), "concerns answers; it needs --ask")
    if memory is not None and model_choice.url is not None:
        raise UsageError("--memory plans a window on this machine; leave it out with --url")
    deliveries: list[Delivery] = [] if command is None else [Command(command, on_output=lambda line: view.note(line))]
    deliveries += [] if webhook is None else [Webhook(webhook)]
    from edge_interleave.media.sources.open import open_source
    from edge_interleave.media.sources.tap import TappedSource

    frames: Source = open_source(source, realtime=realtime)
    ring = None if before is None else FrameRing(before)
    if ring is not None:
        frames = TappedSource(frames, partial(_keep, ring))
    out = _OUT if out is None and rule else out
    view = open_view(as_json)
    tolerant = LossTolerantView(view) if out is not None else None
    view = tolerant or view
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(closing(EventFolder(out, view.note)))
        if memory is None:
            with StatusLine() as status:
                opened = model_choice.open(status)
        else:
            planned = _planned(ctx, source, memory, window, pool, keep_answers, model_choice)
            pooling = ",".join(map(str, planned.pool))
            view.note(f"{planned.frames} frames, pooling {pooling}, in {format_memory(planned.estimate)}")
            window, pool, opened = planned.frames, planned.pool, planned.open()
        stack.enter_context(opened)
        if not is_given(ctx, "pool"):
            pool = _usable(opened, pool)
        live = opened.live(window, pool, mode=mode, keep_answers=keep_answers, system=system)
        stack.enter_context(live)
        outboxes = [stack.enter_context(closing(Outbox(delivery, view.note))) for delivery in deliveries]
        interrupted = stack.enter_context(interrupt_event())
        stack.enter_context(output.abandon_stdout_on(interrupted))
        handler: FrameHandler
        alarm = None
        if rule is None:
            options: AnswerOptions = {"max_tokens": max_tokens, "schema": schema, "cancel": interrupted}
            handler = PeriodicAsker(live, str(question), every or ASK_EVERY_S, view, folder, options)
        else:
            description = None if describe is None else describing(live, describe, view.note, interrupted)
            alarm = Alarm(rule, folder, outboxes, ring=ring, describe=description)
            handler = RuleWatcher(live, alarm, every or 0.0, view, interrupted)
            view.note(f"alerts are saved in {out}")
        view.begin(live)
        stack.callback(view.close)
        live.watch(
            frames,
            fps=fps,
            change=change,
            on_frame=handler.frame,
            on_unchanged=None if rule is None else handler.unchanged,
            on_status=view.status,
        )
        _wait_for_end(live, handler, outboxes, interrupted)
        view.close()
        figures, error = live.stats(), live.error
        live.close()
        for outbox in outboxes:
            outbox.close()
        with suppress(output.AbandonedError):
            _report(figures, folder, outboxes, alarm, as_json, with_stats)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if error is not None:
        raise error
    if tolerant is not None and tolerant.lost is not None:
        raise tolerant.lost


def _usable(opened: Model | RemoteModel, pool: tuple[int, ...]) -> tuple[int, ...]:
    """The pooling strides of a default, as far as the model's frames can be pooled."""
    from edge_interleave.model import Model
    from edge_interleave.vision.pooling import coarsest_stride

    if not isinstance(opened, Model):
        return pool
    return tuple(min(stride, coarsest_stride(opened.bundle.manifest.vision)) for stride in pool)


def _planned(
    ctx: click.Context,
    source: str,
    memory: str,
    window: int,
    pool: tuple[int, ...],
    keep_answers: bool,
    model_choice: ModelChoice,
) -> Plan:
    """Plan a window that fits in the memory. The plan chooses each setting that the command line leaves out."""
    from edge_interleave.bundle.manifest import open_bundle
    from edge_interleave.bundle.store import resolve
    from edge_interleave.planning.planner import plan

    if is_given(ctx, "context"):
        raise UsageError("--memory plans the context; leave --context out")
    return plan(
        open_bundle(resolve(model_choice.model)),
        memory,
        frames=window if is_given(ctx, "window") else None,
        pool=pool if is_given(ctx, "pool") else None,
        keep_answers=keep_answers,
        source=source,
        backend=model_choice.backend,
        threads=model_choice.threads,
        kv_precision=model_choice.kv_precision if is_given(ctx, "kv_precision") else None,
    )


def _wait_for_end(
    live: Live | RemoteLive, handler: FrameHandler, outboxes: Sequence[Outbox], interrupted: threading.Event
) -> None:
    """Wait until the source has ended and all alerts are delivered, or until ctrl-C."""
    while not live.ended:
        if interrupted.wait(_TICK_S):
            return
    if live.error is None:
        handler.end()
    deadline = time.monotonic() + DELIVERY_WAIT_S
    while not all(outbox.idle for outbox in outboxes) and time.monotonic() < deadline:
        if interrupted.wait(_TICK_S):
            return


def _keep(ring: FrameRing, frame: Frame) -> None:
    ring.add(frame.image, frame.time_s)


def _report(
    stats: LiveStats,
    folder: EventFolder | None,
    outboxes: Sequence[Outbox],
    alarm: Alarm | None,
    as_json: bool,
    with_stats: bool,
) -> None:
    """Print the figures and the deliveries; how near a rule came, and lost alerts and events, are always reported."""
    delivered = {outbox.name: outbox.stats() for outbox in outboxes}
    unwritten = folder.unwritten if folder else 0
    if as_json:
        deliveries = {name: asdict(counts) for name, counts in delivered.items()}
        end = {"event": "end", "stats": asdict(stats), "unwritten": unwritten, "deliveries": deliveries}
        output.print_json(end if alarm is None else {**end, "rule": alarm.near_miss.figures()})
    if alarm is not None:
        output.note(alarm.near_miss.line())
    if with_stats:
        output.note(stats_lines(stats))
    for name, counts in delivered.items():
        if with_stats or counts.failed or counts.dropped:
            output.note(f"{name}: {counts.sent} delivered, {counts.failed} failed, {counts.dropped} dropped")
    if unwritten:
        output.note(f"{unwritten} lines or pictures could not be written")
