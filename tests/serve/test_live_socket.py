"""What a live window's WebSocket takes besides frames and questions: checks, other windows, sources, a stop."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import websockets
from PIL import Image
from support.mjpeg_server import HEAD, jpeg, part
from support.mjpeg_server import Server as Camera
from support.mjpeg_server import serving as camera_serving
from support.serving import CARDS, KEY, Server, serving
from websockets.asyncio.client import ClientConnection

import edge_interleave as ei

CHECK = "Is there a yellow umbrella?"


def talk(server: Server, run: Callable[[ClientConnection], Awaitable[Any]], key: str = "", window: Any = None) -> Any:
    """Open a window and run a conversation on its socket, as a browser does."""

    async def connected() -> Any:
        text = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        protocols = ["edge-interleave", *([f"edge-interleave.key.{text}"] if key else [])]
        url = f"{server.url.replace('http', 'ws')}/v1/live/ws"
        async with websockets.connect(url, subprotocols=protocols) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "edge-interleave"
            await socket.send(json.dumps(window or {"window": 3}))
            return await asyncio.wait_for(run(socket), 60)

    return asyncio.run(connected())


async def receive(socket: ClientConnection) -> Any:
    """The next JSON message, or a picture."""
    message = await socket.recv()
    return json.loads(message) if isinstance(message, str) else message


async def ask(socket: ClientConnection, message: Any) -> Any:
    """Send a message; the next one that comes."""
    await socket.send(message if isinstance(message, bytes) else json.dumps(message))
    return await receive(socket)


def test_a_check_is_the_librarys_probability(server: Server) -> None:
    async def run(socket: ClientConnection) -> Any:
        opened = await receive(socket)
        frames = [await ask(socket, card.read_bytes()) for card in CARDS[:3]]
        return opened, frames, await ask(socket, {"check": CHECK}), await ask(socket, {"check": " "})

    opened, frames, checked, refused = talk(server, run)
    with ei.load(threads=1) as model, model.live(3) as live:
        for card in CARDS[:3]:
            live.add(card)
        expected = live.check(CHECK)
    assert checked["probability"] == pytest.approx(expected.probability, abs=0.02)
    assert checked["certainty"] == pytest.approx(expected.total_probability, abs=0.02)
    assert checked["number"] == 3
    assert refused["error"]["message"]
    # What the page shows: what a frame cost, what the context allows, where time and memory went.
    assert opened["image_size"] == 144
    allowed = {choice["pool"]: choice for choice in opened["allowed"]}
    assert allowed[1]["tokens"] == 36
    assert allowed[2]["tokens"] == 9
    assert 1 <= allowed[1]["frames"] <= allowed[2]["frames"] <= 64
    assert [frame["tokens"] for frame in frames[-1]["frames"]] == [36, 36, 36]
    assert frames[-1]["encode_ms"] > 0
    assert frames[-1]["memory_bytes"] > 0


def test_the_largest_window_allowed_can_be_opened_and_no_larger_one(tmp_path: Path) -> None:
    with serving(tmp_path, "--context", "1024") as server:

        async def run(socket: ClientConnection) -> Any:
            most = (await receive(socket))["allowed"][0]["frames"]
            largest = await ask(socket, {"reopen": {"window": most}})
            return most, largest, await ask(socket, {"reopen": {"window": most + 1}}), await receive(socket)

        most, largest, refused, back = talk(server, run)
    assert largest["window"] == most
    assert "fewer frames" in refused["error"]["message"]
    assert back["window"] == most, "the window before it is opened again"


def test_another_window_replaces_the_first(server: Server) -> None:
    async def run(socket: ClientConnection) -> Any:
        await receive(socket)
        await ask(socket, CARDS[0].read_bytes())
        opened = await ask(socket, {"reopen": {"window": 2, "pool": 2}})
        return opened, [await ask(socket, card.read_bytes()) for card in CARDS[:3]][-1]

    opened, frames = talk(server, run)
    assert (opened["type"], opened["window"], opened["pool"]) == ("live.opened", 2, 2)
    assert [(frame["number"], frame["tokens"]) for frame in frames["frames"]] == [(2, 9), (3, 9)]
    assert server.metric("live_windows") == 0


def test_an_answer_can_be_stopped(server: Server) -> None:
    async def run(socket: ClientConnection) -> list[Any]:
        await receive(socket)
        await ask(socket, CARDS[0].read_bytes())
        events = [await ask(socket, {"question": "Describe the image.", "max_tokens": 5000, "temperature": 9.0})]
        await socket.send(json.dumps({"stop": True}))
        while events[-1]["type"] == "live.answer" and "usage" not in events[-1]:
            events.append(await receive(socket))
        # The window goes on.
        events.append(await ask(socket, {"check": CHECK}))
        return events

    events = talk(server, run)
    assert events[-2]["error"]["code"] == "stopped"
    assert events[-1]["type"] == "live.check"


def test_wrong_messages_are_named_and_the_window_goes_on(server: Server) -> None:
    async def run(socket: ClientConnection) -> Any:
        await receive(socket)
        wrong: tuple[Any, ...] = (
            {"check": 3},
            {"reopen": {"window": 0}},
            {"watch": "nowhere"},
            {"watch": "nowhere", "fps": 0},
            {"nothing": 1},
            b"no picture",
        )
        return [await ask(socket, message) for message in wrong], await ask(socket, CARDS[0].read_bytes())

    refused, frames = talk(server, run)
    assert [message["error"]["param"] for message in refused] == [
        "check",
        "reopen.window",
        "watch",
        "fps",
        "question",
        "frame",
    ]
    assert "--source" in refused[2]["error"]["message"]
    assert frames["type"] == "live.frames"


def test_a_browser_names_its_key_as_a_subprotocol(keyed: Server) -> None:
    opened = talk(keyed, receive, KEY)
    assert opened["type"] == "live.opened"
    for wrong in ("", "wrong", KEY + "x"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            talk(keyed, receive, wrong)
        assert refused.value.response.status_code == 403
    assert keyed.get("/v1/live/sources").status_code == 401


def test_sources_are_listed_by_name_and_watched_by_several_windows(keyed: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}".encode("latin-1")}
    listed = keyed.get("/v1/live/sources", headers=headers).json()["data"]
    assert [source["id"] for source in listed] == ["cards", "gone"]
    assert str(CARDS[0].parent) not in json.dumps(listed)

    async def run(socket: ClientConnection) -> Any:
        await receive(socket)
        events = [await ask(socket, {"watch": "cards"})]
        pictures = []
        while not (isinstance(events[-1], dict) and events[-1].get("numbers") == [4]):
            events.append(await receive(socket))
            if isinstance(events[-1], bytes):
                pictures.append(Image.open(io.BytesIO(events[-1])).size)
        return events[0], pictures, events[-1], await ask(socket, {"watch": None})

    for _ in range(2):
        opened, pictures, frames, closed = talk(keyed, run, KEY)
        assert (opened["source"], closed["source"]) == ("cards", None)
        assert pictures == [(300, 300)] * 4
        assert [frame["number"] for frame in frames["frames"]] == [2, 3, 4]
        assert frames["missed"] == 0


def test_a_source_that_cannot_be_opened_says_why(keyed: Server) -> None:
    async def run(socket: ClientConnection) -> Any:
        await receive(socket)
        return await ask(socket, {"watch": "gone"})

    assert "camera 99" in talk(keyed, run, KEY)["error"]["message"].replace("camera:99", "camera 99")


def test_a_source_that_is_left_at_once_is_closed(tmp_path: Path) -> None:
    left = threading.Semaphore(0)

    def film(camera: Camera, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(HEAD)
            while not camera.stopping.wait(0.02):
                connection.sendall(part(jpeg(number)))
        left.release()

    async def run(socket: ClientConnection) -> None:
        await receive(socket)
        for _ in range(3):
            for name in ("door", None, None):
                await socket.send(json.dumps({"watch": name}))
            while (await receive(socket)).get("state") != "closed":
                pass

    with camera_serving(film) as camera, serving(tmp_path, "--source", f"door={camera.url}") as running:
        talk(running, run)
        for _ in range(len(camera.requests)):
            assert left.acquire(timeout=20), "nobody watches, so the camera is left"
