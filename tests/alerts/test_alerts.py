"""When an alert is raised, what it leaves on disk, how it gets to a command or a URL without holding up the watch."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.webhook_server import status, webhook

from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import Alert, EventFolder
from edge_interleave.alerts.outbox import Delivery, DeliveryError, Outbox
from edge_interleave.alerts.rule import KEPT_PICTURES, Alarm, Hysteresis, Rule
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.errors import InputError, UsageError

QUESTION = "Is there a red circle?"
RULE = Rule(QUESTION, above=0.8, looks=3, below=0.5)
ALERT = Alert("2025-01-02T03:04:05.678Z", QUESTION, 12, 3.5, 0.91, ("/x/a b.jpg", "/x/c.jpg"))


def raised_at(rule: Rule, probabilities: list[float]) -> list[int]:
    state = Hysteresis(rule)
    return [look for look, probability in enumerate(probabilities) if state.look(probability)]


@pytest.mark.parametrize(
    ("probabilities", "alerts"),
    [
        ([0.9, 0.9], []),
        ([0.9, 0.9, 0.9], [2]),
        ([0.8, 0.8, 0.8], [2]),
        ([0.9, 0.9, 0.7, 0.9, 0.9], []),
        ([0.9] * 10, [2]),
        ([0.9] * 3 + [0.6] + [0.9] * 5, [2]),
        ([0.9] * 3 + [0.5] + [0.9] * 5, [2]),
        ([0.9] * 3 + [0.4] + [0.9] * 5, [2, 6]),
        ([0.9] * 3 + [0.4] + [0.9] * 2, [2]),
        ([float("nan")] * 5, []),
    ],
    ids=[
        "too few looks",
        "enough in a row",
        "at the threshold counts",
        "a dip starts the count anew",
        "once, however long it stays",
        "a dip that is not below does not make a second alert",
        "below means less than",
        "after a look below, the next one",
        "which needs all its looks again",
        "what is no number never counts",
    ],
)
def test_an_alert_is_raised_when_it_has_been_there_for_long_enough_and_once(
    probabilities: list[float], alerts: list[int]
) -> None:
    assert raised_at(RULE, probabilities) == alerts


@given(
    st.lists(st.floats(0, 1), max_size=60),
    st.integers(1, 4),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_between_two_alerts_there_was_always_a_look_below(
    probabilities: list[float], looks: int, thresholds: list[float]
) -> None:
    below, above = thresholds
    alerts = raised_at(Rule(QUESTION, above, looks, below), probabilities)
    for alert in alerts:
        assert alert >= looks - 1
        assert min(probabilities[alert - looks + 1 : alert + 1]) >= above
    for earlier, later in pairwise(alerts):
        assert min(probabilities[earlier + 1 : later]) < below


def test_a_low_threshold_takes_the_one_to_clear_down_with_it() -> None:
    assert Rule(QUESTION).clears == 0.5
    assert Rule(QUESTION, above=0.3).clears == 0.3
    assert raised_at(Rule(QUESTION, above=0.0, looks=1), [0.0] * 5) == [0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"above": 1.2}, "from 0 to 1"),
        ({"above": float("nan")}, "from 0 to 1"),
        ({"looks": 0}, "1 look"),
        ({"above": 0.5, "below": 0.6}, "'below'"),
        ({"question": " "}, "empty"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rule(**{"question": QUESTION, **arguments})


def see(alarm: Alarm, probabilities: list[float]) -> list[Alert]:
    """Show the alarm a frame a second, each of another colour."""
    found = []
    for number, probability in enumerate(probabilities, 1):
        alert = alarm.look(probability, number, float(number), Image.new("RGB", (32, 24), (number * 20, 0, 0)))
        found += [alert] if alert else []
    return found


def test_an_alert_is_one_line_of_json_with_the_pictures_that_raised_it(tmp_path: Path) -> None:
    folder = EventFolder(tmp_path / "events")
    alerts = see(Alarm(RULE, folder), [0.9, 0.1, 0.85, 0.9, 0.95, 0.99])
    (line,) = (tmp_path / "events" / "events.jsonl").read_text("utf-8").splitlines()
    event = json.loads(line)
    assert event == {**alerts[0].event(), "frames": list(alerts[0].frames)}
    assert (event["event"], event["question"], event["probability"]) == ("alert", QUESTION, 0.95)
    assert (event["frame"], event["frame_time_s"]) == (5, 5.0)
    assert event["time"].endswith("Z")
    shades = []
    for path in event["frames"]:
        with Image.open(path) as picture:
            shades.append(picture.getpixel((16, 12))[0])
    assert shades == pytest.approx([60, 80, 100], abs=3)
    assert len(list((tmp_path / "events" / "frames").iterdir())) == 3  # of other looks nothing is left


def test_a_long_streak_saves_its_latest_pictures_only(tmp_path: Path) -> None:
    (alert,) = see(Alarm(Rule(QUESTION, looks=11), EventFolder(tmp_path)), [0.9] * 12)
    assert len(alert.frames) == KEPT_PICTURES
    assert alert.frames[-1].endswith("frame-000011.jpg")


def test_events_said_before_a_crash_are_there_and_what_it_cut_off_spoils_no_other_line(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from edge_interleave.alerts.events import Alert, EventFolder\n"
        "folder = EventFolder(Path(sys.argv[1]))\n"
        "for number in range(3): folder.append(Alert('now', 'why', number, 1.0, 0.5))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    path = tmp_path / "events.jsonl"
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [0, 1, 2]
    with path.open("a") as file:
        file.write('{"event": "al')
    folder = EventFolder(tmp_path)
    folder.append(numbered(3))
    folder.append(numbered(4))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["frame"] for line in [*lines[:3], *lines[4:]]] == [0, 1, 2, 3, 4]


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="another folder"):
        EventFolder(tmp_path / "file" / "events")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_once_counted_and_keeps_no_alert_from_its_delivery(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    said: list[str] = []
    kept = Kept()
    outbox = Outbox(kept, said.append)
    folder = EventFolder(tmp_path, said.append)
    alarm = Alarm(Rule(QUESTION, looks=1), folder, [outbox])
    assert len(see(alarm, [0.9, 0.1] * 3)) == 3
    outbox.close(5)
    assert len(kept.alerts) == 3
    assert folder.unwritten == 3
    assert len(said) == 1
    assert "No space left" in said[0]


class Kept:
    """A delivery that does as it is told."""

    name = "test"

    def __init__(self, act: Callable[[Alert], object] = lambda alert: None) -> None:
        self.alerts: list[Alert] = []
        self.act = act

    def send(self, alert: Alert) -> None:
        self.alerts.append(alert)
        self.act(alert)

    def abort(self) -> None:
        pass


def numbered(number: int) -> Alert:
    return Alert(ALERT.time, QUESTION, number, float(number), 0.9)


def test_alerts_are_taken_at_once_delivered_in_order_and_dropped_where_too_many_wait() -> None:
    go = threading.Event()
    kept = Kept(lambda alert: go.wait(10))
    outbox = Outbox(kept, print, room=5)
    outbox.offer(numbered(0))
    while not kept.alerts:
        time.sleep(0.001)
    started = time.monotonic()
    for number in range(1, 1001):
        outbox.offer(numbered(number))
    assert time.monotonic() - started < 1
    go.set()
    outbox.close(10)
    assert [alert.frame for alert in kept.alerts] == [0, 1, 2, 3, 4, 5]
    stats = outbox.stats()
    assert (stats.sent, stats.failed, stats.dropped) == (6, 0, 995)


def test_failures_are_said_when_they_begin_and_counted() -> None:
    def act(alert: Alert) -> None:
        if alert.frame != 3:
            raise DeliveryError(f"no luck with {alert.frame}")

    said: list[str] = []
    outbox = Outbox(Kept(act), said.append)
    for number in range(6):
        outbox.offer(numbered(number))
    outbox.close(10)
    assert [line.split(";")[0] for line in said] == ["test: no luck with 0", "test: no luck with 4"]
    assert (outbox.stats().sent, outbox.stats().failed) == (1, 5)


def script(folder: Path, source: str) -> Path:
    path = folder / "script.py"
    path.write_text(f"import json, os, subprocess, sys, time\n{source}\n")
    return path


def test_a_command_gets_its_arguments_as_they_are_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "got.json"
    path = script(tmp_path, f"json.dump([sys.argv[1:], sys.stdin.read(), os.getsid(0)], open({str(out)!r}, 'w'))")
    words = (
        f"{sys.executable} {path} 'two words' '$HOME;`id`' p={{probability}} {{question}} {{number}} {{time}} "
        "{frame} {frames} {unknown} {json}"
    )
    alert = Alert(ALERT.time, "Is {time} $(here)? '\"", 12, 3.5, 0.91, ALERT.frames)
    Command(words).send(alert)
    arguments, stdin, leader = json.loads(out.read_text())
    first, second = ALERT.frames
    assert arguments == [
        "two words",
        "$HOME;`id`",
        "p=0.9100",
        alert.question,
        "12",
        ALERT.time,
        second,
        f"{first}\n{second}",
        "{unknown}",
        alert.line(),
    ]
    assert stdin == ""
    assert leader != os.getsid(0)  # ctrl-C on our terminal is not for it


def test_what_a_command_prints_is_told_line_by_line_with_its_name(tmp_path: Path) -> None:
    path = script(tmp_path, "print('one\\n\\ntwo')\nsys.stderr.write('three \\xff')\nsys.exit(3)")
    said: list[str] = []
    with pytest.raises(DeliveryError, match="exit code 3"):
        Command(f"{sys.executable} {path}", say=said.append).send(ALERT)
    name = f"command {Path(sys.executable).name}"
    assert sorted(said) == [f"{name}: one", f"{name}: three \xff", f"{name}: two"]


def test_what_a_command_leaves_running_does_not_hold_up_the_next_alert(tmp_path: Path) -> None:
    path = script(tmp_path, "print('done', flush=True)\nsubprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)")
    path.write_text(path.read_text().replace("'input()'", "'import time; time.sleep(5)'"))
    said: list[str] = []
    started = time.monotonic()
    Command(f"{sys.executable} {path}", say=said.append).send(ALERT)
    assert time.monotonic() - started < 4
    assert [line.split(": ")[1] for line in said] == ["done"]


def test_without_anybody_to_tell_a_commands_output_is_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = script(tmp_path, "print('hello')")
    Command(f"{sys.executable} {path}").send(ALERT)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_a_command_that_fails_or_takes_too_long_is_told_with_what_it_started_ended(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "if sys.argv[1] == 'fail': sys.exit(7)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid) + '.')\n"
        "time.sleep(60)",
    )
    with pytest.raises(DeliveryError, match="exit code 7"):
        Command(f"{sys.executable} {path} fail").send(ALERT)
    started = time.monotonic()
    with pytest.raises(DeliveryError, match="within 2 s"):
        Command(f"{sys.executable} {path} hang", limit_s=2).send(ALERT)
    assert time.monotonic() - started < 10
    assert_ended(int((tmp_path / "pid").read_text().strip(".")))


def test_closing_ends_a_command_that_runs_and_says_what_was_not_delivered(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    path = script(tmp_path, f"open({str(pid)!r}, 'w').write(str(os.getpid()) + '.')\ntime.sleep(60)")
    outbox = Outbox(Command(f"{sys.executable} {path}"), lambda line: None)
    for number in range(3):
        outbox.offer(numbered(number))
    wait_for(lambda: pid.is_file() and pid.read_text().endswith("."))
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 0.9
    assert_ended(int(pid.read_text().strip(".")))
    stats = outbox.stats()
    assert (stats.sent, stats.failed, stats.dropped) == (0, 1, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alerts to")]


@pytest.mark.parametrize("command", ["", "  ", "'open", "no-such-program-here {time}", "{frame}"])
def test_a_command_that_cannot_run_is_refused_before_the_watch_begins(command: str) -> None:
    with pytest.raises(UsageError):
        Command(command)


def test_a_webhook_gets_the_events_line() -> None:
    with webhook(status(204)) as hook:
        Webhook(hook.url.replace("//", "//me:p%40ss@") + "/hook?key=1").send(ALERT)
    ((path, headers, body),) = hook.posts
    assert path == "/hook?key=1"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Basic bWU6cEBzcw=="
    assert json.loads(body) == {**ALERT.event(), "frames": list(ALERT.frames)}


def test_a_webhook_is_tried_again_after_longer_and_longer_pauses() -> None:
    times: list[float] = []

    def answer(handler: Any, number: int) -> None:
        times.append(time.monotonic())
        status(503, 429, 500, 200)(handler, number)

    with webhook(answer) as hook:
        Webhook(hook.url, back_off_s=0.1).send(ALERT)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 3
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.4), strict=True))


@pytest.mark.parametrize(
    ("code", "posts", "said"), [(500, 2, "answered 500"), (404, 1, "answered 404"), (400, 1, "answered 400")]
)
def test_a_webhook_gives_up_at_once_where_trying_again_is_of_no_use(code: int, posts: int, said: str) -> None:
    with webhook(status(code)) as hook, pytest.raises(DeliveryError, match=said):
        Webhook(hook.url, attempts=2, back_off_s=0.01).send(ALERT)
    assert len(hook.posts) == posts


def test_nobody_listening_is_a_failure_like_others() -> None:
    with webhook(status(200)) as hook:
        pass
    with pytest.raises(DeliveryError, match=r"refused.*3 attempts"):
        Webhook(hook.url, attempts=3, back_off_s=0.01).send(ALERT)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "/elsewhere", "http://127.0.0.1:1/"])
def test_redirects_are_not_followed(target: str) -> None:
    def answer(handler: Any, number: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with webhook(answer) as hook, pytest.raises(DeliveryError, match="redirect"):
        Webhook(hook.url).send(ALERT)
    assert len(hook.posts) == 1


def drip(handler: Any, number: int) -> None:
    """An answer that comes byte by byte and never gets past its first line."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 2")
        while True:
            handler.wfile.write(b"0")
            time.sleep(0.05)


