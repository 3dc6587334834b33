"""`edge-interleave eval`: a benchmark's score, kept answer by answer, and compared with another run's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_interleave.cli import output
from edge_interleave.cli.interrupts import set_by_interrupt
from edge_interleave.cli.options import (
    COUNT,
    ModelChoice,
    frames_option,
    json_option,
    max_tokens_option,
    model_options,
    pool_option,
)
from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    from edge_interleave.evaluation.comparison import Comparison
    from edge_interleave.evaluation.run_info import World
    from edge_interleave.evaluation.runner import Outcome
    from edge_interleave.evaluation.summary import Summary

WORLD_FOLDER = "world"
INTERRUPTED = 130
SOME_FAILED = 3
"""As for bad input: some samples could not be answered."""
_PATH = click.Path(path_type=Path)
_ASKING = (
    "images", "samples", "seed", "model", "backend", "context", "threads", "kv_precision", "pool", "frames",
    "max_tokens", "limit", "shard",
)  # fmt: skip


def part(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Number and count of `2/4`."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"{value!r} is no part of the samples; give one like 1/4")
    return int(found[1]), int(found[2])


@click.command("eval")
@click.argument("file", required=False, type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder of the results; what lies there goes on.")
@click.option("--images", type=_PATH, help="Folder that the file's image paths are relative to (default: FILE's own).")
@click.option("--world", is_flag=True, help="Draw a world of shapes and things, and ask about that, instead of FILE.")
@click.option("--samples", type=COUNT, default=100, show_default=True, help="With --world: of each task.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="With --world: what is drawn.")
@model_options
@pool_option
@frames_option
@max_tokens_option(1024)
@click.option("--limit", type=COUNT, help="Only so many of the first samples.")
@click.option("--shard", default="1/1", callback=part, metavar="I/N", help="Only every N-th sample, from the I-th.")
@click.option("--against", type=_PATH, metavar="OUT", help="Compare with the results in another folder.")
@json_option("Print the summary as one JSON object.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    file: Path | None,
    out: Path,
    images: Path | None,
    world: bool,
    samples: int,
    seed: int,
    pool: int,
    frames: int,
    max_tokens: int,
    limit: int | None,
    shard: tuple[int, int],
    against: Path | None,
    as_json: bool,
    opening: ModelChoice,
) -> int:
    """Score a model on FILE, a file of LLaVA-Interleave Bench, of M4-Instruct, or of their form.

    Answers are kept in --out as they come: an interrupted run goes on when it is called again. Scores are the official
    script's. Without FILE and --world, what lies in --out is summarised again, without a model.

    Exit codes: 0 all samples were answered; 3 some could not be, or the input is bad; 130 interrupted.
    """
    from edge_interleave.evaluation.answering import Settings
    from edge_interleave.evaluation.results import Shard
    from edge_interleave.evaluation.run_info import World

    if file is not None and world:
        raise UsageError("give FILE or --world, not both")
    if file is None and not world:
        _refuse(ctx, _ASKING, "needs samples to ask: give FILE, or --world")
        return _tell(out, against, as_json, None)
    _refuse(ctx, ("images",) if world else ("samples", "seed"), f"makes no sense with {'--world' if world else 'FILE'}")
    settings = Settings(
        max_tokens=max_tokens, pool=pool, frames=frames, context=opening.context, kv_precision=opening.kv_precision
    )
    drawn = World(seed, samples) if world else None
    with set_by_interrupt() as cancel, output.progress(counted="samples") as progress:
        from edge_interleave.evaluation.runner import run

        # Before the model is loaded: drawing may find that the folder holds another run.
        path = _draw(out, drawn, progress) if drawn else file
        assert path is not None
        with opening.open() as opened:
            outcome = run(
                path,
                opened,
                out,
                images=images,
                settings=settings,
                shard=Shard(*shard),
                limit=limit,
                world=drawn,
                report=progress,
                cancel=cancel,
            )
    return _tell(out, against, as_json, outcome)


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """What would be left out in silence is refused."""
    for name in names:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def _draw(out: Path, drawn: World, progress: output.ProgressCall) -> Path:
    """The file of the drawn world; one that was drawn for this very run is taken as it is."""
    from edge_interleave.evaluation.files import make_folder
    from edge_interleave.evaluation.run_info import RUN_NAME, read_run
    from edge_interleave.world.benchmark import write_benchmark

    if (out / RUN_NAME).exists():
        before = read_run(out)
        if before.world != drawn:
            was = f"seed {before.world.seed}, {before.world.per_task} of each task" if before.world else before.file
            raise UsageError(f"{out}: holds results of {was}; give another --out, or the same --seed and --samples")
    make_folder(out)
    try:
        return write_benchmark(out / WORLD_FOLDER, seed=drawn.seed, per_task=drawn.per_task, progress=progress)
    except FileExistsError as error:
        raise UsageError(str(error)) from error


def _tell(out: Path, against: Path | None, as_json: bool, outcome: Outcome | None) -> int:
    from edge_interleave.evaluation.comparison import compare
    from edge_interleave.evaluation.report import as_json as to_json
    from edge_interleave.evaluation.report import write
    from edge_interleave.evaluation.summary import summarise

    if outcome is not None and outcome.done == 0:
        if outcome.interrupted:
            raise click.Abort
        raise UsageError("there are no samples in this part; take fewer parts, or a larger --limit")
    summary = summarise(out)
    comparison = None if against is None else compare(out, against)
    write(out, summary, comparison)
    if as_json:
        output.print_json(to_json(summary, comparison))
    else:
        _show(summary, comparison)
    if outcome is not None and outcome.interrupted:
        output.note(f"interrupted at {outcome.done} of {outcome.of} samples; the same call goes on")
        return INTERRUPTED
    return SOME_FAILED if summary.failed else 0


def _show(summary: Summary, comparison: Comparison | None) -> None:
    from edge_interleave.evaluation.report import CAPTION, headline, notes, tables

    out = output.out()
    output.say(output.listed(headline(summary.run)))
    if comparison is not None:
        output.say(output.listed(f"b: {headline(comparison.b)}"))
    for table in tables(summary, comparison, narrow=True):
        right = [column for column, number in zip(table.columns, table.numbers, strict=True) if number]
        out.print()
        out.print(output.table(table.columns, table.rows, right=right))
    out.print()
    out.print(CAPTION)
    for note in notes(summary, comparison):
        output.say(note)
