"""Clips: frames are evenly spread, upright and correctly timed; a malicious file opens no other file."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.pictures import clip, photograph, picture

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media import clip as clip_module
from edge_interleave.media.clip import Frame, sample_clip
from edge_interleave.media.video.opencv_capture import open_video


def numbered(index: int) -> np.ndarray:
    """A frame that shows its number as eight bars, one for each bit, which survive lossy codecs."""
    bits = [(index >> bit & 1) * 255 for bit in range(8)]
    return np.broadcast_to(np.repeat(np.array(bits, np.uint8), 8)[:, np.newaxis], (48, 64, 3)).copy()


def write_clip(path: Path, frames: int, fourcc: str) -> Path:
    """A video of numbered frames, ten a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 10, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(numbered(index))
    writer.release()
    return path


def number_of(frame: Frame) -> int:
    bars = np.asarray(frame.image).reshape(48, 8, 8, 3).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(8) if bars[bit] > 128)


def indices(frames: list[Frame]) -> list[int]:
    return [frame.index for frame in frames]


def spread(count: int, frames: int) -> list[int]:
    return np.linspace(0, count - 1, frames, dtype=int).tolist()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "numbers.mp4", 50, "mp4v")


@pytest.mark.parametrize(
    ("name", "length", "size"), [("bikes.mp4", 250, (640, 272)), ("bigbuckbunny.mp4", 132, (1280, 720))]
)
def test_real_clips_are_sampled_from_first_to_last(name: str, length: int, size: tuple[int, int]) -> None:
    frames = sample_clip(clip(name), 6)
    assert indices(frames) == spread(length, 6)
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in indices(frames)], abs=0.001)
    assert {(frame.image.mode, frame.image.size) for frame in frames} == {("RGB", size)}


def test_seeking_gives_the_same_frame_as_decoding_in_order() -> None:
    frames = {frame.index: frame for frame in sample_clip(clip("carphone_pristine.mp4"), 13)}
    capture = cv2.VideoCapture(str(clip("carphone_pristine.mp4")), cv2.CAP_FFMPEG)
    compared = 0
    for index in range(120):
        there, pixels = capture.read()
        assert there
        if index in frames:
            compared += 1
            assert (np.asarray(frames[index].image) == pixels[..., ::-1]).all()
    capture.release()
    assert compared == 13


@pytest.mark.parametrize(
    ("suffix", "fourcc"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".webm", "VP80")]
)
def test_containers(suffix: str, fourcc: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"numbers{suffix}", 50, fourcc)
    for wanted in (1, 4, 7, 49):
        frames = sample_clip(path, wanted)
        assert indices(frames) == spread(50, wanted)
        assert [number_of(frame) for frame in frames] == indices(frames)
        assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in indices(frames)], abs=0.002)


@pytest.mark.parametrize("wanted", [50, 51, 1000])
def test_a_clip_never_gives_a_frame_twice(mp4: Path, wanted: int) -> None:
    assert indices(sample_clip(mp4, wanted)) == list(range(50))


def test_pixels_are_in_rgb_order(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 32))
    for _ in range(3):
        writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))
    writer.release()
    red, green, blue = sample_clip(tmp_path / "red.avi", 1)[0].image.getpixel((16, 16))
    assert red > 240
    assert max(green, blue) < 20


def test_the_container_s_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    half = np.zeros((48, 64, 3), np.uint8)
    half[:24] = 255
    for _ in range(5):
        writer.write(half)
    writer.release()
    # The track header's matrix (ISO 14496-12, 8.3.2), 16.16 and 2.30 fixed point: a quarter turn clockwise.
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    path.write_bytes(content)
    image = sample_clip(path, 1)[0].image
    assert image.size == (48, 64)
    shown = np.asarray(image).mean(axis=(0, 2))
    assert shown[-8:].min() > 200
    assert shown[:8].max() < 50


def slow_down(path: Path, factor: int) -> None:
    """Make the second half of an MP4 of 50 frames `factor` times slower (ISO 14496-12, 8.6.1.2 and 8.6.6)."""
    content = bytearray(path.read_bytes())
    table = content.index(b"stts")
    (delta,) = struct.unpack_from(">I", content, table + 16)
    content[table + 8 : table + 20] = struct.pack(">5I", 2, 25, delta, 25, delta * factor)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        start = content.index(box) - 4
        struct.pack_into(">I", content, start, struct.unpack_from(">I", content, start)[0] + 8)
    struct.pack_into(">I", content, content.index(b"mdhd") + 20, 25 * delta * (1 + factor))
    struct.pack_into(">I", content, content.index(b"elst") + 12, 2500 * (1 + factor))
    path.write_bytes(content)


