"""The benchmark of four sources runs, and its sources get their shares."""

import json
import subprocess
import sys

import pytest
from support.paths import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")
def test_four_sources_get_their_shares() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "household.py"), "--seconds", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert all(0.9 <= share <= 1.1 for share in figures["looks_of_equal_share"].values())
    assert figures["alerts"] == figures["alerts_written"] == figures["alerts_posted"]
    assert all(figures["alerts"][name] >= due >= 1 for name, due in figures["alerts_due"].items())
    assert (figures["exit_code"], figures["troubles"]) == (0, {})
    assert figures["memory_growth_percent"] < 10
