"""A real mosquitto on loopback, with its own settings, and a client that records what it delivers."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

_PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
needs_mosquitto = pytest.mark.skipif(
    _PROGRAM is None, reason="mosquitto is not installed (Debian: apt-get install mosquitto)"
)
_WAIT_S = 20.0


class Mosquitto:
    """A broker on one port, which can be killed and started again. `settings`: more lines of its configuration."""

    def __init__(self, folder: Path, settings: str = "allow_anonymous true", listener: str = "") -> None:
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "mosquitto.conf"
        self.log = folder / "mosquitto.log"
        user = "user root\n" if Path.home() == Path("/root") else ""
        self._config.write_text(
            f"{user}listener {self.port} 127.0.0.1\n{listener}\n{settings}\nmax_queued_messages 0\n"
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([str(_PROGRAM), "-c", str(self._config)], stdout=log, stderr=log)
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until, self.log.read_text()
                assert self._process.poll() is None, self.log.read_text()
                time.sleep(0.02)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_WAIT_S)
            self._process = None


@contextmanager
def mosquitto(folder: Path, settings: str = "allow_anonymous true", listener: str = "") -> Iterator[Mosquitto]:
    """A running broker, ended with the block."""
    broker = Mosquitto(folder, settings, listener)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop(signal.SIGKILL)


class Subscriber:
    """A client that records messages: topic, payload, and whether it was retained. It reconnects every second."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._came = threading.Condition()
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *rest: client.subscribe([(topic, 1) for topic in topics])
        self._client.on_subscribe = lambda *rest: self._subscribed.set()
        self._client.on_message = self._take
        self._client.on_disconnect = lambda *rest: self._subscribed.clear()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait_subscribed()

    def wait_subscribed(self) -> None:
        assert self._subscribed.wait(_WAIT_S)

    def wait_for(self, condition: Callable[[list[tuple[str, bytes, bool]]], bool], timeout_s: float = _WAIT_S) -> None:
        with self._came:
            assert self._came.wait_for(lambda: condition(self.messages), timeout_s), self.messages

    def of(self, topic: str) -> list[bytes]:
        """The payloads of a topic, in their order."""
        with self._came:
            return [payload for at, payload, _ in self.messages if at == topic]

    def last(self, topic: str) -> bytes | None:
        return (self.of(topic) or [None])[-1]

    def wait_last(self, topic: str, payload: bytes) -> None:
        """Wait until the topic's last message is this one."""
        self.wait_for(lambda messages: ([p for at, p, _ in messages if at == topic] or [None])[-1] == payload)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(_WAIT_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, client: Any, data: Any, message: Any) -> None:
        with self._came:
            self.messages.append((message.topic, message.payload, message.retain))
            self._came.notify_all()


@contextmanager
def subscriber(port: int, *topics: str) -> Iterator[Subscriber]:
    client = Subscriber(port, *topics)
    try:
        yield client
    finally:
        client.close()


class Relay:
    """A port that leads to another one. It can be cut, and it can lose what comes back."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._cut = False
        self.loses_answers = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and each new one at once."""
        with self._lock:
            self._cut = True
            for one in self._open:
                _end(one)
            self._open.clear()

    def mend(self) -> None:
        with self._lock:
            self._cut = False

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:
                client.close()
                continue
            except OSError:
                return
            with self._lock:
                self._open += [client, broker]
                if self._cut:
                    _end(client)
                    _end(broker)
            threading.Thread(target=self._pass, args=(client, broker, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(broker, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not (answers and self.loses_answers):
                    target.sendall(data)
        _end(target)
        _end(source)


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    made = Relay(port)
    try:
        yield made
    finally:
        made.close()


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
