"""Watches one source: a thread that takes its frames, adds them to the window, and applies the rules."""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from edge_interleave.alerts.alarm import Alarm
from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import Alert, Answered, Event, EventFolder, now
from edge_interleave.alerts.outbox import Delivery, Outbox
from edge_interleave.alerts.ring import FrameRing
from edge_interleave.alerts.rule import NearMiss
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.errors import ContextFullError, MediaError, UsageError
from edge_interleave.household.handlers import FrameHandler, PeriodicAsker, RuleWatcher, describing
from edge_interleave.household.happenings import Happening, QuestionChanged, SourceState, StatusChanged
from edge_interleave.household.settings import AlertSettings, AskSettings, SourceSettings
from edge_interleave.household.turns import Turns, TurnsClosedError
from edge_interleave.household.window import SharedWindow
from edge_interleave.live.live import Live
from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FIRST_RETRY_S, LAST_RETRY_S, FrameReader, ReaderStats, SourceStatus
from edge_interleave.media.sources.base import Source
from edge_interleave.media.sources.open import is_address, open_source
from edge_interleave.media.sources.tap import TappedSource

_POLL_S = 0.1
_JOIN_S = 2.0
_LAST_DELIVERIES_S = 0.5
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class WatcherStats:
    """Counts of one source."""

    frames: int
    """Frames added to the window."""
    replaced: int
    """Frames for which a newer one came while they waited for their turn."""
    reader: ReaderStats | None
    """Counts of the source's frames; None before it was opened."""
    rules: dict[str, NearMiss]
    """How near each rule came to its alerts."""


