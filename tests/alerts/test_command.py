"""A command that is run for each alert."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from support.alerts import ALERT, assert_ended, numbered, wait_for

from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import Alert
from edge_interleave.alerts.outbox import DeliveryError, Outbox
from edge_interleave.errors import UsageError


def script(folder: Path, source: str) -> Path:
    path = folder / "script.py"
    path.write_text(f"import json, os, subprocess, sys, time\n{source}\n")
    return path


def test_arguments_reach_the_program_unchanged_without_a_shell(tmp_path: Path) -> None:
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


def test_output_is_passed_on_line_by_line_with_the_programs_name(tmp_path: Path) -> None:
    path = script(tmp_path, "print('one\\n\\ntwo')\nsys.stderr.write('three \\xff')\nsys.exit(3)")
    said: list[str] = []
    with pytest.raises(DeliveryError, match="exit code 3"):
        Command(f"{sys.executable} {path}", on_output=said.append).send(ALERT)
    name = f"command {Path(sys.executable).name}"
    assert sorted(said) == [f"{name}: one", f"{name}: three \xff", f"{name}: two"]


def test_a_child_left_running_does_not_block_the_next_alert(tmp_path: Path) -> None:
    path = script(tmp_path, "print('done', flush=True)\nsubprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)")
    path.write_text(path.read_text().replace("'input()'", "'import time; time.sleep(5)'"))
    said: list[str] = []
    started = time.monotonic()
    Command(f"{sys.executable} {path}", on_output=said.append).send(ALERT)
    assert time.monotonic() - started < 4
    assert [line.split(": ")[1] for line in said] == ["done"]


def test_by_default_output_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, "print('hello')")
    Command(f"{sys.executable} {path}").send(ALERT)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_a_failure_is_reported_and_a_timeout_kills_the_program_with_its_children(tmp_path: Path) -> None:
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
        Command(f"{sys.executable} {path} hang", timeout_s=2).send(ALERT)
    assert time.monotonic() - started < 10
    assert_ended(int((tmp_path / "pid").read_text().strip(".")))


def test_closing_kills_a_running_command_and_counts_undelivered_alerts(tmp_path: Path) -> None:
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
def test_a_command_that_cannot_run_is_refused(command: str) -> None:
    with pytest.raises(UsageError):
        Command(command)
