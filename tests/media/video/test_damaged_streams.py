"""Streams that lose packets or start between key frames: grey and smeared frames count as damaged."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from support.rtsp_server import playing

from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.open import open_source
from edge_interleave.media.video.damage import KEYLESS_S, DamageGate
from edge_interleave.media.video.file import PacketDamaged, VideoFile

PACKET = 188
FRAMES, GOP = 60, 20
Pixels = npt.NDArray[np.uint8]


def drawn(number: int) -> Image.Image:
    """A moving ball and a moving bar, which show smears."""
    image = Image.new("RGB", (160, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((2 * number, 20, 2 * number + 40, 60), fill="red")
    draw.rectangle((130 - 2 * number, 80, 150 - 2 * number, 110), fill="blue")
    return image


def encoded(codec: str, container: str = "mpegts", *, b_frames: int = 0, gop: int = GOP, **options: str) -> bytes:
    """FRAMES frames at 25 a second, with a key frame every `gop` frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.bit_rate = gop, b_frames, 400_000
        for number in range(FRAMES):
            output.mux(stream.encode(av.VideoFrame.from_image(drawn(number))))
        output.mux(stream.encode())
    return buffer.getvalue()


def losing(stream: bytes, seed: int, share: float) -> bytes:
    """A transport stream with packets removed. The first ones stay, because FFmpeg does not flag losses there."""
    packets = [stream[at : at + PACKET] for at in range(0, len(stream), PACKET)]
    kept = np.random.default_rng(seed).random(len(packets)) >= share
    kept[:25] = True
    return b"".join(packet for packet, keep in zip(packets, kept, strict=True) if keep)


STREAMS: dict[str, Callable[[], bytes]] = {
    "MPEG-4": lambda: encoded("mpeg4"),
    "MPEG-2 with B-frames": lambda: encoded("mpeg2video", b_frames=2),
    "H.264": lambda: encoded("libx264", tune="zerolatency"),
    "H.264 with B-frames": lambda: encoded("libx264", b_frames=3),
    "H.265": lambda: encoded("libx265", **{"x265-params": f"log-level=none:pools=1:keyint={GOP}"}),
}