class SourceWatcher:
    """Watches one source from `start` on, until the source ends or `close`. Any thread may call its methods."""

    def __init__(
        self,
        settings: SourceSettings,
        live: Live,
        folder: EventFolder,
        turns: Turns,
        tell: Callable[[Happening], None],
        note: Callable[[str], None],
    ) -> None:
        """The watcher owns `live` and `folder` from now on. `tell`: gets what happens. `note`: lines for people."""
        self.settings = settings
        self.error: BaseException | None = None
        """The error that ended the source; None if there is none."""
        self.stepped_at = time.monotonic()
        """When its thread last began a step, by `time.monotonic`. A stuck engine or source stops it."""
        self._turns = turns
        self._tell = tell
        self._note_line = note
        self._window = SharedWindow(settings.name, live, turns, self._is_urgent)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._paused = False
        self._frames = self._replaced = 0
        self._reader: FrameReader | None = None
        self._opened: Source | None = None
        """The source, which `close` can also abort while it is being opened."""
        self._commands: deque[Callable[[], None]] = deque()
        self._rules: dict[str, _RunningRule] = {}
        self._folder = folder
        self._outboxes: list[Outbox] = []
        self._ring: FrameRing | None = None
        self._too_long: set[str] = set()
        """Rules whose question does not fit, which was said."""
        self._set_up(settings, folder)
        self._thread = threading.Thread(target=self._run, name=f"edge-interleave watch {settings.name}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether the source has ended, or failed."""
        return self._ended.is_set()

    @property
    def idle(self) -> bool:
        """Whether no alert waits for its delivery."""
        return all(outbox.idle for outbox in self._outboxes)

    @property
    def folder(self) -> EventFolder:
        """Where the events are saved."""
        return self._folder

    @property
    def outboxes(self) -> Sequence[Outbox]:
        """The deliveries."""
        return tuple(self._outboxes)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stats(self) -> WatcherStats:
        """Counts so far."""
        reader = self._reader
        misses = {name: rule.alarm.near_miss for name, rule in self._rules.items() if rule.alarm is not None}
        return WatcherStats(self._frames, self._replaced, None if reader is None else reader.stats(), misses)

    def apply(self, settings: SourceSettings, folder: EventFolder | None) -> None:
        """Change the rules, the deliveries and the folder between two frames; the window stays.

        `settings`: differ from the present ones in these only. `folder`: the new one; None: the old one stays.
        Questions that a program changed stay, where their rule is the same.
        """
        self._command(lambda: self._change(settings, folder))

    def ask_instead(self, rule: str, question: str) -> None:
        """See `Controls.ask_instead`."""
        if rule not in self._rules:
            raise UsageError(f"'{self.settings.name}' has no rule '{rule}'; it has {', '.join(self._rules)}")
        if not question.strip() or "<image>" in question:
            raise UsageError("the question is empty, or holds <image>; give a question about the latest frames")
        self._command(lambda: self._ask_instead(rule, question.strip()))

    def pause(self) -> None:
        """See `Controls.pause`."""
        self._command(lambda: self._set_paused(True))

    def resume(self) -> None:
        """See `Controls.resume`."""
        self._command(lambda: self._set_paused(False))

    def stop(self) -> None:
        """End soon; returns at once. `close` must follow."""
        self._stop.set()

    def close(self) -> None:
        """End the source within about a second, and free everything. Alerts that wait have half a second of it."""
        self.stop()
        source, reader = self._opened, self._reader
        if source is not None:
            source.close()
        if reader is not None:
            reader.close()
        self._window.close()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        until = time.monotonic() + _LAST_DELIVERIES_S
        for outbox in self._outboxes:
            outbox.close(max(0.0, until - time.monotonic()))
        self._folder.close()
        self._turns.forget(self.settings.name)

    # In the watcher's thread.

    def _run(self) -> None:
        try:
            if self._open():
                self._watch()
        except TurnsClosedError:
            pass
        except BaseException as error:
            if not self._stop.is_set():
                self.error = error
                self._status("failed", f"{self.settings.name}: {error}")
        finally:
            self._ended.set()

    def _open(self) -> bool:
        """Open the source. An address that cannot be reached is tried again; returns False if the watch ends first."""
        self._status("waiting", f"{self.settings.name}: waiting for the first frame")
        retry_s = FIRST_RETRY_S
        lost = False
        while not self._stop.is_set():
            source = open_source(self.settings.source, realtime=self.settings.realtime, frigate=self.settings.frigate)
            self._opened = source
            if self._stop.is_set():
                source.close()
                break
            try:
                reader = FrameReader(
                    TappedSource(source, self._keep),
                    fps=self.settings.fps,
                    change=self.settings.change,
                    with_unchanged=True,
                    on_status=self._source_status,
                )
            except MediaError as error:
                if not is_address(self.settings.source):  # a file that cannot be read will not come back
                    raise
                if not lost:
                    self._status("lost", f"{error}; trying again until it is there", 0.0)
                    lost = True
                self._obey_until(time.monotonic() + retry_s)
                retry_s = min(retry_s * 2, LAST_RETRY_S)
                continue
            self._reader = reader
            if self._stop.is_set():
                reader.close()
            return True
        return False

    def _watch(self) -> None:
        reader = self._reader
        assert reader is not None
        up = False
        while not self._stop.is_set():
            self._obey()
            if self._paused and not reader.live:
                self._obey_until(time.monotonic() + _POLL_S)
                continue
            frame = reader.next(_POLL_S)
            if frame is None:
                if reader.ended:
                    break
                continue
            if not up:
                up = True
                self._status("up", f"{self.settings.name}: frames come")
            if not self._paused:
                self._handle(frame, reader)
        if self._stop.is_set():
            return
        if reader.error is not None:
            raise reader.error
        for rule in list(self._rules.values()):
            self._apply_rule(rule, rule.handler.end)
        self._status("ended", f"{self.settings.name}: the source has ended")

    def _handle(self, frame: Frame, reader: FrameReader) -> None:
        rules = list(self._rules.values())
        if frame.unchanged:
            for rule in rules:
                rule.handler.unchanged(frame.time_s)
            return

        def newer() -> Frame | None:
            # A recording that waits for its reader must not lose frames.
            if not reader.live:
                return None
            found = reader.next(0.0)
            if found is None or found.unchanged:
                return None
            self._replaced += 1
            return found

        try:
            number = self._window.add(frame, newer)
        except MediaError as error:
            self._status("damaged", f"{self.settings.name}: {error}")
            return
        self._frames += 1
        for rule in rules:
            if self._stop.is_set():
                return
            self._apply_rule(rule, partial(rule.handler.frame, number))

    def _apply_rule(self, rule: _RunningRule, call: Callable[[], None]) -> None:
        """Call a rule's handler. If its question is too long, the source goes on with its other rules."""
        try:
            call()
        except ContextFullError as error:
            if rule.settings.name not in self._too_long:
                self._too_long.add(rule.settings.name)
                self._note(f"{rule.settings.name}: {error}")

    def _keep(self, frame: Frame) -> None:
        """Put a frame into the ring. In the reader's thread."""
        ring = self._ring
        if ring is not None:
            ring.add(frame.image, frame.time_s)

    def _is_urgent(self) -> bool:
        return any(rule.alarm is not None and rule.alarm.pending for rule in self._rules.values())

    # Commands, which the watcher's thread obeys between two frames.

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)

    def _obey(self) -> None:
        self.stepped_at = time.monotonic()
        while self._commands:
            self._commands.popleft()()

    def _obey_until(self, deadline: float) -> None:
        while not self._stop.is_set() and time.monotonic() < deadline:
            self._obey()
            self._stop.wait(_POLL_S)

    def _set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            state: SourceState = "paused" if paused else "resumed"
            self._status(state, f"{self.settings.name}: {state}")

    def _ask_instead(self, name: str, question: str) -> None:
        rule = self._rules.get(name)
        if rule is None:
            return
        asked = _with_question(rule.settings, question)
        self._too_long.discard(name)
        self._rules[name] = self._running(asked, self._rules[name].file_settings)
        self._report(name, QuestionChanged(now(), question, self._window.number, self._time_s()))

    def _change(self, settings: SourceSettings, folder: EventFolder | None) -> None:
        before = self._rules
        old_folder, old_outboxes, old_ring = self._folder, self._outboxes, self._ring
        same_deliveries = (settings.command, settings.webhook) == (self.settings.command, self.settings.webhook)
        self.settings = settings
        self._set_up(settings, folder or old_folder, old_outboxes if same_deliveries else None)
        for name, rule in self._rules.items():
            earlier = before.get(name)
            if earlier is not None and earlier.file_settings == rule.file_settings:
                unchanged = same_deliveries and folder is None and self._ring is old_ring
                self._rules[name] = earlier if unchanged else self._running(earlier.settings, rule.file_settings)
        if folder is not None:
            old_folder.close()
        if not same_deliveries:
            for outbox in old_outboxes:
                outbox.close(_LAST_DELIVERIES_S)

    def _set_up(self, settings: SourceSettings, folder: EventFolder, outboxes: list[Outbox] | None = None) -> None:
        self._folder = folder
        if outboxes is None:
            deliveries: list[Delivery] = []
            if settings.command is not None:
                deliveries.append(Command(settings.command, on_output=self._note))
            if settings.webhook is not None:
                deliveries.append(Webhook(settings.webhook))
            outboxes = [Outbox(delivery, self._note) for delivery in deliveries]
        self._outboxes = outboxes
        if settings.before_s == 0:
            self._ring = None
        elif self._ring is None or self._ring.seconds != settings.before_s:
            self._ring = FrameRing(settings.before_s)
        self._rules = {rule.name: self._running(rule, rule) for rule in settings.rules}
        self._too_long.clear()

    def _running(
        self, settings: AlertSettings | AskSettings, file_settings: AlertSettings | AskSettings
    ) -> _RunningRule:
        """A rule that begins now. `file_settings`: of the file, whose question may differ."""
        reporter = _Reporter(self, settings.name)
        if isinstance(settings, AskSettings):
            asker = PeriodicAsker(
                self._window,
                settings.question,
                settings.every_s,
                reporter,
                self._folder,
                {"max_tokens": settings.max_tokens, "cancel": self._stop},
                source=self.settings.name,
                name=settings.name,
            )
            return _RunningRule(settings, file_settings, asker, None)
        describe = (
            None if settings.describe is None else describing(self._window, settings.describe, self._note, self._stop)
        )
        alarm = Alarm(
            settings.rule,
            self._folder,
            self._outboxes,
            ring=self._ring,
            describe=describe,
            source=self.settings.name,
            name=settings.name,
        )
        watcher = RuleWatcher(self._window, alarm, settings.every_s, reporter, self._stop)
        return _RunningRule(settings, file_settings, watcher, alarm)

    # What is told.

    def _source_status(self, status: SourceStatus) -> None:
        """Pass on what the reader reports. In the reader's thread."""
        self._status(status.state, status.line, status.seconds, status.file)

    def _status(self, state: SourceState, line: str, seconds: float | None = None, file: str | None = None) -> None:
        number, time_s = self._window.number, self._time_s()
        self._report(None, StatusChanged(now(), "", number, time_s, state, line, seconds, file=file))

    def _report(self, rule: str | None, event: Event) -> None:
        name = self.settings.name
        if event.source is None:
            event = replace(event, source=name, rule=rule)
        picture = None
        if isinstance(event, Answered):
            picture = self._newest_jpeg()
        elif isinstance(event, Alert) and rule is not None:
            running = self._rules.get(rule)
            picture = None if running is None or running.alarm is None else running.alarm.best_picture
        self._tell(Happening(name, rule, event, picture))

    def _newest_jpeg(self) -> bytes | None:
        latest = self._window.latest
        if latest is None:
            return None
        file = io.BytesIO()
        latest.image.save(file, "JPEG", quality=_JPEG_QUALITY)
        return file.getvalue()

    def _time_s(self) -> float:
        frames = self._window.frames
        return round(frames[-1].time_s, 3) if frames else 0.0

    def _note(self, line: str) -> None:
        self._note_line(f"{self.settings.name}: {line}")


@dataclass(frozen=True)
class _RunningRule:
    """A rule or a question, and its state."""

    settings: AlertSettings | AskSettings
    file_settings: AlertSettings | AskSettings
    """As the file says; `settings` has another question, if a program changed it."""
    handler: FrameHandler
    alarm: Alarm | None


class _Reporter:
    """Tells what the handler of one rule finds."""

    def __init__(self, watcher: SourceWatcher, rule: str) -> None:
        self._watcher = watcher
        self._rule = rule

    def piece(self, text: str) -> None:
        """Do nothing: answers of several sources are told whole."""

    def show(self, event: Event) -> None:
        """Tell of the event."""
        self._watcher._report(self._rule, event)

    def note(self, line: str) -> None:
        """Tell the line."""
        self._watcher._note(line)


def _with_question(settings: AlertSettings | AskSettings, question: str) -> AlertSettings | AskSettings:
    if isinstance(settings, AskSettings):
        return replace(settings, question=question)
    return replace(settings, rule=replace(settings.rule, question=question))
