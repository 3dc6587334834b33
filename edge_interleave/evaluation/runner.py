"""Runs a file of samples through a model and stores each answer at once, so an interrupted run resumes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from edge_interleave.errors import BackendError, ContextFullError, InputError, MediaError, UsageError
from edge_interleave.evaluation.answering import Answerer, Reply, Settings
from edge_interleave.evaluation.files import make_folder
from edge_interleave.evaluation.fingerprints import from_json, is_same, to_json
from edge_interleave.evaluation.in_order import in_order
from edge_interleave.evaluation.json_stream import JsonStream
from edge_interleave.evaluation.results import Line, ResultsFile, Shard
from edge_interleave.evaluation.run_info import World, claim_folder, describe_run
from edge_interleave.evaluation.samples import InvalidSample, Labels, Sample, Turn, read_samples
from edge_interleave.evaluation.scores import UnscorableError, exact_match, metric_of, score
from edge_interleave.model import Model
from edge_interleave.remote.model import RemoteModel
from edge_interleave.util.regular_file import display_name
from edge_interleave.world.judging import is_right

Report = Callable[[str, int, int], None]
"""Called with the stage (`check`, in bytes of the file; `samples`), the amount done, and the total."""
_OPTIONAL_LABELS = ("category", "scenario", "chance", "held_out", "judge")


@dataclass(frozen=True)
class Outcome:
    """The state of a run when it returns."""

    done: int
    """Samples of this shard with a result, including those of earlier runs and those with errors."""
    of: int
    """Samples of this shard, up to the limit."""
    errors: int
    """Samples in `done` that could not be answered."""
    interrupted: bool
    """Whether `cancel` stopped the run early."""


def run(
    file: Path,
    model: Model | RemoteModel,
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
    """Ask the samples of a file and store the answers in the folder `out`; resumes the same run in `out`.

    `images`: the folder that the samples' paths are relative to; None: the file's own. `limit`: only the first `limit`
    samples of the file; a later run may raise it. `cancel`: set it from another thread to stop at the current sample.
    The model should be loaded with `settings.context`. A model behind a URL answers several samples at once; results
    are stored in the samples' order all the same. A sample that cannot be answered (a missing picture, too long
    for the model, an engine failure) gets a result with `error`, and the next run tries it again. Two engine failures
    in a row end the run.

    Raises InputError if the file is damaged (it is read whole before the first question), or if `out` holds another
    run or answers about other pictures than the folder holds now; UsageError; ResourceError if the disk is full;
    BackendError if the engine fails. Answers stored before an error are kept.
    """
    settings, shard = settings or Settings(), shard or Shard()
    if limit is not None and limit < 1:
        raise UsageError(f"the limit must be a whole number of at least 1, not {limit}")
    folder = file.parent if images is None else images
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder that the image paths are relative to")
    answerer = Answerer(model, folder, settings)
    try:
        sha256, count = _check_file(file, report)
        make_folder(out)
        claim_folder(out, describe_run(model, answerer.prompt, file, sha256, count, settings, shard.of, world))
        with ResultsFile(out / shard.file_name, _media_check(out, folder, answerer)) as results:
            end = count if limit is None else min(limit, count)
            return _ask(file, end, shard, answerer, results, model.name, report, cancel)
    finally:
        answerer.close()


def _check_file(file: Path, report: Report) -> tuple[str, int]:
    """SHA-256 of the file and its number of samples. Finds damage before the run, not after days of answering."""
    items = JsonStream(file)
    size = file.stat().st_size if file.exists() else 0
    for number, _ in enumerate(read_samples(items)):
        if number % 1000 == 0:
            report("check", min(items.bytes, size), size)
    report("check", size, size)
    return items.sha256, items.read


def _media_check(out: Path, folder: Path, answerer: Answerer) -> Callable[[Line], None]:
    """A check that the folder still has the pictures of a stored result. The check raises InputError if not."""

    def check(line: Line) -> None:
        media = from_json(line.get("media"))
        wrong = "" if media is not None else "the result names no pictures"
        for name, before in (media or {}).items():
            try:
                wrong = wrong or ("" if is_same(answerer.path(name), before) else f"{display_name(name)} has changed")
            except MediaError as error:
                wrong = str(error)
        if wrong:
            raise InputError(
                f"{out}: sample {line['index'] + 1} was asked about other pictures than "
                f"{display_name(folder)} holds now ({wrong}); give another --out, or the --images of the earlier run"
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
    left = {index for index in wanted if results.done.get(index, "") is not None}
    samples = takewhile(lambda sample: sample.labels.index < end, read_samples(JsonStream(file)))
    stopped = _Stop(cancel)
    work = in_order(
        lambda sample: _result(sample, answerer, model, stopped),
        (sample for sample in samples if sample.labels.index in left),
        answerer.parallel,
        stopped.set,
    )
    with closing(work):
        for sample, result in work:
            try:
                lines, failed = result(), False
            except BackendError as error:
                if failed:
                    raise
                lines, failed = [{**_label_fields(sample.labels), "error": str(error)}], True
            if lines is None:
                interrupted = True
                break
            # Do not store the same error twice.
            if "error" not in lines[0] or results.done.get(sample.labels.index) != lines[0]["error"]:
                results.append(lines)
            answered += 1
            report("samples", answered, len(wanted))
    done = [results.done[index] for index in wanted if index in results.done]
    return Outcome(len(done), len(wanted), sum(problem is not None for problem in done), interrupted)


def _result(
    sample: Sample | InvalidSample, answerer: Answerer, model: str, cancel: threading.Event
) -> list[dict[str, Any]] | None:
    """The result lines of a sample; None if it was cancelled."""
    if cancel.is_set():
        return None
    if isinstance(sample, InvalidSample):
        return [{**_label_fields(sample.labels), "error": sample.problem}]
    try:
        answered = answerer.answer(sample, cancel)
    except (MediaError, ContextFullError, UsageError) as error:
        return [{**_label_fields(sample.labels), "error": str(error)}]
    if answered is None:
        return None
    lines = [
        _turn_line(sample, number, turn, reply, model)
        for number, (turn, reply) in enumerate(zip(sample.turns, answered.replies, strict=True))
    ]
    lines[0]["media"] = to_json(answered.media)
    return lines


def _turn_line(sample: Sample, number: int, turn: Turn, reply: Reply, model: str) -> dict[str, Any]:
    fields, judge = asdict(reply), sample.labels.judge
    line = {
        **_label_fields(sample.labels),
        "turn": number,
        "turns": len(sample.turns),
        "model_id": model,
        "prompt": turn.question,
        "pred_response": fields.pop("text"),
        "gt_response": turn.reference,
        **fields,
        "exact": exact_match(reply.text, turn.reference)
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


class _Stop(threading.Event):
    """Is set when the run ends, and while `cancel` is set."""

    def __init__(self, cancel: threading.Event | None) -> None:
        super().__init__()
        self._cancel = cancel

    def is_set(self) -> bool:
        return super().is_set() or (self._cancel is not None and self._cancel.is_set())


def _label_fields(labels: Labels) -> dict[str, Any]:
    return {name: value for name, value in asdict(labels).items() if value is not None or name not in _OPTIONAL_LABELS}
