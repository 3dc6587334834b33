"""Reports to an MQTT broker what happens in a household, and lets its commands steer the sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import assert_never

from edge_interleave.alerts.events import Alert, Answered, Checked
from edge_interleave.household.happenings import Controls, Happening, QuestionChanged, SourceState, StatusChanged
from edge_interleave.household.settings import AlertSettings, AskSettings, Settings
from edge_interleave.mqtt.bridge import Bridge
from edge_interleave.mqtt.discovery import AnnouncedSource
from edge_interleave.mqtt.settings import MqttSettings

_TICK_S = 0.05


class MqttObserver:
    """Passes on what happens to a `Bridge`. Implements `Observer`."""

    def __init__(self, settings: MqttSettings, note: Callable[[str], None]) -> None:
        """`note` gets lines for people, from any thread. Raises InputError if the outbox cannot be used."""
        self._bridge = Bridge(settings, note, version=version("edge-interleave"))
        self._outbox = settings.outbox
        self._note = note
        self._closed = False

    def begin(self, settings: Settings, controls: Controls) -> None:
        """Announce the sources."""
        self._bridge.begin(
            [
                AnnouncedSource(
                    source.name,
                    {rule.name: rule.rule.question for rule in source.rules if isinstance(rule, AlertSettings)},
                    {rule.name: rule.question for rule in source.rules if isinstance(rule, AskSettings)},
                )
                for source in settings.sources
            ],
            controls,
        )

    def tell(self, happening: Happening) -> None:
        """Report it."""
        event, source, rule = happening.event, happening.source, happening.rule
        if isinstance(event, StatusChanged):
            self._tell_state(source, event.state)
        elif rule is None:
            return
        elif isinstance(event, Checked):
            self._bridge.checked(source, rule, event.raised, event.event())
        elif isinstance(event, Alert):
            self._bridge.alert(source, rule, event.event(), happening.picture or b"")
        elif isinstance(event, Answered):
            self._bridge.answered(source, rule, event.event())
        elif isinstance(event, QuestionChanged):
            self._bridge.set_question(source, rule, event.question)

    def finish(self, timeout_s: float, interrupted: threading.Event) -> None:
        """Wait, up to `timeout_s` seconds and until `interrupted` is set, until the broker has all alerts."""
        deadline = time.monotonic() + timeout_s
        while self._bridge.waiting and time.monotonic() < deadline and not interrupted.wait(_TICK_S):
            pass

    def close(self, timeout_s: float) -> None:
        """Disconnect, and say how many alerts wait for the next start. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._bridge.close(timeout_s)
        waiting = self._bridge.waiting
        if waiting:
            alerts = "1 alert waits" if waiting == 1 else f"{waiting} alerts wait"
            self._note(f"{self._bridge.name}: {alerts} in {self._outbox}, to be sent at the next start")

    def _tell_state(self, source: str, state: SourceState) -> None:
        match state:
            case "up" | "back" | "whole" | "moving":
                self._bridge.set_available(source, True)
            case "waiting":
                self._bridge.set_available(source, False)
                # A source that is opened again is not paused.
                self._bridge.set_paused(source, False)
            case "lost" | "broken" | "frozen" | "ended" | "failed":
                self._bridge.set_available(source, False)
            case "paused" | "resumed":
                self._bridge.set_paused(source, state == "paused")
            case "damaged":
                pass
            case _:
                assert_never(state)
