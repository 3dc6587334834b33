"""Runs `edge-interleave` in this process, or many times in another one, and checks how it refuses bad files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_interleave.cli import cli
from edge_interleave.cli.errors import run

BATCH = Path(__file__).with_name("batch.py")
_PROGRESS = re.compile(r"[a-z]+: \d+ %")


@dataclass(frozen=True)
class Outcome:
    """Exit code and output, as a shell sees them."""

    code: int
    out: str
    err: str


def here(capfd: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run the program in this process; output of native libraries is captured too."""
    capfd.readouterr()
    code = run(cli, [str(argument) for argument in arguments])
    return Outcome(code, *capfd.readouterr())


def in_another_process(
    commands: Sequence[Sequence[object]], env: Mapping[str, str], timeout: float = 300
) -> list[Outcome]:
    """Run the commands one after another in one other process, which must survive them all."""
    lines = "".join(json.dumps([str(part) for part in command]) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, BATCH], input=lines, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(commands), f"ended with {done.returncode} over {commands[len(outcomes)]}: {done.stderr}"
    return outcomes


def assert_refused(outcome: Outcome, says: str, *, as_json: bool = False, codes: Sequence[int] = (3,)) -> None:
    """Assert one error line with a text, the exit code for bad files, and no other output."""
    assert outcome.code in codes, outcome
    lines = [line for line in outcome.err.splitlines() if not _PROGRESS.fullmatch(line)]
    assert len(lines) == 1, outcome
    assert lines[0].startswith("error: "), outcome
    assert says in lines[0], outcome
    assert len(lines[0]) < 1000, outcome
    assert lines[0].isprintable(), outcome
    if as_json:
        told = json.loads(outcome.out)
        assert told == {"error": lines[0].removeprefix("error: "), "exit_code": outcome.code}
    else:
        assert outcome.out == ""


def snapshot(folder: Path) -> dict[str, str]:
    """A folder's names, kinds and contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            what = f"link to {os.readlink(path)}"
        else:
            what = stat.filemode(mode)
        found[str(path.relative_to(folder))] = what
    return found
