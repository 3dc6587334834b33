"""Summarises results: scores of sets, categories and domains, and what could not be scored.

Sets are scored as in the official script: by the question type of their first sample, over all turns, as the mean in
the file's order. A category is the mean of its sets, a domain the mean of its categories (the columns of the paper's
tables), unweighted. Texts are not kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_interleave.errors import InputError
from edge_interleave.evaluation.benchmark_sets import MULTI_VIEW, find_set
from edge_interleave.evaluation.intervals import normal_half_width, wilson_interval
from edge_interleave.evaluation.results import Line, read_results
from edge_interleave.evaluation.run_info import RunInfo, read_run
from edge_interleave.evaluation.scores import ACCURACY, UnscorableError, choice_of, metric_of, score

ERRORS_SHOWN = 20
WORLD = "world"


@dataclass(frozen=True)
class SetScore:
    """One set's result."""

    name: str
    metric: str | None
    """None if the official script does not know the set's question type."""
    score: float | None
    """0 to 1; None if no answer counts."""
    interval: tuple[float, float] | None
    """95 % confidence interval: Wilson's for accuracy, normal for ROUGE-L; None for fewer than two answers."""
    answers: int
    """Number of answers that count, in turns."""
    exact: float | None
    """Share of exact matches, or right answers by the sample's judge; None without answers."""
    exact_interval: tuple[float, float] | None
    chance: float | None
    """Expected score by guessing: the mean over the samples that state it."""
    category: str | None
    domain: str | None
    scenario: str | None
    samples: int
    """Samples answered."""
    errors: int = 0
    """Samples that could not be answered; no other field counts them."""
    empty_references: int = 0
    """Turns that do not count, because the file gives no answer."""
    unscorable: int = 0
    """Answers at which the official script would fail; they count 0."""
    cut: int = 0
    """Answers cut off at the maximum length or by a full context."""
    no_letter: int = 0
    """Answers that are not a bare letter though the reference is; the official script finds no letter in a sentence."""


@dataclass(frozen=True)
class Group:
    """A mean of scores."""

    name: str
    score: float
    of: tuple[str, ...]
    """Names of the averaged sets or categories."""


@dataclass(frozen=True)
class Problem:
    """A sample that could not be answered."""

    number: int
    """Position in the file, from 1."""
    sample_id: str
    error: str


@dataclass(frozen=True)
class Summary:
    """The summary of a run."""

    run: RunInfo
    sets: tuple[SetScore, ...]
    """In the order of their first samples in the file."""
    categories: tuple[Group, ...]
    domains: tuple[Group, ...]
    held_out: tuple[SetScore, ...] = ()
    """Exact matches by what samples hold out, if they say so."""
    errors: tuple[Problem, ...] = ()
    """The first ERRORS_SHOWN errors, in the file's order."""

    @property
    def samples(self) -> int:
        """Number of samples with a result, including errors."""
        return sum(one.samples + one.errors for one in self.sets)

    @property
    def failed(self) -> int:
        """Number of samples that could not be answered."""
        return sum(one.errors for one in self.sets)


@dataclass
class Tally:
    """Running totals of a set."""

    name: str
    first: int
    """Index of its first sample."""
    question_type: str
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    """By index and turn."""
    exact: list[bool] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    samples: int = 0
    errors: int = 0
    empty_references: int = 0
    unscorable: int = 0
    cut: int = 0
    no_letter: int = 0

    @property
    def metric(self) -> str | None:
        """The set's metric, by the official rule."""
        return metric_of(self.name, self.question_type)


def summarise(out: Path) -> Summary:
    """Summarise a folder of results. Raises InputError if there are none, or if they are damaged."""
    run = read_run(out)
    tallies = set_tallies(out, run)
    if not tallies:
        raise InputError(f"{out}: holds no results yet; run the evaluation first")
    held: dict[str, Tally] = {}
    problems: dict[int, Problem] = {}
    for lines in latest_results(out, run):
        first = lines[0]
        tally = tallies[first["dataset"]]
        if "error" in first:
            tally.errors += 1
            problems[first["index"]] = Problem(first["index"] + 1, str(first.get("sample_id")), first["error"])
            continue
        held_out = first.get("held_out")
        if isinstance(held_out, str):
            name = held_out or "nothing"
            both = held.setdefault(held_out, Tally(name, 0, tally.question_type))
            _count(both, lines, tally.metric)
        _count(tally, lines, tally.metric)
    sets = [_set_score(tally, run) for tally in sorted(tallies.values(), key=lambda tally: tally.first)]
    categories = _means((one.category, one.name, one.score) for one in sets)
    return Summary(
        run,
        tuple(sets),
        tuple(categories),
        tuple(_domains(sets, categories)),
        tuple(_held_out_score(held[key]) for key in sorted(held)),
        tuple(problems[index] for index in sorted(problems)[:ERRORS_SHOWN]),
    )


def set_tallies(out: Path, run: RunInfo) -> dict[str, Tally]:
    """An empty tally for each set, with the labels of its first sample."""
    tallies: dict[str, Tally] = {}
    for lines in read_results(out, run.shards):
        line = lines[0]
        name, index = line["dataset"], line["index"]
        if name not in tallies or index < tallies[name].first:
            about = {key: line.get(key) for key in ("category", "scenario")}
            tallies[name] = Tally(name, index, line["question_type"], about)
    return tallies


