"""`edge-interleave watch` from a shell: answers and alerts from a video, and from a folder that keeps filling."""

import array
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.command_line import PROGRAM, environment, run
from support.webhook_server import status, webhook

from edge_interleave.cli import cli, errors
from edge_interleave.cli.watch_views import rates
from edge_interleave.household.handlers import FrameInterval
from edge_interleave.live.stats import LiveStats
from edge_interleave.media.reader import ReaderStats
from edge_interleave.util.durations import clock, parse_duration

QUESTION = "Is there a red circle?"
ALWAYS = ["--when", QUESTION, "--above", "0", "--for", "3"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def picture(shift: int = 0) -> Image.Image:
    image = Image.new("RGB", (112, 112), "white")
    ImageDraw.Draw(image).ellipse((20 + shift, 30, 60 + shift, 70), fill="red")
    return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, four a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (112, 112))
    for number in range(12):
        writer.write(np.asarray(picture(3 * number))[..., ::-1])
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four pictures; a watch of it waits for more."""
    path = tmp_path / "pictures"
    path.mkdir()
    for number in range(4):
        picture(5 * number).save(path / f"{number}.png")
    return path


def events(text: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, text.splitlines()) if event.get("event") == kind]


@contextmanager
def running(*arguments: object, env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the program; kill it at the end of the block if it has not ended."""
    command = [*PROGRAM, *map(str, arguments)]
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def interrupted(process: subprocess.Popen[str]) -> float:
    """Press ctrl-C; return the seconds until the program has ended."""
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(60)
    return time.monotonic() - started


def test_answers_follow_the_videos_time_with_one_more_at_its_end(clip: Path, env: dict[str, str]) -> None:
    result = run("watch", clip, "--ask", "Describe the image.", "--every", "1s", "--json", env=env)
    assert result.returncode == 0, result.stderr
    answers = events(result.stdout, "answer")
    assert [(answer["frame"], answer["frame_time_s"]) for answer in answers] == [(1, 0), (5, 1), (9, 2), (12, 2.75)]
    assert all(answer["answer"] and answer["question"] == "Describe the image." for answer in answers)
    (end,) = events(result.stdout, "end")
    assert end["stats"]["frames"] == end["stats"]["source"]["captured"] == 12
    assert end["stats"]["window"] == 8
    assert result.stderr == ""


def test_through_a_pipe_each_answer_is_a_line(clip: Path, env: dict[str, str], tmp_path: Path) -> None:
    result = run("watch", clip, "--ask", "Describe the image.", "--fps", "1", "--out", tmp_path, "--stats", env=env)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [re.match(r"0:00:(0\d\.\d)  frame (\d+): \S", line) for line in lines]
    assert len(lines) == 2
    assert "\x1b" not in result.stdout
    assert "captured" in result.stderr
    assert "over the rate" in result.stderr
    written = events((tmp_path / "events.jsonl").read_text("utf-8"), "answer")
    assert [line.split(": ", 1)[1] for line in lines] == [" ".join(event["answer"].split()) for event in written]


