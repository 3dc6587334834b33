"""The reader: the newest frame of a live source, all of one that can wait, and what is worth a look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest
from PIL import Image
from support.mjpeg_server import jpeg, number_of
from support.pictures import clip, picture

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media import reader as reader_module
from edge_interleave.media.filters import ChangeFilter, RateLimiter, thumbnail
from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FrameReader, ReaderStats, SourceStatus
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.open import open_source


class Scripted:
    """A source whose every `read` is a step of a script: a picture's number, or an exception, or the end."""

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
    """Indices of all frames until the end."""
    found = []
    while not reader.ended:
        frame = reader.next(0.2)
        if frame is not None:
            found.append(frame.index)
    return found


def balance(reader: FrameReader) -> None:
    """Every frame that was captured is accounted for."""
    stats = reader.stats()
    assert stats.captured == stats.handed_out + stats.late + stats.rate_skipped + stats.same_skipped


def test_a_source_that_can_wait_loses_nothing() -> None:
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


def test_of_a_live_source_the_newest_frame_is_next_and_late_ones_are_counted() -> None:
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


def test_the_last_frame_is_handed_out_before_the_end_shows() -> None:
    for live in (True, False):
        reader = FrameReader(Scripted(iter([0, None]), live=live))
        time.sleep(0.1)
        assert not reader.ended
        assert reader.next(0) is not None
        assert reader.next(1) is None
        assert reader.ended
        reader.close()


def test_a_clip_in_real_time_is_live_and_one_that_is_not_is_read_whole() -> None:
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


def test_what_fails_for_good_ends_it_and_is_kept() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise RuntimeError("the caller's own")

    reader = FrameReader(open_source(broken()))
    assert rest(reader) == [0]
    assert isinstance(reader.error, RuntimeError)
    reader.close()


def test_a_source_that_cannot_be_opened_says_so_to_the_caller() -> None:
    source = Scripted(iter([]), live=True)
    source.refuse = 1
    with pytest.raises(MediaError, match="not there yet"):
        FrameReader(source)
    assert not [thread for thread in threading.enumerate() if "edge-interleave" in thread.name]


def test_a_lost_source_is_tried_again_ever_more_slowly_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(reader_module, "LAST_RETRY_S", 0.2)
    lost = SourceLost("scripted: the cable is out")
    said: list[str] = []
    # Twice it opens and gives no frame.
    source = Scripted(iter([0, lost, lost, lost, 1, lost, 2, None]), live=False)
    reader = FrameReader(source, on_status=lambda status: said.append(status.line))
    source.refuse = 3
    assert rest(reader) == [0, 1, 2]
    reader.close()
    assert reader.stats().reconnects == 2
    assert [line.split(":")[1][:5] for line in said] == [" the ", " back", " the ", " back"]
    waits = np.diff(source.opened)
    # Three refusals, two that open and are lost again; then the second loss begins anew.
    assert waits[1:6] == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.2], abs=0.12)
    assert len(source.opened) == 1 + 6 + 1
    assert source.opened[-1] - source.opened[-2] < 0.2


def test_a_reader_that_waits_to_reconnect_closes_at_once() -> None:
    reader = FrameReader(Scripted(iter([SourceLost("scripted: gone")] * 99), live=True))
    time.sleep(0.1)
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 0.5
    assert reader.ended
    assert reader.error is None


@pytest.mark.parametrize("live", [True, False])
def test_closing_leaves_no_thread_and_wakes_who_waits(live: bool) -> None:
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


def test_an_iterable_that_never_answers_does_not_hold_up_closing() -> None:
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


# Worth a look


@pytest.mark.parametrize(
    ("had", "wanted"), [(30, 2), (30, 10), (29.97, 5), (25, 10), (10, 10), (30, 29), (10, 30), (1, 0.25)]
)
def test_a_rate_is_kept_in_the_mean_and_evenly(had: float, wanted: float) -> None:
    rate = RateLimiter(wanted)
    times = [round(index / had, 3) for index in range(int(had * 40))]
    taken = [time_s for time_s in times if rate.take(time_s)]
    assert taken[0] == 0
    assert len(taken) == pytest.approx(40 * min(had, wanted), rel=0.02, abs=1)
    assert max(np.diff(taken)) <= 1 / min(had, wanted) + 1 / had + 0.002


