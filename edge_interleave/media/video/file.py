"""Decodes one track of a video file or stream to upright RGB frames with FFmpeg (PyAV); can seek to key frames.

Only regular files are opened, by their absolute path, and FFmpeg is restricted by `ffmpeg_options`.
Why PyAV and not OpenCV: docs/decisions/0002-video-reading.md.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import struct
import threading
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_interleave.errors import BackendError, MediaError, one_line
from edge_interleave.media.files import open_media_file
from edge_interleave.media.pictures.image import MAX_PIXELS
from edge_interleave.media.video.damage import DamageGate
from edge_interleave.media.video.ffmpeg_options import FILE_OPTIONS
from edge_interleave.util.cpus import quota_limit
from edge_interleave.util.regular_file import display_name

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TS_DISCONTINUOUS = 0x200
"""FFmpeg's flag for containers whose time stamps may jump (AVFMT_TS_DISCONT)."""
_JUMP_S = 10.0
"""In such a container, a longer step between frames counts as a jump, as in the program `ffmpeg`."""
_REORDERED = 16
"""The largest number of frames by which a codec delays a frame."""
_BACK_S = (0.0, 2.0, 10.0)
"""How far before a key frame to seek, in seconds: tried in turn while the container lands after the key frame."""
_TRACK_PACKETS = 500
"""The number of packets to read to find out which tracks hold more than one frame; containers interleave tracks."""
_BT709 = 1
"""FFmpeg's number for BT.709, the transfer function and primaries of untagged video (ITU-T H.273, tables 2 and 3)."""
_FULL_HD = 1920 * 1088
_TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
"""The transpose for each corner (a, b, c, d) of a display matrix (ISO 14496-12, 6.2.2)."""


class PacketDamaged(Exception):
    """A packet cannot be decoded, or a live stream's frame is damaged. The next `read` continues after it."""


@dataclass(frozen=True)
class Timetable:
    """The times of a track's frames by its container, in the track's time unit."""

    times: array[int]
    """When each frame is shown (PTS), strictly ascending."""
    keys: array[int]
    """The times of the key frames, ascending."""
    key_reads: dict[int, int]
    """For each key frame's time, the time to seek to (DTS)."""


