"""Several sources with the embedded model: events, alerts, commands, new settings, and the end."""

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.alerts import wait_for
from support.mjpeg_server import HEAD, Server, jpeg, part, serving

from edge_interleave.alerts.events import Alert, Answered, Checked, Event
from edge_interleave.alerts.rule import Rule
from edge_interleave.errors import UsageError
from edge_interleave.household.happenings import Controls, Happening, QuestionChanged, StatusChanged
from edge_interleave.household.runner import Household
from edge_interleave.household.settings import AlertSettings, AskSettings, ModelSettings, Settings, SourceSettings

CIRCLE = "Is there a red circle?"
SQUARE = "Is there a blue square?"


class Recorder:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.begun: list[Settings] = []
        self.happenings: list[Happening] = []
        self.closed = False

    def begin(self, settings: Settings, controls: Controls) -> None:
        self.begun.append(settings)

    def tell(self, happening: Happening) -> None:
        self.happenings.append(happening)

    def close(self, timeout_s: float) -> None:
        self.closed = True

    def of(self, source: str, kind: type[Event]) -> list[Happening]:
        return [each for each in list(self.happenings) if each.source == source and isinstance(each.event, kind)]

    def states(self, source: str) -> list[str]:
        return [each.event.state for each in self.of(source, StatusChanged) if isinstance(each.event, StatusChanged)]


def picture(circle: bool) -> Image.Image:
    image = Image.new("RGB", (112, 112), "white")
    if circle:
        ImageDraw.Draw(image).ellipse((30, 30, 80, 80), fill="red")
    return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds, four frames each: white, a red circle, white."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (112, 112))
    for number in range(12):
        writer.write(np.asarray(picture(4 <= number < 8))[..., ::-1])
    writer.release()
    return path


def source(name: str, at: object, folder: Path, *rules: AlertSettings | AskSettings) -> SourceSettings:
    return SourceSettings(name, str(at), rules, folder / name, window=2)


def alert(name: str, question: str, checks: int = 2, **more: object) -> AlertSettings:
    return AlertSettings(name, Rule(question, checks=checks), **more)  # type: ignore[arg-type]


@contextmanager
def running(*sources: SourceSettings, recorder: Recorder) -> Iterator[Household]:
    with Household(Settings(ModelSettings(threads=1), sources), [recorder], lambda line: None) as household:
        household.start()
        yield household
    assert recorder.closed


@contextmanager
def camera(shown: Callable[[], Image.Image], fps: float = 20.0) -> Iterator[str]:
    """The address of an MJPEG camera that shows what `shown` returns."""

    def script(server: object, connection: object, number: int) -> None:
        connection.sendall(HEAD)  # type: ignore[attr-defined]
        while not server.stopping.wait(1 / fps):  # type: ignore[attr-defined]
            file = io.BytesIO()
            shown().save(file, "JPEG")
            connection.sendall(part(file.getvalue()))  # type: ignore[attr-defined]

    with serving(script) as server:
        yield server.url


