"""Runs the server with uvicorn: listening, signals, shutdown."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from edge_interleave.errors import EdgeInterleaveError, InputError, ResourceError, UsageError
from edge_interleave.serve.app import Serving
from edge_interleave.serve.engine import LOG
from edge_interleave.serve.settings import Settings

_FLUSH_S = 1.0
_MARGIN_S = 5.0
"""Seconds that uvicorn waits beyond the answers' grace, so that ended answers can send their error."""


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called with the server's URL once it accepts requests.

    Raises EdgeInterleaveError where a model cannot be loaded or the address cannot be had.
    """
    serving = Serving(settings)
    listening = _listen(settings)
    scheme = "https" if settings.tls_cert else "http"
    host, port = listening.getsockname()[:2]
    config = uvicorn.Config(
        serving.app(),
        log_level="warning",
        access_log=False,
        server_header=False,
        # The grace starts at the signal; uvicorn's limit is only a backstop.
        timeout_graceful_shutdown=int(settings.limits.grace_s + _MARGIN_S),
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=1 << 16,
        ws_max_size=settings.limits.body_bytes,
        ssl_certfile=None if settings.tls_cert is None else str(settings.tls_cert),
        ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
        lifespan="on",
    )
    try:
        if config.is_ssl:
            config.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{settings.tls_cert}: no certificate with its key ({error}); give PEM files") from error
    # What goes wrong at the start is said once, by the error that ends the command.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(config, serving, lambda: ready(f"{scheme}://{_shown(host)}:{port}"))
    try:
        with listening:
            server.run(sockets=[listening])
    except SystemExit:  # some versions of uvicorn exit if the start failed, others return
        if serving.startup_error is None:
            raise
    failed = serving.startup_error
    if failed is not None:
        cause = failed.__cause__
        raise cause if isinstance(cause, EdgeInterleaveError) else EdgeInterleaveError(failed.message)


class _Server(uvicorn.Server):
    """At a signal, refuses waiting requests at once and lets running answers finish."""

    def __init__(self, config: uvicorn.Config, serving: Serving, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        LOG.setLevel(logging.ERROR)  # a model that cannot be loaded is named by the error that ends the command
        await super().startup(sockets)
        LOG.setLevel(logging.NOTSET)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown. Unlike uvicorn, do not raise the signal again afterwards: it is not a failure."""
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT
            return
        self.should_exit = True
        self._serving.hub.stop_taking()
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self._serving.hub.stop(self._serving.settings.limits.grace_s)
        # Time to send the last pieces. After that, do not wait up to half a minute for idle TLS connections.
        time.sleep(_FLUSH_S)
        self.force_exit = True


def _listen(settings: Settings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {settings.host}: not an address of this machine ({error})") from error
    listening = socket.socket(found[0], found[1])
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise ResourceError(
            f"cannot listen at {settings.host}:{settings.port} ({error.strerror}); choose another --port or --host"
        ) from error
    listening.set_inheritable(False)
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
