"""A server's settings from the command line, and the limits for every request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Limits for every request."""

    body_bytes: int = 64 << 20
    """Bytes of one request."""
    all_bodies_bytes: int = 512 << 20
    """Bytes of all requests that are being read or are queued."""
    media: int = 64
    """Images and frames of one request."""
    messages: int = 1024
    text_characters: int = 1 << 20
    """Characters in all texts of a request."""
    video_bytes: int = 48 << 20
    queue: int = 64
    """Waiting requests per model; further ones get 429."""
    request_s: float = 600.0
    """Seconds from a request's arrival to the end of its answer."""
    grace_s: float = 30.0
    """Seconds that running answers get after SIGTERM."""
    windows: int = 4
    """Open live windows."""
    window_idle_s: float = 300.0
    """Idle seconds after which a live window is closed."""
    window_frames: int = 64
    embedding_bytes: int = 256 << 20
    """Bytes of cached visual tokens."""


def limits_within(memory: int | None) -> Limits:
    """Limits under which bodies, pictures and cached visual tokens take at most a fifth of `memory` bytes.

    None: the defaults.
    """
    usual = Limits()
    if memory is None:
        return usual
    # A body is in memory up to three times: as received, as base64 text, and as the pictures' content.
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
    """The settings of a server."""

    models: tuple[str | None, ...] = (None,)
    """Names or folders; None: the embedded model. The first one answers requests that name no model."""
    host: str = "127.0.0.1"
    port: int = 8080
    memory: int | None = None
    """Bytes that the whole process may take; None: no limit."""
    sessions: int = 4
    """KV caches per model, shared by requests."""
    exact: bool = False
    """Whether a history that lost its oldest turns is recomputed instead of sliding."""
    keep_alive_s: float | None = None
    """Idle seconds after which a model is unloaded; None: never."""
    backend: str | None = None
    context: int | None = None
    threads: int | None = None
    kv_precision: str = "f16"
    keys: tuple[str, ...] = ()
    """Accepted API keys; empty: no key is needed."""
    hosts: tuple[str, ...] = ()
    """Allowed host names, besides IP addresses and the machine's own names."""
    origins: tuple[str, ...] = ()
    """Allowed origins of web pages, such as `https://app.example`."""
    remote_images: bool = False
    """Whether http(s) addresses of images and videos are fetched."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Sources of the server's own, by name."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)
