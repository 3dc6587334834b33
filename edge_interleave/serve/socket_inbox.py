"""Reads a WebSocket ahead: a client that disconnects, or stops its answer, is noticed while the answer is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

_AHEAD = 2
"""Messages held in memory. A client that has sent more is noticed as gone at the next piece of its answer."""


class SocketInbox:
    """The messages of a WebSocket that was accepted."""

    def __init__(self, socket: WebSocket, urgent: Callable[[Message], bool]) -> None:
        """Call it in the event loop; `close` ends the reading.

        `urgent` gets each message as soon as it is read; if it returns True, `next` does not return the message.
        """
        self._urgent = urgent
        self._socket = socket
        self._messages: asyncio.Queue[Message] = asyncio.Queue(_AHEAD)
        self._gone = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def next(self) -> Any:
        """The next message. Raises WebSocketDisconnect once the client has disconnected."""
        if self._gone.is_set():
            raise WebSocketDisconnect
        message = await self._messages.get()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        return message

    async def gone(self) -> Message:
        """Wait until the client has disconnected; then return ASGI's message about a request's disconnection."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Stop reading."""
        self._reader.cancel()

    async def _read(self) -> None:
        while not self._gone.is_set():
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._gone.set()
            if not self._urgent(message):
                await self._messages.put(message)
