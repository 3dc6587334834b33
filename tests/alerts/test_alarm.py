"""What an alert leaves on the disk: a line of JSON and pictures, through crashes and full disks."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from support.alerts import QUESTION, RecordingDelivery, numbered

from edge_interleave.alerts.alarm import MAX_PICTURES, Alarm
from edge_interleave.alerts.events import Alert, EventFolder
from edge_interleave.alerts.outbox import Outbox
from edge_interleave.alerts.ring import FrameRing, mp4
from edge_interleave.alerts.rule import Rule
from edge_interleave.errors import InputError

RULE = Rule(QUESTION, above=0.8, checks=3, below=0.5)


def check_all(alarm: Alarm, probabilities: list[float]) -> list[Alert]:
    """Check one frame a second, each in another colour; return the alerts."""
    found = []
    for number, probability in enumerate(probabilities, 1):
        alert = alarm.check(probability, number, float(number), Image.new("RGB", (32, 24), (number * 20, 0, 0)))
        found += [alert] if alert else []
    return found


def test_an_alert_is_one_line_of_json_with_the_pictures_that_raised_it(tmp_path: Path) -> None:
    folder = EventFolder(tmp_path / "events")
    alerts = check_all(Alarm(RULE, folder), [0.9, 0.1, 0.85, 0.9, 0.95, 0.99])
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
    assert len(list((tmp_path / "events" / "frames").iterdir())) == 3  # no pictures of other checks


def test_a_folder_that_is_deleted_or_rotated_is_made_again(tmp_path: Path) -> None:
    folder = EventFolder(tmp_path / "events")
    folder.append(numbered(1))
    shutil.rmtree(tmp_path / "events")
    folder.append(numbered(2))
    folder.path.rename(tmp_path / "events.jsonl.1")
    folder.append(numbered(3))
    assert json.loads((tmp_path / "events.jsonl.1").read_text())["frame"] == 2
    assert json.loads(folder.path.read_text())["frame"] == 3
    folder.pictures.rmdir()
    assert folder.save("a.jpg", b"x") == folder.pictures / "a.jpg"
    assert folder.unwritten == 0
    folder.close()


def test_writes_that_fail_are_reported_again_after_one_that_succeeded(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = EventFolder(tmp_path / "events", notes.append)
    for _ in range(2):
        shutil.rmtree(tmp_path / "events")
        (tmp_path / "events").write_text("in the way")
        folder.append(numbered(1))
        folder.append(numbered(2))
        (tmp_path / "events").unlink()
        folder.append(numbered(3))
    folder.close()
    assert folder.unwritten == 4
    assert len(notes) == 2


def test_a_long_streak_saves_its_latest_pictures_only(tmp_path: Path) -> None:
    (alert,) = check_all(Alarm(Rule(QUESTION, checks=11), EventFolder(tmp_path)), [0.9] * 12)
    assert len(alert.frames) == MAX_PICTURES
    assert alert.frames[-1].endswith("frame-000011.jpg")


def test_a_crash_loses_no_earlier_event_and_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
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


def test_a_folder_that_another_process_uses_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom edge_interleave.alerts.events import EventFolder\n"
        "folder = EventFolder(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match=f"{tmp_path}: another watch saves its events there"):
            EventFolder(tmp_path)
        other.communicate()
    EventFolder(tmp_path).close()
    first, second = EventFolder(tmp_path), EventFolder(tmp_path)
    first.close()
    second.close()


def test_the_likeliest_picture_is_named_even_if_later_ones_push_it_out(tmp_path: Path) -> None:
    rule = Rule(QUESTION, checks=11)
    (alert,) = check_all(Alarm(rule, EventFolder(tmp_path)), [0.9, 0.99, *[0.9] * 9])
    assert alert.best is not None
    assert alert.best.endswith("frame-000002.jpg")
    assert Path(alert.best).exists()
    assert alert.best not in alert.frames


def test_the_next_alert_waits_for_the_cool_down_and_comes_then() -> None:
    alarm = Alarm(Rule(QUESTION, checks=2, cooldown_s=10))
    # One check a second; the condition ends after each alert.
    found = check_all(alarm, [0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert [alert.frame for alert in found] == [2, 12]
    assert alarm.near_miss.line() == "13 checks, highest 0.90, 2 alerts"


def test_a_failing_video_does_not_lose_the_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pictures: object) -> bytes:
        raise ValueError("no encoder")

    monkeypatch.setattr("edge_interleave.alerts.alarm.mp4", fail)
    said: list[str] = []
    ring = FrameRing(5)
    ring.add(Image.new("RGB", (32, 24)), 0.0)
    folder = EventFolder(tmp_path, said.append)
    (alert,) = check_all(Alarm(Rule(QUESTION, checks=1), folder, ring=ring), [0.9])
    assert alert.clip is None
    assert alert.frames
    assert len(said) == 1
    assert "no encoder" in said[0]


def test_the_video_shows_the_time_before_the_alert_however_long_its_description_takes(tmp_path: Path) -> None:
    ring = FrameRing(2)

    def describe() -> str:
        for second in range(10, 20):
            ring.add(Image.new("RGB", (32, 24), "blue"), float(second))
        return "a red circle"

    for second in (8, 9):
        ring.add(Image.new("RGB", (32, 24), "red"), float(second))
    alarm = Alarm(Rule(QUESTION, checks=1), EventFolder(tmp_path), ring=ring, describe=describe)
    (alert,) = check_all(alarm, [0.9])
    assert alert.description == "a red circle"
    with av.open(str(alert.clip)) as video:
        shown = [frame.to_ndarray(format="rgb24")[12, 16] for frame in video.decode(video=0)]
    assert len(shown) == 2
    assert all(red > 150 > blue for red, _, blue in shown)


def test_a_ring_keeps_the_last_seconds_in_small_pictures() -> None:
    ring = FrameRing(2)
    for number in range(100):
        ring.add(Image.new("RGB", (1920, 1080), (number, 0, 0)), number / 25)
    times = [picture.time_s for picture in ring.pictures()]
    assert times[-1] - times[0] <= 2
    assert len(times) == 11  # five a second
    with Image.open(io.BytesIO(ring.pictures()[-1].jpeg)) as last:
        assert last.size == (640, 360)
    with av.open(io.BytesIO(mp4(ring.pictures()))) as video:
        shown = [frame.time for frame in video.decode(video=0)]
    assert shown == pytest.approx([time_s - times[0] for time_s in times], abs=0.002)
    ring.add(Image.new("RGB", (32, 32)), 0.5)  # the source began anew
    assert [picture.time_s for picture in ring.pictures()] == [0.5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_once_and_alerts_are_still_delivered(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    said: list[str] = []
    kept = RecordingDelivery()
    outbox = Outbox(kept, said.append)
    folder = EventFolder(tmp_path, said.append)
    alarm = Alarm(Rule(QUESTION, checks=1), folder, [outbox])
    assert len(check_all(alarm, [0.9, 0.1] * 3)) == 3
    outbox.close(5)
    assert len(kept.alerts) == 3
    assert folder.unwritten == 3
    assert len(said) == 1
    assert "No space left" in said[0]
