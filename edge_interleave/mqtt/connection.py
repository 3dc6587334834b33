"""One connection to an MQTT 5 broker, kept up with exponential backoff. All calls of paho-mqtt happen in one thread.

Each connection starts a clean session with a new client, so nothing is resent behind the caller's back: the handler
decides what to publish again.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_interleave.errors import one_line
from edge_interleave.mqtt.certificates import trusting
from edge_interleave.mqtt.settings import Broker

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
"""The first and the longest pause before the next attempt; pauses double in between."""
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 30
MAX_INCOMING_BYTES = 1 << 20
"""The broker is asked to keep larger messages back."""
_CLOSE_WAIT_S = 1.0
_TICK_S = 1.0


@dataclass(frozen=True)
class Message:
    """A message to publish, at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = True


class Link(Protocol):
    """What a handler may do while connected, in the connection's thread."""

    max_bytes: int
    """The largest payload that the broker takes, less a kilobyte for the packet's other fields."""

    def publish(self, message: Message) -> int:
        """Hand a message to the broker; returns its number, which `acknowledged` names later."""
        ...


class Handler(Protocol):
    """What happens on a connection. All calls come from the connection's thread."""

    def connected(self, link: Link) -> None:
        """The broker accepted the connection."""

    def acknowledged(self, number: int, refusal: str) -> None:
        """The broker has the message. `refusal`: why it will not pass it on, or ""."""

    def received(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message of a subscribed topic arrived."""

    def work(self, link: Link) -> None:
        """Publish what is due. Called after each `wake`, after anything else happened, and at least once a second."""

    def lost(self) -> None:
        """The connection is gone; messages that are not acknowledged may or may not have arrived."""

    def status(self, line: str) -> None:
        """One line for people: connected, lost or refused, and why; repetitions are left out."""


class Connection:
    """A connection that is opened again whenever it is lost. Any thread may call `wake` and `close`."""

    def __init__(
        self,
        broker: Broker,
        handler: Handler,
        subscriptions: tuple[str, ...] = (),
        *,
        will: Message | None = None,
        goodbye: Message | None = None,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """Nothing is connected before `start`.

        `will`: what the broker publishes if the connection breaks. `goodbye`: published by `close`.
        Raises InputError if the certificates cannot be read.
        """
        self._broker = broker
        self._handler = handler
        self._subscriptions = subscriptions
        self._will = will
        self._goodbye = goodbye
        self._first_retry_s = first_retry_s
        self._tls = trusting(broker.ca_file) if broker.tls else None
        self._client_id = f"edge-interleave-{random.getrandbits(48):012x}"
        self._stop = threading.Event()
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=f"edge-interleave {broker.name}", daemon=True)
        self._connected = threading.Event()

    @property
    def is_up(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._connected.is_set()

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def wait_up(self, timeout_s: float) -> bool:
        """Wait until the broker has accepted the connection; returns whether it has."""
        return self._connected.wait(timeout_s)

    def wake(self) -> None:
        """Have `Handler.work` called soon."""
        with suppress(OSError):
            self._waker.send(b"x")

    def close(self) -> None:
        """Publish the goodbye if connected, and disconnect, within about a second."""
        self._stop.set()
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * _CLOSE_WAIT_S)

    def _run(self) -> None:
        retry_s = self._first_retry_s
        while not self._stop.is_set():
            connected_once = self._one_connection()
            retry_s = self._first_retry_s if connected_once else min(retry_s * 2, LAST_RETRY_S)
            # Random, so that the clients of a restarted broker do not all come back at the same moment.
            self._stop.wait(retry_s * random.uniform(0.75, 1.25))
        self._waker.close()
        self._wakened.close()

    def _one_connection(self) -> bool:
        """Connect and stay connected as long as possible; returns whether the broker accepted the connection."""
        session = _Session(self._broker, self._tls, self._client_id, self._will, self._handler)
        accepted = False
        try:
            session.connect()
            # Publishing, too, may find that the connection is gone.
            while session.is_open and not self._stop.is_set():
                session.step(self._wakened)
                if not session.is_open:
                    break
                if session.accepted and not accepted:
                    accepted = True
                    session.subscribe(self._subscriptions)
                    self._say(f"{self._broker.name}: connected", since=True)
                    self._handler.connected(session)
                    self._connected.set()
                if accepted:
                    self._handler.work(session)
            if accepted and session.is_open and self._stop.is_set():
                session.leave(self._goodbye, time.monotonic() + _CLOSE_WAIT_S)
        except Exception as error:  # whatever a broker sends, the connection is made again
            session.problem = session.problem or _reason(error)
        finally:
            session.disconnect()
            self._connected.clear()
            if accepted:
                self._handler.lost()
        if not self._stop.is_set():
            self._say(f"{self._broker.name}: {session.problem or 'the connection was lost'}; trying again")
        return accepted

    def _say(self, line: str, since: bool = False) -> None:
        """Report a line unless it was the last one. The first "connected" is not reported: nothing is wrong."""
        if line != self._said and not (since and not self._said):
            self._handler.status(line)
        self._said = line


class _Session:
    """One connection, from connecting to its end. Implements `Link`."""

    def __init__(
        self, broker: Broker, tls: ssl.SSLContext | None, client_id: str, will: Message | None, handler: Handler
    ) -> None:
        self._broker = broker
        self._handler = handler
        self.accepted = False
        self.problem = ""
        self.max_bytes = (256 << 20) - 1024
        self._open_acknowledgements: set[int] = set()
        self._deadline = 0.0
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.connect_timeout = CONNECT_TIMEOUT_S
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if tls is not None:
            client.tls_set_context(tls)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        self._client = client

    @property
    def is_open(self) -> bool:
        return self._client.socket() is not None

    def connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_INCOMING_BYTES
        self._client.connect(
            self._broker.host, self._broker.tcp_port, KEEPALIVE_S, clean_start=True, properties=properties
        )
        self._deadline = time.monotonic() + CONNECT_TIMEOUT_S

    def subscribe(self, topics: tuple[str, ...]) -> None:
        if topics:
            self._client.subscribe([(topic, 1) for topic in topics])

    def publish(self, message: Message) -> int:
        number = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain).mid
        self._open_acknowledgements.add(number)
        return number

    def step(self, wakened: socket.socket) -> None:
        """Wait until something can be read or written, or for a tick, and do it."""
        channel: Any = self._client.socket()
        if not self.accepted and time.monotonic() > self._deadline:
            raise TimeoutError("no answer in time")
        # TLS may hold bytes that were read from the socket and not taken yet.
        has_bytes = bool(isinstance(channel, ssl.SSLSocket) and channel.pending())
        writing = [channel] if self._client.want_write() else []
        readable, writable, _ = select.select([channel, wakened], writing, [], 0 if has_bytes else _TICK_S)
        if wakened in readable:
            with suppress(BlockingIOError):
                wakened.recv(4096)
        if channel in readable or has_bytes:
            self._check(self._client.loop_read())
        if channel in writable:
            self._check(self._client.loop_write())
        self._check(self._client.loop_misc())

    def leave(self, goodbye: Message | None, deadline: float) -> None:
        """Publish the goodbye and wait, until the deadline, for all acknowledgements."""
        if goodbye is not None:
            self.publish(goodbye)
        while self._open_acknowledgements and self.is_open and time.monotonic() < deadline:
            channel: Any = self._client.socket()
            writing = [channel] if self._client.want_write() else []
            readable, writable, _ = select.select([channel], writing, [], 0.05)
            if readable:
                self._client.loop_read()
            if writable:
                self._client.loop_write()

    def disconnect(self) -> None:
        with suppress(OSError, ValueError, MQTTException):
            self._client.disconnect()
        channel = self._client.socket()
        if channel is not None:
            channel.close()

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS and not self.problem:
            self.problem = "the connection was lost"

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self.problem = _refusal(reason)
            return
        limit = getattr(properties, "MaximumPacketSize", None)
        if limit is not None:
            self.max_bytes = max(limit - 1024, 0)
        self.accepted = True

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if not self.problem and getattr(flags, "is_disconnect_packet_from_server", False):
            self.problem = f"the broker ended the connection ({reason.getName()})"

    def _on_publish(self, client: Client, data: Any, number: int, reason: ReasonCode, properties: Any) -> None:
        self._open_acknowledgements.discard(number)
        self._handler.acknowledged(number, reason.getName() if reason.is_failure else "")

    def _on_subscribe(self, client: Client, data: Any, number: int, reasons: list[ReasonCode], properties: Any) -> None:
        refused = [reason.getName() for reason in reasons if reason.is_failure]
        if refused:
            self._handler.status(f"{self._broker.name}: refuses to deliver some topics ({refused[0]}); allow them")

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._handler.received(topic, bytes(message.payload), message.retain)


def _refusal(reason: ReasonCode) -> str:
    name = reason.getName()
    if name in ("Bad user name or password", "Not authorized"):
        return "the broker refuses the user name or the password; correct them"
    if name == "Unsupported protocol version":
        return "the broker does not speak MQTT 5; use a newer one"
    return f"the broker refuses the connection ({name})"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); check 'ca_file' and 'host'"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({one_line(error, 80)}); check port and 'tls'"
    if isinstance(error, TimeoutError):
        return "no answer in time; check 'host' and 'port', and that the broker is on"
    if isinstance(error, OSError):
        return f"cannot be reached ({error.strerror or one_line(error, 80)}); check 'host' and 'port'"
    return f"sent something that is not MQTT ({one_line(error, 80)})"
