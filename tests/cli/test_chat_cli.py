"""`edge-interleave chat` as somebody types into it, on a terminal and through a pipe."""

import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.command_line import environment, error_line, run
from support.terminal import Shown, on_terminal

from edge_interleave.cli.demo import tour_folder
from edge_interleave.cli.line_editor import LineEditor, history_file, remember, split_paths

readline = pytest.importorskip("readline")
CHAT = ("chat", "--threads", 1)


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path, TERM="dumb", EDGE_INTERLEAVE_HISTORY=str(tmp_path / "state" / "history"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `cat.png`, `star.png` and `two words/a dog.png`."""
    made = tmp_path / "here"
    (made / "two words").mkdir(parents=True)
    for name, picture in (("cat.png", "card-1.png"), ("star.png", "card-2.png"), ("two words/a dog.png", "desk.png")):
        shutil.copy(tour_folder() / picture, made / name)
    return made


def answered(shown: Shown, question: str) -> str:
    """The answer to a question that is typed."""
    shown.until("> ")
    shown.type(question + "\n")
    shown.until(question.splitlines()[-1])
    return shown.until("\n> ").strip("\r\n> ")


def test_the_banner_names_the_pictures(env: Mapping[str, str], folder: Path) -> None:
    with on_terminal(*CHAT, "-i", "cat.png", "--image", "star.png", env=env, cwd=folder) as shown:
        shown.until("embedded; /help lists the commands")
        shown.until("with the next question: cat.png, star.png")
        shown.until("> ")
        shown.type("exit\n")
        assert shown.ended() == 0


def test_a_missing_picture_is_refused_before_the_conversation(env: Mapping[str, str], folder: Path) -> None:
    with on_terminal(*CHAT, "-i", "cta.png", env=env, cwd=folder) as shown:
        shown.until("error: cta.png: no such file")
        assert shown.ended() == 3
        assert "> " not in shown.text


def test_a_typo_keeps_the_pictures_that_were_given(env: Mapping[str, str], folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with on_terminal(*CHAT, "-i", "cat.png", env=env, cwd=folder) as shown:
        for wrong, why in (
            ("/image cta.png", "no such file"),
            ("/image broken.png", "not an image"),
            ("/image *.jpg", "matches"),
            ("/image 'cat.png", "quot"),
            ("/video cta.mp4", "no such file"),
            ("/image https://example.com/cat.png", "nothing is fetched"),
        ):
            shown.until("> ")
            shown.type(wrong + "\n")
            shown.until(why)
        shown.type("Describe the image.\n")
        shown.until("There is a cat at the top")


def test_paths_with_spaces_and_patterns(env: Mapping[str, str], folder: Path) -> None:
    for typed, pictures in (
        (r"/image two\ words/a\ dog.png", "two words/a dog.png"),
        ('/image "two words/a dog.png"', "two words/a dog.png"),
        ("/image two words/a dog.png", "two words/a dog.png"),
        (r"/image cat.png two\ words/a\ dog.png", "cat.png, two words/a dog.png"),
        ("/image *.png", "cat.png, star.png"),
    ):
        done = run(*CHAT, env=env, cwd=folder, stdin=f"{typed}\n/quit\n")
        assert done.stderr == f"with the next question: {pictures}\n"


def test_a_question_of_several_lines(env: Mapping[str, str], folder: Path) -> None:
    one = run(*CHAT, "-i", "cat.png", env=env, cwd=folder, stdin="Describe the image.\n")
    several = run(*CHAT, "-i", "cat.png", env=env, cwd=folder, stdin='"""Describe the image.\n"""\n')
    assert (several.stdout, several.returncode) == (one.stdout, 0)
    assert several.stdout.startswith("There is a cat")
    with on_terminal(*CHAT, "-i", "cat.png", env=env, cwd=folder) as shown:
        shown.until("> ")
        shown.type('"""\nDescribe the image.\n')
        shown.until("... ")
        shown.type('"""\n')
        shown.until("There is a cat at the top")


def test_a_question_of_several_lines_must_end(env: Mapping[str, str]) -> None:
    assert '"""' in error_line(run(*CHAT, env=env, stdin='"""Describe\nthe image.\n'), 2)


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "/quit", "/bye"])
def test_words_that_end_the_conversation(word: str, env: Mapping[str, str]) -> None:
    done = run(*CHAT, env=env, stdin=f"{word}\nHello?\n")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("word", ["/clear", "/reset"])
