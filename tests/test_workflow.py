"""The workflow's job on Apple Silicon, which has never run, calls what exists. actionlint and zizmor check its form."""

import re
import shlex
import subprocess
import sys

import yaml  # huggingface_hub brings it
from support.paths import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
COMMANDS = [
    line for step in WORKFLOW["jobs"]["apple-silicon"]["steps"] for line in step.get("run", "").splitlines() if line
]


def test_it_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", readme)
    assert found is not None
    assert found[1] in COMMANDS


def test_its_commands_options_and_files_exist() -> None:
    named = [shlex.split(line.replace("$RUNNER_TEMP/user/bin/", "")) for line in COMMANDS]
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
