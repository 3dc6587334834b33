"""A URL that each alert is posted to."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from support.alerts import ALERT
from support.webhook_server import status, webhook

from edge_interleave.alerts.outbox import DeliveryError, Outbox
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.errors import UsageError


def test_a_webhook_receives_the_alert_as_json() -> None:
    with webhook(status(204)) as hook:
        Webhook(hook.url.replace("//", "//me:p%40ss@") + "/hook?key=1").send(ALERT)
    ((path, headers, body),) = hook.posts
    assert path == "/hook?key=1"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Basic bWU6cEBzcw=="
    assert json.loads(body) == {**ALERT.event(), "frames": list(ALERT.frames)}


def test_retries_back_off_exponentially() -> None:
    times: list[float] = []

    def answer(handler: Any, number: int) -> None:
        times.append(time.monotonic())
        status(503, 429, 500, 200)(handler, number)

    with webhook(answer) as hook:
        Webhook(hook.url, backoff_s=0.1).send(ALERT)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 3
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.4), strict=True))


@pytest.mark.parametrize(
    ("code", "posts", "said"), [(500, 2, "answered 500"), (404, 1, "answered 404"), (400, 1, "answered 400")]
)
def test_only_statuses_that_may_pass_are_retried(code: int, posts: int, said: str) -> None:
    with webhook(status(code)) as hook, pytest.raises(DeliveryError, match=said):
        Webhook(hook.url, attempts=2, backoff_s=0.01).send(ALERT)
    assert len(hook.posts) == posts


def test_a_refused_connection_is_a_failed_delivery() -> None:
    with webhook(status(200)) as hook:
        pass
    with pytest.raises(DeliveryError, match=r"refused.*3 attempts"):
        Webhook(hook.url, attempts=3, backoff_s=0.01).send(ALERT)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "/elsewhere", "http://127.0.0.1:1/"])
def test_redirects_are_not_followed(target: str) -> None:
    def answer(handler: Any, number: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with webhook(answer) as hook, pytest.raises(DeliveryError, match="redirect"):
        Webhook(hook.url).send(ALERT)
    assert len(hook.posts) == 1


def drip(handler: Any, number: int) -> None:
    """Send a response byte by byte, without an end to its first line."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 2")
        while True:
            handler.wfile.write(b"0")
            time.sleep(0.05)


def test_the_time_limit_holds_for_a_server_that_answers_byte_by_byte() -> None:
    with webhook(drip) as hook:
        started = time.monotonic()
        with pytest.raises(DeliveryError, match=r"within 0\.3 s"):
            Webhook(hook.url, timeout_s=0.3, attempts=1).send(ALERT)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("answer", [drip, status(500)], ids=["in an answer", "in a pause"])
def test_closing_does_not_wait_for_a_webhook(answer: Callable[[Any, int], None]) -> None:
    with webhook(answer) as hook:
        outbox = Outbox(Webhook(hook.url, backoff_s=60), lambda line: None)
        outbox.offer(ALERT)
        outbox.offer(ALERT)
        assert hook.came.acquire(timeout=10)
        time.sleep(0.1)
        started = time.monotonic()
        outbox.close()
        assert time.monotonic() - started < 0.9
    stats = outbox.stats()
    assert (stats.sent, stats.failed, stats.dropped) == (0, 1, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alerts to")]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "example.com/hook",
        "http://",
        "http://h:99999/",
        "http://[::1/",
        "http://h/ü",
    ],
)
def test_only_http_and_https_urls_are_accepted(url: str) -> None:
    with pytest.raises(UsageError):
        Webhook(url)


def test_messages_hide_the_secret_part_of_the_url() -> None:
    assert Webhook("https://user:word@hooks.example/T0/secret?key=k").name == "webhook https://hooks.example"