def test_sources_are_watched_with_one_model_to_their_end(clip: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    door = source("door", clip, tmp_path, alert("circle", CIRCLE, describe="Describe the image."))
    door = replace(door, before_s=1.0, rules=(*door.rules, AskSettings("what", "Describe the image.", 1.0)))
    yard = source("yard", clip, tmp_path, alert("square", SQUARE), alert("circle", CIRCLE, 9))
    with running(door, yard, recorder=recorder) as household:
        assert household.wait(60, threading.Event())
        watchers = household.watchers
        live = [watcher._window._live for watcher in watchers.values()]
        # One set of weights; a KV cache for each source.
        assert len({id(each._encoder._tower._session) for each in live}) == 1  # type: ignore[attr-defined]
        assert len({id(each._session.decoder) for each in live}) == 2
    assert recorder.states("door") == recorder.states("yard") == ["waiting", "up", "ended"]
    # A recording loses no frame, although two sources share the engine.
    checks = [each.event for each in recorder.of("door", Checked)]
    assert [check.frame for check in checks] == list(range(1, 13))
    (told,) = recorder.of("door", Alert)
    event = told.event
    assert isinstance(event, Alert)
    assert (event.source, event.rule, event.frame, event.frame_time_s) == ("door", "circle", 6, 1.25)
    assert event.description is not None
    assert "red circle" in event.description
    assert event.best in event.frames
    assert told.picture == Path(str(event.best)).read_bytes()
    # The second before the alert, at the frames' times.
    with av.open(str(event.clip)) as video:
        shown = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)
        ]  # type: ignore[operator]
    assert [round(at, 2) for at, _ in shown][:4] == [0, 0.25, 0.5, 0.75]
    assert shown[0][1][56, 56].min() > 200  # white
    assert shown[-1][1][56, 56, 1] < 80  # red
    answers = recorder.of("door", Answered)
    assert [each.event.frame for each in answers] == [1, 5, 9, 12]
    assert all(each.picture for each in answers)
    assert recorder.of("yard", Alert) == []
    misses = watchers["yard"].stats().rules
    # The model takes the first white frame for the circle or not.
    line = misses["circle"].line()
    assert re.fullmatch(r"12 checks, highest 1\.00, at most [45] of 9 in a row: no alert", line), line
    assert misses["square"].line().endswith("none at 0.80 or above: no alert")
    assert len((tmp_path / "door" / "events.jsonl").read_text().splitlines()) == 5


def test_questions_change_and_sources_pause_while_they_run(tmp_path: Path) -> None:
    recorder = Recorder()
    with (
        camera(lambda: picture(circle=True)) as url,
        running(source("cam", url, tmp_path, alert("shape", SQUARE, 2)), recorder=recorder) as household,
    ):
        wait_for(lambda: len(recorder.of("cam", Checked)) > 3)
        assert recorder.of("cam", Alert) == []
        household.ask_instead("cam", "shape", CIRCLE)
        wait_for(lambda: len(recorder.of("cam", Alert)) == 1)
        (changed,) = recorder.of("cam", QuestionChanged)
        assert (changed.rule, changed.event.question) == ("shape", CIRCLE)
        household.pause("cam")
        wait_for(lambda: "paused" in recorder.states("cam"))
        checked = len(recorder.of("cam", Checked))
        captured = household.watchers["cam"].stats().reader.captured  # type: ignore[union-attr]
        wait_for(lambda: household.watchers["cam"].stats().reader.captured > captured + 3)  # type: ignore[union-attr]
        assert len(recorder.of("cam", Checked)) == checked
        household.resume("cam")
        wait_for(lambda: len(recorder.of("cam", Checked)) > checked)
        for wrong in (("nobody", "shape", CIRCLE), ("cam", "nothing", CIRCLE), ("cam", "shape", " ")):
            with pytest.raises(UsageError):
                household.ask_instead(*wrong)


def test_new_settings_keep_the_windows_of_sources_that_stay(tmp_path: Path) -> None:
    recorder = Recorder()
    with camera(lambda: picture(circle=True)) as url:
        stays = source("stays", url, tmp_path, alert("shape", SQUARE))
        leaves = source("leaves", url, tmp_path, alert("shape", SQUARE))
        with running(stays, leaves, recorder=recorder) as household:
            wait_for(lambda: all(recorder.of(name, Checked) for name in ("stays", "leaves")))
            before = household.watchers
            window = before["stays"]._window
            comes = replace(leaves, name="comes", out=tmp_path / "comes")
            other_rules = replace(stays, rules=(alert("circle", CIRCLE),), out=tmp_path / "moved")
            household.change(Settings(ModelSettings(threads=1), (other_rules, comes)))
            wait_for(lambda: bool(recorder.of("stays", Alert)) and bool(recorder.of("comes", Checked)))
            assert household.watchers["stays"]._window is window
            assert before["leaves"].ended
            assert (tmp_path / "moved" / "events.jsonl").read_text().count('"alert"') == 1
            assert [each.sources[0].name for each in recorder.begun] == ["stays", "stays"]
            # The same rule has no ring to save yet; with one it begins anew, and its next alert has a video.
            with_video = replace(other_rules, before_s=1.0)
            household.change(Settings(ModelSettings(threads=1), (with_video, comes)))
            wait_for(lambda: len(recorder.of("stays", Alert)) == 2)
            first, second = (each.event for each in recorder.of("stays", Alert))
            assert isinstance(first, Alert)
            assert isinstance(second, Alert)
            assert (first.clip, bool(second.clip)) == (None, True)
            with pytest.raises(UsageError, match=r"\[model\] differs"):
                household.change(Settings(ModelSettings(threads=2), (other_rules,)))
            assert set(household.watchers) == {"stays", "comes"}


