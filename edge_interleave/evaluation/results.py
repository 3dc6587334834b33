"""Result files: one line of JSON for each question; the lines of a sample are appended together and never changed.

If the process is killed, the file has whole samples and at most one cut-off sample at the end, which is asked again. A
sample that cannot be answered has one line with `error`; a later answer replaces it. The names `dataset`, `sample_id`,
`prompt`, `pred_response`, `gt_response`, `model_id` and `question_type` are the official script's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from edge_interleave.errors import InputError, ResourceError, UsageError
from edge_interleave.util.directory_lock import LockedError, locked

LINE_BYTES_MAX = 64 << 20
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Shard:
    """One part of a file's samples: of every `of` consecutive samples, the one with this number."""

    number: int = 1
    """From 1."""
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"there is no part {self.number} of {self.of}; give, for example, 1/2 and 2/2")

    def has(self, index: int) -> bool:
        """Whether the sample at an index of the file, from 0, is in this shard."""
        return index % self.of == self.number - 1

    @property
    def file_name(self) -> str:
        """Name of the shard's results file."""
        return "results.jsonl" if self.of == 1 else f"results-{self.number}-of-{self.of}.jsonl"


class ResultsFile:
    """The results file of one shard, open for appending by one process at a time."""

    def __init__(self, path: Path, check: Callable[[Line], None] = lambda line: None) -> None:
        """Open or create the file, and drop an incomplete sample at its end. Raises InputError if it cannot be used.

        `check` is called with the first line of each answered sample; its errors are raised here.
        """
        self.path = path
        self.done: dict[int, str | None] = {}
        """For each sample in the file, by index: its error, or None if it was answered."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); give another folder") from error
        self._held = ExitStack()
        self._held.callback(os.close, self._file)
        try:
            self._held.enter_context(locked(self._file, path, wait=False))
            whole = 0
            with path.open("rb") as file:
                for end, lines in _samples(path, file):
                    if "error" not in lines[0]:
                        check(lines[0])
                    self.done[lines[0]["index"]] = lines[0].get("error")
                    whole = end
            os.truncate(self._file, whole)
        except LockedError as error:
            self._held.close()
            raise InputError(f"{path}: another process is writing it; {error.remedy}, or use --shard") from None
        except BaseException:
            self._held.close()
            raise

    def append(self, lines: Sequence[Line]) -> None:
        """Append a sample's lines. Raises ResourceError if the disk is full; earlier samples stay whole."""
        content = "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")
        try:
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot be written ({error.strerror}); free some space and run it again to resume"
            ) from error
        self.done[lines[0]["index"]] = lines[0].get("error")

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        with self._held:
            os.fsync(self._file)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_results(out: Path, shards: int) -> Iterator[list[Line]]:
    """The lines of each sample in a folder's results, of all shards, in no particular order.

    A sample that was tried again occurs again. Raises InputError if a file is damaged before its end.
    """
    for path in sorted(out.glob("results*.jsonl")):
        if _parts_of(path.name) != shards:
            raise InputError(f"{path}: does not belong to this run; move it away")
        with path.open("rb") as file:
            for _, lines in _samples(path, file):
                yield lines


def _parts_of(name: str) -> int:
    """The number of shards in a results file's name; 0 for any other name."""
    if name == Shard().file_name:
        return 1
    found = re.fullmatch(r"results-([0-9]{1,6})-of-([0-9]{1,6})\.jsonl", name)
    return int(found[2]) if found and 1 <= int(found[1]) <= int(found[2]) else 0


def _samples(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[Line]]]:
    """The lines of each complete sample, and the offset of their end."""
    lines: list[Line] = []
    number = 0
    while content := file.readline(LINE_BYTES_MAX):
        number += 1
        if not content.endswith(b"\n"):
            return
        line = _line(content)
        if line is None:
            # After a power failure the last line may hold anything.
            if file.read(1):
                raise InputError(f"{path}: line {number} is damaged; repair it, or give another folder")
            return
        lines.append(line)
        if not _continues(lines):
            raise InputError(f"{path}: line {number} is not the next turn of its sample; give another folder")
        if len(lines) == line.get("turns", 1):
            yield file.tell(), lines
            lines = []


def _continues(lines: Sequence[Line]) -> bool:
    """Whether the last line is the next turn of its sample."""
    first, last = lines[0], lines[-1]
    if "error" in last:
        return len(lines) == 1
    same = all(first.get(name) == last[name] for name in ("index", "turns"))
    return bool(same and last["turn"] == len(lines) - 1)


def _line(content: bytes) -> Line | None:
    try:
        line = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in ("dataset", "question_type")):
        return None
    if type(line.get("index")) is not int or line["index"] < 0:
        return None
    if isinstance(line.get("error"), str):
        return line
    texts = all(isinstance(line.get(name), str) for name in ("pred_response", "gt_response", "finish_reason"))
    turn, turns = line.get("turn"), line.get("turns")
    numbers = type(turn) is int and type(turns) is int and 0 <= turn < turns
    return line if texts and numbers and "error" not in line else None
