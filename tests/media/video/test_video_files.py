"""VideoFile: the right frames of the right track from every container, upright, in the right colours."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.media_files import Track, number_of, write_video

from edge_interleave.errors import MediaError
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.sources.open import open_source
from edge_interleave.media.video.file import VideoFile

FRAMES = 60
IRREGULAR = [int(time) for time in np.cumsum(np.random.default_rng(9).choice([16, 33, 50, 100, 200], FRAMES))]
"""Milliseconds."""
CONTAINERS = [
    ("mp4", "mpeg4", 0),
    ("mp4", "libx264", 2),
    ("mov", "libx264", 2),
    ("matroska", "mpeg4", 2),
    ("matroska", "libx264", 2),
    ("webm", "libvpx", 0),
    ("flv", "libx264", 2),
    ("mpegts", "mpeg2video", 2),
    ("mpegts", "libx264", 2),
    ("avi", "mpeg4", 0),
    ("avi", "libx264", 2),
    ("mpeg", "mpeg2video", 2),
    ("vob", "mpeg2video", 2),
    ("asf", "mpeg4", 0),
    ("h264", "libx264", 2),
    ("mpeg2video", "mpeg2video", 2),
    ("mjpeg", "mjpeg", 0),
]


def in_order(path: Path) -> tuple[list[int], list[float]]:
    """The numbers and times of all frames."""
    source = open_source(path)
    source.open()
    frames = list(iter(source.read, None))
    source.close()
    return [number_of(frame.image) for frame in frames], [frame.time_s for frame in frames]


def check_frames(path: Path, count: int) -> None:
    """Check that sampling any number of frames returns the right ones, at rising times."""
    for wanted in (1, 2, 6, 13, count, count + 5):
        frames = sample_clip(path, wanted)
        expected = np.linspace(0, count - 1, min(wanted, count), dtype=int).tolist()
        assert [number_of(frame.image) for frame in frames] == expected
        assert [frame.index for frame in frames] == expected
        times = [frame.time_s for frame in frames]
        assert times == sorted(set(times))
    numbers, times = in_order(path)
    assert numbers == list(range(count))
    assert times == sorted(set(times))


@pytest.mark.parametrize(("container", "codec", "b_frames"), CONTAINERS)
def test_every_frame_is_found_in_every_container(container: str, codec: str, b_frames: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", Track(range(FRAMES), codec, b_frames=b_frames), format=container)
    check_frames(path, FRAMES)


@pytest.mark.parametrize(
    ("container", "codec", "b_frames"),
    [
        ("mp4", "libx264", 2),
        ("matroska", "libx264", 2),
        ("webm", "libvpx", 0),
        ("flv", "libx264", 0),
        ("mpegts", "libx264", 2),
    ],
)
def test_irregular_frames_are_counted_and_keep_their_times(
    container: str, codec: str, b_frames: int, tmp_path: Path
) -> None:
    track = Track(range(FRAMES), codec, IRREGULAR, b_frames)
    path = write_video(tmp_path / "video", track, format=container)
    check_frames(path, FRAMES)
    expected = [(time - IRREGULAR[0]) / 1000 for time in IRREGULAR]
    assert [frame.time_s for frame in sample_clip(path, FRAMES)] == pytest.approx(expected, abs=0.002)
    assert in_order(path)[1] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mpegts", "libx264"),
        ("mpegts", "mpeg2video"),
        ("mpeg", "mpeg2video"),
        ("vob", "mpeg2video"),
        ("h264", "libx264"),
    ],
)
def test_concatenated_recordings_are_one_clip(container: str, codec: str, tmp_path: Path) -> None:
    joined = b""
    for part in range(3):
        numbers = range(20 * part, 20 * part + 20)
        joined += write_video(tmp_path / "part", Track(numbers, codec, b_frames=2), format=container).read_bytes()
    path = tmp_path / "joined"
    path.write_bytes(joined)
    check_frames(path, 60)
    times = in_order(path)[1]
    if container != "h264":
        # A container without time stamps.
        assert times[-1] == pytest.approx(5.9, abs=0.5)
    assert max(np.diff(times)) < 0.5
    assert [frame.time_s for frame in sample_clip(path, 60)] == pytest.approx(times)


def test_a_recording_of_another_day_follows_the_first_one_at_once(tmp_path: Path) -> None:
    first = write_video(tmp_path / "first", Track(range(20), "libx264"), format="mpegts").read_bytes()
    later = [10**6 + 100 * index for index in range(20)]
    second = write_video(tmp_path / "second", Track(range(20, 40), "libx264", later), format="mpegts").read_bytes()
    (tmp_path / "joined").write_bytes(first + second)
    numbers, times = in_order(tmp_path / "joined")
    assert numbers == list(range(40))
    assert times[-1] < 5


def test_a_long_clip_is_not_decoded_to_find_a_few_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "long.mkv", Track([n % 256 for n in range(600)], "libx264", b_frames=2))
    decoded = []
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda video: decoded.append(1) or read(video))
    assert [number_of(frame.image) for frame in sample_clip(path, 3)] == [0, 299 - 256, 599 - 512]
    assert len(decoded) < 60


# Tracks


@pytest.mark.parametrize(
    ("name", "tracks", "shown"),
    [
        ("second.mkv", [Track([9], default=False), Track(range(20, 30))], 20),
        ("third.mkv", [Track([9]), Track([8], default=False), Track(range(20, 30))], 20),
        ("third.mp4", [Track(range(10), default=False), Track([8], default=False), Track(range(20, 30))], 20),
        ("first.mkv", [Track(range(10)), Track(range(20, 30), default=False)], 0),
        ("none.mkv", [Track(range(10), default=False), Track(range(20, 30), default=False)], 0),
        ("cover.mp4", [Track([9], "mjpeg", default=False, cover=True), Track(range(20, 30))], 20),
        ("cover.mkv", [Track([9], "mjpeg"), Track(range(20, 30), default=False)], 20),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_main_track_of_several_is_decoded(name: str, tracks: list[Track], shown: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, *tracks)
    assert [number_of(frame.image) for frame in sample_clip(path, 99)] == list(range(shown, shown + 10))
    assert in_order(path)[0] == list(range(shown, shown + 10))


def test_a_cover_picture_alone_is_no_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "song.mp4", Track([9], "mjpeg", default=False, cover=True))
    with pytest.raises(MediaError, match="holds no video that can be decoded"):
        sample_clip(path, 3)


# Orientation


@pytest.mark.parametrize(
    "corner",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1, 3])
def test_the_display_matrix_is_applied(corner: tuple[int, int, int, int], scale: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", Track([0b0111, 0b0111]))
    stored = np.asarray(sample_clip(path, 1)[0].image).astype(int)
    content = bytearray(path.read_bytes())
    # The track header's matrix (ISO 14496-12, 8.3.2), 16.16 and 2.30 fixed point.
    start, (a, b, c, d) = content.index(b"tkhd") + 4 + 40, (value * scale << 16 for value in corner)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    a, b, c, d = corner
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    expected = np.zeros((down.max() + 1, right.max() + 1, 3), int)
    expected[down, right] = stored
    for image in (sample_clip(path, 1)[0].image, first(path)):
        assert image.size == expected.shape[1::-1]
        assert np.abs(np.asarray(image) - expected).max() == 0


def first(path: Path) -> Image.Image:
    source = open_source(path)
    source.open()
    frame = source.read()
    source.close()
    assert frame is not None
    return frame.image


# Colours

COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (220, 30, 30),
    (30, 160, 60),
    (128, 128, 128),
    (255, 255, 255),
    (0, 0, 0),
]


def coloured(path: Path, matrix: str, tag: int, full_range: bool, transfer: int | None = None) -> Path:
    """Stripes of known colours, tagged with the matrix of their encoding (ITU-T H.273, table 4)."""
    stripes = np.repeat(np.array(COLOURS, np.uint8), 32, axis=0)[np.newaxis].repeat(64, axis=0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 256, "yuv420p"
        stream.options = {"qp": "4"}
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full_range else 1
        if transfer is not None:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 9
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stripes), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=2 if full_range else 1
            )
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "tag"), [("itu601", 6), ("itu709", 1), ("bt2020", 9)])
def test_the_clip_s_colour_matrix_and_range_are_applied(
    matrix: str, tag: int, full_range: bool, tmp_path: Path
) -> None:
    image = sample_clip(coloured(tmp_path / "colours.mp4", matrix, tag, full_range), 1)[0].image
    for index, colour in enumerate(COLOURS):
        assert np.abs(np.subtract(image.getpixel((index * 32 + 16, 32)), colour)).max() <= 4


def test_hdr_is_converted_to_standard_range(tmp_path: Path) -> None:
    image = sample_clip(coloured(tmp_path / "hdr.mp4", "bt2020", 9, False, 16), 1)[0].image
    # OpenCV 5.0.0's result for PQ of these values. A value of 128 is 92 cd/m2, nearly the white of a screen.
    for index, colour in {
        0: (255, 38, 1),
        1: (19, 234, 90),
        2: (4, 177, 255),
        5: (187, 184, 187),
        7: (0, 0, 0),
    }.items():
        assert np.abs(np.subtract(image.getpixel((index * 32 + 16, 32)), colour)).max() <= 6


def test_transparent_parts_of_a_video_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((32, 128, 4), np.uint8)
    pixels[:, :64] = (200, 0, 0, 255)
    with av.open(str(tmp_path / "clear.mov"), "w") as out:
        stream = out.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 128, "rgba"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    image = sample_clip(tmp_path / "clear.mov", 2)[0].image
    assert image.getpixel((10, 10)) == (200, 0, 0)
    assert image.getpixel((100, 10)) == (255, 255, 255)


# Damage


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi", "mpeg"])
def test_damaged_videos_give_frames_or_one_line(container: str, tmp_path: Path) -> None:
    codec = "mpeg2video" if container in ("mpegts", "mpeg") else "mpeg4"
    path = write_video(tmp_path / "video", Track(range(30), codec), format=container)
    whole = path.read_bytes()
    random = np.random.default_rng(5)
    for _ in range(15):
        content = bytearray(whole)
        for at in random.integers(0, len(content), 12):
            content[at] = random.integers(0, 256)
        path.write_bytes(content[: random.integers(len(content) // 3, len(content))])
        times, said = [], ""
        try:
            times = [frame.time_s for frame in sample_clip(path, 4)]
        except MediaError as error:
            said = str(error)
        assert times == sorted(times)
        assert "\n" not in said


def test_a_video_without_its_beginning_starts_at_the_first_usable_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.ts", Track(range(60), "libx264", b_frames=2), format="mpegts")
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 188 // 2 * 188 :])
    numbers = [number_of(frame.image) for frame in sample_clip(path, 5)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 59
