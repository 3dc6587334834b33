"""A file of samples through a model, answer by answer onto the disk: what is killed goes on where it was.

Puts the reading, the answering, the scores and the results' file together; what they do is theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_interleave.errors import BackendError, ContextFullError, InputError, MediaError, UsageError
from edge_interleave.evaluation.answering import Answerer, Reply, Settings
from edge_interleave.evaluation.files import make_folder
from edge_interleave.evaluation.fingerprints import from_json, is_same, to_json
from edge_interleave.evaluation.json_items import JsonItems
from edge_interleave.evaluation.manifest import World, claim, describe_run
from edge_interleave.evaluation.results import Line, ResultsFile, Shard
from edge_interleave.evaluation.samples import BadSample, Labels, Sample, Turn, read_samples
from edge_interleave.evaluation.scores import UnscorableError, is_exact, metric_of, score
from edge_interleave.model import Model
from edge_interleave.util.regular_file import display_name
from edge_interleave.world.judging import is_right

Report = Callable[[str, int, int], None]
"""Called with the stage (`check`: bytes of the file; `samples`), how much of it is done, and how much it is in all."""
_ONLY_WHERE_SAID = ("category", "scenario", "chance", "held_out", "judge")


@dataclass(frozen=True)
class Outcome:
    """How far a run came."""

    done: int
    """Samples of this part that have a result, those of earlier runs and those with errors among them."""
    of: int
    """Samples of this part, up to the limit."""
    errors: int
    """Of those done, how many could not be answered."""
    interrupted: bool
    """Whether it was stopped before its end."""


def run(
    file: Path,
    model: Model,
    out: Path,
    *,
    images: Path | None = None,
    settings: Settings | None = None,
    shard: Shard | None = None,
    limit: int | None = None,
    world: World | None = None,
    report: Report = lambda stage, done, of: None,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Ask the samples of a file and keep the answers in the folder `out`; go on with what lies there of the same run.

    `images`: the folder that the samples' paths are relative to; None: the file's own. `limit`: only so many of the
    file's first samples; a larger one goes on. `cancel`: set it from another thread to stop after the current sample.
    Samples that cannot be answered (pictures missing, too long for the model) become results with `error`, and are
    tried again by the next run. So are those at which the engine fails, for want of memory, say; where it fails at the
    next one too, that ends the run. The model should be loaded with `settings.context`.

    Raises InputError where the file is damaged (all of it is read before a sample is asked), or where `out` holds
    another run, or answers about other pictures than those that lie in the folder now; UsageError; ResourceError where
    the disk is full; BackendError where the engine fails. What was answered until then is kept.
    """
    settings, shard = settings or Settings(), shard or Shard()
    if limit is not None and limit < 1:
        raise UsageError(f"the limit must be a whole number from 1, not {limit}")
    folder = file.parent if images is None else images
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the one that the samples' images are relative to")
    answerer = Answerer(model, folder, settings)
    try:
        sha256, count = _checked(file, report)
        make_folder(out)
        claim(out, describe_run(model, answerer.prompt, file, sha256, count, settings, shard.of, world))
        with ResultsFile(out / shard.file_name, _media_check(out, folder, answerer)) as results:
            end = count if limit is None else min(limit, count)
            return _ask(file, end, shard, answerer, results, model.bundle.manifest.name, report, cancel)
    finally:
        answerer.close()


def _checked(file: Path, report: Report) -> tuple[str, int]:
    """SHA-256 and number of samples. A file that is cut off is better refused now than after two days of work."""
    items = JsonItems(file)
    size = file.stat().st_size if file.exists() else 0
    for number, _ in enumerate(read_samples(items)):
        if number % 1000 == 0:
            report("check", min(items.bytes, size), size)
    report("check", size, size)
    return items.sha256, items.read


def _media_check(out: Path, folder: Path, answerer: Answerer) -> Callable[[Line], None]:
    """Holds a result to the pictures that lie there now. What it gives raises InputError."""

    def check(line: Line) -> None:
        media = from_json(line.get("media"))
        wrong = "" if media is not None else "the result does not say what it is about"
        for name, before in (media or {}).items():
            try:
                wrong = wrong or ("" if is_same(answerer.path(name), before) else f"{display_name(name)} has changed")
            except MediaError as error:
                wrong = str(error)
        if wrong:
            raise InputError(
                f"{out}: sample {line['index'] + 1} was asked about other pictures than "
                f"{display_name(folder)} holds now ({wrong}); give another --out, or the --images of before"
            )

    return check


def _ask(
    file: Path,
    end: int,
    shard: Shard,
    answerer: Answerer,
    results: ResultsFile,
    model: str,
    report: Report,
    cancel: threading.Event | None,
) -> Outcome:
    wanted = [index for index in range(end) if shard.has(index)]
    answered = sum(results.done.get(index, "") is None for index in wanted)
    report("samples", answered, len(wanted))
    interrupted = failed = False
    for sample in read_samples(JsonItems(file)):
        index = sample.labels.index
        if index >= end:
            break
        if not shard.has(index) or results.done.get(index, "") is None:
            continue
        if cancel is not None and cancel.is_set():
            interrupted = True
            break
        try:
            lines, failed = _result(sample, answerer, model, cancel), False
        except BackendError as error:
            if failed:
                raise
            lines, failed = [{**_said(sample.labels), "error": str(error)}], True
        if lines is None:
            interrupted = True
            break
        # What fails as it failed before is known already.
        if "error" not in lines[0] or results.done.get(index) != lines[0]["error"]:
            results.append(lines)
        answered += 1
        report("samples", answered, len(wanted))
    done = [results.done[index] for index in wanted if index in results.done]
    return Outcome(len(done), len(wanted), sum(problem is not None for problem in done), interrupted)


def _result(
    sample: Sample | BadSample, answerer: Answerer, model: str, cancel: threading.Event | None
) -> list[dict[str, Any]] | None:
    """The lines of a sample; None where it was cancelled."""
    if isinstance(sample, BadSample):
        return [{**_said(sample.labels), "error": sample.problem}]
    try:
        answered = answerer.answer(sample, cancel)
    except (MediaError, ContextFullError, UsageError) as error:
        return [{**_said(sample.labels), "error": str(error)}]
    if answered is None:
        return None
    lines = [
        _turn(sample, number, turn, reply, model)
        for number, (turn, reply) in enumerate(zip(sample.turns, answered.replies, strict=True))
    ]
    lines[0]["media"] = to_json(answered.media)
    return lines


def _turn(sample: Sample, number: int, turn: Turn, reply: Reply, model: str) -> dict[str, Any]:
    told, judge = asdict(reply), sample.labels.judge
    line = {
        **_said(sample.labels),
        "turn": number,
        "turns": len(sample.turns),
        "model_id": model,
        "prompt": turn.question,
        "pred_response": told.pop("text"),
        "gt_response": turn.reference,
        **told,
        "exact": is_exact(reply.text, turn.reference)
        or (judge is not None and is_right(reply.text, turn.reference, judge)),
    }
    metric = metric_of(sample.labels.dataset, sample.labels.question_type)
    if metric is not None:
        line["metric"] = metric
        try:
            line["score"] = score(metric, reply.text, turn.reference)
        except UnscorableError as error:
            line["score"], line["unscorable"] = 0.0, str(error)
    return line


def _said(labels: Labels) -> dict[str, Any]:
    return {name: value for name, value in asdict(labels).items() if value is not None or name not in _ONLY_WHERE_SAID}
