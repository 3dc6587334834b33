"""An RTSP server on loopback (RFC 2326, interleaved over TCP) that plays an MPEG transport stream (RFC 2250).

It supports DESCRIBE, SETUP and PLAY; afterwards it falls silent or closes, as the test chooses.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PACKET = 7 * 188


@contextmanager
def playing(
    stream: bytes, *, then_silent: bool, tls: ssl.SSLContext | None = None, seconds: float = 0.0
) -> Iterator[str]:
    """The address of a server that sends `stream` once to each client, then falls silent or closes.

    `seconds`: spread over this time.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    port = listener.getsockname()[1]
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(5)
            with connection if tls is None else tls.wrap_socket(connection, server_side=True) as connection:
                listen(connection)

    def listen(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        buffer = b""
        while not stopping.is_set():
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            buffer += data
            while b"\r\n\r\n" in buffer:
                request, _, buffer = buffer.partition(b"\r\n\r\n")
                if not answer(connection, request.decode()):
                    return

    def answer(connection: socket.socket, request: str) -> bool:
        method = request.split()[0]
        number = next(line.split(":")[1].strip() for line in request.splitlines() if line.lower().startswith("cseq"))
        body, extra = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            extra = f"Content-Type: application/sdp\r\nContent-Base: rtsp://127.0.0.1:{port}/live/\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}{length}\r\n{body}".encode())
        if method != "PLAY":
            return method != "TEARDOWN"
        connection.settimeout(5)
        began = time.monotonic()
        for sequence, start in enumerate(range(0, len(stream), PACKET)):
            due = began + seconds * start / len(stream)
            if seconds and stopping.wait(max(0.0, due - time.monotonic())):
                return False
            payload = stream[start : start + PACKET]
            rtp = struct.pack(">BBHII", 0x80, 33, sequence & 0xFFFF, sequence * 900, 7) + payload
            connection.sendall(b"$\x00" + struct.pack(">H", len(rtp)) + rtp)
        connection.settimeout(0.05)
        return then_silent

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"rtsp://127.0.0.1:{port}/live"
    finally:
        stopping.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listener.close()
