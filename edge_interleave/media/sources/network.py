"""A source that is an address: MJPEG over HTTP, which cameras speak, or whatever FFmpeg plays over HTTP and RTSP.

MJPEG is read here: the parts of a multipart body, each a JPEG, within caps and time limits. The rest goes to
FFmpeg in a process of its own, with network protocols and containers alone: nothing in a stream can open a local file,
and playlists (HLS) are not followed. Frames of a live stream have the time of their arrival.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.capture.process import MAX_STREAM_PIXELS, CaptureFailed, CaptureLost, CaptureProcess
from edge_interleave.media.frame import Frame
from edge_interleave.media.http.dial import dial
from edge_interleave.media.http.multipart import MultipartParser, PartError
from edge_interleave.media.http.stream import HttpStream
from edge_interleave.media.pictures.image import opened, to_rgb
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.playback import PlaybackClock
from edge_interleave.media.video.opencv_capture import HTTP_OPTIONS, RTSP_OPTIONS
from edge_interleave.util.addresses import check_login, without_secrets
from edge_interleave.util.regular_file import display_name

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
"""A stream that gives no whole frame for so long is lost."""
_END = b"\xff\xd9"
_TAIL_BYTES = 1024
"""Some cameras send bytes of their own behind the end marker."""
_FILLING = bytes((0xB5, 0xA6, 0x5B, 0x6C, 0x93, 0xD4)) * 8
_NO_STREAMS = (
    "text/",
    "image/",
    "audio/",
    "application/json",
    "application/xml",
    "application/dash+xml",
    "application/x-mpegurl",
    "application/vnd.apple.mpegurl",
)


class _Part(Protocol):
    """What holds a handle and may be closed by any thread."""

    def close(self) -> None: ...


class NetworkSource:
    """A stream at an http, https, rtsp or rtsps address."""

    def __init__(self, url: str, *, realtime: bool = False) -> None:
        """`realtime`: a recording plays at its own pace. Raises UsageError where the address makes no sense."""
        check_login(url)
        try:
            parts = urlsplit(url)
            sensible = bool(parts.hostname) and parts.port != 0 and url.isprintable() and len(url) <= 8192
        except ValueError:
            sensible = False
        if not sensible:
            raise UsageError(
                f"{display_name(without_secrets(url))}: not an address; give it as in http://host:port/path"
            )
        self.name = display_name(without_secrets(url))
        self.live = True
        self._url = url
        self._realtime = realtime
        self._state = threading.Lock()
        self._stop = threading.Event()
        self._handle: _Part | None = None
        self._reading: _Mjpeg | _Played | None = None
        self._began: float | None = None
        self._playback = PlaybackClock(self._stop)
        self._index = 0

    @property
    def recorded(self) -> bool:
        """Whether it is a recording, which has an end, and still scenes that are no fault."""
        return self._reading is not None and self._reading.recorded

    @property
    def warms_up(self) -> bool:
        """Whether it may be a camera that begins black."""
        return not self.recorded

    def open(self) -> None:
        """Connect. Raises MediaError where there is no stream."""
        self._reading = None
        try:
            if urlsplit(self._url).scheme.lower() in ("rtsp", "rtsps"):
                self._reading = self._play(self._url, RTSP_OPTIONS, recorded=False, ask_first=True)
            else:
                self._reading = self._open_http()
        except BaseException:
            self._let_go()
            raise
        self.live = self._realtime or not self._reading.recorded
        if self._began is None:
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame. Raises SourceLost, FrameDamaged. A recording has an end, a live stream is lost there."""
        reading = self._reading
        if reading is None or self._stop.is_set():
            return None
        try:
            frame = reading.read()
        except FrameDamaged:
            if self._stop.is_set():
                return None
            self._index += 1
            raise
        except (CaptureLost, OSError, http.client.HTTPException, EOFError) as error:
            self._let_go()
            if self._stop.is_set():
                return None
            why = "nothing came in time" if isinstance(error, TimeoutError) else str(error) or "the connection broke"
            raise SourceLost(f"{self.name}: the stream is lost ({why})") from error
        if frame is None or self._stop.is_set():
            self._let_go()
            return None
        image, at = frame
        index, self._index = self._index, self._index + 1
        if not reading.recorded:
            return Frame(image, max(at - (self._began or 0.0), 0.0), index)
        if self._realtime:
            self._playback.wait(at)
        return Frame(image, at, index)

    def close(self) -> None:
        """Break off the connection."""
        with self._state:
            self._stop.set()
        self._let_go()

    def _open_http(self) -> _Mjpeg | _Played:
        stream = HttpStream(self._url, self.name, OPEN_TIMEOUT_S)
        self._hold(stream)
        stream.connect()
        if stream.content_type.startswith("multipart/"):
            try:
                return _Mjpeg(self.name, stream)
            except PartError as error:
                raise MediaError(f"{self.name}: {error}; no MJPEG stream that can be read") from error
        if stream.content_type.startswith(_NO_STREAMS):
            raise MediaError(
                f"{self.name}: sends {display_name(stream.content_type)}, which is no stream; give the address of "
                "MJPEG or of a video"
            )
        stream.close()
        return self._play(stream.url, HTTP_OPTIONS, recorded=stream.length is not None, ask_first=False)

    def _play(self, url: str, options: Mapping[str, str], *, recorded: bool, ask_first: bool) -> _Played:
        if ask_first:
            self._ask_for_connection(url)
        wanted: dict[str, Any] = {"url": url, "options": {**options, **_trusted()}, "recorded": recorded}
        wanted |= {"open_s": OPEN_TIMEOUT_S, "read_s": READ_TIMEOUT_S}
        # FFmpeg keeps its limits for HTTP; with RTSP it can go on waiting, so they are kept here, too.
        process = CaptureProcess(self.name, wanted, OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        self._hold(process)
        try:
            process.start()
        except CaptureFailed as error:
            trust = ", and that its certificate is trusted" if url.lower().startswith("rtsps:") else ""
            raise MediaError(
                f"{self.name}: no video that can be played, or none in {OPEN_TIMEOUT_S:.0f} s; check the address{trust}"
            ) from error
        return _Played(self.name, process, recorded)

    def _ask_for_connection(self, url: str) -> None:
        """FFmpeg does not say why it fails; a connection of our own does."""
        parts = urlsplit(url)
        port = parts.port or (322 if parts.scheme.lower() == "rtsps" else 554)
        try:
            dial(parts.hostname or "", port, time.monotonic() + OPEN_TIMEOUT_S, self._stop).close()
        except OSError as error:
            said = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise MediaError(f"{self.name}: cannot be reached ({said}); check the address and that it is on") from error

    def _hold(self, part: _Part) -> None:
        with self._state:
            if self._stop.is_set():
                raise MediaError(f"{self.name}: closed")
            self._handle = part

    def _let_go(self) -> None:
        with self._state:
            handle = self._handle
        if handle is not None:
            handle.close()


def _trusted() -> dict[str, str]:
    """FFmpeg's options that have it check certificates, which it does not by itself; against what Python trusts."""
    known = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": known} if known else {})}


class _Mjpeg:
    """JPEGs out of a multipart body."""

    recorded = False

    def __init__(self, name: str, stream: HttpStream) -> None:
        self._name = name
        self._stream = stream
        self._parser = MultipartParser(stream.boundary.encode("latin-1", "replace"))
        self._last = time.monotonic()

    def read(self) -> tuple[Image.Image, float] | None:
        """A picture and when it had come. Raises FrameDamaged, OSError, HTTPException, EOFError."""
        try:
            while (part := self._parser.next()) is None:
                if self._parser.ended:
                    raise EOFError("the server ended it")
                data = self._stream.read(self._left())
                if not data:
                    raise EOFError("the server closed the connection")
                self._parser.feed(data)
        except PartError as error:
            self._left()
            raise FrameDamaged(f"{self._name}: {error}") from error
        self._last = time.monotonic()
        return _jpeg(self._name, part), self._last

    def _left(self) -> float:
        """What is left of the time in which a frame has to come, however many bytes come meanwhile."""
        left = self._last + READ_TIMEOUT_S - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Played:
    """Frames that FFmpeg decodes."""

    def __init__(self, name: str, process: CaptureProcess, recorded: bool) -> None:
        self.recorded = recorded
        self._name = name
        self._process = process

    def read(self) -> tuple[Image.Image, float] | None:
        """A picture and its time: a recording's own, or when it came.

        Raises FrameDamaged, CaptureLost, EOFError, MediaError where frames are too large.
        """
        captured = self._process.read()
        if captured is None:
            if self.recorded:
                return None
            raise EOFError("it ended, or nothing came in time")
        if captured.pixels is None:
            raise FrameDamaged(f"{self._name}: a frame is damaged, or builds on lost data")
        return Image.fromarray(captured.pixels), captured.time_s if self.recorded else time.monotonic()


def _jpeg(name: str, data: bytes) -> Image.Image:
    if not data.startswith(b"\xff\xd8\xff"):
        raise FrameDamaged(f"{name}: sent something that is no JPEG")
    try:
        if _END not in data[-_TAIL_BYTES:]:
            return _completed(name, data)
        return _decoded(name, data)
    except FrameDamaged:
        raise
    except MediaError as error:
        raise FrameDamaged(f"{name}: {error}") from error


def _completed(name: str, data: bytes) -> Image.Image:
    """A JPEG that its camera sends without the end marker. Raises FrameDamaged where more is missing.

    A decoder fills what is missing with what it likes, and does not say so. So different bytes are put behind the data:
    they show in the picture where its own are too few, and are skipped where those are complete. Restart markers are
    among them, because a decoder that waits for one skips all else.
    """
    data = data.removesuffix(b"\xff")
    image = _decoded(name, data + _END)
    filling = b"".join(_FILLING + bytes((0xFF, 0xD0 + number)) for number in range(8))
    if np.array_equal(np.asarray(image), np.asarray(_decoded(name, data + filling + _FILLING + _END))):
        return image
    raise FrameDamaged(f"{name}: a picture is cut off")


def _decoded(name: str, data: bytes) -> Image.Image:
    with opened(data) as image:
        if image.width * image.height > MAX_STREAM_PIXELS:
            raise FrameDamaged(f"{name}: a picture of {image.width} x {image.height} is too large")
        return to_rgb(image)
