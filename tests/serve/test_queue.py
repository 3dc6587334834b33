"""The line before a model, clients that go away, and the end of the server."""

import asyncio
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.serving import DEMO, Server, image_part, serving, user

from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.queue import FairQueue, QueueClosedError, QueueFullError

# The embedded model writes digits for ever where it must write a number.
LONG = {
    "model": "embedded",
    "messages": [user("How many?")],
    "max_tokens": 3000,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 2000}},
    },
}
SHORT = {"model": "embedded", "messages": [user(image_part(DEMO / "desk.png"), "What is this?")]}


def begin(server: Server, body: dict[str, Any]) -> socket.socket:
    """A streaming request on a connection of its own, its first piece received."""
    connection = send(server, {**body, "stream": True})
    received = b""
    while received.count(b"data: ") < 3:
        received += connection.recv(1 << 16)
    return connection


def send(server: Server, body: dict[str, Any]) -> socket.socket:
    """A request on a connection of its own."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    content = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def wait_for(condition: Any, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.005)
    return False


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    queue.put("b", "b1")
    queue.put("c", "c1")
    assert queue.remove("a3")
    assert not queue.remove("a3")
    assert [queue.get() for _ in range(4)] == ["a1", "b1", "c1", "a2"]
    assert queue.get(timeout=0.01) is None


def test_a_queue_is_bounded_and_can_be_closed() -> None:
    queue: FairQueue[int] = FairQueue(2)
    queue.put("a", 1)
    queue.put("b", 2)
    with pytest.raises(QueueFullError):
        queue.put("c", 3)
    assert queue.close() == [1, 2]
    with pytest.raises(QueueClosedError):
        queue.put("a", 4)
    assert queue.get() is None


def test_a_client_that_disconnects_in_mid_answer_frees_the_engine(server: Server) -> None:
    def short() -> float:
        started = time.monotonic()
        assert server.post("/v1/chat/completions", {**SHORT, "max_tokens": 1}).status_code == 200
        return time.monotonic() - started

    alone = short()
    connection = begin(server, LONG)
    connection.close()
    # The next answer needs the engine: it is there long before the other one would have been through.
    assert short() < 5 * alone + 2.0


def test_a_client_that_disconnects_in_mid_prefill_frees_the_engine(server: Server) -> None:
    words = "one two three four five six seven eight nine ten "
    long = {"model": "embedded", "messages": [user(words * 150)], "max_tokens": 1}

    def computing() -> bool:
        return server.metric("busy") == 1

    for _ in range(2):  # the second time the beginning must not be found in a cache
        long["messages"] = [user(str(time.monotonic()) + words * 150)]
        started = time.monotonic()
        assert server.post("/v1/chat/completions", long).status_code == 200
    whole = time.monotonic() - started
    long["messages"] = [user(str(time.monotonic()) + words * 150)]
    connection = send(server, long)
    assert wait_for(computing)
    connection.close()
    gone = time.monotonic()
    assert wait_for(lambda: not computing())
    assert time.monotonic() - gone < 0.3 + 0.5 * whole
    # What was computed of it is no harm to the next answer.
    assert server.post("/v1/chat/completions", {**SHORT, "max_tokens": 1}).status_code == 200


def test_a_client_that_disconnects_while_waiting_is_dropped(server: Server) -> None:
    running = begin(server, LONG)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json=SHORT, timeout=0.3)
        assert wait_for(lambda: server.metric("queue_length") == 0)
    finally:
        running.close()


def test_too_many_get_429_and_the_others_their_answer(server: Server) -> None:
    running = begin(server, LONG)
    try:
        with ThreadPoolExecutor(100) as pool:
            body = {**SHORT, "max_tokens": 2}
            answers = [pool.submit(server.post, "/v1/chat/completions", body) for _ in range(90)]
            assert wait_for(lambda: sum(answer.done() for answer in answers) >= 20)
            refused = [answer.result() for answer in answers if answer.done()]
            assert {answer.status_code for answer in refused} == {429}
            assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
            assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
            running.close()
            statuses = [answer.result().status_code for answer in answers]
    finally:
        running.close()
    assert statuses.count(429) >= 20
    assert statuses.count(200) == 90 - statuses.count(429)


def test_after_sigterm_running_answers_finish_and_waiting_ones_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        body = {**LONG, "max_tokens": 400}

        async def run() -> tuple[list[str], int, float]:
            async with (
                httpx.AsyncClient(timeout=60) as client,
                client.stream("POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}) as stream,
            ):
                lines = stream.aiter_lines()
                await anext(lines)
                waiting = asyncio.create_task(client.post(f"{server.url}/v1/chat/completions", json=SHORT))
                while (await asyncio.to_thread(server.metric, "queue_length")) < 1:
                    await asyncio.sleep(0.01)
                server.process.send_signal(signal.SIGTERM)
                refused = await waiting
                return [line async for line in lines], refused.status_code, time.monotonic()

        lines, refused, _ = asyncio.run(run())
        assert refused == 503
        assert lines[-2:] == ["data: [DONE]", ""]
        assert json.loads(lines[-4].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(10) == 0
        assert [line.split(":")[0] for line in server.said] == ["page", "ready"], server.said


def test_an_answer_that_takes_too_long_ends_by_its_limit() -> None:
    from edge_interleave.serve.handle import Handle

    async def run() -> tuple[bool, int]:
        handle = Handle(0.05)
        try:
            await handle.next()
        except ApiError as error:
            return handle.cancel.is_set(), error.status
        return False, 0

    assert asyncio.run(run()) == (True, 504)


def test_health_answers_while_the_engine_works(server: Server) -> None:
    running = begin(server, LONG)
    try:
        started = time.monotonic()
        assert server.get("/health").status_code == 200
        assert time.monotonic() - started < 5.0
    finally:
        running.close()