def latest_results(out: Path, run: RunInfo) -> Iterator[Sequence[Line]]:
    """Each sample once: its answer if there is one, else its last error."""
    answered: set[int] = set()
    failed: dict[int, Sequence[Line]] = {}
    for lines in read_results(out, run.shards):
        index = lines[0]["index"]
        if "error" in lines[0]:
            failed[index] = lines
        elif index not in answered:
            answered.add(index)
            yield lines
    yield from (lines for index, lines in failed.items() if index not in answered)


def turn_score(line: Line, metric: str) -> tuple[float | None, bool]:
    """A turn's score by a metric (None if it does not count), and whether the official script would fail at it."""
    known = line.get("score", "")
    if line.get("metric") == metric and (known is None or (isinstance(known, (int, float)) and 0 <= known <= 1)):
        return (None if known is None else float(known)), "unscorable" in line
    try:
        return score(metric, line["pred_response"], line["gt_response"]), False
    except UnscorableError:
        return 0.0, True


def mean(values: Iterable[float]) -> float | None:
    """NumPy's mean, as in the official script; None for no values."""
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None


def _count(tally: Tally, lines: Sequence[Line], metric: str | None) -> None:
    tally.samples += 1
    chance = lines[0].get("chance")
    if isinstance(chance, (int, float)) and 0 <= chance <= 1:
        tally.chances.append(float(chance))
    for line in lines:
        tally.cut += line["finish_reason"] == "length"
        tally.exact.append(line.get("exact") is True)
        if metric is None:
            continue
        if metric == ACCURACY and choice_of(line["gt_response"]) is not None:
            tally.no_letter += choice_of(line["pred_response"]) is None
        found, unscorable = turn_score(line, metric)
        tally.unscorable += unscorable
        if found is None:
            tally.empty_references += 1
        else:
            tally.scores[line["index"], line["turn"]] = found


def _set_score(tally: Tally, run: RunInfo) -> SetScore:
    known, about = find_set(tally.name, run.file), tally.about
    category = known.category if known else _text(about.get("category"))
    scenario = known.scenario if known else _text(about.get("scenario"))
    domain = known.domain if known else WORLD if run.world else None
    # In the file's order, which a mean's last digit depends on.
    values = [tally.scores[key] for key in sorted(tally.scores)]
    metric = tally.metric
    # As the official script: a plain division for accuracy, NumPy's mean for other scores.
    total = sum(values) / len(values) if values and metric == ACCURACY else mean(values)
    interval = wilson_interval(round(sum(values)), len(values)) if metric == ACCURACY else _normal(values)
    return SetScore(
        name=tally.name,
        metric=metric,
        score=total,
        interval=interval,
        answers=len(values),
        exact=mean(map(float, tally.exact)),
        exact_interval=wilson_interval(sum(tally.exact), len(tally.exact)),
        chance=mean(tally.chances),
        category=category,
        domain=domain,
        scenario=scenario,
        samples=tally.samples,
        errors=tally.errors,
        empty_references=tally.empty_references,
        unscorable=tally.unscorable,
        cut=tally.cut,
        no_letter=tally.no_letter,
    )


def _held_out_score(tally: Tally) -> SetScore:
    """Only the exact matches, since the samples come from several sets, whose scores are not comparable."""
    return SetScore(
        name=tally.name,
        metric=None,
        score=None,
        interval=None,
        answers=len(tally.exact),
        exact=mean(map(float, tally.exact)),
        exact_interval=wilson_interval(sum(tally.exact), len(tally.exact)),
        chance=mean(tally.chances),
        category=None,
        domain=None,
        scenario=None,
        samples=tally.samples,
        cut=tally.cut,
    )


def _means(named: Iterable[tuple[str | None, str, float | None]]) -> list[Group]:
    """Mean scores by group name, in the given order; entries without a group or a score are left out."""
    found: dict[str, list[tuple[str, float]]] = {}
    for group, name, value in named:
        if group is not None and value is not None:
            found.setdefault(group, []).append((name, value))
    # A plain sum and division, as in the official script; NumPy may round differently.
    return [
        Group(group, sum(value for _, value in parts) / len(parts), tuple(name for name, _ in parts))
        for group, parts in found.items()
    ]


def _domains(sets: Sequence[SetScore], categories: Sequence[Group]) -> list[Group]:
    """Mean scores of the categories by domain, with multi-view as its own domain, as in the paper."""
    where: dict[str, str] = {}
    for one in sets:
        if one.category is not None and one.domain is not None:
            where[one.category] = f"{one.domain}, {MULTI_VIEW}" if one.scenario == MULTI_VIEW else one.domain
    return _means((where.get(group.name), group.name, group.score) for group in categories)


def _normal(values: Sequence[float]) -> tuple[float, float] | None:
    """The normal 95 % interval of a mean of scores, within 0 and 1."""
    half = normal_half_width(values)
    if half is None:
        return None
    middle = float(np.mean(values))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