def test_a_server_that_drips_its_answer_does_not_get_round_the_time_limit() -> None:
    with webhook(drip) as hook:
        started = time.monotonic()
        with pytest.raises(DeliveryError, match=r"within 0\.3 s"):
            Webhook(hook.url, limit_s=0.3, attempts=1).send(ALERT)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("answer", [drip, status(500)], ids=["in an answer", "in a pause"])
def test_closing_does_not_wait_for_a_webhook(answer: Callable[[Any, int], None]) -> None:
    with webhook(answer) as hook:
        outbox = Outbox(Webhook(hook.url, back_off_s=60), lambda line: None)
        outbox.offer(ALERT)
        outbox.offer(ALERT)
        assert hook.came.acquire(timeout=10)
        time.sleep(0.1)
        started = time.monotonic()
        outbox.close()
        assert time.monotonic() - started < 0.9
    stats = outbox.stats()
    assert (stats.sent, stats.failed, stats.dropped) == (0, 1, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alerts to")]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "example.com/hook",
        "http://",
        "http://h:99999/",
        "http://[::1/",
        "http://h/ü",
    ],
)
def test_a_webhook_is_http_or_https_and_nothing_else(url: str) -> None:
    with pytest.raises(UsageError):
        Webhook(url)


def test_messages_do_not_give_the_secret_part_of_a_webhook_away() -> None:
    assert Webhook("https://user:word@hooks.example/T0/secret?key=k").name == "webhook https://hooks.example"


def test_deliveries_are_what_an_outbox_takes() -> None:
    deliveries: list[Delivery] = [Command(sys.executable), Webhook("http://localhost/")]
    assert [delivery.name.split()[0] for delivery in deliveries] == ["command", "webhook"]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_ended(pid: int) -> None:
    """The process is gone, or waits for its parent to notice."""

    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    if Path("/proc").is_dir():
        wait_for(ended)