def test_an_alert_is_saved_run_and_posted(clip: Path, env: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "ring.py"
    script.write_text("import json, sys; json.dump(sys.argv[1:], open(sys.argv[1], 'w'))")
    command = f"{sys.executable} {script} {tmp_path}/rung.json '{{question}} {{number}}' {{frame}} {{json}}"
    out = tmp_path / "out"
    with webhook(status(503, 200)) as hook:
        arguments = [*ALWAYS, "--exec", command, "--webhook", hook.url, "--out", out, "--json"]
        result = run("watch", clip, *arguments, env=env)
    assert result.returncode == 0, result.stderr
    checks = events(result.stdout, "check")
    assert [check["frame"] for check in checks] == list(range(1, 13))  # every frame, however fast it is read
    assert [check["raised"] for check in checks] == [False, False] + [True] * 10
    (alert,) = events(result.stdout, "alert")
    assert (alert["frame"], alert["frame_time_s"], alert["question"]) == (3, 0.5, QUESTION)
    assert [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()] == [alert]
    assert [Path(path).name[-10:] for path in alert["frames"]] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    with Image.open(alert["frames"][-1]) as saved:
        assert saved.size == (112, 112)
    rung = json.loads((tmp_path / "rung.json").read_text())
    assert rung[1:3] == [f"{QUESTION} 3", alert["frames"][-1]]
    assert json.loads(rung[3]) == alert
    assert [json.loads(body) for _, _, body in hook.posts] == [alert, alert]
    (end,) = events(result.stdout, "end")
    assert end["unwritten"] == 0
    assert [tuple(counts.values()) for counts in end["deliveries"].values()] == [(1, 0, 0), (1, 0, 0)]


def test_by_default_alerts_are_saved_in_the_current_folder(clip: Path, env: dict[str, str], tmp_path: Path) -> None:
    result = run("watch", clip, *ALWAYS, "--every", "1s", env=env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"0:00:02.0  frame 9: ALERT {QUESTION} ")
    assert "alerts are saved in edge-interleave-events" in result.stderr
    assert len((tmp_path / "edge-interleave-events" / "events.jsonl").read_text().splitlines()) == 1


def test_a_still_scene_raises_an_alert_although_unchanged_frames_are_skipped(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (112, 112))
    for number in range(40):
        writer.write(np.asarray(picture() if number >= 10 else Image.new("RGB", (112, 112), "white"))[..., ::-1])
    writer.release()
    result = run("watch", path, *ALWAYS, "--change", "2", "--out", tmp_path / "out", "--json", env=env)
    assert result.returncode == 0, result.stderr
    checks = events(result.stdout, "check")
    # Two frames were encoded; the unchanged picture is checked every half second.
    assert {check["frame"] for check in checks} == {1, 2}
    assert [check["frame_time_s"] for check in checks] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], abs=0.02)
    (alert,) = events(result.stdout, "alert")
    assert alert["frame_time_s"] == pytest.approx(1.0, abs=0.02)
    assert len(alert["frames"]) == len(set(alert["frames"]))