def decoded(stream: bytes) -> list[Pixels]:
    with av.open(io.BytesIO(stream)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def outcomes(path: Path) -> list[Pixels | None]:
    """Each frame's pixels; None if it counts as damaged."""
    found: list[Pixels | None] = []
    with VideoFile.at_address(str(path), "stream", {}, (10, 10), 10**6, DamageGate()) as video:
        while True:
            try:
                frame = video.read()
            except PacketDamaged:
                found.append(None)
                continue
            if frame is None:
                return found
            found.append(np.asarray(video.picture(frame)))


def alike(one: Pixels, other: Pixels) -> bool:
    """Whether two pictures are the same except for edges, which every codec softens."""
    height, width, _ = one.shape
    blocks = (one.astype(np.float32) - other).reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    return bool((np.abs(blocks).max(axis=2) > 60).mean() < 0.004)


def all_among(found: list[Pixels], right: list[Pixels]) -> bool:
    """Whether each frame equals one of the right ones, in order."""
    at = 0
    for pixels in found:
        while at < len(right) and not alike(pixels, right[at]):
            at += 1
    return at < len(right)


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_no_frame_that_depends_on_a_lost_packet_counts_as_whole(make: Callable[[], bytes], tmp_path: Path) -> None:
    stream = make()
    right = decoded(stream)
    lossy = 0
    for seed, share in enumerate((0.01, 0.03, 0.03, 0.1)):
        path = tmp_path / f"{seed}.ts"
        path.write_bytes(losing(stream, seed, share))
        found = outcomes(path)
        whole = [pixels for pixels in found if pixels is not None]
        lossy += len(found) > len(whole)
        assert all_among(whole, right)
        assert len(whole) >= GOP // 2 or share == 0.1
    assert lossy >= 2


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_a_stream_without_loss_gives_all_frames(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "film.ts").write_bytes(make())
    found = outcomes(tmp_path / "film.ts")
    assert len(found) == FRAMES
    for number, pixels in enumerate(found):
        assert pixels is not None
        assert alike(pixels, np.asarray(drawn(number)))


def read_all(url: str) -> tuple[list[Pixels], int]:
    """The frames until the stream is lost, and the number of damaged ones."""
    source = open_source(url)
    source.open()
    frames: list[Pixels] = []
    damaged = 0
    while True:
        try:
            frame = source.read()
        except FrameDamaged:
            damaged += 1
        except SourceLost:
            break
        else:
            assert frame is not None
            frames.append(np.asarray(frame.image))
    source.close()
    return frames, damaged


def test_joining_between_key_frames_gives_nothing_before_the_next_one() -> None:
    stream = encoded("mpeg4")
    packets = [stream[at : at + PACKET] for at in range(0, len(stream), PACKET)]
    # The stream's tables, then the part from behind the first key frame on.
    late = b"".join(packets[:3] + packets[len(packets) // 6 :])
    with playing(late, then_silent=False) as url:
        frames, damaged = read_all(url)
    assert damaged >= 5
    assert FRAMES - GOP - 2 <= len(frames) <= FRAMES - GOP
    assert alike(frames[0], np.asarray(drawn(GOP)))


def test_lost_packets_of_a_network_camera_raise_frame_damaged() -> None:
    stream = encoded("libx264", tune="zerolatency")
    with playing(losing(stream, 3, 0.05), then_silent=False) as url:
        frames, damaged = read_all(url)
    assert damaged > 0
    assert frames
    assert all_among(frames, [np.asarray(drawn(number)) for number in range(FRAMES)])


# The gate alone, by flags


def gated(packets: str) -> str:
    """The gate's verdicts (1 whole, 0 damaged) for packets: K key, . other, C corrupt, x corrupt key."""
    gate, found = DamageGate(), ""
    for number, kind in enumerate(packets):
        following = packets[number + 1 : number + 2]
        key = kind in "Kx"
        gate.packet(number, key=key, corrupt=kind in "Cx", next_corrupt=following in ("C", "x"))
        found += "01"[gate.frame(number, number / 25, key=key, corrupt=False)]
    return found


@pytest.mark.parametrize(
    ("packets", "whole"),
    [
        ("K....K..", "11111111"),
        ("....K..", "0000111"),
        ("K..C..K..", "110000111"),
        ("K....x...K.", "11110000011"),
        ("K...CK..K.", "1110000011"),
    ],
    ids=["no loss", "joined late", "a lost packet", "a lost key frame", "the flag is on the packet before"],
)
def test_frames_are_whole_from_a_whole_key_frame_until_the_next_loss(packets: str, whole: str) -> None:
    assert gated(packets) == whole


def test_a_frame_that_the_decoder_concealed_ends_the_run_of_whole_frames() -> None:
    gate = DamageGate()
    found = []
    for number in range(6):
        gate.packet(number, key=number in (0, 4), corrupt=False, next_corrupt=False)
        found.append(gate.frame(number, number / 25, key=number in (0, 4), corrupt=number == 2))
    assert found == [True, True, False, False, True, True]


def test_a_packet_without_a_time_stamp_among_others_with_one_is_damaged() -> None:
    gate = DamageGate()
    stamps = [0, 1, None, 3, 4]
    found = []
    for number, pts in enumerate(stamps):
        gate.packet(pts, key=number in (0, 2, 4), corrupt=False, next_corrupt=False)
        found.append(gate.frame(pts, number / 25, key=number in (0, 2, 4), corrupt=False))
    assert found == [True, True, False, False, True]


def test_a_stream_without_any_time_stamps_is_whole() -> None:
    gate = DamageGate()
    for number in range(5):
        gate.packet(None, key=number == 0, corrupt=False, next_corrupt=False)
        assert gate.frame(None, number / 25, key=number == 0, corrupt=False)


def test_a_stream_without_key_frames_counts_as_whole_after_a_while() -> None:
    gate = DamageGate()
    found = []
    for second in range(int(KEYLESS_S) + 5):
        gate.packet(second, key=False, corrupt=False, next_corrupt=False)
        found.append(gate.frame(second, float(second), key=False, corrupt=False))
    assert found == [False] * int(KEYLESS_S) + [True] * 5