def test_after_a_pause_no_frames_are_made_up_for() -> None:
    rate = RateLimiter(1)
    assert [rate.take(time_s) for time_s in (0, 0.5, 1, 100, 100.5, 100.9, 101, 101.5)] == [
        *(True, False, True),
        *(True, False, False, True, False),
    ]


def test_time_that_falls_begins_anew() -> None:
    rate = RateLimiter(1)
    assert [rate.take(time_s) for time_s in (50, 0, 0.5, 1)] == [True, True, False, True]


def test_the_reader_keeps_a_rate_and_counts_what_it_left_out() -> None:
    reader = FrameReader(open_source(clip("bikes.mp4")), fps=5)
    assert rest(reader) == list(range(0, 250, 5))
    assert reader.stats().rate_skipped == 200
    reader.close()
    balance(reader)


def shown(level: int) -> Image.Image:
    return Image.new("RGB", (320, 240), (level, level, level))


def test_only_changes_pass_and_slow_ones_add_up() -> None:
    change = ChangeFilter(5)
    levels = (100, 102, 104, 105, 107, 109, 110, 90, 110)
    assert [level for level in levels if change.take(shown(level))] == [100, 105, 110, 90, 110]


def noisy(image: Image.Image, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_noise_is_no_change_and_a_thing_that_comes_is_one() -> None:
    scene = picture(640, 480)
    change = ChangeFilter(0.5)
    assert change.take(noisy(scene, 0))
    assert not any(change.take(noisy(scene, seed)) for seed in range(1, 6))
    # A twelfth of the width and height.
    scene.paste((255, 255, 255), (300, 200, 353, 240))
    assert change.take(noisy(scene, 7))


@pytest.mark.parametrize("size", [(1, 1), (5, 3000), (32, 32), (33, 31), (1920, 1080)])
def test_a_thumbnail_is_the_mean_of_the_pictures_areas(size: tuple[int, int]) -> None:
    image = picture(*size)
    small = thumbnail(image)
    assert small.shape == (32, 32)
    exact = np.asarray(image.resize((32, 32), Image.Resampling.BOX).convert("L"), np.int16)
    assert np.abs(small - exact).mean() < 3


def test_a_real_clip_changes_and_a_still_one_does_not() -> None:
    reader = FrameReader(open_source(clip("bikes.mp4")), change=4)
    moving = rest(reader)
    reader.close()
    balance(reader)
    assert 5 < len(moving) < 200
    reader = FrameReader(open_source([picture()] * 20), change=0.5)
    assert rest(reader) == [0]
    assert reader.stats().same_skipped == 19
    reader.close()


@pytest.mark.parametrize(
    "make",
    [lambda: RateLimiter(0), lambda: RateLimiter(-1), lambda: RateLimiter(float("nan")), lambda: ChangeFilter(-1)],
)
def test_figures_that_make_no_sense_are_a_wrong_call(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


def test_numbers_survive_the_way_through_a_reader() -> None:
    reader = FrameReader(open_source([jpeg(number) for number in range(8)]))
    numbers = []
    while not reader.ended:
        frame = reader.next(0.2)
        if frame is not None:
            numbers.append(number_of(frame.image))
    reader.close()
    assert numbers == list(range(8))


# What happens to a source


class Filmed:
    """A live source of these pictures at these times; an exception is raised in its place."""

    def __init__(self, shots: list[tuple[float, Image.Image | Exception]], *, camera: bool = False) -> None:
        self.name, self.live, self.warms_up = "filmed", True, camera
        self._shots = iter(enumerate(shots))
        self._taken = threading.Semaphore(1)

    def open(self) -> None: ...

    def read(self) -> Frame | None:
        # One by one, as they are taken: what counts here is the frames' own time.
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
    """Indices of the frames that come through, what is told, and the counts."""
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


def test_a_camera_that_repeats_one_picture_bit_for_bit_is_told_once_and_when_it_moves_again() -> None:
    still = noisy(picture(320, 240), 1)
    moving = noisy(picture(320, 240), 2)
    shots: list[tuple[float, Image.Image | Exception]] = [(float(second), still.copy()) for second in range(45)]
    shots += [(45.0, moving), (46.0, still)]
    _, told, stats = filmed(shots)
    assert [status.state for status in told] == ["frozen", "moving"]
    assert "filmed: frozen" in told[0].line
    assert "30 s" in told[0].line
    assert told[1].seconds == 45
    assert stats.frozen_s == pytest.approx(44, abs=1.5)


def test_noise_alone_shows_that_a_camera_lives() -> None:
    scene = picture(320, 240)
    _, told, stats = filmed([(float(second), noisy(scene, second)) for second in range(60)])
    assert told == []
    assert stats.frozen_s == 0


def test_a_small_change_anywhere_shows_that_a_camera_lives() -> None:
    shots: list[tuple[float, Image.Image | Exception]] = []
    for second in range(60):
        image = picture(320, 240)
        image.putpixel((101, 53), (second, second, second))
        shots.append((float(second), image))
    _, told, _ = filmed(shots)
    assert told == []


def test_pictures_of_python_and_recordings_may_repeat_as_long_as_they_like() -> None:
    told: list[SourceStatus] = []
    reader = FrameReader(open_source([even(200)] * 100), on_status=told.append)
    assert len(rest(reader)) == 100
    reader.close()
    assert told == []
    assert reader.stats().frozen_s == 0
    assert open_source(clip("bikes.mp4"), realtime=True).recorded  # type: ignore[attr-defined]


def test_a_cameras_black_first_frames_are_left_out() -> None:
    shots: list[tuple[float, Image.Image | Exception]] = [(number / 10, even(3)) for number in range(30)]
    shots += [(3 + number / 10, picture()) for number in range(5)]
    found, _, stats = filmed(shots, camera=True)
    assert found[0] == 31  # the first that is as bright as the one before
    assert stats.dark_skipped == 31
    assert stats.captured == 35 == stats.handed_out + stats.late + stats.dark_skipped


def test_a_camera_whose_exposure_rises_is_waited_for() -> None:
    levels = [0, 0, 20, 45, 70, 95, 110, 120, 124, 125, 125, 125]
    found, _, _ = filmed([(number / 10, even(level)) for number, level in enumerate(levels)], camera=True)
    assert found == [9, 10, 11] or found == [8, 9, 10, 11]


def test_a_dark_scene_is_shown_after_a_while_and_a_source_of_one_black_frame_at_its_end() -> None:
    found, _, stats = filmed([(number / 2, even(0)) for number in range(20)], camera=True)
    assert found == list(range(10, 20))
    assert stats.dark_skipped == 10
    assert filmed([(0.0, even(0))], camera=True)[0] == [0]


def test_a_bright_start_and_a_night_with_a_lamp_are_shown_at_once() -> None:
    assert filmed([(0.0, even(255)), (0.1, even(120))], camera=True)[0] == [0, 1]
    lamp = even(2)
    lamp.paste((255, 255, 255), (10, 10, 16, 16))
    assert filmed([(0.0, lamp)], camera=True)[0] == [0]


def test_nothing_but_damage_is_told_once_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BROKEN_S", 0.2)
    bad = FrameDamaged("filmed: a picture is cut off")
    shots: list[tuple[float, Image.Image | Exception]] = [(0.0, bad)] * 12
    found, told, stats = filmed([*shots, (1.0, even(99))])
    assert [status.state for status in told] == ["broken", "whole"]
    assert told[0].line.startswith("filmed: a picture is cut off; every frame for")
    assert found == [12]
    assert stats.damaged == 12


def test_a_damaged_frame_now_and_then_is_counted_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BROKEN_S", 0.1)
    bad = FrameDamaged("filmed: a picture is cut off")
    shots: list[tuple[float, Image.Image | Exception]] = [(0.0, bad), (0.1, even(9))] * 5
    _, told, stats = filmed(shots)
    assert told == []
    assert stats.damaged == 5


def test_what_is_left_out_as_unchanged_is_handed_out_marked_where_that_is_asked_for() -> None:
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