def test_an_alert_is_not_delayed_by_sources_that_chat(tmp_path: Path) -> None:
    recorder = Recorder()
    shown = threading.Event()
    with camera(lambda: picture(circle=shown.is_set())) as url:
        chats = [source(f"chat{n}", url, tmp_path, AskSettings("what", "Describe the image.", 0.001)) for n in range(3)]
        guard = source("guard", url, tmp_path, alert("circle", CIRCLE, 3))
        with running(*chats, guard, recorder=recorder):
            wait_for(lambda: all(len(recorder.of(chat.name, Answered)) >= 2 for chat in chats))
            checked = len(recorder.of("guard", Checked))
            shown.set()
            wait_for(lambda: bool(recorder.of("guard", Alert)))
        checks = len(recorder.of("guard", Checked))
        answers = [len(recorder.of(chat.name, Answered)) for chat in chats]
    # An answer takes longer than a check, and all get the same time.
    assert checks > checked
    assert checks >= 0.8 * max(answers)


def test_a_camera_that_is_off_is_awaited_and_delays_no_other(tmp_path: Path, clip: Path) -> None:
    recorder = Recorder()
    with camera(lambda: picture(circle=False)) as url:
        pass
    off = source("off", url, tmp_path, alert("circle", CIRCLE))
    with running(off, source("clip", clip, tmp_path, alert("circle", CIRCLE)), recorder=recorder):
        wait_for(lambda: "ended" in recorder.states("clip"))
        assert recorder.states("off") == ["waiting", "lost"]


def test_a_lost_camera_is_said_to_be_back_with_the_time_it_was_away(tmp_path: Path) -> None:
    def film(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        for shade in range(200):
            connection.sendall(part(jpeg(shade)))
            if server.stopping.wait(0.05) or (number == 0 and shade == 5):
                return

    recorder = Recorder()
    with (
        serving(film) as server,
        running(source("door", server.url, tmp_path, alert("circle", CIRCLE)), recorder=recorder),
    ):
        wait_for(lambda: "back" in recorder.states("door"))
    events = {each.event.event()["state"]: each.event.event() for each in recorder.of("door", StatusChanged)}
    assert events["back"]["seconds"] > 0
    assert "seconds" not in events["up"]


def test_a_camera_that_never_answers_does_not_delay_the_end(tmp_path: Path) -> None:
    recorder = Recorder()
    with serving(lambda server, connection, number: server.stopping.wait() and None) as server:
        with running(source("mute", server.url, tmp_path, alert("circle", CIRCLE)), recorder=recorder) as household:
            wait_for(lambda: len(server.requests) == 1)
            started = time.monotonic()
            household.close()
            assert time.monotonic() - started < 3
        assert household.watchers["mute"].ended


def test_the_end_takes_a_second_at_most(tmp_path: Path) -> None:
    recorder = Recorder()
    with camera(lambda: picture(circle=True)) as url:
        sources: Sequence[SourceSettings] = [
            source(f"cam{number}", url, tmp_path, AskSettings("what", "Describe the image.", 0.1))
            for number in range(4)
        ]
        with running(*sources, recorder=recorder) as household:
            wait_for(lambda: all(recorder.of(each.name, Answered) for each in sources))
            threads = {thread for thread in threading.enumerate() if "edge-interleave watch" in thread.name}
            assert len(threads) == 4
            started = time.monotonic()
            household.close()
            took = time.monotonic() - started
        assert not any(thread.is_alive() for thread in threads)
    assert took < 3  # well within one on an idle machine; tests share theirs
