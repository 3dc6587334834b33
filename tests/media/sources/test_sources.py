"""Local sources of frames: videos, folders that fill up, iterables, cameras."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.mjpeg_server import jpeg, number_of
from support.pictures import clip, photograph, picture
from support.processes import child_processes

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.frame import Frame
from edge_interleave.media.sources import folder as folder_module
from edge_interleave.media.sources.base import FrameDamaged, Source, SourceLost
from edge_interleave.media.sources.open import open_source


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a thread, a descriptor or a process behind."""
    threads, files, children = set(threading.enumerate()), len(os.listdir("/dev/fd")), child_processes()
    yield
    assert set(threading.enumerate()) <= threads  # one of an earlier test's server may have ended meanwhile
    assert len(os.listdir("/dev/fd")) <= files
    assert child_processes() <= children


def frames_of(source: Source) -> Iterator[Frame]:
    """All frames until the source ends."""
    source.open()
    while (frame := source.read()) is not None:
        yield frame
    source.close()


def refusal(spec: object) -> str:
    with pytest.raises((MediaError, UsageError)) as caught:
        open_source(spec).open()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names of sources


@pytest.mark.parametrize("spec", ["rtmp://host/x", "file:///etc/passwd", "concat://a", "camera:", "camera:x"])
def test_a_name_that_stands_for_no_source_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(spec)
    assert spec in str(caught.value)


def test_a_missing_camera_gives_one_line() -> None:
    message = refusal("camera:9")
    assert message.startswith("camera:9: no such camera")


def test_opening_a_camera_can_be_aborted() -> None:
    source = open_source("camera:9")

    def start() -> None:
        with pytest.raises(MediaError):
            source.open()

    opening = threading.Thread(target=start)
    opening.start()
    time.sleep(0.02)
    started = time.monotonic()
    source.close()
    opening.join()
    assert time.monotonic() - started < 1


# Videos


def test_a_video_gives_every_frame_at_its_time() -> None:
    source = open_source(clip("carphone_pristine.mp4"))
    assert not source.live
    frames = list(frames_of(source))
    capture = cv2.VideoCapture(str(clip("carphone_pristine.mp4")), cv2.CAP_FFMPEG)
    for frame in frames:
        _, pixels = capture.read()
        assert (np.asarray(frame.image) == pixels[..., ::-1]).all()
    capture.release()
    assert [frame.index for frame in frames] == list(range(120))
    assert [frame.time_s for frame in frames] == pytest.approx([index * 1001 / 30000 for index in range(120)], abs=1e-3)


def test_a_video_in_real_time_plays_at_its_own_speed() -> None:
    source = open_source(clip("bikes.mp4"), realtime=True)
    assert source.live
    source.open()
    started = time.monotonic()
    # Frame 20, at 25 frames a second.
    for _ in range(21):
        frame = source.read()
    assert frame is not None
    assert time.monotonic() - started >= frame.time_s == pytest.approx(0.8, abs=0.01)
    source.close()


def test_a_video_that_waits_for_the_next_frame_s_time_closes_at_once() -> None:
    source = open_source(clip("bikes.mp4"), realtime=True)
    source.open()
    reading = threading.Thread(target=lambda: list(iter(source.read, None)))
    reading.start()
    time.sleep(0.2)
    started = time.monotonic()
    source.close()
    reading.join()
    assert time.monotonic() - started < 1


