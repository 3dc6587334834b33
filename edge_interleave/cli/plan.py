"""`edge-interleave plan`: what a live window can hold in so much memory, and what it costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.cli import output
from edge_interleave.cli.durations import duration
from edge_interleave.cli.options import (
    backend_option,
    complete_model,
    complete_path,
    json_option,
    kv_precision_option,
    strides,
    threads_option,
    window_option,
)
from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    from edge_interleave.planning.planner import Plan

# As in `budget`, whose import costs NumPy: a test holds them together.
GOALS = ("coverage", "detail", "latency")
PRESETS = ("10-full", "16-full", "40-pooled", "64-pooled")


def pixels(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """A picture's width and height."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 1 << 15 and 0 < int(height) <= 1 << 15):
        raise click.BadParameter(f"{value!r} is no size in pixels; give one like 1280x720")
    return int(width), int(height)


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--memory", metavar="SIZE", help="2GB, 800MB, or 50% of what is free (default: no limit).")
@click.option("--goal", type=click.Choice(GOALS), default="coverage", show_default=True, help="What to spend it on.")
@click.option("--preset", type=click.Choice(PRESETS), help="A window of the LLaVA-NeXT-Interleave paper instead.")
@click.option("--within", callback=duration, metavar="TIME", help="With --goal latency: for each new frame.")
@window_option()
@click.option("--pool", callback=strides, help="Pooling stride, or a pattern: 1,4,4,4 has key frames in full.")
@kv_precision_option(None)
@click.option("--frame-size", callback=pixels, default="1280x720", show_default=True, help="Of the source's frames.")
@click.option(
    "--source",
    shell_complete=complete_path,
    help="What will be watched: a camera or a stream may have a process of its own.",
)
@backend_option
@threads_option
@json_option()
def plan(
    model: str | None,
    memory: str | None,
    goal: str,
    preset: str | None,
    within: float | None,
    window: int | None,
    pool: tuple[int, ...] | None,
    kv_precision: str | None,
    frame_size: tuple[int, int],
    source: str | None,
    backend: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """What a live window of MODEL (default: the embedded one) can hold in so much memory, and what that costs.

    coverage: many frames, pooled to a quarter. detail: fewer frames, unpooled, which the paper found better at as many
    visual tokens. latency: the least pooling that keeps the time for each new frame (--within).

    What the model takes by itself is found out by running it for a moment.
    """
    if (goal == "latency") != (within is not None):
        raise UsageError("--goal latency needs --within, the time that a new frame may take, and only that goal does")
    if preset is not None and (window is not None or pool is not None or goal != GOALS[0]):
        raise UsageError("--preset says --goal, --window and --pool itself; give it alone")
    from edge_interleave.planning import planner as budget

    bundle = open_bundle(store.resolve(model))
    made = budget.plan(
        bundle,
        memory,
        goal,
        preset=preset,
        frames=window,
        pool=pool,
        seconds=within,
        kv_precision=kv_precision,
        frame_size=frame_size,
        source=source,
        backend=backend,
        threads=threads,
    )
    if as_json:
        output.print_json(_json(bundle, made))
        return
    out = output.out()
    out.print(output.table(("", ""), _rows(bundle, made)))
    out.print()
    costs = [(cost.name, output.size(cost.bytes)) for cost in made.costs]
    out.print(output.table(("peak memory", "size"), [*costs, ("in all", output.size(made.estimate))], right=("size",)))


def _rows(bundle: Bundle, made: Plan) -> list[tuple[str, str]]:
    tokens = " and ".join(str(count) for count in dict.fromkeys(made.frame_tokens))
    rows = [
        ("model", f"{bundle.manifest.name} ({made.backend})"),
        ("goal", f"{made.goal}: {made.why}"),
        ("memory", "no limit" if made.memory is None else output.size(made.memory)),
        ("frames", str(made.frames)),
        ("pooling stride", ", ".join(map(str, made.pool))),
        ("visual tokens", f"{made.visual_tokens} in the window, {tokens} a frame"),
        (
            "context",
            f"{made.context} entries of {bundle.manifest.decoder.context_length} that the model was trained on",
        ),
        ("KV precision", made.kv_precision),
        ("batch", f"{made.batch} entries at a time"),
    ]
    if made.seconds_per_frame is not None:
        rows.append(("a new frame", f"{made.seconds_per_frame:.2g} s"))
    return rows


def _json(bundle: Bundle, made: Plan) -> dict[str, Any]:
    facts = asdict(made)
    del facts["folder"], facts["threads"], facts["keep_answers"]
    return {
        "model": bundle.manifest.name,
        **facts,
        "costs": {cost.name: cost.bytes for cost in made.costs},
        "estimate": made.estimate,
    }
