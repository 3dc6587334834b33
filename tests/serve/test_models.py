"""Several models behind one address: found by name, loaded when asked for, unloaded when idle or for room."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import environment, error_line, run
from support.serving import Server, serving, user

from edge_interleave.bundle.store import embedded_folder

MESSAGES = [user("Hello")]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's bundle under another name."""
    folder = tmp_path_factory.mktemp("bundles") / "other"
    shutil.copytree(embedded_folder(), folder)
    return folder


@pytest.fixture(scope="module")
def two(other: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--model", "embedded", "--model", other, "--keep-alive", "1s") as server:
        yield server


def loaded(server: Server) -> dict[str, bool]:
    return {model.id: model.model_dump()["loaded"] for model in server.client().models.list().data}


def ask(server: Server, model: str) -> str:
    return str(server.client().chat.completions.create(model=model, messages=MESSAGES, max_tokens=4).model)


def test_a_model_is_loaded_on_demand_and_unloaded_when_idle(two: Server) -> None:
    assert ask(two, "other") == "other"
    assert loaded(two)["other"]
    until = time.monotonic() + 15
    while any(loaded(two).values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert loaded(two) == {"embedded": False, "other": False}
    assert ask(two, "embedded") == "embedded"


def test_two_models_that_do_not_fit_together_take_turns(other: Path, tmp_path: Path) -> None:
    """The memory holds either of them; a request for the one unloads the other."""
    refused = error_line(run("serve", "--memory", "1MB", env=environment(tmp_path)), 4)
    least = int(refused.split()[-1].removesuffix("MB"))
    memory = f"{least + 12}MB"
    with serving(tmp_path, "--model", "embedded", "--model", other, "--memory", memory, "--sessions", "1") as server:
        for name in ("other", "embedded", "other"):
            assert ask(server, name) == name
            assert loaded(server) == {"embedded": name == "embedded", "other": name == "other"}
        assert server.metric("peak_memory_bytes") <= (least + 12) * 1_000_000


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    refused = run("serve", "--backend", "onnx", "--kv-precision", "q4_0", "--port", "0", env=environment(tmp_path))
    assert "no KV cache in q4_0" in error_line(refused, 4)


def test_an_unknown_model_is_refused_naming_the_known_ones(two: Server) -> None:
    answer = two.post("/v1/chat/completions", {"model": "nothing", "messages": MESSAGES})
    assert answer.status_code == 404
    assert "embedded, other" in answer.json()["error"]["message"]
    assert two.get("/props", params={"model": "nothing"}).status_code == 404
