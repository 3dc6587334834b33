"""The workflow for GitHub is sound as far as can be seen from here: it has never been run."""

import re
import shlex
import stat
import subprocess
import sys
from typing import Any

import pytest
import yaml  # huggingface_hub brings it
from support.paths import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]


def steps(job: str) -> list[dict[str, Any]]:
    return JOBS[job]["steps"]


def commands(job: str) -> list[str]:
    """Every line that the job runs."""
    return [line for step in steps(job) for line in step.get("run", "").splitlines() if line]


def test_it_runs_on_linux_and_on_apple_silicon_for_every_change() -> None:
    assert {job["runs-on"] for job in JOBS.values()} == {"ubuntu-24.04", "macos-15"}
    triggers = WORKFLOW[True]  # YAML 1.1 takes the word `on` for a truth
    assert {"push", "pull_request"} <= triggers.keys()


def test_it_may_read_and_no_more_and_ends_by_itself() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [job for job in JOBS.values() if "permissions" in job]
    assert all(0 < job["timeout-minutes"] <= 120 for job in JOBS.values())
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True


@pytest.mark.parametrize("job", JOBS)
def test_what_it_uses_is_pinned_and_what_it_runs_is_there(job: str) -> None:
    for step in steps(job):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"])
    cached = next(step["with"] for step in steps(job) if "setup-python" in step.get("uses", ""))
    assert (ROOT / cached["cache-dependency-path"]).is_file()


def test_linux_runs_the_whole_check() -> None:
    assert commands("linux") == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_apple_silicon_runs_the_test_command_of_the_readme_word_for_word() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", readme)
    assert found is not None
    assert found[1] in commands("apple-silicon")


def test_the_commands_and_options_and_files_that_it_names_exist() -> None:
    named = [shlex.split(line.replace("$RUNNER_TEMP/user/bin/", "")) for line in commands("apple-silicon")]
    ours = [words[1:] for words in named if words[0] == "edge-interleave"]
    assert {words[0] for words in ours} == {"info", "convert", "ask", "demo"}
    for command, *rest in ours:
        done = subprocess.run(
            [sys.executable, "-m", "edge_interleave", command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        for word in rest:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", done.stdout), f"{command} {word}"
            elif "/" in word and not word.startswith("$"):
                assert (ROOT / word).exists(), word