def test_every_picture_of_a_folder_is_asked_about_and_named(env: dict[str, str], folder: Path, tmp_path: Path) -> None:
    (folder / "10.png").write_bytes((folder / "1.png").read_bytes()[:200])
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    arguments = ["--ask", "Describe the image.", "--every", "2s", "--json"]
    with running("watch", folder, *arguments, env=env, cwd=tmp_path) as process:
        found: dict[str, list[dict[str, Any]]] = {"answer": [], "source": []}
        assert process.stdout is not None
        while len(found["answer"]) < 4 or not found["source"]:
            event = json.loads(process.stdout.readline())
            found[event["event"]].append(event)
        interrupted(process)
        assert process.stderr is not None
        assert "10.png: " in process.stderr.read()
    assert [answer["file"] for answer in found["answer"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert [(status["state"], status["file"]) for status in found["source"]] == [("damaged", "10.png")]


def test_through_a_pipe_a_folders_answers_name_their_files(env: dict[str, str], folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    with running("watch", folder, "--ask", "Describe the image.", env=env, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        interrupted(process)
    assert [line.split(": ")[0] for line in lines] == [f"{number}.png  frame {number + 1}" for number in range(4)]


def test_output_of_a_command_goes_to_stderr(clip: Path, env: dict[str, str], tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'print(\"rung\")'"
    result = run("watch", clip, *ALWAYS, "--exec", command, "--out", tmp_path / "out", "--json", env=env)
    assert result.returncode == 0, result.stderr
    assert f"command {Path(sys.executable).name}: rung" in result.stderr.splitlines()
    assert "rung" not in result.stdout


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes have one size here")
def test_ctrl_c_ends_a_watch_whose_output_is_not_read(env: dict[str, str], folder: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
    for number in range(30):
        picture(number).save(folder / f"{number}.png")
        os.utime(folder / f"{number}.png", (time.time() - 60,) * 2)
    command = [*PROGRAM, "watch", str(folder), *ALWAYS, "--json"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        try:
            seen = {-1}
            while (held := unread(reading)) not in seen or held < 4000:
                seen = {held}
                time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
    os.close(reading)
    assert (tmp_path / "edge-interleave-events" / "events.jsonl").read_text().count("alert") == 1


def unread(pipe: int) -> int:
    """Bytes waiting in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_the_status_lines_fit_80_columns() -> None:
    source = ReaderStats(123456, 123456, 12345, 0, 0, 0, 1234, 12, 25.0, 0.0)
    names = [field.name for field in fields(LiveStats)]
    values = dict.fromkeys(names, 123456) | {"encode_s": 12.345, "append_s": 12.345, "frames_per_s": 25.0, "window": 64}
    stats = LiveStats(**{**values, "source": source, "memory_bytes": 12_345_678_901, "vision_provider": "CPU"})
    assert max(map(len, rates(stats).splitlines())) < 80


def test_a_memory_limit_is_kept(clip: Path, env: dict[str, str]) -> None:
    arguments = ["--ask", "Describe the image.", "--every", "1s", "--pool", "2", "--json"]
    result = run("watch", clip, *arguments, "--memory", "400MB", env=env)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\d+ frames, pooling 2, in \d+MB\n", result.stderr)
    (end,) = events(result.stdout, "end")
    assert end["stats"]["frames"] == 12
    assert 0 < end["stats"]["peak_memory_bytes"] <= 400e6


def test_ctrl_c_ends_a_watch_at_once_with_its_figures(env: dict[str, str], folder: Path, tmp_path: Path) -> None:
    with running("watch", folder, "--ask", "Describe.", "--every", "1s", "--json", env=env, cwd=tmp_path) as process:
        next_event(process, "answer")
        assert interrupted(process) < 5  # well within one on an idle machine; tests share theirs
        assert process.returncode == 130
        assert process.stdout is not None
        rest = process.stdout.read().splitlines()
    end, last = map(json.loads, rest[-2:])
    assert end["event"] == "end"
    assert last == {"error": "interrupted", "exit_code": 130}


def test_a_hanging_delivery_delays_neither_the_watch_nor_its_end(
    env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    hang = tmp_path / "hang.py"
    hang.write_text("import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()}.'); time.sleep(100)")

    def never(handler: Any, number: int) -> None:
        time.sleep(60)

    with webhook(never) as hook:
        arguments = [*ALWAYS, "--exec", f"{sys.executable} {hang} {pid}", "--webhook", hook.url, "--json"]
        with running("watch", folder, *arguments, env=env, cwd=tmp_path) as process:
            next_event(process, "alert")
            while not (pid.exists() and pid.read_text().endswith(".")):
                time.sleep(0.01)
            assert hook.came.acquire(timeout=20)
            picture(40).save(folder / "late.png")
            assert next_event(process, "check")["frame"] == 4
            assert next_event(process, "check")["frame"] == 5
            assert interrupted(process) < 5
            assert process.returncode == 130
            assert process.stdout is not None
            (end,) = [event for event in map(json.loads, process.stdout) if event.get("event") == "end"]
    assert [tuple(counts.values()) for counts in end["deliveries"].values()] == [(0, 1, 0), (0, 1, 0)]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text().strip(".")), 0)


def test_an_alert_that_was_printed_is_on_disk_even_if_the_program_is_killed(
    env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    with running("watch", folder, *ALWAYS, "--out", tmp_path / "out", "--json", env=env, cwd=tmp_path) as process:
        alert = next_event(process, "alert")
        process.kill()
        process.wait(60)
    assert [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()] == [alert]
    assert all(Path(path).stat().st_size > 0 for path in alert["frames"])


def test_a_closed_stdout_ends_the_watch(env: dict[str, str], folder: Path, tmp_path: Path) -> None:
    with running("watch", folder, *ALWAYS, "--json", env=env, cwd=tmp_path) as process:
        next_event(process, "alert")
        assert process.stdout is not None
        process.stdout.close()
        picture(40).save(folder / "late.png")
        assert process.wait(60) == 1
        process.stdout = None


def test_a_terminal_shows_the_newest_frame_with_answers_and_rates(
    env: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    shown = on_a_terminal(
        ["watch", folder, "--ask", "Describe the image.", "--every", "500ms"],
        {**env, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LINES": "40"},
        until=r"frame 4: \w.*▀.*4 frames",
    )
    assert "\x1b[38;2;" in shown
    assert "frames/s" in shown
    assert "memory" in shown
    assert "Traceback" not in shown


def on_a_terminal(arguments: list[object], env: dict[str, str], until: str) -> str:
    """Run the program on a terminal, press ctrl-C when the text `until` appears, and return all that it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [*PROGRAM, *map(str, arguments)], env)
    shown = ""
    stop = time.monotonic() + 60
    sent = False
    while time.monotonic() < stop:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # on Linux: the program has ended
                break
            if not data:  # on macOS: the program has ended
                break
            shown += data.decode("utf-8", "replace")
        if not sent and re.search(until, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown), re.DOTALL):
            os.write(terminal, b"\x03")
            sent = True
    else:
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert (sent, code) == (True, 130), shown[-2000:]
    return shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--ask"),
        (["--ask", "a", "--when", "b"], "not both"),
        (["--ask", "a", "--above", "0.5"], "--above"),
        (["--ask", "a", "--exec", "true"], "--exec"),
        (["--ask", "a", "--every", "soon"], "2s, 500ms or 1m"),
        (["--ask", "a", "--every", "0s"], "2s, 500ms or 1m"),
        (["--ask", "a", "--pool", "1,x"], "pattern"),
        (["--ask", "a", "--fps", "0"], "fps"),
        (["--ask", "a", "--memory", "1GB", "--context", "99"], "--context"),
        (["--ask", "a", "--memory", "lots"], "lots"),
        (["--when", "a", "--above", "0.5", "--below", "0.6"], "--below"),
        (["--when", "a", "--exec", "no-such-program-here"], "no-such-program-here"),
        (["--when", "a", "--webhook", "file:///etc/passwd"], "http"),
    ],
)
def test_a_wrong_call_gets_one_line_before_anything_is_opened(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert errors.run(cli, ["watch", "clip.mp4", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("source", "code"), [("nowhere.mp4", 3), ("camera:99", 3), ("gopher://x/y", 2)])
def test_a_source_that_cannot_be_opened_gets_one_line(
    source: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert errors.run(cli, ["watch", source, "--ask", "a"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert source in line


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("500ms", 0.5),
        ("1m", 60.0),
        ("1.5 min", 90.0),
        ("2h", 7200.0),
        ("3", 3.0),
        (".5S", 0.5),
        ("0", None),
        ("-1s", None),
        ("1e3", None),
        ("nan", None),
        ("1y", None),
        ("", None),
        ("9" * 12 + "h", None),
        ("٣s", None),
    ],
)
def test_durations_are_parsed(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_clock_times_are_formatted() -> None:
    assert [clock(seconds) for seconds in (0, 59.96, 3723.04, -1)] == [
        "0:00:00.0",
        "0:01:00.0",
        "1:02:03.0",
        "0:00:00.0",
    ]


def test_intervals_go_by_the_frames_own_times() -> None:
    def selected(every_s: float, times: list[float]) -> list[float]:
        interval = FrameInterval(every_s)
        return [time_s for time_s in times if interval.due(time_s)]

    tenths = [number / 10 for number in range(25)]
    assert selected(0.5, tenths) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert selected(0.0, tenths) == tenths
    assert selected(2.0, [0.0, 1.0, 7.0, 8.0, 9.0, 0.5, 1.0]) == [0.0, 7.0, 9.0, 0.5]


def test_black_frames_at_the_beginning_do_not_stand_for_the_first_interval() -> None:
    interval = FrameInterval(60.0)
    black, lit = Image.new("RGB", (32, 32), (5, 5, 5)), Image.new("RGB", (32, 32), (90, 90, 90))
    shown = [(0.0, black), (1.0, black), (2.0, lit), (3.0, lit), (4.0, black), (5.0, lit), (62.0, black), (63.0, lit)]
    assert [time_s for time_s, image in shown if interval.due(time_s, image=image)] == [0.0, 2.0, 62.0]


def test_an_alert_has_a_description_and_the_seconds_before_and_the_next_one_waits(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "blinks.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (112, 112))
    for number in range(24):
        writer.write(np.asarray(picture() if number // 4 % 2 else Image.new("RGB", (112, 112), "white"))[..., ::-1])
    writer.release()
    rule = ["--when", QUESTION, "--for", "2", "--out", tmp_path / "out", "--json"]
    more = ["--window", "1", "--cooldown", "3s", "--before", "1s", "--describe", "Describe the image."]
    result = run("watch", path, *rule, *more, env=env)
    assert result.returncode == 0, result.stderr
    # The circle is there in the seconds 1, 3 and 5; the alert of second 3 falls into the cool-down.
    first, second = events(result.stdout, "alert")
    assert (first["frame_time_s"], second["frame_time_s"]) == (1.25, 5.25)
    assert "red circle" in first["description"]
    assert first["best"] in first["frames"]
    assert Path(first["clip"]).read_bytes()[4:8] == b"ftyp"
    (end,) = events(result.stdout, "end")
    assert (end["rule"]["checks"], end["rule"]["alerts"], end["rule"]["longest"]) == (24, 2, 4)
    assert result.stderr.splitlines()[-1].endswith(", 2 alerts")


def test_at_its_end_a_watch_says_how_near_its_rule_came(clip: Path, env: dict[str, str], tmp_path: Path) -> None:
    result = run("watch", clip, "--when", QUESTION, "--for", "20", "--out", tmp_path / "out", env=env)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^12 checks, highest (1.00|0.9\d), at most 12 of 20 in a row: no alert$", result.stderr, re.M)
