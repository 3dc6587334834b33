"""Runs `edge-interleave` as a shell does, in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = [sys.executable, "-c", "from edge_interleave.cli import main; main()"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment with the model store and the Hub's cache below `home`, and with `more` variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EDGE_INTERLEAVE_"))}
    return {
        **kept,
        "EDGE_INTERLEAVE_HOME": str(home / "models"),
        "HF_HOME": str(home / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "COLUMNS": "100",
        **more,
    }


def run(
    *arguments: object, env: Mapping[str, str], stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, and capture its output."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, env=env, input=stdin, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def error_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The error line of a failed run. Asserts the exit code, and that stderr holds one line besides progress."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if not re.fullmatch(r"[a-z]+: \d+ %", line)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    return lines[0]
