"""What becomes of results where stdout is closed, full, left by its reader, or not UTF-8."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.command_line import PROGRAM, environment, run
from support.terminal import on_terminal

from edge_interleave.cli.answer_text import AnswerText
from edge_interleave.cli.demo import tour_folder

CARD = tour_folder() / "card-1.png"
ASK = ("ask", "Describe the image.", "--image", CARD, "--threads", 1)
LOST = 4
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path)


def redirected(redirection: str, *arguments: object, env: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Exit code and stderr of the program, its streams redirected as a shell does."""
    command = shlex.join([*PROGRAM, *map(str, arguments)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirection}"], env=env, cwd=cwd, stderr=subprocess.PIPE, text=True, timeout=120
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ASK,
        (*ASK, "--json"),
        (*ASK, "--choose", "yes", "--choose", "no"),
        ("info",),
        ("info", "--json"),
        ("models",),
        ("ask", "--help"),
        ("--version",),
        ("demo", "--threads", 1),
    ],
    ids=lambda value: " ".join(map(str, value)).replace(str(CARD), "card.png"),
)
@needs_full
def test_a_full_disk_is_one_line_and_code_4(
    arguments: tuple[object, ...], env: Mapping[str, str], tmp_path: Path
) -> None:
    code, said = redirected(">/dev/full", *arguments, env=env, cwd=tmp_path)
    assert (code, len(said.splitlines())) == (LOST, 1), said
    assert said.startswith("error: stdout cannot be written (No space left on device)")


@pytest.mark.parametrize("arguments", [ASK, (*ASK, "--json"), ("info",)], ids=["ask", "json", "info"])
def test_a_closed_stdout_is_one_line_and_the_same_code(
    arguments: tuple[object, ...], env: Mapping[str, str], tmp_path: Path
) -> None:
    code, said = redirected(">&-", *arguments, env=env, cwd=tmp_path)
    assert (code, len(said.splitlines())) == (LOST, 1), said
    assert "stdout cannot be written" in said


def test_a_file_that_is_opened_does_not_become_stdout(env: Mapping[str, str], tmp_path: Path) -> None:
    script = "import os, sys; from edge_interleave.cli.output import open_missing_streams; open_missing_streams()\n"
    script += "sys.exit(os.open('kept', os.O_CREAT | os.O_WRONLY) <= 2)"
    command = f"{shlex.join([sys.executable, '-c', script])} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], env=env, cwd=tmp_path, check=False).returncode == 0


def test_a_closed_stdin_or_stderr_does_no_harm(env: Mapping[str, str], tmp_path: Path) -> None:
    code, said = redirected("<&-", "ask", "-", env=env, cwd=tmp_path)
    assert (code, said) == (2, "error: the question on stdin is empty; type or pipe a question\n")
    assert redirected("2>&-", "ask", "Q", "--image", "nowhere.png", env=env, cwd=tmp_path)[0] == 3
    assert redirected(">out 2>/dev/null", *ASK, "--stats", env=env, cwd=tmp_path)[0] == 0


@needs_full
def test_a_full_stderr_changes_neither_answer_nor_code(env: Mapping[str, str], tmp_path: Path) -> None:
    assert redirected(">out 2>/dev/full", *ASK, "--stats", env=env, cwd=tmp_path)[0] == 0
    assert (tmp_path / "out").read_text().startswith("There is a cat")


def test_a_command_that_prints_no_result_needs_no_stdout(env: Mapping[str, str], tmp_path: Path) -> None:
    code, said = redirected(">&-", "models", "remove", "nowhere", env=env, cwd=tmp_path)
    assert code == 3
    assert "no model or folder named 'nowhere'" in said


@needs_full
@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["lines", "json"])
def test_a_watch_outlasts_stdout_if_its_alerts_are_saved(
    json_option: tuple[str, ...], env: Mapping[str, str], tmp_path: Path
) -> None:
    watch = ("watch", tour_folder() / "clip.mp4", "--when", "Is there a red circle?", "--above", 0, "--for", 5)
    code, said = redirected(
        ">/dev/full", *watch, "--out", "events", *json_option, "--threads", 1, env=env, cwd=tmp_path
    )
    assert code == LOST
    assert "Traceback" not in said
    assert "the watch goes on" in said
    (event,) = map(json.loads, (tmp_path / "events" / "events.jsonl").read_text().splitlines())
    assert event["frame"] == 5