class VideoFile:
    """An open video. One thread reads; any thread may close it, which waits for a running read."""

    def __init__(self, path: Path | str, max_pixels: int = MAX_PIXELS) -> None:
        """Open a file.

        Raises MediaError if it is not a video or its frames exceed `max_pixels`, BackendError without PyAV.
        """
        open_media_file(path).close()
        # An absolute path cannot be taken for a protocol (`concat:`).
        self._begin_at(os.path.abspath(path), display_name(path), FILE_OPTIONS, None, max_pixels)

    @classmethod
    def at_address(
        cls,
        url: str,
        name: str,
        options: dict[str, str],
        timeouts_s: tuple[float, float],
        max_pixels: int,
        gate: DamageGate | None = None,
    ) -> VideoFile:
        """Open a video at an address.

        `name`: for messages. `options`: FFmpeg's, with the protocols and containers it may use. `timeouts_s`: seconds
        to open, and to read. `gate`: for live streams; frames that it finds damaged raise PacketDamaged.
        """
        video = cls.__new__(cls)
        video._begin_at(url, name, options, timeouts_s, max_pixels, gate)
        return video

    def _begin_at(
        self,
        place: str,
        name: str,
        options: dict[str, str],
        timeouts_s: tuple[float, float] | None,
        max_pixels: int,
        gate: DamageGate | None = None,
    ) -> None:
        self.name = name
        self._place = place
        self._options = options
        self._timeouts_s = timeouts_s
        self._max_pixels = max_pixels
        self._gate = gate
        self._lock = threading.Lock()
        self._closed = False
        self._flushed = False
        self._frames = 0
        self._key_lost = self._shown = False
        self._track_index: int | None = None
        self._turned: tuple[int, int, int] | None = None
        self._turn: Image.Transpose | None = None
        self._open()

    def read(self) -> av.VideoFrame | None:
        """The next frame in display order; None at the end, or when closed. Raises PacketDamaged."""
        with self._lock:
            while not self._closed:
                if self._decoded:
                    frame = self._decoded.popleft()
                    if self._gate is not None:
                        if not self._is_whole(frame, self._gate):
                            raise PacketDamaged
                        return frame
                    if self._key_lost and not frame.key_frame:
                        continue
                    self._key_lost, self._shown = False, True
                    return frame
                try:
                    packet = next(self._packets, None)
                except (self._av.FFmpegError, ValueError):  # the file is cut off, or its index is wrong
                    packet = None
                if packet is None:
                    if self._flushed:
                        return None
                    self._flushed = True
                self._decode(packet)
            return None

    def seek(self, table: Timetable, key: int) -> None:
        """Seek to the key frame at time `key`, or to a place before it: the next frames may be earlier ones."""
        with self._lock:
            if self._closed:
                return
            read_at = table.key_reads[key]
            for back_s in _BACK_S:
                try:
                    self._container.seek(read_at - math.ceil(back_s / self._unit_s), stream=self._track)
                    packets = self._container.demux(self._track)
                    first = next(packets)
                except (self._av.FFmpegError, StopIteration, OverflowError):
                    break
                at = first.pts if first.dts is None else first.dts
                if at is not None and at <= read_at:
                    self._begin(packets)
                    self._decode_or_skip(first)
                    return
            # If the container cannot seek there, read it from the start.
            self._container.close()
            self._open()

    def timetable(self) -> Timetable | None:
        """The times of all frames; None if the container has no time stamps or they contradict each other.

        Reads the file to its end without decoding it, so use a separate `VideoFile` for this.
        """
        times, keys, key_reads = array("q"), array("q"), {}
        before: int | None = None
        try:
            for packet in self._container.demux(self._track):
                if packet.size == 0 or packet.is_discard or self._is_hidden(packet):
                    continue
                if packet.pts is None or (before is not None and packet.dts is not None and packet.dts < before):
                    return None
                before = packet.dts if packet.dts is not None else before
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                    key_reads[packet.pts] = packet.pts if packet.dts is None else packet.dts
        except (self._av.FFmpegError, ValueError):
            pass
        times, keys = array("q", sorted(times)), array("q", sorted(keys))
        if not times or any(times[at] == times[at + 1] for at in range(len(times) - 1)):
            return None
        return Timetable(times, keys, key_reads)

    def seconds(self, ticks: int) -> float:
        """Convert a span in the track's time unit to seconds."""
        return ticks * self._unit_s

    @property
    def step_s(self) -> float:
        """The approximate seconds from frame to frame."""
        rate = self._track.average_rate or self._track.guessed_rate
        return 1 / float(rate) if rate else 1.0

    @property
    def may_jump(self) -> bool:
        """Whether time stamps may jump, because such containers can be concatenated."""
        return bool(self._container.format.flags & _TS_DISCONTINUOUS)

    def picture(self, frame: av.VideoFrame) -> Image.Image:
        """Convert a frame to an upright RGB picture. Raises MediaError if it is too large."""
        if frame.width * frame.height > self._max_pixels:
            raise self._too_large(frame.width, frame.height)
        if any(component.is_alpha for component in frame.format.components):
            clear = Image.fromarray(self._pixels(frame, "rgba"))
            image = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear).convert("RGB")
        else:
            image = Image.fromarray(self._pixels(frame, "rgb24"))
        # Reading a frame's display matrix keeps the frame in memory until the garbage collector runs, so it is read
        # only when the rotation or size changes.
        facts = (frame.rotation, frame.width, frame.height)
        if facts != self._turned:
            self._turned, self._turn = facts, _turn(frame)
        turn = self._turn
        return image if turn is None else image.transpose(turn)

    def close(self) -> None:
        """Free the file. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._decoded.clear()
                self._container.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._av = pyav()
        self._container = self._opened()
        tracks = _tracks(self._container)
        if not tracks:
            self._container.close()
            raise MediaError(f"{self.name}: holds no video that can be decoded; give MP4, MOV, MKV, WebM or AVI")
        if self._track_index is None:
            self._track_index = tracks[0].index if len(tracks) == 1 else self._shown_track()
        track = next((track for track in tracks if track.index == self._track_index), tracks[0])
        self._track = track
        width, height = track.codec_context.width, track.codec_context.height
        if width * height > self._max_pixels:
            self._container.close()
            raise self._too_large(width, height)
        track.thread_type = "AUTO"
        if (limit := quota_limit()) is not None:
            track.codec_context.thread_count = limit
        if self._gate is not None:
            # With one thread for each frame, a frame's error flags are complete when it is returned. Each thread adds
            # a frame of delay.
            track.thread_type = "FRAME"
            track.codec_context.thread_count = 2 if width * height <= _FULL_HD else 4
        # One converter serves all frames, because its table for HDR takes seconds to compute.
        self._converter = self._av.video.reformatter.VideoReformatter()
        self._unit_s = float(track.time_base or 1)
        self._begin(self._container.demux(track))

    def _opened(self) -> InputContainer:
        options = {"max_pixels": str(self._max_pixels), **self._options}
        try:
            container: InputContainer = self._av.open(self._place, options=options, timeout=self._timeouts_s)
        except (self._av.FFmpegError, UnicodeError, ValueError) as error:
            raise MediaError(
                f"{self.name}: not a video that can be read, or cut off; give MP4, MOV, MKV, WebM or AVI"
            ) from error
        return container

    def _shown_track(self) -> int:
        """The index of the main track: the first one with more than one frame, default tracks before others."""
        with self._opened() as container:
            tracks = _tracks(container)
            frames = {track.index: 0 for track in tracks}
            with contextlib.suppress(self._av.FFmpegError, ValueError):
                for packet in itertools.islice(container.demux(*tracks), _TRACK_PACKETS):
                    frames[packet.stream.index] += packet.size > 0
                    if frames[tracks[0].index] > 1:
                        break
            return max(tracks, key=lambda track: frames[track.index] > 1).index

    def _begin(self, packets: Iterator[av.Packet[VideoStream]]) -> None:
        self._packets = packets if self._gate is None else _flagged(packets, self._gate)
        self._decoded: deque[av.VideoFrame] = deque()
        self._flushed = False
        self._key_lost = self._shown = False

    def _decode(self, packet: av.Packet[VideoStream] | None) -> None:
        if packet is not None and packet.size == 0:
            self._flushed = True
        try:
            self._decoded.extend(self._track.codec_context.decode(packet))
        except self._av.error.EOFError:
            pass
        except self._av.FFmpegError as error:
            if self._gate is not None:
                self._gate.failed()
            # Frames that depend on a lost key frame are not usable.
            self._key_lost = self._key_lost or not self._shown
            raise PacketDamaged from error

    def _is_whole(self, frame: av.VideoFrame, gate: DamageGate) -> bool:
        self._frames += 1
        time_s = self._frames * self.step_s if frame.pts is None else self.seconds(frame.pts)
        return gate.frame(frame.pts, time_s, key=bool(frame.key_frame), corrupt=frame.is_corrupt)

    def _decode_or_skip(self, packet: av.Packet[VideoStream]) -> None:
        with contextlib.suppress(PacketDamaged):
            self._decode(packet)

    def _pixels(self, frame: av.VideoFrame, layout: str) -> npt.NDArray[np.uint8]:
        """A frame's pixels in BT.709, as a standard-range screen shows them; HDR is converted to that range."""
        try:
            shown = self._converter.reformat(frame, format=layout, dst_color_trc=_BT709, dst_color_primaries=_BT709)
        # FFmpeg cannot convert from the colour space that the frame claims.
        except self._av.FFmpegError:
            shown = self._converter.reformat(frame, format=layout)
        return np.asarray(shown.to_ndarray(), np.uint8)

    def _is_hidden(self, packet: av.Packet[VideoStream]) -> bool:
        """Whether the packet holds a VP8 frame that is only referred to and never shown (RFC 6386, 9.1)."""
        return self._track.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10

    def _too_large(self, width: int, height: int) -> MediaError:
        return MediaError(f"{self.name}: frames of {width} x {height} are too large; scale the video down")


