"""Runs one model: loads it at the first request, and serves a fair queue with one worker thread.

The worker runs one job at a time and does all slow work: opening pictures, encoding, prefill, sampling tokens. Jobs
check their handle's `cancel` between steps, so a client that disconnects frees the worker soon.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_interleave.errors import EdgeInterleaveError
from edge_interleave.serve.errors import ApiError, api_error, busy, stopping
from edge_interleave.serve.handle import Failed, Handle
from edge_interleave.serve.queue import FairQueue, QueueClosedError, QueueFullError

if TYPE_CHECKING:
    from edge_interleave.serve.loaded import LoadedModel

LOG = logging.getLogger("edge_interleave.serve")
CLOSED = "the server is shutting down"
_UNLOADED = "the model was unloaded"
_TYPICAL_S = 2.0
"""Estimated seconds of a request until the first is answered."""


class Observer(Protocol):
    """Receives the events of an engine. `Metrics` implements it."""

    def job_ended(self, model: str, waited_s: float, seconds: float) -> None:
        """Called when a job ends, also by an error."""
        ...

    def loaded(self, model: str, loaded: bool) -> None:
        """Called when a model was loaded or unloaded."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """Work for the model."""

    handle: Handle
    run: Callable[[LoadedModel], None]
    """Emits events to the handle; may raise."""


class Engine:
    """A queue and a worker thread for one model. Thread-safe."""

    def __init__(
        self,
        name: str,
        open_model: Callable[[Engine], LoadedModel],
        queue: int,
        keep_alive_s: float | None,
        observer: Observer,
    ) -> None:
        """`open_model` makes room for the model and loads it, in the worker's thread."""
        self.name = name
        self._open_model = open_model
        self._queue: FairQueue[Job] = FairQueue(queue)
        self._keep_alive_s = keep_alive_s
        self._observer = observer
        self._state = threading.Lock()
        """Held while the model is used, opened or closed."""
        self._model: LoadedModel | None = None
        self._running: Job | None = None
        self._typical_s = _TYPICAL_S
        self._used = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"edge-interleave serve {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits, or a live window is open."""
        model = self._model
        return self.running or self.waiting > 0 or (model is not None and model.windows > 0)

    @property
    def used(self) -> float:
        """When the model was last used, by `time.monotonic`."""
        return self._used

    @property
    def entries(self) -> int:
        """KV entries in use."""
        model = self._model
        return 0 if model is None else model.timelines.entries

    @property
    def model(self) -> LoadedModel | None:
        """The model; None if it is not loaded."""
        return self._model

    def submit(self, client: str, handle: Handle, run: Callable[[LoadedModel], None]) -> Job:
        """Queue a job of a client. Raises ApiError: 429 if too many wait, 503 while shutting down."""
        job = Job(handle, run)
        try:
            self._queue.put(client, job)
        except QueueFullError:
            waiting = self.waiting
            raise busy(f"{waiting} requests wait already; try again later", waiting * self._typical_s) from None
        except QueueClosedError:
            raise stopping() from None
        return job

    def forget(self, job: Job) -> None:
        """Remove a job from the queue, if it still waits."""
        self._queue.remove(job)

    def unload(self) -> bool:
        """Free the model unless it is in use. Returns whether it is unloaded now."""
        if not self._state.acquire(blocking=False):
            return False
        try:
            if self._model is None:
                return True
            if self.busy:
                return False
            self._close(_UNLOADED)
            return True
        finally:
            self._state.release()

    def stop_taking(self) -> None:
        """Refuse waiting and new jobs; the running job goes on."""
        for job in self._queue.close():
            job.handle.end(stopping())

    def stop(self, grace_s: float) -> None:
        """Wait for the running job, end it after `grace_s` seconds, and free the model."""
        self.stop_taking()
        self._thread.join(grace_s)
        job = self._running
        if job is not None:
            job.handle.end(stopping())
        model = self._model
        if self._thread.is_alive() and model is not None:
            model.close(CLOSED)
        self._thread.join(5.0)

    def _work(self) -> None:
        while True:
            job = self._queue.get(self._wait_s())
            if job is None:
                if self._queue.closed:
                    break
                if self._model is not None and not self._model.windows:
                    self.unload()
                continue
            if job.handle.cancel.is_set():
                continue
            self._do(job)
        with self._state:
            self._close(CLOSED)

    def _do(self, job: Job) -> None:
        self._running = job
        started = time.perf_counter()
        try:
            with self._state:
                if self._model is None:
                    self._model = self._open_model(self)
                    self._observer.loaded(self.name, True)
                job.run(self._model)
        except Exception as error:
            failure = api_error(error)
            if failure is not error:
                failure.__cause__ = error
            if failure.status >= 500 and isinstance(error, EdgeInterleaveError):
                LOG.warning("request failed: %s", error)
            elif failure.status >= 500 and not isinstance(error, ApiError):
                LOG.exception("request failed")
            job.handle.emit(Failed(failure))
        finally:
            self._running = None
            self._used = time.monotonic()
            seconds = time.perf_counter() - started
            self._typical_s += 0.2 * (seconds - self._typical_s)
            self._observer.job_ended(self.name, started - job.handle.arrived, seconds)

    def _wait_s(self) -> float | None:
        """Seconds to wait for a job before the model is unloaded; None: forever."""
        if self._keep_alive_s is None or self._model is None:
            return None
        return max(0.05, self._used + self._keep_alive_s - time.monotonic())

    def _close(self, reason: str) -> None:
        model, self._model = self._model, None
        if model is not None:
            model.close(reason)
            self._observer.loaded(self.name, False)
