"""A summary for people and for programs: tables, Markdown, JSON. Prints nothing and knows no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_interleave.evaluation.comparison import Comparison, SetDifference
from edge_interleave.evaluation.files import write_json, write_text
from edge_interleave.evaluation.manifest import RunInfo
from edge_interleave.evaluation.registry import find_file
from edge_interleave.evaluation.summary import ERRORS_SHOWN, Group, SetScore, Summary

SUMMARY_JSON, SUMMARY_MARKDOWN = "summary.json", "summary.md"
CAPTION = "Scores in percent, with 95 % confidence intervals."
_NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numbers(self) -> tuple[bool, ...]:
        """Which columns hold numbers."""
        return tuple(index > 0 and column not in _WORDS for index, column in enumerate(self.columns))


def tables(summary: Summary, comparison: Comparison | None = None, *, narrow: bool = False) -> list[Table]:
    """What there is to show, empty tables left out. `narrow`: for 80 columns, without what matters least.

    Of the two intervals of sets that of what is exact is kept for a drawn world, else the score's; a comparison leaves
    out how many answers there are, and what is exact of another file than a drawn world.
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
    """What was asked of what, on one line."""
    precisions = ", ".join(f"{name} {precision}" for name, precision in run.precisions.items())
    settings = [f"pool {run.settings.pool}", f"at most {run.settings.max_tokens} tokens", f"prompt {run.prompt}"]
    kv = f", KV cache {run.settings.kv_precision}" if run.settings.kv_precision != "f16" else ""
    drawn = [f"seed {run.world.seed}, {run.world.per_task} of each task"] if run.world else []
    return f"{run.file}: {run.model} ({precisions}) on {run.backend}{kv}, {', '.join([*settings, *drawn])}"


def notes(summary: Summary, comparison: Comparison | None = None) -> list[str]:
    """What a reader must know beside the numbers."""
    said = [] if comparison is None else _differences(comparison)
    if summary.samples < summary.run.samples:
        said.append(f"{summary.samples} of the file's {summary.run.samples} samples")
    known = find_file(summary.run.file)
    if known is not None and abs(known.samples - summary.run.samples) > known.samples / 100:
        said.append(f"the published {known.name} has about {known.samples} samples, this one {summary.run.samples}")
    unsupported = [one.name for one in summary.sets if one.metric is None]
    if unsupported:
        said.append(f"not scored, of a question type that the official script does not know: {', '.join(unsupported)}")
    for count, what in (
        (summary.failed, "samples could not be answered, and are not scored"),
        (sum(one.empty_references for one in summary.sets), "answers do not count: the file gives no right one"),
        (sum(one.unscorable for one in summary.sets), "answers count 0 at which the official script would fail"),
        (sum(one.cut for one in summary.sets), "answers were cut off (--max-tokens, or the context)"),
        (
            sum(one.no_letter for one in summary.sets),
            "answers of multiple-choice sets are no bare letter: they count 0",
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
    """The object that `--json` prints and `summary.json` holds."""
    made = {"samples": summary.samples, "failed": summary.failed, **asdict(summary)}
    return made if comparison is None else {**made, "comparison": asdict(comparison)}


def as_markdown(summary: Summary, comparison: Comparison | None = None) -> str:
    """The same as a page."""
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
    """What beside the answers is not the same in two runs."""
    said = []
    if comparison.other_media:
        said.append(
            f"{comparison.other_media} of the samples were asked about other pictures in a than in b, sample "
            f"{comparison.other_media_first} first"
        )
    if comparison.parts_differ:
        said.append(f"a and b are of models that differ in {', '.join(comparison.parts_differ)}")
    return said


def _without_empty_columns(table: Table, also: set[str]) -> Table:
    """Without the columns that say nothing in any row, nor those named in `also`."""
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
    """As the official script prints scores."""
    return _NONE if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def _interval(value: tuple[float, float] | None, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return _NONE if value is None else " to ".join(f"{100 * end:{sign}.1f}" for end in value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Names and messages hold texts of strangers: on one line, and no end of a cell."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