def test_clear_forgets_the_conversation_and_its_pictures(word: str, env: Mapping[str, str], folder: Path) -> None:
    done = run(*CHAT, "-i", "cat.png", env=env, cwd=folder, stdin=f"{word}\nDescribe the image.\n/stats\n")
    assert " 0 of them visual" in done.stderr


def test_help_names_every_command(env: Mapping[str, str]) -> None:
    shown = run(*CHAT, env=env, stdin="/help\n").stderr
    assert all(name in shown for name in ("/image", "/video", "/stats", "/clear", "/quit", "exit", '"""'))
    assert max(map(len, shown.splitlines())) <= 80


def test_each_answer_is_one_object_for_a_program(env: Mapping[str, str], folder: Path) -> None:
    done = run(*CHAT, "--json", "-i", "cat.png", env=env, cwd=folder, stdin="Describe the image.\nAnd?\n")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["answer"].startswith("There is a cat")
    assert first["finish_reason"] == second["finish_reason"] == "stop"


def test_a_saved_conversation_can_be_resumed(env: Mapping[str, str], folder: Path) -> None:
    first = run(*CHAT, "-i", "cat.png", "--save", "talk", env=env, cwd=folder, stdin="Describe the image.\n")
    assert first.stdout.startswith("There is a cat")
    assert "--resume talk" in first.stderr
    for _ in range(2):
        done = run(*CHAT, "--resume", "talk", "--save", "talk", "--json", env=env, cwd=folder, stdin="And?\n")
        stats = json.loads(done.stdout)["stats"]
        assert stats["encode_s"] == 0
        assert stats["visual_tokens"] == 36
        assert stats["cached_tokens"] > 36
    with on_terminal(*CHAT, "--resume", "talk", env=env, cwd=folder) as shown:
        shown.until("resumed after:\r\n  And?\r\n")
        shown.until("> ")


def test_a_conversation_that_an_error_ends_is_saved_too(env: Mapping[str, str], folder: Path) -> None:
    stdin = "Describe the image.\n/image nowhere.png\n"
    assert run(*CHAT, "-i", "cat.png", "--save", "talk", env=env, cwd=folder, stdin=stdin).returncode == 3
    done = run(*CHAT, "--resume", "talk", "--json", env=env, cwd=folder, stdin="And?\n")
    assert json.loads(done.stdout)["stats"]["visual_tokens"] == 36


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--resume", "nowhere"], 3, "nowhere: no such file"),
        (["--resume", "cat.png"], 3, "cat.png: not a saved conversation"),
        (["--save", "nowhere/talk"], 3, "nowhere/talk: cannot be written"),
    ],
    ids=["missing", "other", "unwritable"],
)
def test_a_wrong_file_is_refused_before_the_conversation(
    options: list[str], code: int, said: str, env: Mapping[str, str], folder: Path
) -> None:
    done = run(*CHAT, *options, env=env, cwd=folder, stdin="Hello\n")
    assert said in error_line(done, code)
    assert not done.stdout


def test_the_history_is_kept_for_the_next_conversation(env: Mapping[str, str], folder: Path) -> None:
    with on_terminal(*CHAT, env=env, cwd=folder) as shown:
        shown.until("> ")
        shown.type("/stats\n")
        shown.until("no answer yet")
        shown.type("exit\n")
        assert shown.ended() == 0
    history = Path(env["EDGE_INTERLEAVE_HISTORY"])
    assert history.read_text() == "/stats\nexit\n"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert os.listdir(history.parent) == ["history"]
    with on_terminal(*CHAT, env=env, cwd=folder) as shown:
        shown.until("> ")
        shown.type("\x1b[A\x1b[A\n")  # the arrow up, twice
        shown.until("no answer yet")


