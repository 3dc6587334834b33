"""Reports sources, rules and alerts to a broker, and passes commands on.

States are retained messages: the latest value of each is kept here and published again after each connection. Alerts go
through a queue on disk, one at a time in their order. An alert leaves the queue when the broker has acknowledged it, so
none is lost; the only one that can arrive twice is the one that was on its way when the connection broke (QoS 1). Both
copies have the same `id`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edge_interleave.errors import EdgeInterleaveError
from edge_interleave.mqtt.alert_queue import AlertQueue, QueuedAlert
from edge_interleave.mqtt.announced import Announced, merged, read_announced, write_announced
from edge_interleave.mqtt.commands import CommandError, read_command
from edge_interleave.mqtt.connection import FIRST_RETRY_S, Connection, Link, Message
from edge_interleave.mqtt.discovery import (
    AnnouncedSource,
    device_config,
    discovery_topic,
    encode,
    without_components,
)
from edge_interleave.mqtt.settings import MqttSettings
from edge_interleave.mqtt.topics import SET, Topics

ATTRIBUTES_EVERY_S = 10.0
"""While a rule's state does not change, its attributes are published at most this often; Home Assistant stores each."""
REFUSED_PAUSE_S = 300.0
"""Pause of a topic after the broker refused an alert there, for example because its access list forbids the topic.

A new connection does not end it: mosquitto 2.0.11 ends the connection after a refusal.
"""
NOTES_PER_TOPIC = 3
"""Refused commands of one topic that are reported; more are only counted, until one is accepted."""
MAX_COMMANDS, COMMANDS_S = 20, 10.0
"""At most this many commands are carried out in so many seconds."""
_MAX_TOPICS = 1000
"""Topics of refused commands that are remembered; a stranger can invent any number."""
_ONLINE, _OFFLINE = b"online", b"offline"
_ON, _OFF, _UNKNOWN = b"ON", b"OFF", b"None"


class Controls(Protocol):
    """What commands change. Called from the connection's thread; must return soon. Raises UsageError to refuse."""

    def ask_instead(self, source: str, rule: str, question: str) -> None:
        """Change the question of a rule."""

    def pause(self, source: str) -> None:
        """Watch no more until `resume`."""

    def resume(self, source: str) -> None:
        """Watch again."""


