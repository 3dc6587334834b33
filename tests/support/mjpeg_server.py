"""An HTTP server on loopback that follows a test's script: MJPEG as cameras send it, and every kind of failure."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

BOUNDARY = b"frame"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


@dataclass
class Server:
    """The server's port and the requests it received."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"


@contextmanager
def serving(
    script: Callable[[Server, socket.socket, int], None], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve until the end of the block. `script` gets each connection and the index of its request in `requests`.

    When the script returns, the connection is closed. A script that waits must wait on `server.stopping`.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    server = Server(listener.getsockname()[1])
    threads: list[threading.Thread] = []
    counting = threading.Lock()

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(5)
            with connection if tls is None else tls.wrap_socket(connection, server_side=True) as connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    data = connection.recv(4096)
                    if not data:
                        return
                    request += data
                with counting:
                    number = len(server.requests)
                    server.requests.append(request)
                script(server, connection, number)

    def accept() -> None:
        while not server.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        server.stopping.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listener.close()


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG that shows a number, which `number_of` reads."""
    bits = [(number >> bit & 1) * 255 for bit in range(8)]
    bars = np.repeat(np.array(bits, np.uint8), size[1] // 8)[:, np.newaxis]
    buffer = io.BytesIO()
    Image.fromarray(np.broadcast_to(bars, (size[1], size[0])).copy()).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def number_of(image: Image.Image) -> int:
    """The number that a picture of `jpeg` shows."""
    bars = np.asarray(image.convert("L"), np.float32).reshape(8, -1).mean(axis=1)
    return sum(1 << bit for bit in range(8) if bars[bit] > 128)


def part(body: bytes, length: int | None = -1, boundary: bytes = b"--frame") -> bytes:
    """A part of the body. `length`: the claimed length; -1: the true one; None: none."""
    claim = b"" if length is None else b"Content-Length: %d\r\n" % (len(body) if length == -1 else length)
    return boundary + b"\r\nContent-Type: image/jpeg\r\n" + claim + b"\r\n" + body + b"\r\n"


def numbered(first: int, last: int) -> bytes:
    """The parts of the JPEGs with numbers from `first` up to, but not including, `last`."""
    return b"".join(part(jpeg(number)) for number in range(first, last))


def flood(connection: socket.socket, server: Server, data: bytes) -> None:
    """Send the same data until the other side closes."""
    connection.settimeout(0.5)
    while not server.stopping.is_set():
        connection.sendall(data)