@pytest.mark.parametrize("where", ["", "off", "/dev/null/nowhere/history"])
def test_no_history_is_kept_if_disabled_or_not_writable(
    where: str, env: Mapping[str, str], folder: Path, tmp_path: Path
) -> None:
    env = {**env, "EDGE_INTERLEAVE_HISTORY": where, "XDG_STATE_HOME": str(tmp_path / "state")}
    with on_terminal(*CHAT, env=env, cwd=folder) as shown:
        shown.until("> ")
        shown.type("/stats\n")
        shown.until("no answer yet")
        shown.type("exit\n")
        assert shown.ended() == 0
        assert "error" not in shown.text
    assert not (tmp_path / "state").exists()


def test_a_history_that_two_chats_write_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history"
    for line in ("one of mine", "one of yours", "another of mine"):
        remember(path, line)
    assert path.read_text().splitlines() == ["one of mine", "one of yours", "another of mine"]
    for number in range(1100):
        remember(path, str(number))
    assert len(path.read_text().splitlines()) == 1000


def test_the_history_is_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_INTERLEAVE_HISTORY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = history_file()
    assert path is not None
    assert tmp_path in path.parents


def test_commands_and_paths_complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EDGE_INTERLEAVE_HISTORY", "")
    complete = LineEditor(("/image", "/video", "/help"), ("/image", "/video")).completions
    assert complete("/i") == ["/image"]
    assert complete("/") == ["/image", "/video", "/help"]
    assert complete("/image ca") == ["/image cat.png"]
    assert complete("/image ") == ["/image cat.png", "/image star.png", r"/image two\ words/"]
    assert complete(r"/image two\ words/a") == [r"/image two\ words/a\ dog.png"]
    assert complete('/image "two words/a') == ['/image "two words/a dog.png"']
    assert complete(r"/image cat.png two\ words/a\ d") == [r"/image cat.png two\ words/a\ dog.png"]
    assert complete(f"/video {folder}/st") == [f"/video {folder}/star.png"]
    assert complete("What is in ca") == complete("/help ca") == complete("/image nowhere/x") == []


def test_the_tab_key_completes(env: Mapping[str, str], folder: Path) -> None:
    with on_terminal(*CHAT, env={**env, "TERM": "xterm"}, cwd=folder) as shown:
        shown.until("> ")
        shown.type("/im\t two\ta\t\n")
        shown.until("with the next question: two words/a dog.png")


def test_paths_are_split_as_a_shell_does() -> None:
    assert split_paths(r"""a\ b.png 'c d.png' "e f.png" g.png""") == ["a b.png", "c d.png", "e f.png", "g.png"]


def test_an_answer_that_was_cut_off_is_marked(env: Mapping[str, str], folder: Path) -> None:
    done = run(*CHAT, "-i", "cat.png", "--max-tokens", 3, env=env, cwd=folder, stdin="Describe the image.\n")
    assert done.stdout == "There is a\n"
    assert done.stderr == "(cut off: after 3 tokens; --max-tokens allows more)\n"


def test_answers_are_wrapped_at_words_on_a_terminal(env: Mapping[str, str], folder: Path) -> None:
    with on_terminal(*CHAT, "-i", "two words/a dog.png", env={**env, "TERM": "xterm"}, cwd=folder, columns=30) as shown:
        answer = " ".join(answered(shown, "Describe the image.").split())
        conversation = shown.lines[shown.lines.index("> Describe the image.") :]
        assert max(map(len, conversation)) <= 30
    plain = run(*CHAT, "-i", "two words/a dog.png", env=env, cwd=folder, stdin="Describe the image.\n").stdout
    assert answer == plain.strip()
    assert len(answer) > 60
    whole = set(plain.split())
    assert set(answer.split()) <= whole
