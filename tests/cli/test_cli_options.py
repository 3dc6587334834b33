"""One name for one thing: the options that commands share, what they refuse, and what a shell completes."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from support.command_line import PROGRAM, environment, error_line, run
from support.paths import ROOT

from edge_interleave.bundle import store
from edge_interleave.cli import COMMANDS, cli, options
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.decoder import KV_PRECISIONS
from edge_interleave.decoding.sampling import SamplingOptions

CLI_PAGE = ROOT / "docs" / "reference" / "command-line.md"
CLIP = tour_folder() / "clip.mp4"
MODEL = {"-m", "--model", "--backend", "--threads", "--context", "--kv-precision"}
SHARED = {
    "ask": {*MODEL, "-i", "--image", "--system", "--max-tokens", "--pool", "--frames", "--json"},
    "chat": {*MODEL, "-i", "--image", "--system", "--max-tokens", "--pool", "--frames", "--json"},
    "watch": {*MODEL, "--system", "--max-tokens", "--window", "--pool", "--json"},
    "eval": {*MODEL, "--max-tokens", "--pool", "--frames", "--json"},
    "serve": {*MODEL, "--memory"},
    "plan": {"--backend", "--threads", "--kv-precision", "--window", "--pool", "--json"},
    "demo": {"--backend", "--threads", "--json"},
    "models": {"--json"},
    "info": {"--json"},
    "convert": {"-q", "--quantization", "--json"},
    "pull": {"-q", "--quantization", "--json"},
}


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path)


def command_named(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", list(COMMANDS))
def test_commands_share_the_names_of_options(name: str) -> None:
    names = {option for parameter in command_named(name).params for option in parameter.opts}
    assert SHARED[name] <= names


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_fits_a_terminal_and_imports_neither_numpy_nor_an_engine(name: str, env: Mapping[str, str]) -> None:
    script = (
        "import sys\n"
        "from edge_interleave.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'llama_cpp', 'mlx', 'huggingface_hub', 'tokenizers', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment_ = {**env, "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", script], env=environment_, capture_output=True, text=True, check=True)
    *shown, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert max(map(len, shown)) <= 80


def test_names_copied_to_avoid_an_import_match_the_originals() -> None:
    assert options.KV_PRECISIONS == KV_PRECISIONS
    assert set(options.SAMPLING) == set(SamplingOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", "Q", "--max-tokens", "0"), "'--max-tokens': 0 is not a whole number of at least 1"),
        (("ask", "Q", "--frames", "x"), "'--frames': x is not"),
        (("ask", " "), "the question is empty; type one"),
        (("ask", "Q", "--choose", "yes", "--choose", "no", "--stats"), "--stats has figures of a written answer"),
        (("chat", "--context", "0"), "'--context'"),
        (("ask", "Q", "--threads", "-2"), "'--threads'"),
        (("ask", "Q", "--pool", "0"), "'--pool'"),
        (("ask", "Q", "--top-p", "2"), "--top-p must be"),
        (("chat", "--repetition-penalty", "0"), "--repetition-penalty must be"),
        (("ask", "Q", "--kv-precision", "q3"), "'--kv-precision'"),
        (("plan", "--window", "0"), "'--window'"),
        (("plan", "--goal", "latency"), "--goal latency, and only that goal, needs --within"),
        (("plan", "--within", "1s"), "--goal latency, and only that goal, needs --within"),
        (("plan", "--preset", "10-full", "--pool", "2"), "--preset sets --goal, --window and --pool"),
        (("watch", "x.mp4", "--ask", "Q", "--window", "0"), "'--window'"),
        (("watch", "x.mp4", "--when", "Q", "--above", "2"), "'--above'"),
        (("watch", "x.mp4", "--when", "Q", "--below", "0.9"), "--below must be at most --above"),
        (("watch", "x.mp4", "--when", "Q", "--for", "0"), "'--for'"),
        (("watch", "x.mp4", "--when", "Q", "--max-tokens", "9"), "--max-tokens concerns answers"),
        (("eval", "--world", "--out", "x", "--samples", "0"), "'--samples'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_messages_name_the_option(arguments: tuple[str, ...], said: str, env: Mapping[str, str]) -> None:
    assert said in error_line(run(*arguments, env=env), 2)


def test_watch_takes_the_options_of_ask(env: Mapping[str, str], tmp_path: Path) -> None:
    watch = ("watch", CLIP, "--ask", "Describe the image.", "--threads", 1, "--every", "1h", "--window", 2)
    options_ = ("--kv-precision", "f16", "--system", "You are a helpful assistant.", "--max-tokens", 3)
    done = run(*watch, *options_, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    assert answers
    assert all(len(answer.removesuffix(" (cut off)").split()) == 3 for answer in answers)
    assert all(answer.endswith(" (cut off)") for answer in answers)


@pytest.mark.parametrize(
    "command", [("ask", "Q"), ("chat",), ("watch", CLIP, "--ask", "Q")], ids=lambda words: words[0]
)
def test_the_kv_precision_reaches_the_engine(command: tuple[object, ...], env: Mapping[str, str]) -> None:
    # The embedded model's heads are too narrow for it.
    line = error_line(run(*command, "--kv-precision", "q8_0", "--backend", "llama-cpp", "--threads", 1, env=env), 4)
    assert "keys in q8_0" in line


def test_models_list_and_rm_are_aliases(env: Mapping[str, str]) -> None:
    listed = [run("models", *arguments, "--json", env=env).stdout for arguments in ((), ("list",))]
    assert listed[0] == listed[1] != ""
    for command in ("remove", "rm"):
        assert "no model or folder named 'nowhere'" in error_line(
            run("models", command, "nowhere", env=env, stdin="y\n"), 3
        )
    assert "models list --json" in run("models", "--json", "list", env=env).stderr


def test_models_remove_checks_the_model_before_it_asks_for_confirmation(env: Mapping[str, str]) -> None:
    home = Path(env["EDGE_INTERLEAVE_HOME"])
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "cat.png").touch()
    assert "not a bundle" in error_line(run("models", "remove", "photos", env=env, stdin="y\n"), 3)
    assert (home / "photos" / "cat.png").exists()
    assert "cannot be removed" in error_line(run("models", "rm", "embedded", env=env), 2)


def completed(words: str, env: Mapping[str, str]) -> list[str]:
    """What bash would offer for the last of the words."""
    variables = {
        "_EDGE_INTERLEAVE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"edge-interleave {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    done = subprocess.run(PROGRAM, env={**env, **variables}, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_shell_completion_covers_commands_options_and_models(env: Mapping[str, str]) -> None:
    (Path(env["EDGE_INTERLEAVE_HOME"]) / "llava-small").mkdir(parents=True)
    assert completed("", env) == list(COMMANDS)
    assert completed("pl", env) == ["plan"]
    assert completed("ask --ma", env) == ["--max-tokens"]
    assert completed("ask --model ", env) == ["embedded", "llava-small"]
    assert completed("chat -m l", env) == ["llava-small"]
    assert completed("plan em", env) == ["embedded"]
    assert completed("models remove ", env) == ["llava-small"]
    assert completed("watch --kv-precision q", env) == ["q8_0", "q4_0"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion_script(shell: str, env: Mapping[str, str]) -> None:
    variables = {"_EDGE_INTERLEAVE_COMPLETE": f"{shell}_source"}
    done = subprocess.run(PROGRAM, env={**env, **variables}, capture_output=True, text=True, check=True)
    assert "_EDGE_INTERLEAVE_COMPLETE" in done.stdout
    assert f"_EDGE_INTERLEAVE_COMPLETE={shell}_source" in CLI_PAGE.read_text("utf-8")


def test_every_environment_variable_is_documented() -> None:
    page = CLI_PAGE.read_text("utf-8")
    sources = [*ROOT.glob("edge_interleave/**/*.py"), *ROOT.glob("backends/**/*.py")]
    text = "\n".join(path.read_text("utf-8") for path in [*sources, *ROOT.glob("converters/**/*.py")])
    named = set(re.findall(r"\"((?:EDGE_INTERLEAVE|HF|OPENCV|ORT|LLAMA)_[A-Z_]+)\"", text))
    named |= set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\"([A-Z_]+)\"", text))
    assert {"EDGE_INTERLEAVE_HOME", "EDGE_INTERLEAVE_DEBUG", "EDGE_INTERLEAVE_HISTORY"} <= named
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def test_model_names_match_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / ".b.partial").mkdir()
    assert store.model_names() == [model.name for model in store.list_models()] == ["embedded", "a"]
    assert os.listdir(tmp_path / "a") == []
