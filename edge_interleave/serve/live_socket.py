"""`/v1/live/ws`: a live window on one WebSocket, which closes with it.

The first message opens the window (`LiveRequest`; `{}` for the defaults). Then the client sends

    a binary message                    a picture: its file's content
    {"question": "..."}                 a question (`LiveQuestion`), answered as chunks of a chat completion
    {"check": "..."}                    how likely is the answer yes?
    {"reopen": {"window": 4}}           another window instead (`LiveRequest`)
    {"watch": "NAME", "fps": 2}         a source of the server's own; {"watch": null} ends it
    {"stop": true}                      ends the running answer

Messages are handled in their order, `stop` at once. Each picture is acknowledged by `live.frames` when it is in the
window: a client that sends the next one only then never builds up a queue. A watched source's pictures arrive as binary
messages, each before its `live.frames`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import SourceStatus
from edge_interleave.serve.chat_api import ChatAnswer
from edge_interleave.serve.content import Picture
from edge_interleave.serve.errors import ApiError, wrong
from edge_interleave.serve.handle import Ended, Handle
from edge_interleave.serve.jobs import Jobs, Watch
from edge_interleave.serve.live_api import Window, Windows
from edge_interleave.serve.loaded import Checked
from edge_interleave.serve.parsing import parse
from edge_interleave.serve.question import Question, live_question
from edge_interleave.serve.safety import SUBPROTOCOL
from edge_interleave.serve.schema import LiveCheck, LiveQuestion, LiveReopen, LiveRequest, LiveWatch
from edge_interleave.serve.settings import Limits
from edge_interleave.serve.shared_sources import SharedSources, Watcher
from edge_interleave.serve.socket_inbox import SocketInbox

_POLICY_VIOLATION = 1008
_BUSY_PAUSE_S = 0.5
"""Pause of a watched source after the server was too busy for one of its frames."""
_PREVIEW_SIDE = 640
"""The longest side, in pixels, of a watched source's pictures on their way to the client."""
_PREVIEW_QUALITY = 80


class LiveSockets:
    """Serves the sockets of one server."""

    def __init__(self, windows: Windows, jobs: Jobs, sources: SharedSources, limits: Limits) -> None:
        self.windows = windows
        self.jobs = jobs
        self.sources = sources
        self.limits = limits

    async def serve(self, socket: WebSocket) -> None:
        """Serve one socket to its end."""
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None)
        await _Connection(self, socket).run()


