"""Network sources: MJPEG over HTTP, and other video over HTTP and RTSP.

`mjpeg` reads MJPEG. FFmpeg decodes everything else in a capture process, restricted to network protocols and to
containers that hold their own frames: a stream cannot open a local file, and playlists (HLS) are not followed. A frame
of a live stream has the time of its arrival.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from PIL import Image

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.capture.process import CaptureFailed, CaptureLost, CaptureProcess
from edge_interleave.media.frame import Frame
from edge_interleave.media.http.dial import dial
from edge_interleave.media.http.multipart import PartError
from edge_interleave.media.http.stream import MAX_URL, HttpStream
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.mjpeg import MjpegReader
from edge_interleave.media.sources.playback import PlaybackClock
from edge_interleave.media.video.ffmpeg_options import HTTP_OPTIONS, RTSP_OPTIONS
from edge_interleave.util.addresses import check_login, without_secrets
from edge_interleave.util.regular_file import display_name

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
"""A stream without a complete frame for this long is lost."""
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


class _Closable(Protocol):
    """A connection or process; any thread may close it."""

    def close(self) -> None: ...


class NetworkSource:
    """A stream at an http, https, rtsp or rtsps address."""

    def __init__(self, url: str, *, realtime: bool = False) -> None:
        """`realtime`: play a recording at its own speed. Raises UsageError for an invalid address."""
        check_login(url)
        try:
            parts = urlsplit(url)
            valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and len(url) <= MAX_URL
        except ValueError:
            valid = False
        if not valid:
            raise UsageError(
                f"{display_name(without_secrets(url))}: not an address; give one like http://host:port/path"
            )
        self.name = display_name(without_secrets(url))
        self.live = True
        self._url = url
        self._realtime = realtime
        self._state = threading.Lock()
        self._stop = threading.Event()
        self._handle: _Closable | None = None
        self._reader: MjpegReader | _CaptureReader | None = None
        self._began: float | None = None
        self._playback = PlaybackClock(self._stop)
        self._index = 0

    @property
    def recorded(self) -> bool:
        """Whether the address is that of a recording, which has an end and may have still scenes."""
        return self._reader is not None and self._reader.recorded

    @property
    def warms_up(self) -> bool:
        """Whether this may be a camera, whose first frames may be dark."""
        return not self.recorded

    def open(self) -> None:
        """Connect. Raises MediaError if there is no usable stream."""
        self._reader = None
        try:
            if urlsplit(self._url).scheme.lower() in ("rtsp", "rtsps"):
                self._check_connection(self._url)
                self._reader = self._open_capture(self._url, RTSP_OPTIONS, recorded=False)
            else:
                self._reader = self._open_http()
        except BaseException:
            self._release()
            raise
        self.live = self._realtime or not self._reader.recorded
        if self._began is None:
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame; None at a recording's end. Raises SourceLost (also at a live stream's end), FrameDamaged."""
        reader = self._reader
        if reader is None or self._stop.is_set():
            return None
        try:
            frame = reader.read()
        except FrameDamaged:
            if self._stop.is_set():
                return None
            self._index += 1
            raise
        except (CaptureLost, OSError, http.client.HTTPException, EOFError) as error:
            self._release()
            if self._stop.is_set():
                return None
            why = "no data in time" if isinstance(error, TimeoutError) else str(error) or "the connection broke"
            raise SourceLost(f"{self.name}: the stream is lost ({why})") from error
        if frame is None or self._stop.is_set():
            self._release()
            return None
        image, at = frame
        index, self._index = self._index, self._index + 1
        if not reader.recorded:
            return Frame(image, max(at - (self._began or 0.0), 0.0), index)
        if self._realtime:
            self._playback.wait(at)
        return Frame(image, at, index)

    def close(self) -> None:
        """Abort the connection."""
        with self._state:
            self._stop.set()
        self._release()

    def _open_http(self) -> MjpegReader | _CaptureReader:
        stream = HttpStream(self._url, self.name, OPEN_TIMEOUT_S)
        self._hold(stream)
        stream.connect()
        if stream.content_type.startswith("multipart/"):
            try:
                return MjpegReader(self.name, stream, READ_TIMEOUT_S)
            except PartError as error:
                raise MediaError(f"{self.name}: {error}; this is not a usable MJPEG stream") from error
        if stream.content_type.startswith(_NO_STREAMS):
            raise MediaError(
                f"{self.name}: sends {display_name(stream.content_type)}, which is not a stream; give the address of "
                "an MJPEG stream or a video"
            )
        stream.close()
        return self._open_capture(stream.url, HTTP_OPTIONS, recorded=stream.length is not None)

    def _open_capture(self, url: str, options: Mapping[str, str], *, recorded: bool) -> _CaptureReader:
        request: dict[str, Any] = {"url": url, "options": {**options, **_tls_options()}, "recorded": recorded}
        request |= {"open_s": OPEN_TIMEOUT_S, "read_s": READ_TIMEOUT_S}
        # FFmpeg respects its time limits for HTTP but not always for RTSP, so they are enforced here as well.
        process = CaptureProcess(self.name, request, OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        self._hold(process)
        try:
            process.start()
        except CaptureFailed as error:
            trust = ", and that its certificate is trusted" if url.lower().startswith("rtsps:") else ""
            raise MediaError(
                f"{self.name}: no video that can be played, or none in {OPEN_TIMEOUT_S:.0f} s; check the address{trust}"
            ) from error
        return _CaptureReader(self.name, process, recorded)

    def _check_connection(self, url: str) -> None:
        """Connect once before FFmpeg does, because FFmpeg does not say why it fails. Raises MediaError."""
        parts = urlsplit(url)
        port = parts.port or (322 if parts.scheme.lower() == "rtsps" else 554)
        try:
            dial(parts.hostname or "", port, time.monotonic() + OPEN_TIMEOUT_S, self._stop).close()
        except OSError as error:
            why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise MediaError(f"{self.name}: cannot be reached ({why}); check the address and that it is on") from error

    def _hold(self, handle: _Closable) -> None:
        with self._state:
            if self._stop.is_set():
                raise MediaError(f"{self.name}: closed")
            self._handle = handle

    def _release(self) -> None:
        with self._state:
            handle = self._handle
        if handle is not None:
            handle.close()


class _CaptureReader:
    """The frames of a capture process."""

    def __init__(self, name: str, process: CaptureProcess, recorded: bool) -> None:
        self.recorded = recorded
        self._name = name
        self._process = process

    def read(self) -> tuple[Image.Image, float] | None:
        """The next picture, RGB, and its time in a recording, or its time of arrival by `time.monotonic`.

        None at a recording's end. Raises FrameDamaged, CaptureLost, EOFError at a live stream's end, MediaError if
        frames are too large.
        """
        captured = self._process.read()
        if captured is None:
            if self.recorded:
                return None
            raise EOFError("it ended, or sent no data in time")
        if captured.pixels is None:
            raise FrameDamaged(f"{self._name}: a frame is damaged, or depends on lost data")
        return Image.fromarray(captured.pixels), captured.time_s if self.recorded else time.monotonic()


def _tls_options() -> dict[str, str]:
    """FFmpeg options that make it check certificates, as it does not by default, against those that Python trusts."""
    known = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": known} if known else {})}
