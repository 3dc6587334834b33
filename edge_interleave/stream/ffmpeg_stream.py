"""A network stream, decoded by FFmpeg through PyAV: whole frames, and which frames are damaged.

OpenCV decodes with FFmpeg too, but does not show FFmpeg's flags: behind a lost packet it gives grey or smeared frames
as if they were whole. Decoded in software, because hardware decoders do not report damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

KEYLESS_S = 60.0
"""A stream without a key frame for so long has none (intra refresh): frames without errors count as whole again."""
_REMEMBERED = 64
"""Packets a decoder may hold back: the H.264 and H.265 limit is 16 frames, and each may be two fields."""
_FULL_HD = 1920 * 1088
_Matrix = tuple[int, int, int, int]


class DamageGate:
    """Tells whole frames from frames that build on lost data.

    A frame is whole behind a whole key frame, up to the next lost packet or decoding error. Demuxers may flag the
    packet before or behind the damaged one (parsers delay packets by one), so the neighbours count as damaged too; and
    a packet without a time stamp, in a stream that has them, lost its beginning.
    """

    def __init__(self) -> None:
        self._broken = True
        self._whole = False
        self._stamped = False
        self._before_corrupt = False
        self._packets: dict[int, bool] = {}
        self._waits_since: float | None = None

    def packet(self, pts: int | None, *, key: bool, corrupt: bool, next_corrupt: bool) -> None:
        """Take a packet's flags, in the order of decoding. `pts`: its time stamp, any unit."""
        if corrupt or next_corrupt or (self._stamped and pts is None):
            self._broken = True
        elif key and not self._before_corrupt:
            self._broken = False
        self._before_corrupt = corrupt
        if pts is not None:
            self._stamped = True
            self._packets[pts] = self._broken
            if len(self._packets) > _REMEMBERED:
                del self._packets[next(iter(self._packets))]

    def failed(self) -> None:
        """The packet could not be decoded."""
        self._broken, self._whole = True, False

    def frame(self, pts: int | None, time_s: float, *, key: bool, corrupt: bool) -> bool:
        """Whether a decoded frame is whole. `time_s`: its time in the stream."""
        missing = self._broken if not self._stamped else pts is None or self._packets.get(pts, self._broken)
        if corrupt or missing:
            self._whole = False
        elif key:
            self._whole = True
        if self._whole:
            self._waits_since = None
            return True
        if self._waits_since is None or time_s < self._waits_since:
            self._waits_since = time_s
        if time_s - self._waits_since >= KEYLESS_S and not corrupt:
            self._broken, self._whole, self._waits_since = False, True, None
            self._packets.clear()
        return self._whole


class FfmpegStream:
    """An open stream. For one thread; a read that waits ends with the time limit only."""

    def __init__(self, url: str, options: Mapping[str, str], open_s: float, read_s: float) -> None:
        """Connect. `options`: FFmpeg's. `open_s`, `read_s`: time limits. Raises OSError, ValueError."""
        self._container = av.open(
            url, options=dict(options), timeout=(open_s, read_s), metadata_errors="backslashreplace"
        )
        stream = self._container.streams.best("video")
        if stream is None:
            raise ValueError("no video in this stream")
        self._stream: Any = stream
        context: Any = self._stream.codec_context
        # By frames: only then are a frame's errors complete when it is given. Each thread more delays by one frame.
        context.thread_type = "FRAME"
        context.thread_count = 2 if context.width * context.height <= _FULL_HD else 4

    def frames(self) -> Iterator[tuple[float, npt.NDArray[np.uint8] | None]]:
        """Each frame: its time in seconds from the first, and (height, width, 3) RGB pixels, upright; None: damaged.

        Ends with the stream, or where the connection fails.
        """
        gate = DamageGate()
        rate = float(self._stream.average_rate or self._stream.base_rate or 25)
        first: float | None = None
        matrix: _Matrix | None = None
        index = 0
        try:
            for packet, following in pairwise(self._container.demux(self._stream)):
                gate.packet(
                    packet.pts, key=packet.is_keyframe, corrupt=packet.is_corrupt, next_corrupt=following.is_corrupt
                )
                try:
                    decoded = self._stream.codec_context.decode(packet)
                except FFmpegError:
                    gate.failed()
                    yield index / rate, None
                    continue
                # The last packet of all is empty, and has the decoder give what it holds back.
                if not following.size:
                    decoded += self._stream.codec_context.decode(None)
                for frame in decoded:
                    at = index / rate if frame.pts is None else float(frame.pts * self._stream.time_base)
                    index += 1
                    if first is None or matrix is None:
                        # Of the first frame only: each look makes a circle of references, which keeps the frame alive.
                        first, matrix = at, _matrix(frame)
                    whole = gate.frame(frame.pts, at, key=frame.key_frame, corrupt=frame.is_corrupt)
                    yield max(at - first, 0.0), _upright(frame, matrix) if whole else None
        except FFmpegError:
            return


def _matrix(frame: Any) -> _Matrix:
    """How the container wants a frame shown: a, b, c, d of x' = ax + cy, y' = bx + dy (ISO 14496-12, 8.3.2)."""
    said = frame.side_data.get("DISPLAYMATRIX")
    if said is None:
        return 1, 0, 0, 1
    # In 16.16 fixed point; the third of each row is for perspective.
    a, b, _, c, d = np.frombuffer(bytes(said), np.int32, 5).tolist()
    return a, b, c, d


def _upright(frame: Any, matrix: _Matrix) -> npt.NDArray[np.uint8]:
    """A frame's RGB pixels, turned and mirrored by `matrix`."""
    pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return pixels.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
