"""Sources of the server's own (`serve --source NAME=camera:0`): each is read once, for all windows that watch it.

A source is opened for its first watcher and closed after its last. Each watcher takes the newest frame when it is ready
for one; frames that it misses are counted. A source that is not live waits for the quickest of its watchers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FrameReader, SourceStatus
from edge_interleave.media.sources.open import open_source
from edge_interleave.serve.errors import ApiError

_WAIT_S = 0.5


class SharedSources:
    """The named sources of a server. Thread-safe."""

    def __init__(self, specs: Mapping[str, str]) -> None:
        """`specs`: name to `camera:0`, `rtsp://...` or what else `open_source` takes."""
        self._specs = dict(specs)
        # One for each, since opening a camera or a network stream takes seconds.
        self._locks = {name: threading.Lock() for name in specs}
        self._feeds: dict[str, _Feed] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names; their addresses may hold passwords and are never shown."""
        return tuple(self._specs)

    def watch(self, name: str) -> Watcher:
        """Start to watch a source. Raises ApiError if there is none of that name, or it cannot be opened."""
        if name not in self._specs:
            known = ", ".join(self._specs) or "none; start the server with --source NAME=camera:0"
            raise ApiError(404, f"no source of that name here; there are: {known}", "watch", "not_found")
        with self._locks[name]:
            feed = self._feeds.get(name)
            if feed is None or feed.finished:
                try:
                    feed = _Feed(self._specs[name])
                except MediaError as error:
                    raise ApiError(502, str(error), "watch", "source_failed", "server_error") from error
                self._feeds[name] = feed
            return Watcher(self, name, feed)

    def leave(self, name: str, feed: _Feed) -> None:
        """End one watcher's use of a source; the last one closes it."""
        with self._locks[name]:
            feed.watchers -= 1
            if feed.watchers:
                return
            if self._feeds.get(name) is feed:
                del self._feeds[name]
            feed.close()

    def close(self) -> None:
        """Close all sources, except one that is just being opened: its thread must not hold up the server's end."""
        for name, lock in self._locks.items():
            if lock.acquire(timeout=_WAIT_S):
                feed = self._feeds.pop(name, None)
                lock.release()
                if feed is not None:
                    feed.close()


class Watcher:
    """One window's view of a source. For one thread at a time."""

    def __init__(self, sources: SharedSources, name: str, feed: _Feed) -> None:
        """Use `SharedSources.watch`."""
        feed.watchers += 1
        self.ended = False
        """Whether no more frames come. Valid after `next` has returned None."""
        self.missed = 0
        """Frames that came while this watcher was not ready for one."""
        self._sources, self._name, self._feed = sources, name, feed
        # The newest frame of a source that others watch already is shown at once.
        self._count, self._status = max(0, feed.count - 1), feed.status
        self._closed = False

    def next(self) -> Frame | SourceStatus | None:
        """The next frame, or a change of the source's state; None if none came within half a second.

        Raises ApiError if the source failed.
        """
        feed = self._feed
        with feed.changed:
            feed.changed.wait_for(
                lambda: feed.count > self._count or feed.status is not self._status or feed.finished, _WAIT_S
            )
            if feed.status is not self._status:
                self._status = feed.status
                return feed.status
            if feed.count > self._count:
                self.missed += feed.count - self._count - 1
                self._count = feed.taken = feed.count
                feed.changed.notify_all()
                return feed.frame
            if feed.finished and feed.error is not None:
                raise ApiError(502, str(feed.error), "watch", "source_failed", "server_error")
            self.ended = feed.finished
        return None

    def close(self) -> None:
        """Stop watching. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._sources.leave(self._name, self._feed)


class _Feed:
    """One open source: a thread keeps its newest frame."""

    def __init__(self, spec: str) -> None:
        """Raises MediaError if the source cannot be opened."""
        self.changed = threading.Condition()
        self.count = self.taken = 0
        """Frames so far, and how many of them there were when a watcher last took the newest one."""
        self.frame: Frame | None = None
        self.status: SourceStatus | None = None
        self.finished = False
        self.error: BaseException | None = None
        self.watchers = 0
        source = open_source(spec, realtime=True)
        self._reader = FrameReader(source, on_status=self._report)
        self._live = source.live
        self._thread = threading.Thread(target=self._read, name="edge-interleave shared source", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the source."""
        self._reader.close()
        with self.changed:
            self.changed.notify_all()

    def _read(self) -> None:
        while not self._reader.ended:
            frame = self._reader.next(_WAIT_S)
            if frame is not None:
                with self.changed:
                    # Pictures of a folder wait until one of the watchers has taken the one before.
                    self.changed.wait_for(lambda: self._live or self.taken == self.count or self._reader.ended)
                    self.frame = frame
                    self.count += 1
                    self.changed.notify_all()
        with self.changed:
            self.finished, self.error = True, self._reader.error
            self.changed.notify_all()

    def _report(self, status: SourceStatus) -> None:
        with self.changed:
            self.status = status
            self.changed.notify_all()
