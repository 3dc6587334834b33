"""`edge-interleave watch --config`: several sources with one model, until they end or a signal comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from edge_interleave.alerts.events import Checked
from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.bundle.store import resolve
from edge_interleave.cli import output
from edge_interleave.cli.heartbeat import Heartbeat
from edge_interleave.cli.interrupts import interrupt_event
from edge_interleave.cli.watch_views import event_line
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import EdgeInterleaveError
from edge_interleave.household.happenings import Controls, Happening, StatusChanged
from edge_interleave.household.runner import DELIVERY_WAIT_S, Household
from edge_interleave.household.settings import Settings
from edge_interleave.household.settings_file import read_settings
from edge_interleave.household.watcher import SourceWatcher
from edge_interleave.household.windows_plan import check_settings
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.household.mqtt_observer import MqttObserver

_TICK_S = 0.5


def watch_config(path: Path, *, only_check: bool, as_json: bool, with_stats: bool) -> None:
    """Watch the sources of a file of settings; `only_check`: only check the file and the model it names."""
    settings = read_settings(path)
    bundle = open_bundle(resolve(settings.model.name))
    backend_for(bundle, settings.model.backend)
    check_settings(bundle, settings)
    if only_check:
        output.print_text(f"{path}: {_counted(settings)}; nothing is wrong")
        return
    view = _JsonLines() if as_json else _Lines()
    with (
        interrupt_event() as interrupted,
        _signals(interrupted) as asked,
        output.abandon_stdout_on(interrupted),
        _mqtt(settings) as mqtt,
        closing(Heartbeat()) as heartbeat,
        Household(settings, [view, *mqtt], output.note) as household,
    ):
        view.end = interrupted
        household.start()
        while not household.wait(_TICK_S, interrupted) and not interrupted.is_set():
            heartbeat.beat(watcher.stepped_at for watcher in household.watchers.values() if not watcher.ended)
            if asked.anew.is_set():
                asked.anew.clear()
                _read_anew(household, path)
        for observer in mqtt:
            observer.finish(DELIVERY_WAIT_S, interrupted)
        watchers = household.watchers
        household.close()
        with suppress(output.AbandonedError):
            _report(watchers, as_json, with_stats)
    if view.error is not None:
        raise view.error
    if interrupted.is_set() and not asked.ended.is_set():
        raise KeyboardInterrupt
    for watcher in watchers.values():
        if watcher.error is not None:
            raise watcher.error


@contextmanager
def _mqtt(settings: Settings) -> Iterator[list[MqttObserver]]:
    """What reports to the broker, if the settings name one."""
    if settings.mqtt is None:
        yield []
        return
    # The extra 'mqtt' may not be installed.
    from edge_interleave.household.mqtt_observer import MqttObserver

    observer = MqttObserver(settings.mqtt, output.note)
    try:
        yield [observer]
    finally:
        observer.close(0.0)


class _Asked:
    """What signals asked for."""

    def __init__(self) -> None:
        self.anew = threading.Event()
        """SIGHUP: read the settings anew."""
        self.ended = threading.Event()
        """SIGTERM: end."""


@contextmanager
def _signals(interrupted: threading.Event) -> Iterator[_Asked]:
    """Handle SIGHUP and SIGTERM, where the system has them. SIGTERM sets `interrupted` too."""
    asked = _Asked()

    def anew(number: int, frame: FrameType | None) -> None:
        asked.anew.set()

    def end(number: int, frame: FrameType | None) -> None:
        asked.ended.set()
        interrupted.set()

    handlers = {name: handler for name, handler in (("SIGHUP", anew), ("SIGTERM", end)) if hasattr(signal, name)}
    before = {name: signal.signal(getattr(signal, name), handler) for name, handler in handlers.items()}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _read_anew(household: Household, path: Path) -> None:
    try:
        settings = read_settings(path)
        household.change(settings)
    except EdgeInterleaveError as error:
        output.note(f"the settings stay as they were: {error}")
        return
    output.note(f"{path}: read anew; {_counted(settings)}")


class _View:
    """Shows what happens. Never raises: a lost stdout ends the watch through `end`."""

    def __init__(self) -> None:
        self.error: output.OutputError | BrokenPipeError | None = None
        """Why stdout was lost; None if it was not."""
        self.end: threading.Event | None = None
        """Set when stdout is lost."""
        self._writing = threading.Lock()

    def begin(self, settings: Settings, controls: Controls) -> None:
        """Do nothing."""

    def tell(self, happening: Happening) -> None:
        """Show it."""
        try:
            with self._writing:
                if self.error is None:
                    self._show(happening)
        except output.AbandonedError:
            pass
        except (output.OutputError, BrokenPipeError) as error:
            self.error = error
            if self.end is not None:
                self.end.set()

    def close(self, timeout_s: float) -> None:
        """Do nothing."""

    def _show(self, happening: Happening) -> None:
        raise NotImplementedError


class _Lines(_View):
    """A line for each answer, alert, and end of an alert; what happens to sources goes to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._raised: set[tuple[str, str | None]] = set()

    def _show(self, happening: Happening) -> None:
        event, key = happening.event, (happening.source, happening.rule)
        if isinstance(event, StatusChanged):
            output.note(event.message)
            return
        line = event_line(event, key in self._raised)
        if isinstance(event, Checked):
            (self._raised.add if event.raised else self._raised.discard)(key)
        if line:
            output.write(f"{happening.source}  {line}\n")


