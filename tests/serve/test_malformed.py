"""Requests that no sound client sends: never a 5xx, never a file's content, and the server goes on."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.serving import DEMO, Server, data_uri, image_part, serving, user

SECRET = "the-content-of-a-file-that-nobody-asked-for"
VALID: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "embedded",
            "messages": [
                {"role": "system", "content": "Be brief."},
                user("What?", image_part(DEMO / "desk.png", detail="low")),
                {"role": "assistant", "content": "A car."},
                user("And?"),
            ],
            "max_tokens": 2,
            "stop": ["x"],
            "seed": 1,
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [user({"type": "video_url", "video_url": {"url": data_uri(DEMO / "clip.mp4"), "frames": 2}})],
            "max_tokens": 1,
            "pool": 2,
        },
    ),
    ("/v1/responses", {"input": [{"role": "user", "content": "Hello"}], "max_output_tokens": 1, "text": {}}),
    ("/v1/live", {"window": 2, "pool": [1, 2], "mode": "sliding"}),
    ("/v1/live/none/ask", {"question": "?", "max_tokens": 1}),
    ("/v1/live/none/frames", {"images": ["data:image/png;base64,AAAA"]}),
]


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "file.txt"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "--api-key", "the-key") as server:
        yield server


def odd_values(secret: Path) -> list[Any]:
    return [
        None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, -0.0, 0.5, "", " ", "x", "\x00", "\ud800",
        "🦜" * 50, "a" * 5000, "<image>", "<|im_end|>", "<|im_start|>system", [], [[]], {}, {"": {}}, [None] * 3,
        str(secret), f"file://{secret}", f"data:text/plain;base64,{secret}", "data:,x", "data:image/png;base64,",
        "http://127.0.0.1/", "https://[::1]/", "gopher://x", {"url": str(secret)}, {"$ref": f"file://{secret}"},
        {"type": "string", "pattern": "(a+)+$"}, {"$ref": "#"}, {"type": ["object", "array"]}, "json_schema", "text",
        [{"type": "text"}], {"type": "image_url", "image_url": {"url": f"file://{secret}"}},
    ]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def mutants(seed: int, count: int, secret: Path) -> Iterator[tuple[str, bytes]]:
    chance, values = random.Random(seed), odd_values(secret)
    for _ in range(count):
        path, body = chance.choice(VALID)
        how = chance.randrange(10)
        if how < 7:
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                body = changed(body, chance.choice(places(body)), chance.choice(values))
                if not isinstance(body, (dict, list)):
                    break
            content = json.dumps(body).encode()
        elif how == 7:
            added = {f"{chance.choice(list(body))}{chance.choice(['', 's', '_x'])}": chance.choice(values)}
            content = json.dumps({**body, **added}).encode()
        else:
            raw = bytearray(json.dumps(body).encode())
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(raw))
                raw[at : at + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
            content = bytes(raw[: chance.randrange(1, len(raw))] if how == 8 else raw)
        yield path, content


def attack(server: Server, seed: int, count: int, secret: Path) -> dict[int, int]:
    """How often each status came; checks each answer."""
    statuses: dict[int, int] = {}
    headers = {"Authorization": "Bearer the-key", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=600) as client:
        for path, content in mutants(seed, count, secret):
            answer = client.post(path, content=content)
            assert answer.status_code < 500, (path, content, answer.text)
            assert SECRET not in answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            if path == "/v1/live" and answer.status_code == 201:
                client.delete(f"/v1/live/{answer.json()['id']}")
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    return statuses


def test_requests_that_are_changed_at_random(attacked: Server, secret: Path) -> None:
    statuses = attack(attacked, 1, 400, secret)
    assert statuses.get(400, 0) > 100
    assert statuses.get(200, 0) > 3


@pytest.mark.slow
def test_ten_thousand_malformed_requests(attacked: Server, secret: Path) -> None:
    attack(attacked, 2, 10_000, secret)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 10_000 + b"}",
        b'{"messages":[{"role":"user","content":"x"}],"seed":1e999}',
        b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"x"}],"messages":[]}',
        b"\xff\xfe\x00",
        b'{"messages":[{"role":"user","content":"\\ud800"}],"max_tokens":1}',
    ],
    ids=lambda content: repr(content[:30]),
)
def test_bodies_at_the_edge(attacked: Server, content: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/live"):
        answer = httpx.post(
            f"{attacked.url}{path}", content=content, headers={"Authorization": "Bearer the-key"}, timeout=60
        )
        assert answer.status_code in (200, 201, 400), answer.text
        if answer.status_code == 201:
            httpx.delete(
                f"{attacked.url}/v1/live/{answer.json()['id']}", headers={"Authorization": "Bearer the-key"}, timeout=60
            )


def test_the_served_description_holds(attacked: Server) -> None:
    """schemathesis makes requests of the OpenAPI description, and checks answers against it."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    headers = {"Authorization": "Bearer the-key"}
    schema = schemathesis.openapi.from_url(f"{attacked.url}/openapi.json", headers=headers)
    tried = 0
    for result in schema.get_all_operations():

        @given(case=result.ok().as_strategy())
        @settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            answer = case.call(headers=headers)
            assert answer.status_code < 500, answer.text
            # Whether a picture can be decoded, say, is beyond a description.
            case.validate_response(answer, headers=headers, excluded_checks=[positive_data_acceptance])

        check()
    assert tried > 30
