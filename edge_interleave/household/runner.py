"""Runs several sources with one model: opens the windows, shares the engine, applies new settings, ends cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from edge_interleave.alerts.events import EventFolder
from edge_interleave.errors import EdgeInterleaveError, UsageError
from edge_interleave.household.happenings import Happening, Observer
from edge_interleave.household.settings import Settings, SourceSettings
from edge_interleave.household.turns import Turns
from edge_interleave.household.watcher import SourceWatcher
from edge_interleave.household.windows_plan import check_settings, plan_settings
from edge_interleave.model import Model, load
from edge_interleave.planning.several import DEFAULT_FRAMES
from edge_interleave.planning.system_memory import format_memory, limit_allocator, release_freed_memory

DELIVERY_WAIT_S = 60.0
"""How long to wait for queued alerts after all sources have ended."""
_TICK_S = 0.1


class Household:
    """Watches all sources of the settings, from `start` on. Its `Controls` may be called from any thread."""

    def __init__(self, settings: Settings, observers: Sequence[Observer], note: Callable[[str], None]) -> None:
        """Load the model and open all windows and folders. `note` gets lines for people, from any thread.

        Raises InputError, BackendError, ContextFullError, UsageError.
        """
        self._observers = tuple(observers)
        self._note = note
        self._turns = Turns()
        self._watchers: dict[str, SourceWatcher] = {}
        """The sources by name; replaced as a whole, never changed, so that it can be read without a lock."""
        self._changing = threading.RLock()
        """Held while new settings are applied, and at the end."""
        self._memory: int | None = None
        """The limit in bytes, once it is known."""
        self._context: int | None = None
        """KV entries of the largest window, if the memory is limited."""
        self._batch: int | None = None
        self._settings = settings = self._with_windows(settings)
        folders = [_folder(source, note) for source in settings.sources]
        self._model = self._load()
        try:
            for source, folder in zip(settings.sources, folders, strict=True):
                self._watchers = {**self._watchers, source.name: self._open(source, folder)}
        except BaseException:
            self._model.close()
            raise

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def watchers(self) -> dict[str, SourceWatcher]:
        """The sources, by name."""
        return dict(self._watchers)

    def start(self) -> None:
        """Begin to watch; returns at once."""
        for observer in self._observers:
            observer.begin(self._settings, self)
        for watcher in self.watchers.values():
            watcher.start()

    def wait(self, timeout_s: float, interrupted: threading.Event) -> bool:
        """Wait until all sources have ended and their alerts are delivered; returns whether they have.

        Waits `timeout_s` seconds at most, and until `interrupted` is set.
        """
        deadline = time.monotonic() + timeout_s
        while not self.ended:
            left = deadline - time.monotonic()
            if left <= 0 or interrupted.wait(min(_TICK_S, left)):
                return False
        deadline = time.monotonic() + DELIVERY_WAIT_S
        while not all(watcher.idle for watcher in self.watchers.values()) and time.monotonic() < deadline:
            if interrupted.wait(_TICK_S):
                return False
        return True

    @property
    def ended(self) -> bool:
        """Whether all sources have ended."""
        return all(watcher.ended for watcher in self.watchers.values())

    def change(self, settings: Settings) -> None:
        """Apply new settings. Sources whose window stays the same keep it; those that failed begin anew.

        Raises, with the old settings in force, UsageError if the model's or the broker's settings differ, InputError if
        a folder cannot be written to. A source whose window cannot be opened is told to `note` and left out.
        """
        if settings.model != self._settings.model:
            raise UsageError("[model] differs, and a loaded model cannot be changed; start the watch again for that")
        if settings.mqtt != self._settings.mqtt:
            raise UsageError("[mqtt] differs; start the watch again for that")
        check_settings(self._model.bundle, settings)
        settings = self._with_windows(settings)
        with self._changing:
            before = self._watchers
            folders = {
                source.name: _folder(source, self._note)
                for source in settings.sources
                if source.name not in before or source.out != before[source.name].settings.out
            }
            kept = {
                source.name: before[source.name]
                for source in settings.sources
                if source.name in before and _goes_on(before[source.name], source)
            }
            self._watchers = kept
            _close_all([watcher for name, watcher in before.items() if name not in kept])
            self._settings = settings
            opened = []
            for source in settings.sources:
                if source.name in kept:
                    kept[source.name].apply(source, folders.get(source.name))
                    continue
                try:
                    folder = folders.get(source.name) or _folder(source, self._note)
                    opened.append(self._open(source, folder))
                    self._watchers = {**self._watchers, source.name: opened[-1]}
                except EdgeInterleaveError as error:
                    self._note(f"{source.name}: not watched: {error}")
        for observer in self._observers:
            observer.begin(settings, self)
        for watcher in opened:
            watcher.start()

    def ask_instead(self, source: str, rule: str, question: str) -> None:
        """See `Controls.ask_instead`."""
        self._watcher(source).ask_instead(rule, question)

    def pause(self, source: str) -> None:
        """See `Controls.pause`."""
        self._watcher(source).pause()

    def resume(self, source: str) -> None:
        """See `Controls.resume`."""
        self._watcher(source).resume()

    def close(self) -> None:
        """End all sources within about a second, and free the model. A second call does nothing."""
        self._turns.close()
        with self._changing:
            _close_all(list(self._watchers.values()))
            self._model.close()
        observers, self._observers = self._observers, ()
        for observer in observers:
            observer.close(_TICK_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_windows(self, settings: Settings) -> Settings:
        """The settings with a window for each source; with a memory limit, as planned. Raises as `plan_windows`."""
        if settings.model.memory is None:
            windows = {source.name: source.window or DEFAULT_FRAMES for source in settings.sources}
        else:
            # A share of the free memory is that of the start: later, the model itself takes a part of it.
            plan = plan_settings(settings, memory=self._memory)
            self._memory = plan.memory
            windows = {window.name: window.frames for window in plan.windows}
            if self._context is not None and plan.context > self._context:
                raise UsageError("a window is larger than all that were planned; start the watch again for that")
            if self._context is None:
                self._context, self._batch = plan.context, plan.batch
            frames = ", ".join(f"{window.name} {window.frames}" for window in plan.windows)
            self._note(f"frames in the windows: {frames}; {format_memory(plan.estimate)} in all")
        sources = tuple(replace(source, window=windows[source.name]) for source in settings.sources)
        return replace(settings, sources=sources)

    def _load(self) -> Model:
        model = self._settings.model
        if self._context is not None:
            limit_allocator()
        opened: Model = load(
            model.name,
            backend=model.backend,
            context=self._context,
            threads=model.threads,
            kv_precision=model.kv_precision,
            batch=self._batch,
        )
        if self._context is not None:
            release_freed_memory()
        return opened

    def _open(self, source: SourceSettings, folder: EventFolder) -> SourceWatcher:
        live = self._model.live(
            source.window or DEFAULT_FRAMES,
            source.pool,
            mode=source.mode,
            keep_answers=source.keep_answers,
            system=source.system,
        )
        return SourceWatcher(source, live, folder, self._turns, self._tell, self._note)

    def _tell(self, happening: Happening) -> None:
        for observer in self._observers:
            observer.tell(happening)

    def _watcher(self, name: str) -> SourceWatcher:
        watchers = self._watchers
        if name not in watchers:
            raise UsageError(f"no source '{name}'; there are {', '.join(watchers)}")
        return watchers[name]


def _folder(source: SourceSettings, note: Callable[[str], None]) -> EventFolder:
    return EventFolder(source.out, lambda line: note(f"{source.name}: {line}"))


def _goes_on(watcher: SourceWatcher, settings: SourceSettings) -> bool:
    """Whether a source goes on under new settings; one that failed, or has ended and is changed, begins anew."""
    if watcher.ended:
        return watcher.error is None and watcher.settings == settings
    return _same_window(settings, watcher.settings)


def _same_window(one: SourceSettings, other: SourceSettings) -> bool:
    """Whether two settings differ at most in rules, deliveries, the folder and the seconds before an alert."""
    return one == replace(
        other,
        rules=one.rules,
        out=one.out,
        before_s=one.before_s,
        command=one.command,
        webhook=one.webhook,
    )


def _close_all(watchers: Sequence[SourceWatcher]) -> None:
    """Close several at once: each may take a second."""
    for watcher in watchers:
        watcher.stop()
    if watchers:
        with ThreadPoolExecutor(len(watchers)) as threads:
            list(threads.map(SourceWatcher.close, watchers))
