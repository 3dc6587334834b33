"""The examples run as a user runs them, on recorded sources."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.paths import EXAMPLES

from edge_interleave.cli.demo import tour_folder


def example(
    name: str, *arguments: object, stdin: str = "", cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a red circle that moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (112, 112))
    for number in range(12):
        image = Image.new("RGB", (112, 112), "white")
        ImageDraw.Draw(image).ellipse((10 + 4 * number, 30, 50 + 4 * number, 70), fill="red")
        writer.write(np.asarray(image)[..., ::-1])
    writer.release()
    return path


def test_album_answers_question_after_question_about_photos_that_may_become_more(tmp_path: Path) -> None:
    photos = [tour_folder() / f"card-{number}.png" for number in (1, 2, 3, 4)]
    asked = f"What is in image 1?\n\n/add nowhere.png\n/add {tour_folder() / 'desk.png'}\nDescribe image 5.\n"
    done = example("album.py", *photos, stdin=asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 2
    assert all(re.search(r"[a-z]{3}", answer) for answer in answers)
    assert done.stderr == "nowhere.png: no such file\n"


def test_doorbell_rings_once_a_visit_and_keeps_the_pictures(clip: Path, tmp_path: Path) -> None:
    done = example("doorbell.py", clip, "--above", 0, "--for", 2, "--out", "rings", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "ding dong" in line
    (event,) = [json.loads(text) for text in (tmp_path / "rings" / "events.jsonl").read_text().splitlines()]
    assert event["frame"] == 2
    assert all((tmp_path / path).is_file() for path in event["frames"])
    assert len(event["frames"]) == 2


def test_webcam_live_answers_without_a_window_on_request(clip: Path, tmp_path: Path) -> None:
    done = example("webcam_live.py", clip, "--headless", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    frames, answers = map(int, re.findall(r"\d+", done.stderr.splitlines()[-1]))
    assert 1 <= answers <= frames <= 12


def test_webcam_live_says_what_to_do_without_a_display(clip: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("displays are told by the environment on Linux only")
    variables = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "webcam_live.py"), str(clip)],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert "--headless" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("album.py", ["nowhere.png"]),
        ("doorbell.py", ["nowhere.mp4"]),
        ("webcam_live.py", ["nowhere.mp4", "--headless"]),
    ],
)
def test_an_unreadable_file_is_one_line(name: str, arguments: list[str], tmp_path: Path) -> None:
    done = example(name, *arguments, stdin="What is this?\n", cwd=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere" in done.stderr
