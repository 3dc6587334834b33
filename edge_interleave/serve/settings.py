"""How a server is set up: what the command line says, and the limits that hold for every request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Bounds that no request gets around."""

    body_bytes: int = 64 << 20
    """Of one request."""
    all_bodies_bytes: int = 512 << 20
    """Of all requests that are being read or wait for their turn."""
    media: int = 64
    """Images and frames of one request."""
    messages: int = 1024
    text_characters: int = 1 << 20
    """Of all texts of a request."""
    video_bytes: int = 48 << 20
    queue: int = 64
    """Requests that wait at one model; the next ones get 429."""
    request_s: float = 600.0
    """From a request's arrival to the end of its answer."""
    grace_s: float = 30.0
    """After SIGTERM, for answers that have begun."""
    windows: int = 4
    """Live windows at a time."""
    window_idle_s: float = 300.0
    """A live window that nobody uses for so long is closed."""
    window_frames: int = 64
    embedding_bytes: int = 256 << 20
    """Of visual tokens that are kept, by content."""


def limits_within(memory: int | None) -> Limits:
    """Limits whose bodies, pictures and visual tokens take a fifth of so many bytes at most; None: the usual ones."""
    usual = Limits()
    if memory is None:
        return usual
    # A body is there up to three times: as it came, as base64 text, and as the pictures' content.
    share = memory // 20
    return replace(
        usual,
        body_bytes=min(usual.body_bytes, share),
        all_bodies_bytes=min(usual.all_bodies_bytes, share),
        video_bytes=min(usual.video_bytes, share * 3 // 4),
        embedding_bytes=min(usual.embedding_bytes, share),
    )


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    models: tuple[str | None, ...] = (None,)
    """Names or folders; None is the embedded model. The first answers requests that name none."""
    host: str = "127.0.0.1"
    port: int = 8080
    memory: int | None = None
    """Bytes that the whole process may take; None: no limit."""
    sessions: int = 4
    """KV caches of each model, which requests share."""
    exact: bool = False
    """Whether a history that lost its oldest turns is computed again instead of sliding."""
    keep_alive_s: float | None = None
    """A model that is idle for so long is unloaded; None: never."""
    backend: str | None = None
    context: int | None = None
    threads: int | None = None
    kv_precision: str = "f16"
    keys: tuple[str, ...] = ()
    """Any of these API keys opens the server; none: it is open."""
    hosts: tuple[str, ...] = ()
    """Names that clients may call this server by, beside addresses and the machine's own."""
    origins: tuple[str, ...] = ()
    """Web pages (`https://app.example`) that may call it."""
    remote_images: bool = False
    """Whether http(s) addresses of images and videos are fetched."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)