def test_a_variable_frame_rate_keeps_the_frames_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "slow.mp4", 50, "mp4v")
    slow_down(path, 10)
    frames = sample_clip(path, 6)
    assert [number_of(frame) for frame in frames] == indices(frames) == spread(50, 6)
    expected = [index / 10 if index <= 25 else 2.5 + (index - 25) for index in indices(frames)]
    assert [frame.time_s for frame in frames] == pytest.approx(expected, abs=0.002)


def claim_frames(path: Path, claimed: int) -> None:
    """Make an AVI's headers claim another number of frames."""
    content = bytearray(path.read_bytes())
    main, stream = content.index(b"avih") + 8, content.index(b"strh") + 8
    content[main + 16 : main + 20] = struct.pack("<I", claimed)
    content[stream + 32 : stream + 36] = struct.pack("<I", claimed)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "claimed",
    [
        0,
        12,
        90,
        4_000_000_000,
    ],
)
def test_a_container_with_a_wrong_length_is_still_sampled(claimed: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "liar.avi", 50, "MJPG")
    claim_frames(path, claimed)
    frames = sample_clip(path, 5)
    assert [number_of(frame) for frame in frames] == spread(50, 5)


def test_a_truncated_clip_gives_its_remaining_frames(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", 50, "MJPG").read_bytes()
    path = tmp_path / "half.avi"
    path.write_bytes(whole[: len(whole) // 2])
    frames = sample_clip(path, 4)
    numbers = [number_of(frame) for frame in frames]
    assert numbers[0] == 0
    assert 5 < numbers[-1] < 45
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations_are_clips(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "animation"
    stills = [Image.fromarray(numbered(index)) for index in range(8)]
    duration = [100, 200, 300, 400, 500, 600, 700, 800]
    stills[0].save(path, kind, save_all=True, append_images=stills[1:], duration=duration, **options)
    frames = sample_clip(path, 4)
    assert indices(frames) == [0, 2, 4, 7]
    assert [number_of(frame) for frame in frames] == [0, 2, 4, 7]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.3, 1.0, 2.8])
    assert indices(sample_clip(path, 100)) == list(range(8))


def test_a_real_animated_gif() -> None:
    frames = sample_clip(photograph("no_time_for_that_tiny.gif"), 5)
    assert indices(frames) == [0, 5, 11, 17, 23]
    pictures = [np.asarray(frame.image) for frame in frames]
    assert all((a != b).any() for a, b in pairwise(pictures))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_still_picture_is_a_clip_of_one_frame(kind: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "still", kind)
    (frame,) = sample_clip(tmp_path / "still", 4)
    assert (frame.index, frame.time_s, frame.image.size) == (0, 0.0, (64, 48))


def test_a_folder_of_pictures_is_a_clip_in_the_order_of_names(tmp_path: Path) -> None:
    for index in reversed(range(9)):
        Image.fromarray(numbered(index)).save(tmp_path / f"{index:03}.{'PNG' if index % 2 else 'bmp'}")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"not a picture")
    (tmp_path / "folder.png").mkdir()
    frames = sample_clip(tmp_path, 5)
    assert [number_of(frame) for frame in frames] == indices(frames) == [0, 2, 4, 6, 8]
    assert [frame.time_s for frame in frames] == [0, 2, 4, 6, 8]


def test_the_error_names_a_damaged_picture_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture at all")
    with pytest.raises(MediaError, match=r"a\.png: not an image"):
        sample_clip(tmp_path, 3)


@pytest.mark.parametrize("wanted", [0, -1])
def test_less_than_one_frame_is_a_usage_error(mp4: Path, wanted: int) -> None:
    with pytest.raises(UsageError, match="ask for 1 or more"):
        sample_clip(mp4, wanted)


def test_clips_that_would_exhaust_memory_are_refused(mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_module, "MAX_CLIP_PIXELS", 5 * 64 * 48)
    assert len(sample_clip(mp4, 5)) == 5
    with pytest.raises(MediaError, match="ask for fewer frames"):
        sample_clip(mp4, 6)
    monkeypatch.setattr(clip_module, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(MediaError, match="64 x 48 are too large"):
        sample_clip(mp4, 1)


def bad_clips(folder: Path) -> dict[str, Path]:
    good = clip("bikes.mp4").read_bytes()
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"hello, this is no video\n" * 100,
        "header.mp4": good[:32],
        "no moov.mp4": good[:50000],
        "zeros.avi": bytes(5000),
        "header.avi": b"RIFF\x00\x10\x00\x00AVI LIST",
        "cut.gif": photograph("no_time_for_that_tiny.gif").read_bytes()[:300],
        "script.sh": b"#!/bin/sh\necho\n",
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    (folder / "void").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    return paths | {name: folder / name for name in ("void", "pipe.mp4", "missing.mp4", "two\nlines.mp4")}


def test_unusable_clips_give_one_line_with_the_name(tmp_path: Path) -> None:
    for name, path in bad_clips(tmp_path).items():
        with pytest.raises(MediaError) as caught:
            sample_clip(path, 3)
        assert name.split("\n")[0] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_libraries_print_nothing_about_bad_clips(tmp_path: Path) -> None:
    """Runs in another process, because FFmpeg and OpenCV do not write to Python's sys.stderr."""
    bad_clips(tmp_path)
    script = (
        "import sys\n"
        "from edge_interleave.errors import MediaError\n"
        "from edge_interleave.media.clip import sample_clip\n"
        "for path in sys.argv[1:]:\n"
        "    try: sample_clip(path, 3)\n"
        "    except MediaError: print('refused')\n"
    )
    half = tmp_path / "half.mp4"
    half.write_bytes(damaged_in_the_middle())
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.count("refused") == len(paths) - 1


def damaged_in_the_middle() -> bytes:
    content = bytearray(clip("carphone_pristine.mp4").read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 3000] = bytes(range(250)) * 12
    return bytes(content)


def playlists(folder: Path, target: Path) -> dict[str, Path]:
    """Files that make an unrestricted FFmpeg open `target`."""
    contents = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
        "relative.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target.name}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {target.name}\n",
        "hidden.mp4": f"ffconcat version 1.0\nfile {target.name}\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "net.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    return {name: folder / name for name in contents}


def test_playlists_cannot_open_other_files(mp4: Path, tmp_path: Path) -> None:
    target = tmp_path / "secret.mp4"
    shutil.copy(mp4, target)
    for path in playlists(tmp_path, target).values():
        with pytest.raises(MediaError, match="not a video that can be read"):
            sample_clip(path, 2)
    # Without the restriction, FFmpeg does follow the playlist.
    capture = cv2.VideoCapture(str(tmp_path / "list.ffconcat"), cv2.CAP_FFMPEG)
    assert capture.isOpened()
    capture.release()


def test_protocols_devices_and_patterns_are_refused(mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        f"file://{mp4}",
        f"file:{mp4}",
        f"concat:{mp4}",
        "http://127.0.0.1:9/a.mp4",
        "rtsp://127.0.0.1:9/a",
        "0",
    ):
        with pytest.raises(MediaError, match="no such file"):
            sample_clip(name, 2)
    with pytest.raises(MediaError, match="not a regular file"):
        sample_clip("/dev/null", 2)
    # A file whose name looks like a protocol is still opened as a file.
    shutil.copy(mp4, tmp_path / "concat:other")
    assert indices(sample_clip("concat:other", 2)) == [0, 49]
    # FFmpeg would read this name as a pattern and open 001.ppm, 002.ppm, ...
    (tmp_path / "%03d.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    (tmp_path / "001.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    with pytest.raises(MediaError, match="not a video"):
        sample_clip("%03d.ppm", 2)


@pytest.mark.parametrize("before", [None, "rtsp_transport;udp"])
def test_the_environment_is_restored(before: str | None, mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    open_video(mp4).release()
    with pytest.raises(MediaError):
        open_video(clip("bikes.mp4").parent / "missing")
    assert os.environ.get(name) == before


def test_without_pyav_pictures_work_and_the_error_for_videos_says_what_to_install(mp4: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "still.gif")
    script = (
        "import sys\n"
        "sys.modules['av'] = None\n"
        "from edge_interleave.errors import BackendError\n"
        "from edge_interleave.media.clip import sample_clip\n"
        "print(len(sample_clip(sys.argv[1], 3)))\n"
        "try: sample_clip(sys.argv[2], 3)\n"
        "except BackendError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "still.gif"), str(mp4)]
    frames, said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert frames == "1"
    assert "pip install av" in said
