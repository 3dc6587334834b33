"""`edge-interleave watch --config` and `plan --config` from a shell."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.command_line import PROGRAM, environment, error_line, run

CIRCLE = "Is there a red circle?"
SETTINGS = """\
[model]
threads = 1

[sources.{name}]
source = "{name}"
window = 2

[[sources.{name}.rules]]
when = "Is there a red circle?"
for = 1
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings with a folder of one picture as a source, which waits for more."""
    for name in ("door", "yard"):
        (tmp_path / name).mkdir()
        image = Image.new("RGB", (112, 112), "white")
        ImageDraw.Draw(image).ellipse((30, 30, 80, 80), fill="red")
        image.save(tmp_path / name / "0.png")
    path = tmp_path / "cameras.toml"
    path.write_text(SETTINGS.format(name="door"))
    return path


@contextmanager
def watching(path: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run the watch, with its stderr in a file."""
    with (path.parent / "stderr").open("w") as stderr:
        command = [*PROGRAM, "watch", "--config", str(path), "--json"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_event(process: subprocess.Popen[str], kind: str, source: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event.get("event") == kind and event["source"] == source:
            return event
    raise AssertionError("the watch has ended")


def said(path: Path, text: str) -> None:
    """Wait until stderr holds the text."""
    until = time.monotonic() + 30
    while text not in (path.parent / "stderr").read_text():
        assert time.monotonic() < until, (path.parent / "stderr").read_text()
        time.sleep(0.02)


def test_sighup_reads_the_settings_again_and_a_broken_file_changes_nothing(settings: Path, env: dict[str, str]) -> None:
    with watching(settings, env) as process:
        alert = next_event(process, "alert", "door")
        assert (alert["rule"], alert["file"]) == ("rule-1", "0.png")
        settings.write_text(SETTINGS.format(name="door").replace("window = 2", "widow = 2"))
        process.send_signal(signal.SIGHUP)
        said(settings, "the settings stay as they were: ")
        said(settings, "cameras.toml:6: 'widow' is not a setting here; did you mean 'window'?")
        both = SETTINGS.format(name="door") + SETTINGS.format(name="yard").split("\n\n", 1)[1]
        settings.write_text(both)
        process.send_signal(signal.SIGHUP)
        said(settings, "read anew; 2 sources, 2 rules")
        next_event(process, "alert", "yard")
        # The first source goes on with its window: the next picture is its second frame.
        Image.new("RGB", (112, 112), "white").save(settings.parent / "door" / "1.png")
        assert next_event(process, "check", "door")["frame"] == 2
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - started < 5  # well within one on an idle machine
        assert process.stdout is not None
        (end,) = [event for event in map(json.loads, process.stdout) if event["event"] == "end"]
    counted = {name: (each["frames"], each["rules"]["rule-1"]["alerts"]) for name, each in end["sources"].items()}
    assert counted == {"door": (2, 1), "yard": (1, 1)}
    assert (settings.parent / "edge-interleave-events" / "yard" / "events.jsonl").exists()


def test_a_file_is_checked_without_being_run(settings: Path, env: dict[str, str]) -> None:
    checked = run("watch", "--config", settings, "--check", env=env)
    assert checked.returncode == 0, checked.stderr
    assert "1 source, 1 rule" in " ".join(checked.stdout.split())
    assert not (settings.parent / "edge-interleave-events").exists()
    settings.write_text(settings.read_text().replace("window = 2", "window = 999"))
    assert "door: a window of 999 frames needs" in error_line(run("watch", "--config", settings, "--check", env=env), 2)
    settings.write_text(settings.read_text().replace("[model]\n", '[model]\nname = "nothing"\n'))
    assert "nothing" in error_line(run("watch", "--config", settings, "--check", env=env), 3)


def test_options_that_the_file_has_are_refused(settings: Path, env: dict[str, str]) -> None:
    assert "--fps does not go with --config" in error_line(run("watch", "--config", settings, "--fps", "2", env=env), 2)
    assert "--config" in error_line(run("watch", "camera:0", "--check", "--when", "?", env=env), 2)
    assert "--config" in error_line(run("watch", "--when", "?", env=env), 2)


def test_a_household_with_alerts_keeps_within_its_memory(tmp_path: Path, env: dict[str, str]) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (1280, 720))
    for _ in range(12):
        writer.write(np.asarray(Image.effect_noise((1280, 720), 40).convert("RGB")))
    writer.release()
    text = '[model]\nthreads = 1\nmemory = "MEMORY"\n'
    for name in ("door", "yard"):
        text += f'[sources.{name}]\nsource = "clip.avi"\nwindow = 4\nbefore = "3s"\n'
        text += f'[[sources.{name}.rules]]\nwhen = "{CIRCLE}"\nabove = 0\nbelow = 0\ndescribe = "Describe the image."\n'
    path = tmp_path / "cameras.toml"
    path.write_text(text.replace("MEMORY", "4GB"))
    plan = json.loads(run("plan", "--config", path, "--json", env=env).stdout)
    assert [(window["name"], window["frames"]) for window in plan["windows"]] == [("door", 4), ("yard", 4)]
    costs = [
        cost["bytes"] for part in (plan["shared"], *(window["costs"] for window in plan["windows"])) for cost in part
    ]
    assert plan["estimate"] == sum(costs)
    memory = plan["estimate"] * 1.03  # the two processes do not import the same
    path.write_text(text.replace("MEMORY", f"{memory / 1e6:.0f}MB"))
    result = run("watch", "--config", path, "--json", env=env)
    assert result.returncode == 0, result.stderr
    *events, end = map(json.loads, result.stdout.splitlines())
    assert sorted(event["source"] for event in events if event["event"] == "alert") == ["door", "yard"]
    assert 0 < end["peak_memory_bytes"] <= memory
