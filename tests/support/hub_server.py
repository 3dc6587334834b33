"""A Hugging Face Hub on this machine: the parts of its API that `huggingface_hub`'s downloads use.

Facts from the client's own requests: `GET /api/models/ID/revision/REV`, `GET /api/models/ID/tree/COMMIT`, and `HEAD`
and `GET` (with `Range`) of `/ID/resolve/COMMIT/PATH`. Errors say what they are in `X-Error-Code`; the `ETag` is
the SHA-256 of a large file ("LFS") and the Git blob id of a small one.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".gguf", ".onnx")


@dataclass
class Hub:
    """What the server holds, how it behaves, and what it was asked."""

    url: str
    repositories: dict[str, Path] = field(default_factory=dict)
    """Id to the folder with its files."""
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """File name to bytes of it after which the first download's connection is cut; later downloads are whole."""
    stall_after: dict[str, int] = field(default_factory=dict)
    """File name to bytes of it after which the first download hangs until the client has gone."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and `Range` header of each request."""

    def downloads(self, name: str) -> list[str | None]:
        """The `Range` headers with which a file was fetched, in order."""
        return [ranged for method, path, ranged in self.requests if method == "GET" and path.endswith(f"/{name}")]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A running Hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(?:/.*)?", path):
            repository, kind, revision = found.groups()
            if self._folder(repository, revision or "main") is not None:
                self._tree(repository) if kind == "tree" else self._information(repository)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            folder = self._folder(found[1], found[2])
            if folder is not None:
                self._file(folder, found[3])
        else:
            self._error(404, "EntryNotFound", "no such address")

    def _folder(self, repository: str, revision: str) -> Path | None:
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif repository in self.hub.gated:
            self._error(403, "GatedRepo", "Access to this model is restricted")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return folder if repository not in self.hub.gated else None

    def _information(self, repository: str) -> None:
        names = [path for path, _ in _files(self.hub.repositories[repository])]
        self._json({"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [],
                    "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in names]})  # fmt: skip

    def _tree(self, repository: str) -> None:
        entries = []
        for name, path in _files(self.hub.repositories[repository]):
            entry = {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)[:40]}
            if path.suffix in _LARGE:
                entry["lfs"] = {"oid": _etag(path), "size": path.stat().st_size, "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _file(self, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            self._error(404, "EntryNotFound", "Entry not found")
            return
        content, start = path.read_bytes(), 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if path.suffix in _LARGE:
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{_etag(path)}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, stall = self.hub.cut_after.pop(name, None), self.hub.stall_after.pop(name, None)
        stop = cut if cut is not None else stall
        self.wfile.write(content[start:] if stop is None else content[start:stop])
        self.wfile.flush()
        if stall is not None:
            self._wait_for_goodbye()
        if stop is not None:
            self.close_connection = True

    def _wait_for_goodbye(self) -> None:
        self.connection.settimeout(0.05)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def _etag(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in _LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