def test_a_damaged_video_continues_behind_the_damage(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        with Image.open(io.BytesIO(jpeg(number))) as image:
            writer.write(np.asarray(image)[..., ::-1].copy())
    writer.release()
    content = bytearray((tmp_path / "film.avi").read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"00dc"]
    for at in starts[8:10]:
        content[at + 8 : at + 108] = bytes(100)
    (tmp_path / "film.avi").write_bytes(content)
    source = open_source(tmp_path / "film.avi")
    source.open()
    found = []
    while True:
        try:
            frame = source.read()
        except FrameDamaged:
            continue
        if frame is None:
            break
        found.append(number_of(frame.image))
    source.close()
    assert found[:8] == list(range(8))
    assert found[-10:] == list(range(10, 20))


def test_files_that_are_no_video_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    shutil.copy(clip("carphone_pristine.mp4"), secret)
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"no video\n" * 100,
        "header.mp4": clip("bikes.mp4").read_bytes()[:32],
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        "hidden.mp4": b"ffconcat version 1.0\nfile secret.mp4\n",
        "stream.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "cat.gif": photograph("no_time_for_that_tiny.gif").read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert name in refusal(tmp_path / name)
    assert "a picture, not a video" in refusal(tmp_path / "cat.gif")
    assert "no such file" in refusal(tmp_path / "missing.mp4")
    assert "not a regular file" in refusal("/dev/zero")


# Folders


class Watching:
    """Reads a folder source in a thread, as a FrameReader does."""

    def __init__(self, folder: Path) -> None:
        self.source = open_source(folder)
        self.source.open()
        self.frames: list[Frame] = []
        self.damaged: list[str] = []
        self.lost: list[str] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                frame = self.source.read()
            except FrameDamaged as error:
                self.damaged.append(str(error))
                continue
            except SourceLost as error:
                self.lost.append(str(error))
                frame = None
            if frame is None:
                return
            with self._news:
                self.frames.append(frame)
                self._news.notify_all()

    def wait(self, frames: int) -> list[int]:
        """The numbers of the frames, after waiting for this many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.frames) >= frames, 10)
        return [number_of(frame.image) for frame in self.frames]

    def close(self) -> None:
        started = time.monotonic()
        self.source.close()
        self._thread.join()
        assert time.monotonic() - started < 1


def settle(path: Path, age_s: float = 60) -> None:
    os.utime(path, (time.time() - age_s,) * 2)


def put(folder: Path, name: str, number: int, *, old: bool = False) -> None:
    (folder / name).write_bytes(jpeg(number))
    if old:
        settle(folder / name)


def test_a_folder_gives_its_pictures_by_name_and_then_new_ones(tmp_path: Path) -> None:
    for name, number in (("b.jpg", 2), ("a.jpg", 1), ("c.JPG", 3)):
        put(tmp_path, name, number, old=True)
    (tmp_path / "notes.txt").write_text("no picture")
    put(tmp_path, ".hidden.jpg", 9, old=True)
    watching = Watching(tmp_path)
    assert watching.wait(3) == [1, 2, 3]
    put(tmp_path, "0.jpg", 4)
    assert watching.wait(4) == [1, 2, 3, 4]
    # Write as careful programs do: to a temporary file, then rename.
    put(tmp_path, "5.part", 5, old=True)
    (tmp_path / "5.part").rename(tmp_path / "5.jpg")
    assert watching.wait(5) == [1, 2, 3, 4, 5]
    watching.close()
    assert not watching.source.live
    times = [frame.time_s for frame in watching.frames]
    assert times[:3] == [0, 1, 2]
    assert times == sorted(times)
    assert times[4] > times[3]
    assert [frame.index for frame in watching.frames] == [0, 1, 2, 3, 4]


def test_an_empty_folder_is_watched(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    time.sleep(0.3)
    assert watching.frames == []
    put(tmp_path, "first.jpg", 7, old=True)
    assert watching.wait(1) == [7]
    watching.close()


def test_a_file_that_is_being_written_is_read_when_complete(tmp_path: Path) -> None:
    content = jpeg(6)
    watching = Watching(tmp_path)
    with (tmp_path / "slow.jpg").open("wb") as file:
        for at in range(0, len(content), len(content) // 6 + 1):
            file.write(content[at : at + len(content) // 6 + 1])
            file.flush()
            time.sleep(0.3)
    assert watching.wait(1) == [6]
    watching.close()
    assert watching.damaged == []


def test_a_damaged_file_is_skipped_once_and_read_when_it_is_repaired(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", 1, old=True)
    (tmp_path / "b.jpg").write_bytes(jpeg(2)[:200])
    settle(tmp_path / "b.jpg")
    put(tmp_path, "c.jpg", 3, old=True)
    watching = Watching(tmp_path)
    assert watching.wait(2) == [1, 3]
    time.sleep(0.7)
    assert len(watching.damaged) == 1
    assert "b.jpg" in watching.damaged[0]
    put(tmp_path, "b.jpg", 2)
    settle(tmp_path / "b.jpg", 30)
    assert watching.wait(3) == [1, 3, 2]
    watching.close()


def test_a_deleted_folder_is_lost_and_continues_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    put(folder, "a.jpg", 1, old=True)
    source = open_source(folder)
    source.open()
    first = source.read()
    folder.rename(tmp_path / "away")
    with pytest.raises(SourceLost, match="stick"):
        source.read()
    with pytest.raises(MediaError, match="stick"):
        source.open()
    (tmp_path / "away").rename(folder)
    put(folder, "b.jpg", 2, old=True)
    source.open()
    second = source.read()
    source.close()
    assert first is not None
    assert second is not None
    assert [number_of(frame.image) for frame in (first, second)] == [1, 2]


def test_a_file_with_a_future_time_is_read_when_it_stays_unchanged(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", 1)
    settle(tmp_path / "a.jpg", -3600)
    watching = Watching(tmp_path)
    assert watching.wait(1) == [1]
    watching.close()


def test_a_folder_of_photographs_is_read() -> None:
    source = open_source(photograph("coffee.png").parent)
    source.open()
    sizes = set()
    for _ in range(5):
        frame = source.read()
        assert frame is not None
        assert frame.image.mode == "RGB"
        sizes.add(frame.image.size)
    source.close()
    assert len(sizes) > 1


# Iterables


def test_an_iterable_of_pictures_is_a_source() -> None:
    grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    items = [np.asarray(picture()), grey, picture().convert("L"), Frame(picture(), 12.5, 99)]
    frames = list(frames_of(open_source(item for item in items)))
    assert [frame.time_s for frame in frames] == [0, 1, 2, 12.5]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert {frame.image.mode for frame in frames} == {"RGB"}
    assert (np.asarray(frames[0].image) == np.asarray(picture())).all()
    assert (np.asarray(frames[1].image)[..., 0] == grey).all()


def test_an_array_of_pictures_is_a_source() -> None:
    assert len(list(frames_of(open_source(np.zeros((5, 8, 9, 3), np.uint8))))) == 5
    assert [frame.image.size for frame in frames_of(open_source(np.zeros((2, 8, 9), np.uint8)))] == [(9, 8)] * 2


@pytest.mark.parametrize(
    "spec",
    [np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8), b"bytes", 7, None, picture()],
    ids=["a picture", "a grey picture", "bytes", "a number", "nothing", "a Pillow image"],
)
def test_an_object_that_is_no_sequence_of_pictures_is_a_usage_error(spec: object) -> None:
    with pytest.raises(UsageError):
        open_source(spec)  # type: ignore[arg-type]


def test_in_an_iterable_a_damaged_file_is_skipped_and_a_wrong_array_ends_it(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(jpeg(1)[:100])
    source = open_source([tmp_path / "bad.jpg", jpeg(2), np.zeros((4, 4, 3))])
    source.open()
    with pytest.raises(FrameDamaged, match=r"number 0: .*bad\.jpg"):
        source.read()
    frame = source.read()
    assert frame is not None
    assert number_of(frame.image) == 2
    with pytest.raises(MediaError, match="uint8 is needed") as caught:
        source.read()
    assert not isinstance(caught.value, FrameDamaged)


# Changing files of a folder


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder source in which files need no waiting time after their last change."""
    monkeypatch.setattr(folder_module, "SETTLED_S", 0.1)
    monkeypatch.setattr(folder_module, "POLL_S", 0.02)


def replace_file(folder: Path, number: int) -> None:
    (folder / ".new").write_bytes(jpeg(number))
    os.replace(folder / ".new", folder / "latest.jpg")


def rewrite(folder: Path, number: int) -> None:
    (folder / "latest.jpg").write_bytes(jpeg(number))


def rewrite_in_same_size(folder: Path, number: int) -> None:
    (folder / "latest.jpg").write_bytes(jpeg(number).ljust(4000, b"\0"))


def rewrite_with_the_old_time(folder: Path, number: int) -> None:
    rewrite_in_same_size(folder, number)
    os.utime(folder / "latest.jpg", (1_700_000_000, 1_700_000_000))


def link(folder: Path, number: int, make: Callable[[Path, Path], None]) -> None:
    target = folder.parent / "elsewhere" / f"{number}.jpg"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(jpeg(number))
    make(folder / ".new", target)
    os.replace(folder / ".new", folder / "latest.jpg")


def link_by_name(folder: Path, number: int) -> None:
    link(folder, number, Path.symlink_to)


def link_hard(folder: Path, number: int) -> None:
    link(folder, number, Path.hardlink_to)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "change",
    [
        *(replace_file, rewrite, rewrite_in_same_size, rewrite_with_the_old_time, link_by_name, link_hard),
    ],
)
def test_a_name_is_read_again_when_another_picture_lies_behind_it(
    change: Callable[[Path, int], None], tmp_path: Path
) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    watching = Watching(folder)
    for number in range(1, 5):
        change(folder, number)
        assert watching.wait(number) == list(range(1, number + 1))
    watching.close()
    assert watching.damaged == []
    assert {frame.name for frame in watching.frames} == {"latest.jpg"}


