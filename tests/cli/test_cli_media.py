"""How pictures and videos are named on the command line: patterns, what a shell makes of them, stdin, addresses."""

import io
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from support.command_line import PROGRAM, environment, error_line, run

from edge_interleave.cli.demo import tour_folder

SETTINGS = ("--threads", 1, "--json")
IMAGE_TOKENS = 36


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`f1.png` (a cat), `f2.png` (a car, a dog, a heart), `f10.png` (a balloon), and `clip.mp4`."""
    made = tmp_path / "here"
    made.mkdir()
    for name, picture in (("f1", "card-1"), ("f2", "desk"), ("f10", "card-2")):
        shutil.copy(tour_folder() / f"{picture}.png", made / f"{name}.png")
    shutil.copy(tour_folder() / "clip.mp4", made)
    return made


def asked(*arguments: object, env: Mapping[str, str], cwd: Path) -> dict[str, object]:
    """What `ask` prints."""
    done = run("ask", *SETTINGS, *arguments, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    printed: dict[str, object] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize(
    "arguments",
    [
        ("Which image contains a dog?", "--image", "f1.png", "--image", "f2.png", "--image", "f10.png"),
        ("Which image contains a dog?", "-i", "f1.png", "-i", "f2.png", "-i", "f10.png"),
        ("Which image contains a dog?", "-i", "f*.png"),
        ("-i", "f*.png", "Which image contains a dog?"),
        ("Which image contains a dog?", "--image", "f1.png", "f2.png", "f10.png"),
        ("--image", "f1.png", "f2.png", "f10.png", "Which image contains a dog?"),
        ("--image=f1.png", "f2.png", "--image", "f10.png", "--", "Which image contains a dog?"),
    ],
    ids=["repeated", "short", "pattern", "pattern first", "shell", "shell first", "mixed"],
)
def test_every_way_to_give_three_pictures(arguments: tuple[str, ...], env: Mapping[str, str], folder: Path) -> None:
    answer = asked(*arguments, env=env, cwd=folder)
    assert answer["answer"] == "Image 2 contains a dog."
    assert answer["stats"]["visual_tokens"] == 3 * IMAGE_TOKENS  # type: ignore[index]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(env: Mapping[str, str], folder: Path) -> None:
    shutil.copy(folder / "f2.png", folder / "f[1].png")
    assert asked("Is there a dog?", "-i", "f[1].png", env=env, cwd=folder)["stats"]["visual_tokens"] == IMAGE_TOKENS  # type: ignore[index]


def test_patterns_keep_their_place_among_videos(env: Mapping[str, str], folder: Path) -> None:
    answer = asked("Describe image 1.", "--video", "clip.mp4", "--frames", 2, "-i", "f1*.png", env=env, cwd=folder)
    assert answer["stats"]["visual_tokens"] == 4 * IMAGE_TOKENS  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-i", "f1.png", "f2.png"), 2, "Missing argument 'QUESTION'"),
        (("What is it?", "-i", "f1.png", "f3.png"), 2, "unexpected 'f3.png'"),
        (("What is it?", "f1.png"), 2, "repeat --image for each picture"),
        (("What", "is", "it?"), 2, "put the question in quotes"),
        (("What is it?", "-i", "*.jpg"), 3, "*.jpg: no file matches"),
        (("What is it?", "-i", "f3.png"), 3, "f3.png: no such file"),
        (("What is it?", "-i", "."), 3, ".: is a folder; give its pictures ('./*.png'), or show it as a video"),
        (("What is it?", "-i", "https://example.com/a.png"), 3, "https://example.com/a.png: is an address"),
        (("What is it?", "--video", "HTTP://example.com/a.mp4"), 3, "nothing is fetched"),
        (("What is it?", "-i", "file:///a.png"), 3, "give the file"),
        (("-", "-i", "-"), 2, "stdin is the question"),
        (("What is it?", "-i", "-", "-i", "-"), 2, "--image - once"),
        (("What is it?", "--video", "-"), 2, "video cannot be read from stdin"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_file_that_is_no_picture_is_refused_before_a_model_is_loaded(
    arguments: tuple[str, ...], code: int, said: str, env: Mapping[str, str], folder: Path
) -> None:
    line = error_line(run("ask", *arguments, "--model", "no-such-model", env=env, cwd=folder), code)
    assert said in line


def picture_piped(content: bytes, env: Mapping[str, str], *more: str) -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, "ask", "Describe the image.", "--image", "-", "--threads", "1", *more]
    return subprocess.run(command, input=content, env=env, capture_output=True, timeout=120, check=False)


def test_a_picture_from_stdin(env: Mapping[str, str], folder: Path) -> None:
    direct = run("ask", "Describe the image.", "-i", "f2.png", "--threads", 1, env=env, cwd=folder)
    assert picture_piped((folder / "f2.png").read_bytes(), env).stdout.decode() == direct.stdout


def test_a_question_from_stdin_about_a_picture(env: Mapping[str, str], folder: Path) -> None:
    done = run("ask", "-", "-i", "f2.png", "--threads", 1, env=env, cwd=folder, stdin="Is there a dog?\n")
    assert done.stdout.startswith("Yes")


@pytest.mark.parametrize("kind", ["empty", "text", "cut off"])
def test_stdin_that_is_no_picture(kind: str, env: Mapping[str, str]) -> None:
    file = io.BytesIO()
    Image.effect_noise((60, 60), 80).save(file, "PNG")
    content = {"empty": b"", "text": b"Is there a dog?", "cut off": file.getvalue()[:900]}[kind]
    done = picture_piped(content, env)
    assert done.returncode == 3
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: stdin: ")


def test_chat_accepts_a_pattern_that_the_shell_expanded(env: Mapping[str, str], folder: Path) -> None:
    asked = "Which image contains a dog?\n"
    done = run("chat", "-i", "f1.png", "f2.png", "f10.png", "--threads", 1, env=env, cwd=folder, stdin=asked)
    assert done.stdout == "Image 2 contains a dog.\n"
    assert "stdin is the conversation" in error_line(run("chat", "-i", "-", env=env, cwd=folder, stdin="x"), 2)
    assert "type the questions, or pipe them in" in error_line(run("chat", "hello", env=env, cwd=folder), 2)
