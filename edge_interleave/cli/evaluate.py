"""`edge-interleave eval`: scores a model on a benchmark, and compares the score with another run's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_interleave.cli import output
from edge_interleave.cli.errors import INTERRUPTED
from edge_interleave.cli.interrupts import interrupt_event
from edge_interleave.cli.options import (
    COUNT,
    ModelChoice,
    frames_option,
    json_option,
    max_tokens_option,
    model_options,
    pool_option,
    refuse_given,
)
from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    from edge_interleave.evaluation.comparison import Comparison
    from edge_interleave.evaluation.run_info import World
    from edge_interleave.evaluation.runner import Outcome
    from edge_interleave.evaluation.summary import Summary

WORLD_FOLDER = "world"
SOME_FAILED = 3
"""Exit code if some samples could not be answered; the same as for bad input."""
_PATH = click.Path(path_type=Path)
_NEED_SAMPLES = (
    "images", "samples", "seed", "model", "backend", "context", "threads", "kv_precision", "url", "api_key_env", "pool",
    "frames", "max_tokens", "limit", "shard",
)  # fmt: skip


def parse_shard(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Callback of a click option: number and count of a shard such as `2/4`. Raises BadParameter for other texts."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"{value!r} is not a shard of the samples; give one like 1/4")
    return int(found[1]), int(found[2])


@click.command("eval")
@click.argument("file", required=False, type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder of the results; an unfinished run in it is resumed.")
@click.option(
    "--images", type=_PATH, help="Folder that the image paths are relative to.  [default: the folder of FILE]"
)
@click.option("--world", is_flag=True, help="Instead of FILE, draw pictures of shapes and things, and ask about them.")
@click.option(
    "--samples", type=COUNT, default=100, show_default=True, help="With --world: number of samples of each task."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="With --world: seed of the drawn samples."
)
@model_options
@pool_option
@frames_option
@max_tokens_option(1024)
@click.option("--limit", type=COUNT, help="Ask only the first LIMIT samples.")
@click.option(
    "--shard",
    default="1/1",
    callback=parse_shard,
    metavar="I/N",
    help="Ask only every N-th sample, starting with the I-th; the shards of one run share --out.",
)
@click.option("--against", type=_PATH, metavar="OUT", help="Compare with the results in the folder OUT.")
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
    model_choice: ModelChoice,
) -> int:
    """Score a model on FILE: a file of LLaVA-Interleave Bench or M4-Instruct, or another file in their format.

    Each answer is stored in --out at once; run the same command again to resume an interrupted run. Scores follow the
    rules of the official script. Without FILE and --world, the results in --out are summarised again, without a model.

    With --url, the server answers several samples at once, with its own prompt.

    Exit codes: 0 all samples were answered; 3 some samples could not be answered, or the input is bad; 130 interrupted.
    """
    from edge_interleave.evaluation.answering import Settings
    from edge_interleave.evaluation.results import Shard
    from edge_interleave.evaluation.run_info import World

    if file is not None and world:
        raise UsageError("give FILE or --world, not both")
    if file is None and not world:
        refuse_given(ctx, _NEED_SAMPLES, "needs samples: give FILE or --world")
        return _report(out, against, as_json, None)
    refuse_given(
        ctx,
        ("images",) if world else ("samples", "seed"),
        f"has no effect with {'--world' if world else 'FILE'}; leave it out",
    )
    settings = Settings(
        max_tokens=max_tokens,
        pool=pool,
        frames=frames,
        context=model_choice.context,
        kv_precision=model_choice.kv_precision,
    )
    drawn = World(seed, samples) if world else None
    with interrupt_event() as cancel, output.progress(counted="samples") as progress:
        from edge_interleave.evaluation.runner import run

        # Draw before loading the model: drawing fails early if the folder holds another run.
        path = _draw(out, drawn, progress) if drawn else file
        assert path is not None
        with model_choice.open() as opened:
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
    return _report(out, against, as_json, outcome)


def _draw(out: Path, drawn: World, progress: output.ProgressCall) -> Path:
    """Draw the samples that are not drawn yet; returns their file. Raises UsageError if `out` holds another run."""
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


def _report(out: Path, against: Path | None, as_json: bool, outcome: Outcome | None) -> int:
    from edge_interleave.evaluation.comparison import compare
    from edge_interleave.evaluation.report import as_json as to_json
    from edge_interleave.evaluation.report import write
    from edge_interleave.evaluation.summary import summarise

    if outcome is not None and outcome.done == 0:
        if outcome.interrupted:
            raise click.Abort
        raise UsageError("there are no samples in this shard; use fewer shards or a larger --limit")
    summary = summarise(out)
    comparison = None if against is None else compare(out, against)
    write(out, summary, comparison)
    if as_json:
        output.print_json(to_json(summary, comparison))
    else:
        _show(summary, comparison)
    if outcome is not None and outcome.interrupted:
        output.note(f"interrupted at {outcome.done} of {outcome.of} samples; run the same command to resume")
        return INTERRUPTED
    return SOME_FAILED if summary.failed else 0


def _show(summary: Summary, comparison: Comparison | None) -> None:
    from edge_interleave.evaluation.report import CAPTION, headline, notes, tables

    out = output.out()
    output.print_text(output.wrap_at_commas(headline(summary.run)))
    if comparison is not None:
        output.print_text(output.wrap_at_commas(f"b: {headline(comparison.b)}"))
    for table in tables(summary, comparison, narrow=True):
        right = [column for column, number in zip(table.columns, table.numbers, strict=True) if number]
        out.print()
        out.print(output.table(table.columns, table.rows, right=right))
    out.print()
    out.print(CAPTION)
    for note in notes(summary, comparison):
        output.print_text(note)
