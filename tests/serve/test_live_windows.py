"""Live windows over HTTP and over a WebSocket: frames all the time, questions now and then."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from support.lineage import VIDEO, write_kind, write_original
from support.serving import DEMO, Server, data_uri, serving

import edge_interleave as ei
from edge_interleave.converters.convert import convert

FRAMES = [DEMO / f"card-{number}.png" for number in (1, 2, 3, 4)]
QUESTION = "What is in the latest frame?"


def expected(window: int, frames: list[Path]) -> str:
    with ei.load(threads=1) as model, model.live(window) as live:
        for frame in frames:
            live.add(frame)
        return live.ask(QUESTION).text


def test_a_window_answers_as_the_librarys_does(server: Server) -> None:
    opened = server.post("/v1/live", {"window": 3})
    assert opened.status_code == 201
    place = f"/v1/live/{opened.json()['id']}"
    # As JSON, and as the file itself.
    first = server.post(f"{place}/frames", {"images": [data_uri(frame) for frame in FRAMES[:2]]})
    assert first.json()["numbers"] == [1, 2]
    for frame in FRAMES[2:]:
        sent = httpx.post(
            f"{server.url}{place}/frames", content=frame.read_bytes(), headers={"Content-Type": "image/png"}, timeout=60
        )
        assert sent.status_code == 200
    answer = server.post(f"{place}/ask", {"question": QUESTION}).json()
    assert answer["choices"][0]["message"]["content"] == expected(3, FRAMES)
    assert answer["object"] == "chat.completion"
    state = server.get(place).json()
    assert [frame["number"] for frame in state["frames"]] == [2, 3, 4]
    assert state["questions"] == 1
    assert server.metric("live_windows") == 1
    lines = server.post(f"{place}/ask", {"question": QUESTION, "stream": True}).text.splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == answer["choices"][0]["message"]["content"]
    assert httpx.delete(f"{server.url}{place}").json()["deleted"] is True
    assert server.get(place).status_code == 404
    assert server.post(f"{place}/ask", {"question": QUESTION}).status_code == 404
    assert server.metric("live_windows") == 0


def test_one_websocket_is_one_window(server: Server) -> None:
    async def run() -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/live/ws") as socket:
            await socket.send(json.dumps({"window": 3}))
            events = [json.loads(await socket.recv())]
            for frame in FRAMES:
                await socket.send(frame.read_bytes())
                events.append(json.loads(await socket.recv()))
            await socket.send(json.dumps({"question": ""}))
            events.append(json.loads(await socket.recv()))
            await socket.send(json.dumps({"question": QUESTION}))
            while "usage" not in events[-1]:
                events.append(json.loads(await socket.recv()))
            return events

    events = asyncio.run(run())
    assert events[0]["type"] == "live.opened"
    assert [event["numbers"] for event in events[1:5]] == [[1], [2], [3], [4]]
    assert events[5]["error"]["param"] == "question"
    said = [event["choices"][0]["delta"].get("content") or "" for event in events[6:] if event["choices"]]
    assert "".join(said) == expected(3, FRAMES)
    assert server.metric("live_windows") == 0


def test_a_socket_that_goes_in_mid_answer_frees_the_engine_and_its_window(server: Server) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2000}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}

    async def run() -> None:
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/live/ws") as socket:
            await socket.send("{}")
            await socket.recv()
            await socket.send(json.dumps({"question": "How many?", "max_tokens": 2000, "response_format": wanted}))
            for _ in range(3):
                await socket.recv()
            assert server.metric("busy") == 1
            socket.transport.abort()

    asyncio.run(run())
    until = time.monotonic() + 10
    while server.metric("busy") or server.metric("live_windows"):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_foreign_web_page_cannot_open_a_websocket(server: Server) -> None:
    async def run() -> None:
        url = f"{server.url.replace('http', 'ws')}/v1/live/ws"
        async with websockets.connect(url, origin="https://evil.example") as socket:  # type: ignore[arg-type]
            await socket.recv()

    with pytest.raises((websockets.InvalidStatus, websockets.ConnectionClosed)):
        asyncio.run(run())


def test_windows_are_counted_and_bounded(server: Server) -> None:
    opened = [server.post("/v1/live", {"window": 2}) for _ in range(5)]
    assert [answer.status_code for answer in opened] == [201, 201, 201, 201, 429]
    for answer in opened[:4]:
        httpx.delete(f"{server.url}/v1/live/{answer.json()['id']}")
    assert server.post("/v1/live", {"window": 1000}).status_code == 400
    assert server.post("/v1/live", {"window": 64, "pool": 1, "model": "none"}).status_code == 404
    assert server.metric("live_windows") == 0


def test_a_bad_frame_is_named_and_the_window_goes_on(server: Server) -> None:
    place = f"/v1/live/{server.post('/v1/live', None).json()['id']}"
    wrong = server.post(f"{place}/frames", {"images": [data_uri(FRAMES[0]), "data:image/png;base64,AAAA"]})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "images.1"
    assert server.post(f"{place}/frames", {"images": []}).status_code == 400
    assert server.post(f"{place}/ask", {"question": " "}).status_code == 400
    assert server.post(f"{place}/frames", {"images": [data_uri(FRAMES[1])]}).json()["numbers"] == [2]
    httpx.delete(f"{server.url}{place}")


def test_schemas_hold_for_windows_too(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        place = f"/v1/live/{server.post('/v1/live', {'window': 2, 'pool': [1, 2]}).json()['id']}"
        server.post(f"{place}/frames", {"images": [data_uri(frame) for frame in FRAMES]})
        schema = {"type": "object", "properties": {"seen": {"type": "boolean"}}, "required": ["seen"]}
        wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}
        answer = server.post(f"{place}/ask", {"question": "Is there a heart?", "response_format": wanted}).json()
        assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"seen"}
        # The server ends though a window is open.
        server.process.terminate()
        assert server.process.wait(10) == 0


def test_the_tokens_that_a_window_announces_are_those_of_a_frame_of_the_family(tmp_path: Path) -> None:
    """Families trained on video have `image_newline` after each row of a frame, or none in a frame."""
    pooled = convert(
        write_kind(tmp_path / "checkpoint", "next-video"), tmp_path / "next-video", vision_precision="fp32"
    )
    rows = convert(
        write_original(tmp_path / "original", "onevision", **VIDEO), tmp_path / "rows", vision_precision="fp32"
    )
    with serving(tmp_path, "--model", pooled.folder, "--model", rows.folder) as server:
        for name in ("next-video", "rows"):
            opened = server.post("/v1/live", {"model": name, "window": 2}).json()
            place = f"/v1/live/{opened['id']}"
            server.post(f"{place}/frames", {"images": [data_uri(FRAMES[0])]})
            assert server.get(place).json()["frames"][0]["tokens"] == opened["allowed"][0]["tokens"]