class FrameClock:
    """Computes frame times in seconds from the first frame; they never fall, even in concatenated recordings."""

    def __init__(self, video: VideoFile) -> None:
        self._video = video
        self._shift_s = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0

    def time_s(self, ticks: int | None) -> float:
        """The time of the next frame, in seconds. `ticks`: its PTS in the track's time unit, if it has one."""
        step_s = self._video.step_s
        if ticks is None:
            stamp_s = self._last_s + step_s - self._shift_s if self._first_s is not None else 0.0
        else:
            stamp_s = self._video.seconds(ticks)
        if self._first_s is None:
            self._first_s, self._shift_s = stamp_s, -stamp_s
            return 0.0
        time_s = stamp_s + self._shift_s
        falls = stamp_s <= self._first_s or time_s < self._last_s - _REORDERED * step_s
        if falls or (self._video.may_jump and time_s > self._last_s + _JUMP_S):
            # Another recording starts here; its time continues that of the one before.
            time_s = self._last_s + step_s
            self._shift_s, self._first_s = time_s - stamp_s, stamp_s
        self._last_s = max(self._last_s, time_s)
        return self._last_s


def pyav() -> Any:
    """The module `av`. Raises BackendError if it cannot be imported."""
    try:
        import av
    except ImportError as error:
        raise BackendError(f"PyAV cannot be imported ({one_line(error)}); install it again: pip install av") from error
    return av


def _flagged(packets: Iterator[av.Packet[VideoStream]], gate: DamageGate) -> Iterator[av.Packet[VideoStream]]:
    """The packets, delayed by one: the gate gets each packet's flags together with those of the next one."""
    packet = next(packets, None)
    while packet is not None:
        following = next(packets, None)
        gate.packet(
            packet.pts,
            key=packet.is_keyframe,
            corrupt=packet.is_corrupt,
            next_corrupt=following is not None and following.is_corrupt,
        )
        yield packet
        packet = following


def _tracks(container: InputContainer) -> list[VideoStream]:
    """The tracks that can be decoded, without cover pictures; default tracks first."""
    tracks = [
        track
        for track in container.streams.video
        if track.codec_context is not None and not track.disposition & type(track.disposition).attached_pic
    ]
    return sorted(tracks, key=lambda track: not track.disposition & type(track.disposition).default)


def _turn(frame: av.VideoFrame) -> Image.Transpose | None:
    """The transpose that makes the picture upright, by its display matrix; None without one and for odd angles."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data))
    greatest = max(abs(value) for value in (a, b, c, d)) or 1
    near = tuple(value / greatest for value in (a, b, c, d))
    corner = tuple(round(value) for value in near)
    if any(abs(value - whole) > 0.1 for value, whole in zip(near, corner, strict=True)):
        return None
    return _TURNS.get(corner)
