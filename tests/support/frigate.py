"""A stand-in for Frigate: answers HTTP and publishes events as Frigate's documentation and public code say.

`POST /api/login` takes `{"user", "password"}` and sets the cookie `frigate_token`; without it, a Frigate with logins
answers 401. `GET /api/CAMERA/latest.jpg` sends a JPEG, 404 for an unknown camera, and `X-Frigate-Offline: true` with an
old picture. `frigate/available` is retained; `frigate/events` is not.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from support.mosquitto import Subscriber


class Frigate:
    """What it answers. Tests change the attributes."""

    def __init__(self, broker_port: int, login: tuple[str, str] | None = None) -> None:
        self.login = login
        self.picture = Image.new("RGB", (64, 48), "green")
        self.offline = False
        self.status = 200
        self.requests: list[str] = []
        self.tokens = 0
        self.port = 0
        self._client = Subscriber(broker_port, "frigate/none")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def event(self, kind: str, name: str = "1.1-a", camera: str = "door", **more: Any) -> None:
        """Publish a change of a tracked object."""
        after = {"id": name, "camera": camera, "label": "person", "false_positive": False, "stationary": False, **more}
        message = {"type": kind, "before": after, "after": after}
        self._client.publish("frigate/events", json.dumps(message).encode())

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, retain)

    def close(self) -> None:
        self._client.close()


@contextmanager
def frigate(broker_port: int, login: tuple[str, str] | None = None) -> Iterator[Frigate]:
    stand_in = Frigate(broker_port, login)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stand_in.requests.append(f"POST {self.path}")
            if self.path != "/api/login" or (body.get("user"), body.get("password")) != stand_in.login:
                self._answer(401, b'{"message": "Login failed"}')
                return
            stand_in.tokens += 1
            cookie = f"frigate_token=token{stand_in.tokens}; HttpOnly; Max-Age=86400; Path=/; SameSite=lax"
            self._answer(200, b"", **{"Set-Cookie": cookie})

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            stand_in.requests.append(f"GET {path}")
            if stand_in.login and self.headers.get("Cookie") != f"frigate_token=token{stand_in.tokens}":
                self._answer(401, b"")
            elif path != "/api/door/latest.jpg":
                self._answer(404, b'{"success": false, "message": "Camera not found"}')
            elif stand_in.status != 200:
                self._answer(stand_in.status, b'{"success": false}')
            else:
                file = io.BytesIO()
                stand_in.picture.save(file, "JPEG", quality=90)
                headers = {"Content-Type": "image/jpeg", "Cache-Control": "no-store"}
                self._answer(
                    200, file.getvalue(), **headers, **({"X-Frigate-Offline": "true"} if stand_in.offline else {})
                )

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        stand_in.close()