@needs_full
def test_a_watch_ends_with_stdout_if_its_answers_are_not_saved(env: Mapping[str, str], tmp_path: Path) -> None:
    watch = ("watch", tour_folder() / "clip.mp4", "--ask", "Describe the image.", "--threads", 1)
    code, said = redirected(">/dev/full", *watch, env=env, cwd=tmp_path)
    assert (code, len(said.splitlines())) == (LOST, 1), said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "Q", "--image", "fehlt-ü-😀.png"),
        ("ask", "Q", "--image", CARD, "--choose", "Grün.", "--choose", "😀", "--threads", 1),
        ("ask", "Q", "--no-such-option-ü"),
        ("models", "remove", "ü😀", "--yes"),
    ],
    ids=["error", "answer", "usage", "models"],
)
def test_json_is_json_in_every_encoding(arguments: tuple[object, ...], encoding: str, tmp_path: Path) -> None:
    env = environment(tmp_path, PYTHONIOENCODING=encoding)
    done = subprocess.run([*PROGRAM, *map(str, arguments), "--json"], env=env, capture_output=True, timeout=120)
    (line,) = done.stdout.decode(encoding).splitlines()
    assert "ü" in str(json.loads(line))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_text_in_another_encoding_is_escaped_and_no_error(encoding: str, tmp_path: Path) -> None:
    env = environment(tmp_path, PYTHONIOENCODING=encoding)
    command = [*PROGRAM, "ask", "Q", "--image", str(CARD), "--choose", "😀", "--choose", "No.", "--threads", "1"]
    done = subprocess.run(command, env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\\U0001f600" in done.stdout.decode(encoding)


def test_the_question_must_be_text(env: Mapping[str, str]) -> None:
    command = [*PROGRAM, "ask", "-", "--threads", "1"]
    for encoding in ("utf-8:strict", "utf-8:surrogateescape"):
        done = subprocess.run(
            command, env={**env, "PYTHONIOENCODING": encoding}, input=b"What \xff?", capture_output=True, timeout=120
        )
        assert done.returncode == 2
        assert b"UTF-8" in done.stderr


def test_a_question_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = ("ask", "Ist das grün?", "--choose", "Grün.", "--choose", "Rot.", "--json", "--image", CARD, "--threads", 1)
    there, here = (json.loads(run(*asked, env=environment(tmp_path, **more)).stdout) for more in (ascii_locale, {}))
    assert there == here
    assert {choice["option"] for choice in there["choices"]} == {"Grün.", "Rot."}


def test_a_reader_of_stderr_that_goes_away_changes_nothing(env: Mapping[str, str], tmp_path: Path) -> None:
    command = [*PROGRAM, *map(str, ASK), "--stats"]
    with (
        open(tmp_path / "out", "wb") as file,
        subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 0
    assert (tmp_path / "out").read_text().startswith("There is a cat")


def test_a_terminal_shows_a_status_line_until_the_answer(env: Mapping[str, str], tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from edge_interleave.cli import status_line\n"
        "status_line.SHOW_AFTER_S = 0\n"
        "with status_line.StatusLine() as shown:\n"
        "    for step in (('encode', 0, 2), ('encode', 1, 2), ('prefill', 0, 1460), ('prefill', 730, 1460)):\n"
        "        shown(*step)\n"
        "        time.sleep(0.3)\n"
        "print('done')"
    )
    wanted = ("encoding image 1 of 2", "encoding image 2 of 2", "reading 1,460 tokens", "1,460 tokens, 730 done")
    with on_terminal(env={**env, "TERM": "xterm"}, program=[sys.executable, "-c", script]) as shown:
        for text in (*wanted, "done"):
            shown.until(text)
        assert shown.ended() == 0
        assert "\x1b[2K" in shown.text  # the line was erased
    piped = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("done\n", "")


def wrapped(text: str, width: int | None, size: int) -> str:
    """The text as it is written when it comes in pieces of that size."""
    written: list[str] = []
    answer = AnswerText(width, written.append)
    for start in range(0, len(text), size):
        answer.push(text[start : start + size])
    answer.end()
    return "".join(written)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_is_wrapped_between_words(size: int) -> None:
    assert wrapped("one two three four", 9, size) == "one two\nthree\nfour\n"
    assert wrapped("one\n\n  - two three", 9, size) == "one\n\n  - two\nthree\n"
    assert wrapped("abcdefghijkl mn op", 5, size) == "abcdefghijkl mn\nop\n"  # the terminal makes three lines of it
    assert wrapped("", 9, size) == "\n"


def test_scripts_without_spaces_are_wrapped_too_and_nothing_is_lost() -> None:
    text = "图片里有一只猫和一个橙色的正方形。"
    lines = wrapped(text, 10, 2).splitlines()
    assert "".join(lines) == text
    assert max(map(len, lines)) == 5


def test_without_a_terminal_an_answer_is_not_wrapped() -> None:
    written: list[str] = []
    answer = AnswerText(None, written.append)
    for piece in ("There ", "is a ", "cat"):
        answer.push(piece)
    assert written == ["There ", "is a ", "cat"]


def test_a_cut_off_answer_is_noted(env: Mapping[str, str]) -> None:
    cut = run(*ASK, "--max-tokens", 3, env=env)
    assert (cut.stdout, cut.stderr) == ("There is a\n", "(cut off: after 3 tokens; --max-tokens allows more)\n")
    whole = run(*ASK, env=env)
    assert whole.stderr == ""
    assert json.loads(run(*ASK, "--max-tokens", 3, "--json", env=env).stdout)["finish_reason"] == "length"
