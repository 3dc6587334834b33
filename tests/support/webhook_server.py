"""A web server on loopback that records posts and answers as a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hook:
    """The received posts. `answer` is called with the request handler, the body, and the number of the post, from 1."""

    url: str
    posts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers with lower-case names, body."""
    came: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@contextmanager
def webhook(answer: Callable[[Any, int], None]) -> Iterator[Hook]:
    """Serve posts until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hook.posts.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            number = len(hook.posts)
            hook.came.release()
            answer(self, number)

        def do_GET(self) -> None:
            hook.posts.append((f"GET {self.path}", {}, b""))
            self.send_error(405)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hook = Hook(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(*codes: int) -> Callable[[Any, int], None]:
    """Answers the posts with these status codes in order, and all further posts with the last one."""

    def answer(handler: Any, number: int) -> None:
        handler.send_response(codes[min(number, len(codes)) - 1])
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