@pytest.mark.usefixtures("hasty")
def test_a_file_with_changed_metadata_and_the_same_picture_is_not_read_again(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", 1, old=True)
    watching = Watching(tmp_path)
    assert watching.wait(1) == [1]
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.jpg").chmod(0o600)
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")
    (tmp_path / "latest.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    time.sleep(0.4)
    put(tmp_path, "c.jpg", 2, old=True)
    assert watching.wait(2) == [1, 2]
    watching.close()


@pytest.mark.usefixtures("hasty")
def test_a_link_to_the_latest_picture_gives_no_picture_twice(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    for number in range(1, 4):
        put(tmp_path, f"{number}.jpg", number, old=True)
        (tmp_path / ".new").symlink_to(tmp_path / f"{number}.jpg")
        os.replace(tmp_path / ".new", tmp_path / "latest.jpg")
        watching.wait(number)
    time.sleep(0.2)
    assert watching.wait(3) == [1, 2, 3]
    watching.close()


@pytest.mark.usefixtures("hasty")
def test_a_picture_that_never_stops_changing_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "SETTLED_S", 0.3)
    watching = Watching(tmp_path)
    stop = time.monotonic() + 2
    number = 0
    while time.monotonic() < stop:
        replace_file(tmp_path, number)
        number += 1
        time.sleep(0.08)
    found = watching.wait(5)
    watching.close()
    assert watching.damaged == []
    assert found == sorted(set(found))


@pytest.mark.usefixtures("hasty")
def test_a_picture_that_is_slowly_overwritten_is_never_reported_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "SETTLED_S", 0.3)
    put(tmp_path, "latest.jpg", 1, old=True)
    watching = Watching(tmp_path)
    watching.wait(1)
    content = jpeg(2)
    with (tmp_path / "latest.jpg").open("wb") as file:
        for at in range(0, len(content), len(content) // 8 + 1):
            file.write(content[at : at + len(content) // 8 + 1])
            file.flush()
            time.sleep(0.1)
    assert watching.wait(2) == [1, 2]
    watching.close()
    assert watching.damaged == []


def test_a_folders_initial_pictures_have_no_clock_times_and_later_ones_do(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"{number}.jpg", number, old=True)
    watching = Watching(tmp_path)
    watching.wait(3)
    put(tmp_path, "later.jpg", 3, old=True)
    watching.wait(4)
    watching.close()
    assert [(frame.name, frame.timed) for frame in watching.frames] == [
        *(("0.jpg", False), ("1.jpg", False), ("2.jpg", False)),
        ("later.jpg", True),
    ]
