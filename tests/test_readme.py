"""The README's Python runs as written, and the commands it shows exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

from edge_interleave.cli.demo import tour_folder

README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("source", blocks("python"))
def test_python_runs_as_written(source: str, tmp_path: Path) -> None:
    for name in ("before.png", "after.png", "clip.mp4"):
        shutil.copy(tour_folder() / name, tmp_path)
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "moved" in done.stdout


def test_there_is_python_to_run() -> None:
    assert blocks("python")


def test_commands_it_shows_take_the_options_it_shows() -> None:
    shown = re.findall(r"^edge-interleave (\w+)(.*)$", "\n".join(blocks("sh")), re.MULTILINE)
    assert {"ask", "chat", "pull"} <= {command for command, _ in shown}
    for command, rest in shown:
        words = [sys.executable, "-m", "edge_interleave", command, "--help"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in done.stdout