class _Connection:
    """One socket with its window."""

    def __init__(self, server: LiveSockets, socket: WebSocket) -> None:
        self._server = server
        self._socket = socket
        self._client: str = socket.scope["edge_interleave.client"]
        self._inbox = SocketInbox(socket, self._stop)
        self._opened: Window | None = None
        self._sending = asyncio.Lock()
        self._reopening = asyncio.Lock()
        """Held while a watched frame is added or the window is replaced."""
        self._answering: Handle | None = None
        self._feed: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Open the window, handle messages until the client goes, and close the window."""
        windows = self._server.windows
        try:
            await self._open(parse(LiveRequest, _opening(await self._inbox.next())))
            while True:
                message = await self._inbox.next()
                try:
                    await self._handle(message)
                except ApiError as error:
                    await self._send({"type": "error", **error.body()})
        except ApiError as error:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._send({"type": "error", **error.body()})
                await self._socket.close(_POLICY_VIOLATION)
        except (WebSocketDisconnect, RuntimeError):  # Starlette raises RuntimeError when it sends to a closed socket
            pass
        finally:
            self._inbox.close()
            if self._feed is not None:
                self._feed.cancel()
                await asyncio.gather(self._feed, return_exceptions=True)
            if self._opened is not None:
                await run_in_threadpool(windows.remove, self._opened)

    @property
    def _window(self) -> Window:
        """The open window. Raises ApiError if it was closed, and resets its idle time."""
        assert self._opened is not None
        return self._server.windows.find(self._opened.id)

    async def _open(self, asked: LiveRequest) -> None:
        self._opened = await self._server.windows.open(asked, self._client, self._inbox.gone)
        await self._send({"type": "live.opened", **self._opened.state()})

    def _stop(self, message: Message) -> bool:
        """End the running answer if the message says so; returns whether it does."""
        if not _names(message, "stop"):
            return False
        if self._answering is not None:
            self._answering.end(ApiError(499, "the answer was stopped", None, "stopped"))
        return True

    async def _handle(self, message: Message) -> None:
        content = message.get("bytes")
        if content is not None:
            await self._add(Picture(content, "auto", "frame"), None, None)
            return
        text = (message.get("text") or "").encode()
        if _names(message, "check"):
            await self._check(parse(LiveCheck, text))
        elif _names(message, "reopen"):
            await self._reopen(parse(LiveReopen, text).reopen)
        elif _names(message, "watch"):
            await self._watch(parse(LiveWatch, text))
        else:
            await self._answer(live_question(parse(LiveQuestion, text), self._server.limits))

    async def _add(self, picture: Picture | Image.Image, time_s: float | None, watcher: Watcher | None) -> None:
        window = self._window
        numbers = await self._server.windows.add_frames(window, [picture], time_s, self._client, self._inbox.gone)
        preview = None if isinstance(picture, Picture) else await run_in_threadpool(_jpeg, picture)
        missed = {} if watcher is None else {"missed": watcher.missed}
        async with self._sending:
            if preview is not None:
                await self._socket.send_bytes(preview)
            await self._socket.send_json({"type": "live.frames", "numbers": numbers, **missed, **window.figures()})

    async def _check(self, asked: LiveCheck) -> None:
        live_question(LiveQuestion(question=asked.check), self._server.limits)
        window = self._window
        found = await self._server.jobs.run(
            window.card, self._client, lambda m, h: m.check_window(window.live, asked.check, h), self._inbox.gone
        )
        assert isinstance(found, Checked)
        await self._send(
            {
                "type": "live.check",
                "check": asked.check,
                "number": found.number,
                "probability": found.probability,
                "certainty": found.certainty,
                "ms": found.seconds * 1000,
            }
        )

    async def _answer(self, question: Question) -> None:
        window = self._window
        number = 0
        familiar: bool | None = None

        def run(model: Any, handle: Handle) -> None:
            nonlocal number
            number = window.live.number
            model.ask_window(window.live, question, handle)

        handle = self._answering = self._server.jobs.submit(window.card, self._client, run)
        watch = Watch(handle, self._inbox.gone)
        answer = ChatAnswer(window.card.id, window.card.fingerprint)

        async def events() -> AsyncIterator[Any]:
            nonlocal familiar
            async for event in self._server.jobs.counting(handle.events(), window.card):
                if isinstance(event, Ended):
                    familiar = event.answer.familiar
                yield event

        try:
            async for chunk in answer.chunks(events(), with_usage=True):
                last = {"familiar": familiar} if "usage" in chunk else {}
                await self._send({"type": "live.answer", "number": number, **chunk, **last})
        finally:
            self._answering = None
            watch.end()

    async def _reopen(self, asked: LiveRequest) -> None:
        async with self._reopening:
            # The old window goes first, so that two never need memory at a time.
            before = self._window
            await run_in_threadpool(self._server.windows.remove, before)
            try:
                await self._open(asked)
            except ApiError as error:
                await self._send({"type": "error", **error.body()})
                await self._open(before.asked)

    async def _watch(self, asked: LiveWatch) -> None:
        if self._feed is not None:
            self._feed.cancel()
            await asyncio.gather(self._feed, return_exceptions=True)
            self._feed = None
        if asked.watch is not None:
            watcher = await run_in_threadpool(self._server.sources.watch, asked.watch)
            feed = self._feed = asyncio.create_task(self._feed_frames(watcher, asked.fps))
            # Not the task's own work, because a task can be cancelled before it begins. In a thread, because closing a
            # camera may take a second.
            loop = asyncio.get_running_loop()
            feed.add_done_callback(lambda _: loop.run_in_executor(None, watcher.close))
        await self._send({"type": "live.source", "source": asked.watch, "state": "open" if asked.watch else "closed"})

    async def _feed_frames(self, watcher: Watcher, fps: float | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                found = await run_in_threadpool(watcher.next)
                if found is None and watcher.ended:
                    await self._send({"type": "live.source", "state": "ended"})
                    return
                if isinstance(found, SourceStatus):
                    await self._send({"type": "live.source", "state": found.state, "line": found.line})
                elif isinstance(found, Frame):
                    async with self._reopening:
                        await self._add_watched(found, watcher)
                    if fps is not None:
                        await asyncio.sleep(max(0.0, began + 1 / fps - loop.time()))
        except ApiError as error:
            with contextlib.suppress(RuntimeError):
                await self._send({"type": "live.source", "state": "failed", "line": error.message})
        except (WebSocketDisconnect, RuntimeError):
            pass

    async def _add_watched(self, frame: Frame, watcher: Watcher) -> None:
        """Add a watched source's frame; a server that is too busy for it misses it."""
        try:
            await self._add(frame.image, frame.time_s, watcher)
        except ApiError as error:
            if error.status not in (429, 504):
                raise
            watcher.missed += 1
            await asyncio.sleep(_BUSY_PAUSE_S)

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._socket.send_json(message)


def _opening(message: Message) -> bytes:
    text = message.get("text")
    if text is None:
        raise wrong("body", 'the first message must be text: {} or {"window": 8, "pool": 2}')
    return str(text).encode()


def _names(message: Message, field: str) -> bool:
    """Whether a text message is an object with that field."""
    text = message.get("text")
    if not text or f'"{field}"' not in text:
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and field in found


def _jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_PREVIEW_QUALITY)
    return content.getvalue()
