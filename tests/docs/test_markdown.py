"""What the Markdown shows exists and runs: commands, options, Python, files.

Each page is followed from top to bottom in a folder of its own, with the demo's pictures and the embedded model's
checkpoint in it. Blocks after `<!-- not run: reason -->` are not run, but the options they show must exist.
"""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path

import click
import pytest
from support.markdown import PAGES, Block, blocks, name_of
from support.paths import CHECKPOINT, ROOT

import edge_interleave as ei
from edge_interleave.cli import cli
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.decoder import Decoder
from edge_interleave.household.settings_file import read_settings

RUN = [page for page in PAGES if any(block.language in ("sh", "python") and not block.reason for block in blocks(page))]


def settings_files(page: Path) -> list[str]:
    """The files of `watch --config` that a page shows."""
    return [block.text for block in blocks(page) if block.language == "toml" and "[sources." in block.text]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with the program on the path."""
    work = tmp_path / "work"
    shutil.copytree(tour_folder(), work)
    (work / "checkpoint").symlink_to(CHECKPOINT, target_is_directory=True)
    program = tmp_path / "bin" / "edge-interleave"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge_interleave "$@"\n')
    program.chmod(0o755)
    return work


def run(block: Block, folder: Path) -> str:
    """Run a block and return its stdout."""
    environment = {
        **os.environ,
        "PATH": f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "EDGE_INTERLEAVE_HOME": str(folder.parent / "models"),
        "EDGE_INTERLEAVE_HISTORY": "off",
        "HF_HUB_OFFLINE": "1",
    }
    shell = ["bash", "-euo", "pipefail", "-c"]
    command = [*(shell if block.language == "sh" else [sys.executable, "-c"]), block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_can_be_followed_from_top_to_bottom(page: Path, folder: Path) -> None:
    run_here = [block for block in blocks(page) if block.language in ("sh", "python") and not block.reason]
    printed = "".join(run(block, folder) for block in run_here)
    if name_of(page) == "README.md":
        assert "moved from the top right to the bottom right" in printed


@pytest.mark.parametrize("page", [page for page in PAGES if settings_files(page)], ids=name_of)
def test_files_of_settings_are_valid(page: Path, tmp_path: Path) -> None:
    for text in settings_files(page):
        for secret in re.findall(r"\$\{file:([^}]+)\}", text):
            (tmp_path / secret).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / secret).write_text("secret")
        variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "secret")
        (tmp_path / "cameras.toml").write_text(text)
        assert read_settings(tmp_path / "cameras.toml", variables).sources


def test_the_readme_is_short_and_its_set_up_is_one_line() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 900
    setups = [block.text for block in blocks(ROOT / "README.md") if "venv" in block.text]
    assert setups == [
        "python3 -m venv .venv && . .venv/bin/activate && pip install . && edge-interleave demo\n",
    ]


def test_the_workflow_runs_the_test_command_of_the_readme() -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if "pytest" in block.text]
    assert block.text.strip() in (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")


def shown_commands(page: Path) -> list[list[str]]:
    """The words after `edge-interleave` of every command in a page's shell blocks."""
    text = "\n".join(block.text.replace("\\\n", " ") for block in blocks(page) if block.language == "sh")
    found = []
    for line in text.splitlines():
        if not re.search(r"(^|[&|] )edge-interleave ", line):
            continue
        words = shlex.split(line, comments=True)
        for place in [place for place, word in enumerate(words) if word == "edge-interleave"]:
            found.append(list(takewhile(lambda word: word not in ("&&", "|", "<", ">"), words[place + 1 :])))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if shown_commands(page)], ids=name_of)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    context = click.Context(cli)
    for name, *words in shown_commands(page):
        command = cli.get_command(context, name)
        assert command is not None, name
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= {*options, "--help"}, f"edge-interleave {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in code type, as `backends/mlx/cache.py`; in the package's own rooms `edge_interleave/` may be left out."""
    text = page.read_text("utf-8")
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|toml|yml|txt))`", text)
    named += re.findall(r"\b(?:tests|examples|benchmarks|converters|backends|edge_interleave)/[\w/]+(?:\.\w+|/)", text)
    missing = [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "edge_interleave"))]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Files, and headings in them. The build of the site checks the pages below `docs/`."""
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]+)(#([\w-]+))?\)", page.read_text("utf-8")):
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / target).read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}, anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_benchmarks_have_the_options_that_are_shown(page: Path) -> None:
    """The commands behind the figures."""
    for script, options in re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", page.read_text("utf-8")):
        source = (ROOT / script).read_text("utf-8")
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, f"{script} {option}"


def test_the_architecture_page_shows_the_layers_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert "```text\n" + "\n".join(layers) + "\n```" in page


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    shown = set(re.findall(r"^::: edge_interleave\.(\w+)$", page, re.MULTILINE)) | set(
        re.findall(r"- (\w+Error)$", page, re.MULTILINE)
    )
    assert set(ei.__all__) - {"__version__"} == shown - {"errors"}


def test_the_guide_for_backends_names_the_methods_of_the_protocol() -> None:
    page = (ROOT / "docs" / "guides" / "backend.md").read_text("utf-8")
    table = page[page.index("| method |") : page.index("The runtime calls")]
    named = set(re.findall(r"`(\w+)\(", table))
    methods = {name for name, value in vars(Decoder).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert named == methods - {"close"}
