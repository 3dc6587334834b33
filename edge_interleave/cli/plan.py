"""`edge-interleave plan`: how many frames a live window can hold in a memory limit, and what each part costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
    refuse_given,
    strides,
    threads_option,
    window_option,
)
from edge_interleave.errors import UsageError
from edge_interleave.planning.goals import COVERAGE, GOALS, LATENCY, PRESETS

if TYPE_CHECKING:
    from edge_interleave.planning.plan import Plan


_WITH_CONFIG = ("config", "frame_size", "as_json")


def pixels(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Callback of a click option: width and height in pixels. Raises BadParameter for other texts."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 1 << 15 and 0 < int(height) <= 1 << 15):
        raise click.BadParameter(f"{value!r} is not a size in pixels; give one like 1280x720")
    return int(width), int(height)


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--memory", metavar="SIZE", help="2GB, 800MB, or 50% of the free memory (default: no limit).")
@click.option("--goal", type=click.Choice(GOALS), default=COVERAGE, show_default=True, help="What to spend memory on.")
@click.option("--preset", type=click.Choice([*PRESETS]), help="Use a window of the LLaVA-NeXT-Interleave paper.")
@click.option("--within", callback=duration, metavar="TIME", help="With --goal latency: the time for each new frame.")
@window_option()
@click.option("--pool", callback=strides, help="Pooling stride, or a pattern: 1,4,4,4 pools three frames of four.")
@kv_precision_option(None)
@click.option("--frame-size", callback=pixels, default="1280x720", show_default=True, help="The source's frame size.")
@click.option(
    "--source",
    shell_complete=complete_path,
    help="The source to plan for: a camera or a stream may need memory for a separate process.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plan the sources of this file, as `watch --config` takes it.",
)
@backend_option
@threads_option
@json_option()
@click.pass_context
def plan(
    ctx: click.Context,
    /,
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
    config: Path | None,
    backend: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Plan a live window of MODEL (default: the embedded one) for a memory limit, and show what each part costs.

    coverage: many frames, pooled to a quarter. detail: fewer frames, unpooled; the paper found this better at as many
    visual tokens. latency: the least pooling that keeps each new frame within the time of --within.

    The command runs the model for some seconds to measure its memory.
    """
    if config is not None:
        names = [parameter.name for parameter in ctx.command.params if parameter.name not in _WITH_CONFIG]
        refuse_given(ctx, [name for name in names if name], "does not go with --config; the file says it")
        _plan_config(config, frame_size, as_json)
        return
    if (goal == LATENCY) != (within is not None):
        raise UsageError("--goal latency, and only that goal, needs --within, the time that a new frame may take")
    if preset is not None and (window is not None or pool is not None or goal != COVERAGE):
        raise UsageError("--preset sets --goal, --window and --pool; leave those out")
    from edge_interleave.planning import planner

    bundle = open_bundle(store.resolve(model))
    made = planner.plan(
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
    out.print(output.table(("peak memory", "size"), [*costs, ("total", output.size(made.estimate))], right=("size",)))


def _plan_config(path: Path, frame_size: tuple[int, int], as_json: bool) -> None:
    """Show the windows of a file of settings, and what each costs."""
    from edge_interleave.household.settings_file import read_settings
    from edge_interleave.household.windows_plan import plan_settings

    made = plan_settings(read_settings(path), frame_size)
    if as_json:
        output.print_json({**asdict(made), "estimate": made.estimate})
        return
    limit = "no limit" if made.memory is None else output.size(made.memory)
    out = output.out()
    out.print(f"{made.model} ({made.backend}), KV precision {made.kv_precision}, batch {made.batch}, memory: {limit}")
    out.print()
    columns = ("source", "frames", "pooling", "context", "KV cache", "in all")
    rows = [
        (
            window.name,
            str(window.frames),
            ",".join(map(str, window.pool)),
            str(window.context),
            output.size(sum(cost.bytes for cost in window.costs if cost.name == "KV cache")),
            output.size(window.bytes),
        )
        for window in made.windows
    ]
    out.print(output.table(columns, rows, right=columns[1:]))
    out.print()
    shared = [(cost.name, output.size(cost.bytes)) for cost in made.shared]
    sources = ("all sources", output.size(sum(window.bytes for window in made.windows)))
    total = ("total", output.size(made.estimate))
    out.print(output.table(("peak memory", "size"), [*shared, sources, total], right=("size",)))


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