class _JsonLines(_View):
    """Each event, checks included, as one line of JSON."""

    def _show(self, happening: Happening) -> None:
        output.print_json(happening.event.event())
        if isinstance(happening.event, StatusChanged):
            output.note(happening.event.message)


def _report(watchers: dict[str, SourceWatcher], as_json: bool, with_stats: bool) -> None:
    """How near each rule came, what was delivered, what was lost."""
    ended: dict[str, Any] = {}
    for name, watcher in watchers.items():
        stats = watcher.stats()
        delivered = {outbox.name: outbox.stats() for outbox in watcher.outboxes}
        ended[name] = {
            "frames": stats.frames,
            "replaced": stats.replaced,
            "reader": None if stats.reader is None else asdict(stats.reader),
            "rules": {rule: miss.figures() for rule, miss in stats.rules.items()},
            "unwritten": watcher.folder.unwritten,
            "deliveries": {delivery: asdict(counts) for delivery, counts in delivered.items()},
        }
        for rule, miss in stats.rules.items():
            output.note(f"{name}: {rule}: {miss.line()}")
        for delivery, counts in delivered.items():
            if with_stats or counts.failed or counts.dropped:
                output.note(
                    f"{name}: {delivery}: {counts.sent} delivered, {counts.failed} failed, {counts.dropped} dropped"
                )
        if watcher.folder.unwritten:
            output.note(f"{name}: {watcher.folder.unwritten} lines or pictures could not be written")
        if with_stats and stats.reader is not None:
            reader, late = stats.reader, stats.reader.late + stats.replaced
            output.note(
                f"{name}: {stats.frames} frames in the window, {reader.captured} captured, {late} late, "
                f"{reader.damaged} damaged, {reader.reconnects} reconnects"
            )
    now, peak = memory_bytes(), peak_memory_bytes()
    if as_json:
        output.print_json({"event": "end", "sources": ended, "memory_bytes": now, "peak_memory_bytes": peak})
    if with_stats:
        output.note(f"memory {output.size(now)}, peak {output.size(peak)}")


def _counted(settings: Settings) -> str:
    sources, rules = len(settings.sources), sum(len(source.rules) for source in settings.sources)
    return f"{sources} source{'s' * (sources > 1)}, {rules} rule{'s' * (rules > 1)}"
