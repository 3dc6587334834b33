"""The command line as a shell meets it: what goes to stdout, what to stderr, and which exit code."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from random_checkpoint import model_config, write_random_checkpoint
from support.command_line import PROGRAM, environment, error_line, run
from support.terminal import on_terminal

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.cli import COMMANDS, cli, errors
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.registry import backend_for, choose_backend
from edge_interleave.embedded import DEMO
from edge_interleave.util.onnx_runtime import CPU_PROVIDER

STATS = {
    "prompt_tokens",
    "visual_tokens",
    "answer_tokens",
    "encode_s",
    "prefill_s",
    "first_token_s",
    "decode_tokens_per_s",
    "peak_memory_bytes",
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`red.png`, `blue.png`, and `clip.gif` of four frames."""
    folder = tmp_path_factory.mktemp("media")
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
    frames = [Image.new("RGB", (40, 30), (60 * number, 0, 0)) for number in range(4)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    return folder


def test_help_names_every_command_and_imports_none(env: dict[str, str]) -> None:
    script = (
        "import sys\n"
        "from edge_interleave.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'rich', 'PIL', 'cv2', 'onnxruntime', 'llama_cpp', 'huggingface_hub', 'onnx', 'gguf',"
        " 'tokenizers', 'jinja2', 'torch', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    for name, (_, line) in COMMANDS.items():
        assert name in result.stdout
        assert line.split(".")[0][:40] in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_during_the_first_imports_shows_no_traceback(env: dict[str, str], tmp_path: Path) -> None:
    early = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    (tmp_path / "click.py").write_text(early)
    program = [sys.executable, "-m", "edge_interleave", "--help"]
    ended = subprocess.run(program, env={**env, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.run(cli, [command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: edge-interleave {command}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aks"], "did you mean 'ask'?"),
        (["ask"], "Missing argument 'QUESTION'"),
        (["ask", "hello", "--frames", "many"], "--frames"),
        (["ask", "hello", "--pool", "0"], "pool"),
        (["ask", "hello", "--temperature", "-1"], "temperature"),
        (["ask", "-"], "stdin is empty"),
        (["ask", "two <image> <image>", "--image", "{media}/red.png"], "markers"),
        (["convert", "x", "y", "--quantization", "q2"], "q4_k_m"),
        (["models", "remove", "embedded", "--yes"], "embedded"),
        (["models", "remove", "../x", "--yes"], "cannot be a model's name"),
        (["info", "--verify"], "MODEL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_calls(
    arguments: list[str],
    said: str,
    converted: Bundle,
    media: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [argument.format(media=media) for argument in arguments]
    if arguments[0] == "ask":
        arguments += ["--model", str(converted.folder)]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert errors.run(cli, arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", shown.err)
    assert said in shown.err


def test_an_answer_goes_to_stdout_and_its_cost_to_stderr(env: dict[str, str], converted: Bundle, media: Path) -> None:
    asked = ("ask", "What is it?", "--image", media / "red.png", "--model", converted.folder, "--max-tokens", 4)
    result = run(*asked, "--stats", env=env)
    assert result.returncode == 0, result.stderr
    assert "prompt" in result.stderr
    assert "16 of them visual" in result.stderr
    assert result.stdout == json.loads(run(*asked, "--json", env=env).stdout)["answer"] + "\n"


def test_json_is_one_object_with_the_promised_figures(env: dict[str, str], converted: Bundle, media: Path) -> None:
    result = run(
        *("ask", "What changed?", "--image", media / "red.png", "--image", media / "blue.png"),
        *("--video", media / "clip.gif", "--frames", 3, "--pool", 2, "--max-tokens", 4, "--json"),
        *("--model", converted.folder),
        env=env,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    answer = json.loads(result.stdout)
    assert set(answer) == {"answer", "finish_reason", "familiar", "stats"}
    assert set(answer["stats"]) >= STATS
    assert answer["stats"]["visual_tokens"] == (1 + 1 + 3) * 4
    assert answer["stats"]["answer_tokens"] <= 4
    assert answer["stats"]["vision_provider"] == "CPUExecutionProvider"
    assert answer["stats"]["peak_memory_bytes"] > 1 << 20


def test_images_and_videos_keep_the_order_they_are_given_in(
    env: dict[str, str], converted: Bundle, media: Path
) -> None:
    image, video = ("--image", media / "blue.png"), ("--video", media / "clip.gif")
    fixed = ("--model", converted.folder, "--choose", "a", "--choose", "b", "--json")

    def probabilities(*arguments: object) -> list[float]:
        result = run("ask", *arguments, *fixed, env=env)
        assert result.returncode == 0, result.stderr
        return [choice["log_probability"] for choice in json.loads(result.stdout)["choices"]]

    first = probabilities("What?", *image, *video)
    assert first == pytest.approx(probabilities("<image><image>What?", *image, *video), rel=1e-4)
    assert first != pytest.approx(probabilities("What?", *video, *image), rel=1e-4)


def test_a_question_from_stdin(env: dict[str, str], converted: Bundle) -> None:
    fixed = ("--model", converted.folder, "--max-tokens", 3, "--json")
    piped = json.loads(run("ask", "-", *fixed, env=env, stdin="What is it?\n").stdout)
    assert piped["answer"] == json.loads(run("ask", "What is it?", *fixed, env=env).stdout)["answer"]


def test_choose_shows_the_probability_of_each_answer(env: dict[str, str], converted: Bundle) -> None:
    result = run("ask", "Yes?", "--choose", "yes", "--choose", "no", "--model", converted.folder, env=env)
    shares = [float(line.split("%")[0]) for line in result.stdout.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("what", ["image", "video", "model", "damaged"])
def test_bad_input_is_one_line_and_code_3(
    what: str, env: dict[str, str], converted: Bundle, media: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    model: object = converted.folder
    arguments: list[object] = ["ask", "What?"]
    if what == "damaged":
        model = Path(shutil.copytree(converted.folder, tmp_path / "damaged"))
        (tmp_path / "damaged" / "vision.onnx").write_bytes(b"x" * converted.manifest.files["vision.onnx"].bytes)
        arguments += ["--image", media / "red.png"]
    elif what == "model":
        model = "no-such-model"
    else:
        arguments += [f"--{what}", bad]
    arguments += ["--model", model]
    line = error_line(run(*arguments, env=env), 3)
    result = run(*arguments, "--json", env=env)
    assert json.loads(result.stdout) == {"error": line.removeprefix("error: "), "exit_code": 3}


def test_an_internal_error_is_one_line_and_code_70(env: dict[str, str]) -> None:
    script = (
        "import click; from edge_interleave.cli.errors import run\n"
        "@click.command()\n"
        "def broken(): raise ValueError('some\\nthing')\n"
        "raise SystemExit(run(broken, []))"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "internal error (ValueError: some thing); please report it" in error_line(result, 70)
    debug = {**env, "EDGE_INTERLEAVE_DEBUG": "1"}
    result = subprocess.run(command, env=debug, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr


def test_a_closed_pipe_on_stdout_is_no_error(env: dict[str, str], converted: Bundle) -> None:
    command = [*PROGRAM, "info", str(converted.folder), "--json"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_convert_models_info_and_remove(env: dict[str, str], random_checkpoint: Path) -> None:
    out = Path(env["EDGE_INTERLEAVE_HOME"]) / "small"
    made = run("convert", random_checkpoint, out, "--backend", "llama-cpp", "--backend", "onnx", "--json", env=env)
    assert json.loads(made.stdout)["folder"] == str(out), made.stderr
    listed = {model["name"]: model for model in json.loads(run("models", "--json", env=env).stdout)["models"]}
    precisions = {"decoder.gguf": "q4_k_m", "decoder-onnx": "int8", "vision.onnx": "int8"}
    assert listed["small"]["precisions"] == precisions
    assert "small" in run("models", env=env).stdout
    facts = json.loads(run("info", "small", "--verify", "--json", env=env).stdout)
    bundle = open_bundle(out)
    assert facts["verified"] is True
    assert facts["vision"]["tokens_per_image"] == 16
    assert facts["files"]["vision.onnx"]["precision"] == "int8"
    engines = {"backend": backend_for(bundle, None).name, "vision_provider": CPU_PROVIDER}
    if engines["backend"] == "onnx":
        engines["decoder_provider"] = CPU_PROVIDER
    assert facts["runs_here_with"] == engines
    assert run("models", "remove", "small", env=env, stdin="n\n").returncode == 130
    assert out.exists()
    (out / "tokenizer.json").write_text("{}".ljust((out / "tokenizer.json").stat().st_size))
    assert "SHA-256" in error_line(run("info", "small", "--verify", env=env), 3)
    assert run("models", "remove", "small", env=env, stdin="y\n").returncode == 0
    assert not out.exists()


def test_info_lists_what_is_installed(env: dict[str, str]) -> None:
    facts = json.loads(run("info", "--json", env=env).stdout)
    assert facts["backends"]["onnx"] == facts["backends"]["llama-cpp"] == "ready"
    assert facts["default_backend"] == f"{choose_backend().name}: {choose_backend().reason}"
    assert "CPUExecutionProvider" in facts["execution_providers"]


def test_a_conversation_through_a_pipe(env: dict[str, str], converted: Bundle, media: Path) -> None:
    typed = f"/image {media / 'red.png'}\nWhat is it?\n\nAnd now?\n/stats\n/reset\nHello?\n/quit\nnot reached\n"
    result = run("chat", "--model", converted.folder, "--max-tokens", 2, env=env, stdin=typed)
    assert result.returncode == 0, result.stderr
    assert "16 of them visual" in result.stderr
    assert "cached" in result.stderr
    assert "new conversation" in result.stderr
    first = run(
        "ask", "What is it?", "--image", media / "red.png", "--model", converted.folder, "--max-tokens", 2, env=env
    )
    assert result.stdout.startswith(first.stdout)


@pytest.mark.parametrize("line", ["/image /no/such.png", "/dance", "/image"])
def test_the_first_error_ends_a_conversation_through_a_pipe(line: str, env: dict[str, str], converted: Bundle) -> None:
    result = run("chat", "--model", converted.folder, env=env, stdin=f"{line}\nWhat is it?\n")
    assert error_line(result, 3 if "no/such" in line else 2)
    assert result.stdout == ""


def test_ctrl_c_ends_an_answer_and_not_the_conversation(env: dict[str, str], tmp_path: Path) -> None:
    config = model_config()
    config = replace(config, decoder=replace(config.decoder, context_length=1 << 15))
    endless = convert(write_random_checkpoint(tmp_path / "checkpoint", config), tmp_path / "endless").folder
    options = ("--model", endless, "--max-tokens", 100000, "--context", 32768)
    with on_terminal("chat", *options, env={**env, "TERM": "dumb"}) as shown:
        shown.until("> ")
        shown.type("/dance\n")
        shown.until("unknown command /dance")
        shown.type("Say much.\n")
        shown.until("Say much.\r\n")
        time.sleep(1)
        shown.process.send_signal(signal.SIGINT)
        shown.until("(stopped)")
        shown.until("> ")
        shown.type("/quit\n")
        assert shown.ended() == 0, shown.text


def test_a_question_unlike_those_of_training_is_followed_by_questions_the_model_knows(env: dict[str, str]) -> None:
    picture = str(DEMO / "desk.png")
    odd = run("ask", "How old is this person?", "--image", picture, env=env)
    assert odd.returncode == 0
    assert "was not trained on questions like this" in odd.stderr
    assert "\n  Describe the image." in odd.stderr
    usual = run("ask", "what's in this?", "--image", picture, env=env)
    assert (usual.returncode, usual.stderr) == (0, "")
    answered = json.loads(run("ask", "How old is this person?", "--image", picture, "--json", env=env).stdout)
    assert answered["familiar"] is False
