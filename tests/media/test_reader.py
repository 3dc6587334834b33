"""FrameReader: live and other sources, filters, lost, frozen and damaged sources, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from PIL import Image
from support.mjpeg_server import jpeg, number_of
from support.pictures import clip, noisy, picture

from edge_interleave.errors import MediaError
from edge_interleave.media import reader as reader_module
from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FrameReader, ReaderStats, SourceStatus
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.open import open_source


class Scripted:
    """A source that follows a script: each `read` returns a numbered picture, raises an exception, or ends."""

    def __init__(self, steps: Iterator[int | Exception | None], *, live: bool, pause_s: float = 0.0) -> None:
        self.name, self.live = "scripted", live
        self.opened: list[float] = []
        self.refuse = 0
        self._steps, self._pause_s = steps, pause_s
        self._closed = threading.Event()

    def open(self) -> None:
        self.opened.append(time.monotonic())
        if self.refuse:
            self.refuse -= 1
            raise MediaError("scripted: not there yet")

    def read(self) -> Frame | None:
        if self._closed.wait(self._pause_s):
            return None
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        return None if step is None else Frame(Image.new("RGB", (8, 8)), step / 10, step)

    def close(self) -> None:
        self._closed.set()


def rest(reader: FrameReader) -> list[int]:
    """The indices of all frames until the end."""
    found = []
    while not reader.ended:
        frame = reader.next(0.2)
        if frame is not None:
            found.append(frame.index)
    return found


def balance(reader: FrameReader) -> None:
    """Check that the counts of the stats add up."""
    stats = reader.stats()
    assert stats.captured == stats.handed_out + stats.late + stats.rate_skipped + stats.same_skipped


def test_a_source_that_is_not_live_loses_no_frame() -> None:
    reader = FrameReader(Scripted(iter([*range(50), None]), live=False))
    found = []
    while not reader.ended:
        frame = reader.next(0.2)
        if frame is not None:
            found.append(frame.index)
            if len(found) % 10 == 0:
                time.sleep(0.02)
    assert found == list(range(50))
    assert reader.stats().late == 0
    assert reader.error is None
    reader.close()
    balance(reader)


def test_a_live_source_gives_its_newest_frame_and_counts_late_ones() -> None:
    reader = FrameReader(Scripted(count(), live=True, pause_s=0.005))
    time.sleep(0.5)
    first = reader.next(1)
    time.sleep(0.5)
    second = reader.next(1)
    reader.close()
    assert first is not None
    assert second is not None
    assert first.index > 5
    assert second.index > first.index + 5
    stats = reader.stats()
    assert stats.handed_out == 2
    assert stats.late == stats.captured - 2
    assert 20 < stats.capture_fps < 250


def test_the_last_frame_is_handed_out_before_ended_is_true() -> None:
    for live in (True, False):
        reader = FrameReader(Scripted(iter([0, None]), live=live))
        time.sleep(0.1)
        assert not reader.ended
        assert reader.next(0) is not None
        assert reader.next(1) is None
        assert reader.ended
        reader.close()


def test_a_clip_is_live_in_real_time_and_read_completely_otherwise() -> None:
    reader = FrameReader(open_source(clip("bikes.mp4")))
    assert rest(reader) == list(range(250))
    reader.close()
    reader = FrameReader(open_source(clip("bikes.mp4"), realtime=True))
    assert reader.next(2) is not None
    time.sleep(0.4)
    frame = reader.next(1)
    reader.close()
    assert frame is not None
    assert 3 < frame.index < 40
    assert reader.stats().late == pytest.approx(frame.index - 1, abs=3)
    balance(reader)


def test_damaged_frames_are_counted_and_skipped() -> None:
    steps: list[int | Exception | None] = [0, FrameDamaged("scripted: bad"), 1, FrameDamaged("scripted: bad"), 2, None]
    reader = FrameReader(Scripted(iter(steps), live=False))
    assert rest(reader) == [0, 1, 2]
    assert reader.stats().damaged == 2
    assert reader.stats().captured == 3
    reader.close()


def test_an_exception_of_the_source_ends_the_reader_and_is_kept() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise RuntimeError("the caller's own")

    reader = FrameReader(open_source(broken()))
    assert rest(reader) == [0]
    assert isinstance(reader.error, RuntimeError)
    reader.close()


def test_a_source_that_cannot_be_opened_raises() -> None:
    source = Scripted(iter([]), live=True)
    source.refuse = 1
    with pytest.raises(MediaError, match="not there yet"):
        FrameReader(source)
    assert not [thread for thread in threading.enumerate() if "edge-interleave" in thread.name]


def test_a_lost_source_is_reopened_with_backoff_and_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(reader_module, "LAST_RETRY_S", 0.4)
    lost = SourceLost("scripted: the cable is out")
    said: list[str] = []
    # Two of the reopened sources send no frame.
    source = Scripted(iter([0, lost, lost, lost, 1, lost, 2, None]), live=False)
    reader = FrameReader(source, on_status=lambda status: said.append(status.line))
    source.refuse = 3
    assert rest(reader) == [0, 1, 2]
    reader.close()
    assert reader.stats().reconnects == 2
    assert [line.split(":")[1][:5] for line in said] == [" the ", " back", " the ", " back"]
    waits = np.diff(source.opened)
    # Three refusals, then two that open and are lost again; after the second loss the pause starts anew.
    # Never sooner; a busy machine may be later.
    assert (waits[1:6] >= np.array([0.1, 0.2, 0.4, 0.4, 0.4]) - 0.02).all()
    assert len(source.opened) == 1 + 6 + 1
    assert waits[-1] < 0.4


def test_a_reader_that_waits_to_reconnect_closes_at_once() -> None:
    reader = FrameReader(Scripted(iter([SourceLost("scripted: gone")] * 99), live=True))
    time.sleep(0.1)
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 0.5
    assert reader.ended
    assert reader.error is None


@pytest.mark.parametrize("live", [True, False])
def test_closing_ends_the_thread_and_wakes_waiting_callers(live: bool) -> None:
    for steps, pause_s in ((count(), 0.0), (count(), 60.0)):
        reader = FrameReader(Scripted(steps, live=live, pause_s=pause_s))
        woken: list[float] = []

        def wait(reader: FrameReader = reader, woken: list[float] = woken) -> None:
            while not reader.ended:
                reader.next(30)
            woken.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        started = time.monotonic()
        reader.close()
        reader.close()
        waiting.join(2)
        assert woken[0] - started < 0.5
        assert not [thread for thread in threading.enumerate() if "edge-interleave" in thread.name]
        assert reader.next(1) is None
        balance(reader)


def test_an_iterable_that_blocks_does_not_delay_closing() -> None:
    go_on = threading.Event()

    def stuck() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        go_on.wait()

    reader = FrameReader(open_source(stuck()))
    assert reader.next(1) is not None
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 1.5
    go_on.set()


def test_the_reader_keeps_a_rate_and_counts_skipped_frames() -> None:
    reader = FrameReader(open_source(clip("bikes.mp4")), fps=5)
    assert rest(reader) == list(range(0, 250, 5))
    assert reader.stats().rate_skipped == 200
    reader.close()
    balance(reader)


def test_a_real_clip_passes_the_change_filter_and_a_still_one_does_not() -> None:
    reader = FrameReader(open_source(clip("bikes.mp4")), change=4)
    moving = rest(reader)
    reader.close()
    balance(reader)
    assert 5 < len(moving) < 200
    reader = FrameReader(open_source([picture()] * 20), change=0.5)
    assert rest(reader) == [0]
    assert reader.stats().same_skipped == 19
    reader.close()


def test_pictures_pass_through_a_reader_in_order_and_unchanged() -> None:
    reader = FrameReader(open_source([jpeg(number) for number in range(8)]))
    numbers = []
    while not reader.ended:
        frame = reader.next(0.2)
        if frame is not None:
            numbers.append(number_of(frame.image))
    reader.close()
    assert numbers == list(range(8))


# Frozen, dark and damaged sources


class Filmed:
    """A live source of these pictures at these times; exceptions are raised."""

    def __init__(self, shots: list[tuple[float, Image.Image | Exception]], *, camera: bool = False) -> None:
        self.name, self.live, self.warms_up = "filmed", True, camera
        self._shots = iter(enumerate(shots))
        self._taken = threading.Semaphore(1)

    def open(self) -> None: ...

    def read(self) -> Frame | None:
        # Each frame waits until the one before is taken, because only the frames' own times matter here.
        self._taken.acquire(timeout=0.05)
        index, (time_s, shot) = next(self._shots, (0, (0.0, None)))
        if isinstance(shot, Exception):
            raise shot
        return None if shot is None else Frame(shot, time_s, index)

    def close(self) -> None: ...


def even(level: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (level, level, level))


def filmed(
    shots: list[tuple[float, Image.Image | Exception]], *, camera: bool = False, **options: float
) -> tuple[list[int], list[SourceStatus], ReaderStats]:
    """The indices of the frames that pass, the statuses, and the counts."""
    told: list[SourceStatus] = []
    source = Filmed(shots, camera=camera)
    reader = FrameReader(source, on_status=told.append, **options)
    found = []
    while not reader.ended:
        frame = reader.next(1)
        if frame is not None:
            found.append(frame.index)
            source._taken.release()
    reader.close()
    return found, told, reader.stats()


def test_a_frozen_camera_is_reported_once_and_when_it_moves_again() -> None:
    still = noisy(picture(320, 240), 1)
    moving = noisy(picture(320, 240), 2)
    shots: list[tuple[float, Image.Image | Exception]] = [(float(second), still.copy()) for second in range(75)]
    shots += [(75.0, moving), (76.0, still)]
    _, told, stats = filmed(shots)
    assert [status.state for status in told] == ["frozen", "moving"]
    assert "filmed: frozen" in told[0].line
    assert "60 s" in told[0].line
    assert told[1].seconds == 75
    assert stats.frozen_s == pytest.approx(74, abs=1.5)


def test_a_camera_with_noise_is_not_frozen() -> None:
    scene = picture(320, 240)
    _, told, stats = filmed([(float(second), noisy(scene, second)) for second in range(90)])
    assert told == []
    assert stats.frozen_s == 0


def test_a_camera_with_a_change_in_one_pixel_is_not_frozen() -> None:
    shots: list[tuple[float, Image.Image | Exception]] = []
    for second in range(90):
        image = picture(320, 240)
        image.putpixel((101, 53), (second, second, second))
        shots.append((float(second), image))
    _, told, _ = filmed(shots)
    assert told == []


def test_iterables_and_recordings_are_never_frozen() -> None:
    told: list[SourceStatus] = []
    reader = FrameReader(open_source([even(200)] * 100), on_status=told.append)
    assert len(rest(reader)) == 100
    reader.close()
    assert told == []
    assert reader.stats().frozen_s == 0
    assert open_source(clip("bikes.mp4"), realtime=True).recorded  # type: ignore[attr-defined]


def test_a_cameras_black_first_frames_are_dropped() -> None:
    shots: list[tuple[float, Image.Image | Exception]] = [(number / 10, even(3)) for number in range(30)]
    shots += [(3 + number / 10, picture()) for number in range(5)]
    found, _, stats = filmed(shots, camera=True)
    assert found[0] == 31  # the first that is as bright as the one before
    assert stats.dark_skipped == 31
    assert stats.captured == 35 == stats.handed_out + stats.late + stats.dark_skipped


def test_frames_with_rising_exposure_are_dropped() -> None:
    levels = [0, 0, 20, 45, 70, 95, 110, 120, 124, 125, 125, 125]
    found, _, _ = filmed([(number / 10, even(level)) for number, level in enumerate(levels)], camera=True)
    assert found == [9, 10, 11] or found == [8, 9, 10, 11]


def test_a_dark_scene_passes_after_a_while_and_a_single_black_frame_at_the_end() -> None:
    found, _, stats = filmed([(number / 2, even(0)) for number in range(20)], camera=True)
    assert found == list(range(10, 20))
    assert stats.dark_skipped == 10
    assert filmed([(0.0, even(0))], camera=True)[0] == [0]


def test_a_bright_start_and_a_night_with_a_lamp_pass_at_once() -> None:
    assert filmed([(0.0, even(255)), (0.1, even(120))], camera=True)[0] == [0, 1]
    lamp = even(2)
    lamp.paste((255, 255, 255), (10, 10, 16, 16))
    assert filmed([(0.0, lamp)], camera=True)[0] == [0]


def test_damage_only_is_reported_once_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BROKEN_S", 0.2)
    bad = FrameDamaged("filmed: a picture is cut off")
    shots: list[tuple[float, Image.Image | Exception]] = [(0.0, bad)] * 12
    found, told, stats = filmed([*shots, (1.0, even(99))])
    assert [status.state for status in told] == ["broken", "whole"]
    assert told[0].line.startswith("filmed: a picture is cut off; every frame for")
    assert found == [12]
    assert stats.damaged == 12


def test_single_damaged_frames_are_counted_and_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BROKEN_S", 0.1)
    bad = FrameDamaged("filmed: a picture is cut off")
    shots: list[tuple[float, Image.Image | Exception]] = [(0.0, bad), (0.1, even(9))] * 5
    _, told, stats = filmed(shots)
    assert told == []
    assert stats.damaged == 5


def test_unchanged_frames_are_handed_out_marked_on_request() -> None:
    shots = [picture(), picture(), picture().transpose(Image.Transpose.ROTATE_180), picture(), picture()]
    reader = FrameReader(open_source(shots), change=2, with_unchanged=True)
    found = []
    while not reader.ended:
        frame = reader.next(1)
        if frame is not None:
            found.append((frame.index, frame.unchanged))
    reader.close()
    assert found == [(0, False), (1, True), (2, False), (3, False), (4, True)]
    stats = reader.stats()
    assert (stats.handed_out, stats.same_skipped, stats.late) == (3, 2, 0)