class Bridge:
    """One connection for all sources. Any thread may call its methods; none but `close` waits for the network."""

    def __init__(
        self,
        settings: MqttSettings,
        on_note: Callable[[str], None],
        *,
        version: str = "",
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """Open the outbox. `on_note` gets lines for people, from any thread. `version`: shown by Home Assistant.

        Raises InputError if the outbox's folder or the certificates cannot be used.
        """
        self._settings = settings
        self._topics = Topics(settings.prefix)
        self._note = on_note
        self._version = version
        self._controls: Controls | None = None
        self._sources: Mapping[str, AnnouncedSource] = {}
        self._lock = threading.Lock()
        self._states: dict[str, bytes] = {}
        """Retained topics and what they should show."""
        self._due: dict[str, None] = {}
        """Topics to publish, in order."""
        self._publish_all_due = False
        self._last_attributes: dict[str, float] = {}
        self._discovery: list[Message] = []
        self._announced = Announced()
        self._online_number = 0
        """Number of the message that reports that the program is online, the last one after connecting."""
        self._in_flight: dict[int, QueuedAlert | None] = {}
        """Message numbers of the alert on its way; None for its picture's."""
        self._refused_until: dict[str, float] = {}
        """Topics of alerts that the broker refused, and when to try again."""
        self._told_too_large = False
        self._snapshots: dict[str, bytes] = {}
        self._refusals: dict[str, int] = {}
        self._commands: deque[float] = deque(maxlen=MAX_COMMANDS)
        """When the latest commands came."""
        self._told_refused = False
        self._home_assistant = None if settings.discovery is None else f"{settings.discovery}/status"
        subscriptions = (*self._topics.commands, *([self._home_assistant] if self._home_assistant else []))
        offline = Message(self._topics.status, _OFFLINE)
        self._connection = Connection(
            settings.broker, self, subscriptions, will=offline, goodbye=offline, first_retry_s=first_retry_s
        )
        self._queue = AlertQueue(settings.outbox, on_note)
        self.sent = 0
        """Alerts that the broker has acknowledged."""

    @property
    def name(self) -> str:
        """The broker's address, for messages."""
        return self._settings.broker.name

    def begin(self, sources: Sequence[AnnouncedSource], controls: Controls) -> None:
        """Announce the sources and connect; or, when called again, announce these instead of the earlier ones."""
        self._controls = controls
        connected_already = bool(self._discovery)
        messages, announced = self._discovery_messages(sources)
        with self._lock:
            before, self._sources = self._sources, {source.name: source for source in sources}
            self._discovery, self._announced = messages, announced
            self._states = {topic: value for topic, value in self._states.items() if topic in announced.retained}
            self._due = {topic: None for topic in self._due if topic in self._states}
            self._publish_all_due = True
        for source in sources:
            self._begin_source(source, before.get(source.name))
        if connected_already:
            self._connection.wake()
        else:
            self._connection.start()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until the broker has accepted the connection; returns whether it has."""
        return self._connection.wait_up(timeout_s)

    def set_available(self, source: str, available: bool) -> None:
        """Report whether a source delivers frames."""
        self._set(self._topics.source(source, "availability"), _ONLINE if available else _OFFLINE)

    def set_paused(self, source: str, paused: bool) -> None:
        """Report that a source is paused or watched. The states of a paused source's rules are unknown."""
        with self._lock:
            if self._put(self._topics.source(source, "paused"), _ON if paused else _OFF):
                for rule in self._sources[source].rules if source in self._sources else ():
                    self._put(self._topics.rule(source, rule, "state"), _UNKNOWN if paused else _OFF)
        self._connection.wake()

    def set_question(self, source: str, rule: str, question: str) -> None:
        """Report the question of a rule."""
        self._set(self._topics.rule(source, rule, "question"), question.encode("utf-8", "backslashreplace"))

    def checked(self, source: str, rule: str, raised: bool, event: Mapping[str, Any]) -> None:
        """Report a check of a rule: whether its alert is raised, and the check as JSON."""
        state, attributes = self._topics.rule(source, rule, "state"), self._topics.rule(source, rule, "attributes")
        value, now = _ON if raised else _OFF, time.monotonic()
        with self._lock:
            # A check that ran when the source was paused ends later.
            if self._states.get(self._topics.source(source, "paused")) == _ON:
                return
            changed = self._states.get(state) != value
            if not changed and now - self._last_attributes.get(attributes, 0.0) < ATTRIBUTES_EVERY_S:
                return
            # Attributes come first: who is triggered by the state reads them.
            self._last_attributes[attributes] = now
            self._put(attributes, _json(event))
            self._put(state, value)
        self._connection.wake()

    def answered(self, source: str, ask: str, event: Mapping[str, Any]) -> None:
        """Report an answer; the event has the key `answer`."""
        self._set(self._topics.rule(source, ask, "answer"), _json(event))

    def alert(self, source: str, rule: str, event: Mapping[str, Any], picture: bytes = b"") -> None:
        """Queue an alert on disk; `picture`: a JPEG, or empty. An event without an `id` gets one."""
        of = self._topics.rule
        whole = {"id": uuid.uuid4().hex, **event, "source": source, "rule": rule}
        self._queue.add(of(source, rule, "alert"), whole, of(source, rule, "snapshot"), picture)
        self._connection.wake()

    @property
    def waiting(self) -> int:
        """Alerts that the broker does not have yet."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Alerts that were dropped because too many waited."""
        return self._queue.dropped

    def close(self, timeout_s: float = 0.0) -> None:
        """Report that the program is offline, and disconnect, within about two seconds.

        `timeout_s`: how long to wait for the broker to take waiting alerts, if it is connected. Others stay on disk.
        """
        deadline = time.monotonic() + timeout_s
        while self.waiting and self._connection.is_up and time.monotonic() < deadline:
            time.sleep(0.02)
        self._connection.close()
        self._queue.close()

    # What follows is called by the connection, in its thread.

    def connected(self, link: Link) -> None:
        """Publish everything again: the broker may have lost what it retained."""
        self._in_flight.clear()
        with self._lock:
            self._publish_all_due = True

    def acknowledged(self, number: int, refusal: str) -> None:
        """Take the alert from the queue once the broker has it."""
        if refusal and not self._told_refused:
            self._told_refused = True
            self._note(f"{self.name}: refuses messages ({refusal}); allow this user the topics {self._topics.prefix}/#")
        if number == self._online_number:
            write_announced(self._settings.outbox, self._announced)
        alert = self._in_flight.pop(number, None)
        if alert is not None and refusal:
            self._refused_until[alert.topic] = time.monotonic() + REFUSED_PAUSE_S
        elif alert is not None:
            self._queue.remove(alert.number)
            self.sent += 1

    def received(self, topic: str, payload: bytes, retained: bool) -> None:
        """Carry out a command, or publish everything again when Home Assistant has started."""
        if topic == self._home_assistant:
            if payload == _ONLINE and not retained:
                with self._lock:
                    self._publish_all_due = True
            return
        try:
            command = read_command(self._settings.prefix, self._sources, topic, payload, retained)
            self._count_command()
            controls = self._controls
            if controls is None:
                return
            if command.rule is not None:
                controls.ask_instead(command.source, command.rule, command.value)
                self.set_question(command.source, command.rule, command.value)
            elif command.value == "ON":
                controls.pause(command.source)
                self.set_paused(command.source, True)
            else:
                controls.resume(command.source)
                self.set_paused(command.source, False)
        except (CommandError, EdgeInterleaveError) as error:
            self._refuse(topic, str(error))
        else:
            self._refusals.pop(topic, None)

    def work(self, link: Link) -> None:
        """Publish the states that changed, then the oldest alert if none is on its way."""
        with self._lock:
            publish_all, self._publish_all_due = self._publish_all_due, False
        if publish_all:
            self._publish_all(link)
        with self._lock:
            due, self._due = list(self._due), {}
            messages = [Message(topic, self._states[topic]) for topic in due]
        for message in messages:
            link.publish(message)
        if not self._in_flight:
            now = time.monotonic()
            self._refused_until = {topic: until for topic, until in self._refused_until.items() if until > now}
            alert = self._queue.first(self._refused_until)
            if alert is not None:
                self._send(alert, link)

    def lost(self) -> None:
        """Forget what was on its way; it is sent again."""
        self._in_flight.clear()

    def status(self, line: str) -> None:
        """Pass on what happens to the connection, with the number of alerts that wait."""
        waiting = self.waiting
        self._note(line + (f"; {waiting} alert{'s' * (waiting > 1)} waiting" if waiting else ""))

    def _send(self, alert: QueuedAlert, link: Link) -> None:
        """Publish the picture, then the alert: who gets the alert finds its picture."""
        if len(alert.picture) > link.max_bytes:
            self._tell_too_large(len(alert.picture), link.max_bytes)
        elif alert.picture:
            # A waiting alert can be of a rule that is gone: nothing would ever remove its retained picture.
            retain = alert.picture_topic in self._announced.retained
            if retain:
                self._snapshots[alert.picture_topic] = alert.picture
            self._in_flight[link.publish(Message(alert.picture_topic, alert.picture, retain))] = None
        message = Message(alert.topic, _json(alert.event), retain=False)
        self._in_flight[link.publish(message)] = alert

    def _tell_too_large(self, size: int, limit: int) -> None:
        """Say once that alerts are sent without their pictures."""
        if not self._told_too_large:
            self._told_too_large = True
            self._note(
                f"{self.name}: takes no message above {limit} bytes, so alerts are sent without larger pictures (this "
                f"one has {size}); raise its limit, max_packet_size of mosquitto"
            )

    def _publish_all(self, link: Link) -> None:
        """Publish discovery, all states and the last pictures, and at last that the program is online."""
        folder = self._settings.outbox
        with self._lock:
            messages = list(self._discovery)
            self._due = {}
            messages += [Message(topic, value) for topic, value in self._states.items()]
            retained = self._announced.retained
        messages += [Message(topic, jpeg) for topic, jpeg in self._snapshots.items() if topic in retained]
        # Written with what is to be removed, until the broker has acknowledged the removal.
        write_announced(folder, merged(read_announced(folder), self._announced))
        for message in messages:
            link.publish(message)
        self._online_number = link.publish(Message(self._topics.status, _ONLINE))

    def _count_command(self) -> None:
        """Raises CommandError if too many came."""
        now = time.monotonic()
        if len(self._commands) == MAX_COMMANDS and now - self._commands[0] < COMMANDS_S:
            raise CommandError(f"more than {MAX_COMMANDS} commands in {COMMANDS_S:g} s")
        self._commands.append(now)

    def _refuse(self, topic: str, why: str) -> None:
        """Note a refused command, and show the value that stays: the sender may show its own."""
        if topic not in self._refusals and len(self._refusals) >= _MAX_TOPICS:
            return
        count = self._refusals[topic] = self._refusals.get(topic, 0) + 1
        if count <= NOTES_PER_TOPIC:
            more = "; further ones are not reported" if count == NOTES_PER_TOPIC else ""
            self._note(f"{self.name}: a command at {ascii(topic)[1:-1][:200]} is refused: {why}{more}")
        with self._lock:
            state_topic = topic.removesuffix(SET)
            if state_topic in self._states:
                self._due[state_topic] = None

    def _set(self, topic: str, value: bytes) -> None:
        """Set what a topic shows."""
        with self._lock:
            self._put(topic, value)
        self._connection.wake()

    def _put(self, topic: str, value: bytes) -> bool:
        """Set what a topic shows, with the lock held; returns whether it is another value."""
        if self._states.get(topic) == value:
            return False
        self._states[topic] = value
        self._due[topic] = None
        return True

    def _begin_source(self, source: AnnouncedSource, before: AnnouncedSource | None) -> None:
        """Set the states of a new source; those of one that goes on are kept, and questions that are as before."""
        name = source.name
        if self._topics.source(name, "availability") not in self._states:
            self.set_available(name, False)
            self.set_paused(name, False)
        for rule in source.rules:
            topic = self._topics.rule(name, rule, "state")
            if topic not in self._states:
                self._set(topic, _OFF)
        earlier = {} if before is None else {**before.rules, **before.asks}
        for rule, question in {**source.rules, **source.asks}.items():
            if earlier.get(rule) != question:
                self.set_question(name, rule, question)

    def _discovery_messages(self, sources: Sequence[AnnouncedSource]) -> tuple[list[Message], Announced]:
        """The messages that announce the sources, and those that remove what was announced before."""
        before = merged(read_announced(self._settings.outbox), self._announced)
        messages: list[Message] = []
        devices: dict[str, dict[str, str]] = {}
        discovery = self._settings.discovery
        for source in sources if discovery is not None else ():
            topic = discovery_topic(str(discovery), self._topics.prefix, source.name)
            config = device_config(source, self._topics, self._version)
            devices[topic] = {key: part["platform"] for key, part in config["components"].items()}
            removed = {
                key: platform for key, platform in before.devices.get(topic, {}).items() if key not in devices[topic]
            }
            if removed:
                messages.append(Message(topic, encode(without_components(config, removed))))
            messages.append(Message(topic, encode(config)))
        retained = frozenset(self._retained_topics(sources))
        gone = sorted((before.devices.keys() - devices.keys()) | (before.retained - retained))
        messages += [Message(topic, b"") for topic in gone]
        return messages, Announced(devices, retained)

    def _retained_topics(self, sources: Sequence[AnnouncedSource]) -> list[str]:
        found = [self._topics.status]
        for source in sources:
            found += [self._topics.source(source.name, part) for part in ("availability", "paused")]
            for rule in source.rules:
                parts = ("state", "attributes", "question", "snapshot")
                found += [self._topics.rule(source.name, rule, part) for part in parts]
            for ask in source.asks:
                found += [self._topics.rule(source.name, ask, part) for part in ("answer", "question")]
        return found


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
