"""Compares two runs on the same samples, answer by answer.

The 95 % interval is that of the mean of paired differences (normal approximation): pairing removes the variation
between easy and hard questions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_interleave.errors import InputError
from edge_interleave.evaluation.fingerprints import from_json
from edge_interleave.evaluation.intervals import normal_half_width
from edge_interleave.evaluation.results import Line
from edge_interleave.evaluation.run_info import RunInfo, parts_that_differ, read_run
from edge_interleave.evaluation.summary import Tally, latest_results, mean, set_tallies, turn_score


@dataclass(frozen=True)
class SetDifference:
    """One set in both runs, over the answers that count in both."""

    name: str
    metric: str
    answers: int
    a: float
    """Score of the first run."""
    b: float
    """Score of the second run."""
    difference: float
    """a - b."""
    interval: tuple[float, float] | None
    """95 % confidence interval of the difference; None for fewer than two answers."""
    answers_differ: int
    """Number of answers whose texts differ."""
    a_exact: float
    b_exact: float


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same file."""

    a: RunInfo
    b: RunInfo
    sets: tuple[SetDifference, ...]
    overall: SetDifference | None
    """All answers together, equally weighted; None if no set has a score in both runs."""
    parts_differ: tuple[str, ...] = ()
    """Parts of the models that differ: a file, `preprocessing`, `prompt`, ..."""
    other_media: int = 0
    """Number of samples that the runs answered about different images or videos."""
    other_media_first: int | None = None
    """Position in the file, from 1, of the first of these samples."""


@dataclass(frozen=True)
class _Answer:
    score: float | None
    exact: bool
    text: bytes
    """Digest of the text; texts are not kept in memory."""
    media: bytes
    """Digest of the sample's images or video."""


def compare(out: Path, other: Path) -> Comparison:
    """Compare the results in one folder, a, with those in another, b. Raises InputError for runs on different files."""
    a, b = read_run(out), read_run(other)
    if a.sha256 != b.sha256:
        raise InputError(
            f"{other}: results on another file ({b.file}, {b.sha256[:12]}) than {out} ({a.file}); "
            "compare runs on the same file"
        )
    tallies = set_tallies(out, a)
    ours = {
        (line["index"], line["turn"]): _answer(line, tallies[line["dataset"]], media)
        for lines in latest_results(out, a)
        if "error" not in lines[0]
        for media in [_media(lines[0])]
        for line in lines
    }
    other_media = set()
    pairs: dict[str, dict[tuple[int, int], tuple[_Answer, _Answer]]] = {}
    for lines in latest_results(other, b):
        media = _media(lines[0])
        for line in lines if "error" not in lines[0] else ():
            place, name = (line["index"], line["turn"]), line["dataset"]
            if place in ours and name in tallies:
                pairs.setdefault(name, {})[place] = (ours[place], _answer(line, tallies[name], media))
                if ours[place].media != media:
                    other_media.add(line["index"] + 1)
    order = sorted((tally for tally in tallies.values() if tally.name in pairs), key=lambda tally: tally.first)
    both = {tally.name: [pairs[tally.name][place] for place in sorted(pairs[tally.name])] for tally in order}
    sets = [_difference(tally.name, tally.metric or "", both[tally.name]) for tally in order]
    every = _difference("all", "both", [pair for name in both for pair in both[name]])
    found = tuple(one for one in sets if one is not None)
    first = min(other_media, default=None)
    return Comparison(a, b, found, every, tuple(parts_that_differ(a, b)), len(other_media), first)


def _media(first: Line) -> bytes:
    """A digest of a sample's images or video (names and contents, in order), from its first line."""
    media = from_json(first.get("media")) or {}
    content = json.dumps([[name, one.digest] for name, one in media.items()])
    return hashlib.blake2b(content.encode("ascii"), digest_size=16).digest()


def _answer(line: Line, tally: Tally, media: bytes) -> _Answer:
    found = None if tally.metric is None else turn_score(line, tally.metric)[0]
    text = line["pred_response"].encode("utf-8", "surrogatepass")
    return _Answer(found, line.get("exact") is True, hashlib.blake2b(text, digest_size=16).digest(), media)


def _difference(name: str, metric: str, pairs: list[tuple[_Answer, _Answer]]) -> SetDifference | None:
    counted = [(a, b) for a, b in pairs if a.score is not None and b.score is not None]
    differences = [(a.score or 0.0) - (b.score or 0.0) for a, b in counted]
    if not differences:
        return None
    middle = float(np.mean(differences))
    half = normal_half_width(differences)
    return SetDifference(
        name=name,
        metric=metric,
        answers=len(differences),
        a=mean(a.score or 0.0 for a, _ in counted) or 0.0,
        b=mean(b.score or 0.0 for _, b in counted) or 0.0,
        difference=middle,
        interval=None if half is None else (middle - half, middle + half),
        answers_differ=sum(a.text != b.text for a, b in counted),
        a_exact=mean(float(a.exact) for a, _ in counted) or 0.0,
        b_exact=mean(float(b.exact) for _, b in counted) or 0.0,
    )
