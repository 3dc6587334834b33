"""Formats a summary as tables, Markdown and JSON, and writes `summary.json` and `summary.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_interleave.evaluation.benchmark_sets import find_file
from edge_interleave.evaluation.comparison import Comparison, SetDifference
from edge_interleave.evaluation.files import write_json, write_text
from edge_interleave.evaluation.run_info import RunInfo
from edge_interleave.evaluation.summary import ERRORS_SHOWN, Group, SetScore, Summary

SUMMARY_JSON, SUMMARY_MARKDOWN = "summary.json", "summary.md"
CAPTION = "Scores in percent, with 95 % confidence intervals."
_NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of strings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numbers(self) -> tuple[bool, ...]:
        """For each column, whether it holds numbers."""
        return tuple(index > 0 and column not in _WORDS for index, column in enumerate(self.columns))


def tables(summary: Summary, comparison: Comparison | None = None, *, narrow: bool = False) -> list[Table]:
    """The non-empty tables of a summary and a comparison. `narrow` leaves out columns to fit 80 characters.

    Narrow sets keep one interval: that of exact matches for a drawn world, else that of the score. A narrow comparison
    leaves out the number of answers and, unless the world was drawn, the exact matches.
    """
    made = [
        Table("sets", _SET_COLUMNS, tuple(map(_set_row, summary.sets))),
        Table("categories", _GROUP_COLUMNS, tuple(map(_group_row, summary.categories))),
        Table("averages", _GROUP_COLUMNS, tuple(map(_group_row, summary.domains))),
        Table("held out", _HELD_COLUMNS, tuple(map(_held_row, summary.held_out))),
    ]
    if comparison is not None:
        every = [] if comparison.overall is None else [comparison.overall]
        made.append(Table("a and b", _DIFFERENCE_COLUMNS, tuple(map(_difference_row, [*comparison.sets, *every]))))
    drawn = summary.run.world is not None
    left_out = {
        "sets": {_INTERVAL if drawn else _EXACT_INTERVAL},
        "a and b": {"answers"} if drawn else {"answers", "a exact", "b exact"},
    }
    return [
        _without_empty_columns(table, left_out.get(table.title, set()) if narrow else set())
        for table in made
        if table.rows
    ]


def headline(run: RunInfo) -> str:
    """File, model and settings of a run, on one line."""
    precisions = ", ".join(f"{name} {precision}" for name, precision in run.precisions.items())
    where = f"({precisions}) on {run.backend}" if precisions else f"at {run.source}"
    settings = [f"pool {run.settings.pool}", f"at most {run.settings.max_tokens} tokens", f"prompt {run.prompt}"]
    kv = f", KV cache {run.settings.kv_precision}" if run.settings.kv_precision != "f16" else ""
    drawn = [f"seed {run.world.seed}, {run.world.per_task} of each task"] if run.world else []
    return f"{run.file}: {run.model} {where}{kv}, {', '.join([*settings, *drawn])}"


def notes(summary: Summary, comparison: Comparison | None = None) -> list[str]:
    """Remarks that a reader needs to judge the numbers."""
    said = [] if comparison is None else _differences(comparison)
    if summary.samples < summary.run.samples:
        said.append(f"{summary.samples} of the file's {summary.run.samples} samples are answered")
    known = find_file(summary.run.file)
    if known is not None and abs(known.samples - summary.run.samples) > known.samples / 100:
        said.append(f"the published {known.name} has about {known.samples} samples, this one {summary.run.samples}")
    unsupported = [one.name for one in summary.sets if one.metric is None]
    if unsupported:
        said.append(
            f"not scored, because the official script does not know the question type: {', '.join(unsupported)}"
        )
    for count, what in (
        (summary.failed, "samples could not be answered and are not scored"),
        (
            sum(one.empty_references for one in summary.sets),
            "answers do not count, because the file gives no right answer",
        ),
        (
            sum(one.unscorable for one in summary.sets),
            "answers count 0, because the official script would fail at them",
        ),
        (sum(one.cut for one in summary.sets), "answers were cut off (by --max-tokens or the context)"),
        (
            sum(one.no_letter for one in summary.sets),
            "answers to multiple-choice questions are not a bare letter and count 0",
        ),
    ):
        if count:
            said.append(f"{count} {what}")
    for problem in summary.errors:
        said.append(f"sample {problem.number} ({problem.sample_id}): {problem.error}")
    if summary.failed > len(summary.errors) == ERRORS_SHOWN:
        said.append(f"and {summary.failed - ERRORS_SHOWN} more, in the results")
    return said


def as_json(summary: Summary, comparison: Comparison | None = None) -> dict[str, Any]:
    """The object of `--json` and `summary.json`."""
    made = {"samples": summary.samples, "failed": summary.failed, **asdict(summary)}
    return made if comparison is None else {**made, "comparison": asdict(comparison)}


def as_markdown(summary: Summary, comparison: Comparison | None = None) -> str:
    """The summary as a Markdown page."""
    lines = [f"# {_cell(headline(summary.run))}", ""]
    if comparison is not None:
        lines += [f"b: {_cell(headline(comparison.b))}", ""]
    for table in tables(summary, comparison):
        lines += [f"## {table.title.capitalize()}", "", _row(table.columns)]
        lines += [_row(["---:" if number else "---" for number in table.numbers])]
        lines += [*map(_row, table.rows), ""]
    said = notes(summary, comparison)
    lines += [CAPTION, *([""] if said else []), *(f"- {_cell(note)}" for note in said)]
    return "\n".join(lines) + "\n"


def write(out: Path, summary: Summary, comparison: Comparison | None = None) -> None:
    """Write `summary.json` and `summary.md` into the folder of results, atomically. Raises InputError."""
    write_json(out / SUMMARY_JSON, as_json(summary, comparison))
    write_text(out / SUMMARY_MARKDOWN, as_markdown(summary, comparison))


_INTERVAL, _EXACT_INTERVAL = "95 %", "95 % of exact"
_SET_COLUMNS = ("set", "metric", "score", _INTERVAL, "exact", _EXACT_INTERVAL, "chance", "answers", "errors")
_GROUP_COLUMNS = ("mean", "score", "of")
_HELD_COLUMNS = ("held out", "exact", _EXACT_INTERVAL, "chance", "answers")
_DIFFERENCE_COLUMNS = ("set", "a", "b", "a - b", "95 %", "a exact", "b exact", "answers", "differ")
_WORDS = ("metric", "of")


def _differences(comparison: Comparison) -> list[str]:
    """Remarks on what differs between two runs besides the answers."""
    said = []
    if comparison.other_media:
        said.append(
            f"{comparison.other_media} samples were asked about other pictures in a than in b, the first is sample "
            f"{comparison.other_media_first}"
        )
    if comparison.parts_differ:
        said.append(f"the models of a and b differ in {', '.join(comparison.parts_differ)}")
    return said


def _without_empty_columns(table: Table, also: set[str]) -> Table:
    """The table without its empty columns and without the columns in `also`."""
    kept = [
        index
        for index, column in enumerate(table.columns)
        if column not in also and any(row[index] != _NONE for row in table.rows)
    ]
    rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
    return Table(table.title, tuple(table.columns[index] for index in kept), rows)


def _set_row(one: SetScore) -> tuple[str, ...]:
    return (
        one.name,
        one.metric or _NONE,
        _percent(one.score),
        _interval(one.interval),
        _percent(one.exact),
        _interval(one.exact_interval),
        _percent(one.chance),
        str(one.answers),
        str(one.errors),
    )


def _group_row(group: Group) -> tuple[str, ...]:
    return (group.name, _percent(group.score), ", ".join(group.of))


def _held_row(one: SetScore) -> tuple[str, ...]:
    return (one.name, _percent(one.exact), _interval(one.exact_interval), _percent(one.chance), str(one.answers))


def _difference_row(one: SetDifference) -> tuple[str, ...]:
    return (
        one.name,
        _percent(one.a),
        _percent(one.b),
        _percent(one.difference, signed=True),
        _interval(one.interval, signed=True),
        _percent(one.a_exact),
        _percent(one.b_exact),
        str(one.answers),
        str(one.answers_differ),
    )


def _percent(value: float | None, *, signed: bool = False) -> str:
    """A score as the official script prints it."""
    return _NONE if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def _interval(value: tuple[float, float] | None, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return _NONE if value is None else " to ".join(f"{100 * end:{sign}.1f}" for end in value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Untrusted text as one line that cannot end its cell."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
