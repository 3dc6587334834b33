"""The models of one server: finds them by name, loads them on demand, unloads idle ones when memory is needed."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.bundle.store import EMBEDDED, resolve
from edge_interleave.decoding.decoder import Backend, DecoderOptions
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import BackendError, ResourceError, UsageError, shown
from edge_interleave.model import CONTEXT, load
from edge_interleave.planning.footprint import measure
from edge_interleave.planning.system_memory import format_memory
from edge_interleave.serve.engine import Engine
from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.loaded import LoadedModel
from edge_interleave.serve.metrics import Metrics
from edge_interleave.serve.settings import Settings

_LEAST_CONTEXT = 1024
_REQUESTS_SHARE = 0.2
"""Share of the memory for request bodies, pictures and cached visual tokens (`limits_within`)."""
_ROOM_WAIT_S = 60.0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Card:
    """A served model, loaded or not."""

    id: str
    aliases: tuple[str, ...]
    bundle: Bundle
    context: int
    """Most tokens of a prompt with its answer."""
    engine: Engine

    @property
    def fingerprint(self) -> str:
        """Identifies the bundle in answers (`system_fingerprint`)."""
        digests = sorted(file.sha256 for file in self.bundle.manifest.files.values())
        return f"ei-{digests[0][:12]}" if digests else "ei"


@dataclass(frozen=True)
class _Opening:
    """Context and KV caches with which a model fits in the memory."""

    context: int | None
    sessions: int
    bytes: int
    """Estimated memory; 0 without a limit."""


class Hub:
    """All models of a server."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read the models' manifests; load none. Raises BundleError, BackendError, ResourceError, UsageError."""
        self._settings = settings
        self._base = 0
        """Bytes of the process without a model."""
        self._room = threading.Condition()
        self._sizes: dict[str, int] = {}
        """Estimated bytes of the loaded models, by name."""
        self._cards: dict[str, Card] = {}
        self._names: dict[str, str] = {}
        keep = settings.keep_alive_s
        for given in settings.models:
            bundle = open_bundle(resolve(given))
            name = EMBEDDED if given is None else os.path.basename(os.path.normpath(given)) or given
            if name in self._cards:
                raise UsageError(f"two models are called {name!r}; rename one's folder")
            runner = backend_for(bundle, settings.backend)
            opening = self._opening(bundle, runner)
            engine = Engine(name, partial(self._open, bundle, opening), settings.limits.queue, keep, metrics)
            trained = bundle.manifest.decoder.context_length
            grows = settings.context is None and settings.memory is None
            context = trained if grows else min(trained, opening.context or CONTEXT)
            aliases = tuple(sorted({bundle.manifest.name, *_hub_ids(bundle.manifest.source)} - {name}))
            self._cards[name] = Card(name, aliases, bundle, context, engine)
            metrics.watch(name, engine)
        for card in self._cards.values():
            for alias in (card.id, *card.aliases):
                self._names.setdefault(alias, card.id)

    @property
    def cards(self) -> Sequence[Card]:
        """All models; the first is the default."""
        return tuple(self._cards.values())

    def card(self, name: str | None) -> Card:
        """The model of that name; None: the first. Raises ApiError (404)."""
        if not name:
            return self.cards[0]
        if name not in self._names:
            known = ", ".join(self._cards)
            raise ApiError(404, f"no model {shown(name)} here; there are: {known}", "model", "model_not_found")
        return self._cards[self._names[name]]

    def stop_taking(self) -> None:
        """Refuse new and waiting requests; running answers go on."""
        for card in self.cards:
            card.engine.stop_taking()

    def stop(self, grace_s: float) -> None:
        """Stop all engines and free their models; see `Engine.stop`."""
        until = time.monotonic() + grace_s
        for card in self.cards:
            card.engine.stop(max(0.0, until - time.monotonic()))

    def _open(self, bundle: Bundle, opening: _Opening, engine: Engine) -> LoadedModel:
        settings = self._settings
        self._make_room(engine, opening.bytes)
        try:
            model = load(
                bundle.folder,
                backend=settings.backend,
                context=opening.context,
                threads=settings.threads,
                kv_precision=settings.kv_precision,
            )
        except BaseException:
            with self._room:
                self._sizes.pop(engine.name, None)
            raise
        model.media_encoder.cache_bytes = settings.limits.embedding_bytes
        return LoadedModel(engine.name, model, opening.sessions, settings.exact, settings.limits)

    def _opening(self, bundle: Bundle, runner: Backend) -> _Opening:
        """The largest context that fits, with as many timelines as fit beside it. Raises ResourceError if none fits."""
        settings = self._settings
        if settings.memory is None:
            return _Opening(settings.context, settings.sessions, 0)
        found = measure(bundle, runner.name, settings.threads)
        self._base = max(self._base, found.libraries)
        fixed = found.tokenizer + found.decoder + found.tower + found.working
        trained = bundle.manifest.decoder.context_length
        least = 0
        for context in _contexts(min(settings.context or CONTEXT, trained), settings.context is not None):
            memory = runner.memory(bundle, DecoderOptions(context, settings.threads, settings.kv_precision))
            each = memory.cache + memory.compute
            sessions = min(settings.sessions, (self._room_bytes() - fixed) // each)
            if sessions >= 1:
                return _Opening(context, sessions, fixed + sessions * each)
            least = fixed + each + self._base
        raise ResourceError(
            f"{format_memory(settings.memory)} is too little for {bundle.manifest.name}: it needs at least "
            f"{format_memory(int(least / (1 - _REQUESTS_SHARE)))}"
        )

    def _room_bytes(self) -> int:
        """Bytes available for models, without the process and its requests."""
        return int((self._settings.memory or 0) * (1 - _REQUESTS_SHARE)) - self._base

    def _make_room(self, engine: Engine, size: int) -> None:
        """Reserve `size` bytes for a model, unloading idle ones. Raises BackendError if they stay in use."""
        if self._settings.memory is None:
            return
        room = self._room_bytes()
        until = time.monotonic() + _ROOM_WAIT_S
        while True:
            with self._room:
                loaded = {card.id: card.engine for card in self.cards if card.engine.model is not None}
                self._sizes = {name: size for name, size in self._sizes.items() if name in loaded}
                if sum(self._sizes.values()) + size <= room:
                    self._sizes[engine.name] = size
                    return
                others = sorted((e for e in loaded.values() if e is not engine), key=lambda e: e.used)
            if any(other.unload() for other in others):
                continue
            if time.monotonic() > until:
                raise BackendError(f"no room for {engine.name} while other models are in use; try again later")
            time.sleep(0.05)


def _hub_ids(source: str) -> list[str]:
    """The source, if it names a repository of the Hub; a folder of this machine is nobody's business."""
    return [source] if _HUB_ID.fullmatch(source) and not os.path.exists(source) else []


def _contexts(first: int, fixed: bool) -> list[int]:
    found = [first]
    while not fixed and found[-1] // 2 >= _LEAST_CONTEXT:
        found.append(found[-1] // 2)
    return found
