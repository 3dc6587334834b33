"""Two runs of the same samples side by side: what the second lost or gained, and how sure that is.

Each answer is compared with the other run's answer to the same question, so that what is hard for both does not blur
the difference: the 95 % interval is that of the mean of paired differences, by the normal approximation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_interleave.errors import InputError
from edge_interleave.evaluation.fingerprints import from_json
from edge_interleave.evaluation.intervals import half_width
from edge_interleave.evaluation.manifest import RunInfo, parts_that_differ, read_run
from edge_interleave.evaluation.results import Line
from edge_interleave.evaluation.summary import Tally, first_pass, latest, mean, turn_score


@dataclass(frozen=True)
class SetDifference:
    """One set in both runs; only answers that both gave, and that count in both."""

    name: str
    metric: str
    answers: int
    a: float
    """Score of the run that was summarised."""
    b: float
    """Score of the other."""
    difference: float
    """a - b."""
    interval: tuple[float, float] | None
    """95 %, of the difference; None for fewer than two answers."""
    answers_differ: int
    """Whose texts are not the same."""
    a_exact: float
    b_exact: float


@dataclass(frozen=True)
class Comparison:
    """Two runs of the same file."""

    a: RunInfo
    b: RunInfo
    sets: tuple[SetDifference, ...]
    overall: SetDifference | None
    """All answers together, each counting once; None where no set has a score in both."""
    parts_differ: tuple[str, ...] = ()
    """Parts of the models that are not the same: a file, `preprocessing`, `prompt`, ..."""
    other_media: int = 0
    """Samples that both answered, of pictures or clips that were not the same."""
    other_media_first: int | None = None
    """The first of those, by its place in the file, from 1."""


@dataclass(frozen=True)
class _Answer:
    score: float | None
    exact: bool
    text: bytes
    """Its digest: texts are not held."""
    media: bytes
    """Digest of what the sample was about."""


def compare(out: Path, other: Path) -> Comparison:
    """Compare the results of one folder, a, with those of another, b. Raises InputError where that makes no sense."""
    a, b = read_run(out), read_run(other)
    if a.sha256 != b.sha256:
        raise InputError(f"{other}: results of another file ({b.file}, {b.sha256[:12]}) than {out}'s ({a.file})")
    tallies = first_pass(out, a)
    ours = {
        (line["index"], line["turn"]): _answer(line, tallies[line["dataset"]], media)
        for lines in latest(out, a)
        if "error" not in lines[0]
        for media in [_media(lines[0])]
        for line in lines
    }
    other_media = set()
    pairs: dict[str, dict[tuple[int, int], tuple[_Answer, _Answer]]] = {}
    for lines in latest(other, b):
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
    """A digest of what a sample was about, of its first line: names and contents, in the sample's order."""
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
    half = half_width(differences)
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
