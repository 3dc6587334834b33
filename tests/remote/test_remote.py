"""Models behind a URL: the same calls, answered by a server; ours, and llama-cpp-python's."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from llama_cpp_server import PEER
from support.command_line import environment, error_line, run
from support.serving import DEMO, Server, serving

import edge_interleave as ei
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.errors import BackendError, ContextFullError, UsageError
from edge_interleave.media.pictures.image import open_image
from edge_interleave.remote.live import RemoteLive
from edge_interleave.remote.model import RemoteModel

BEFORE, AFTER, CLIP = DEMO / "before.png", DEMO / "after.png", DEMO / "clip.mp4"
QUESTION = "What changed between the two images?"
KEY = "the-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "--api-key", KEY) as running:
        yield running


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteModel]:
    with ei.load(url=f"{server.url}/v1", api_key=KEY) as model:
        yield model


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama-cpp-python's own server with the embedded model's decoder: no pictures, but the same interface."""
    pytest.importorskip("llama_cpp.server.app", exc_type=ImportError)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gguf = embedded_folder() / "decoder.gguf"
    command = [sys.executable, "-c", PEER, "--model", str(gguf), "--port", str(port), "--n_threads", "1"]
    log = (tmp_path_factory.mktemp("peer") / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        if not answers(port):
            pytest.skip("llama-cpp-python's server does not start, or crashes, on this machine")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def answers(port: int) -> bool:
    """Whether a server answers. Some builds of llama.cpp crash at the first token."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60).is_success
    except httpx.TransportError:
        return False


def test_a_server_answers_as_the_model_here_does(remote: RemoteModel) -> None:
    """JPEG and back changes pixels a little, so the answer is compared on pictures that are JPEGs already."""
    with ei.load(threads=1) as local:
        expected = local.ask(QUESTION, images=[BEFORE, AFTER])
    found = remote.ask(QUESTION, images=[BEFORE, AFTER])
    assert found.text == expected.text
    assert found.finish_reason == "stop"
    assert found.stats.prompt_tokens == expected.stats.prompt_tokens
    assert found.stats.visual_tokens == 72
    assert "".join(remote.stream(QUESTION, images=[BEFORE, AFTER])) == found.text


def test_markers_videos_pools_and_options_travel(remote: RemoteModel) -> None:
    placed = remote.ask(["In <image> and <image>, what changed?", BEFORE, AFTER])
    assert placed.stats.visual_tokens == 72
    assert remote.ask("What?", videos=[CLIP], frames=3).stats.visual_tokens == 3 * 36
    assert remote.ask("What?", images=[BEFORE], pool=2).stats.visual_tokens == 9
    assert remote.ask(QUESTION, images=[BEFORE, AFTER], max_tokens=2).finish_reason == "length"
    sampling = ei.SamplingOptions(temperature=1.0, top_k=5, min_p=0.1, repetition_penalty=1.2, seed=3)
    assert remote.ask("What?", sampling=sampling, max_tokens=4).stats.answer_tokens <= 4
    schema = {"type": "object", "properties": {"seen": {"type": "boolean"}}, "required": ["seen"]}
    assert set(json.loads(remote.ask("Is there a rabbit?", images=[BEFORE], schema=schema).text)) == {"seen"}


def test_a_chat_sends_its_history(remote: RemoteModel) -> None:
    with remote.chat("You are a helpful assistant.") as chat:
        first = chat.ask("What animal is this?", images=[BEFORE])
        second = chat.ask("Where is it?")
        assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
        assert second.stats.cached_tokens >= first.stats.prompt_tokens
        chat.reset()
        assert len(chat.messages) == 1


def test_a_window_over_a_stream(remote: RemoteModel) -> None:
    with remote.live(window=3) as live:
        live.watch(CLIP, fps=2)
        while not live.ended:
            live.wait_frame(live.number, 1.0)
        assert live.error is None
        assert len(live.frames) == 3
        assert live.ask("What is in the latest frame?").text
        assert 0.0 <= live.probability("Is there a circle?") <= 1.0
        assert live.stats().frames == live.number > 3


def test_a_pattern_of_strides_follows_the_frames_in_their_order(remote: RemoteModel) -> None:
    with remote.live(window=6, pool=(1, 16)) as live:
        for number in range(3):
            live.add(CLIP.parent / f"card-{number + 1}.png")
        live.watch(CLIP, fps=2)
        while not live.ended:
            live.wait_frame(live.number, 1.0)
        sides = [max(open_image(base64.b64decode(url.partition(",")[2])).size) for url in sent_pictures(live)]
    # Every second frame of all is pooled, so the newest one's number tells which of the last six are.
    assert [side <= 64 for side in sides] == [(live.number - 6 + place) % 2 == 1 for place in range(6)]


def sent_pictures(live: RemoteLive) -> list[str]:
    """The pictures of the request that a question would send."""
    (message,) = live._messages("What?")
    return [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]


def test_closing_a_stream_ends_the_answer_at_the_server(server: Server, remote: RemoteModel) -> None:
    many = {"type": "array", "items": {"type": "integer"}, "minItems": 2000}
    cancel = threading.Event()
    stream = remote.stream("How many?", schema=many, max_tokens=3000, cancel=cancel)
    next(stream)
    cancel.set()
    assert stream.wait().finish_reason == "cancelled"
    with remote.stream("How many?", schema=many, max_tokens=3000) as left:
        next(left)
    assert left.answer.finish_reason == "cancelled"
    until = time.monotonic() + 5
    headers = {"Authorization": f"Bearer {KEY}"}
    while 'busy{model="embedded"} 1' in server.get("/metrics", headers=headers).text and time.monotonic() < until:
        time.sleep(0.01)
    assert time.monotonic() < until


def test_server_errors_are_one_line(server: Server, remote: RemoteModel) -> None:
    with pytest.raises(UsageError, match="API key"):
        ei.load(url=f"{server.url}/v1")
    with pytest.raises(BackendError, match="no answer"):
        ei.load(url="http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="http"):
        ei.load(url="ftp://host/v1")
    with pytest.raises(UsageError, match="one of them"):
        ei.load(url=f"{server.url}/v1", backend="llama-cpp")
    with pytest.raises(UsageError, match="needs the server's url"):
        ei.load(backend="openai")
    with pytest.raises(ContextFullError):
        remote.ask("word " * 5000)
    with pytest.raises(UsageError, match="logits"):
        remote.choose("?", ["yes", "no"])


def test_the_commands_take_a_url(server: Server, tmp_path: Path) -> None:
    env = environment(tmp_path, KEY=KEY)
    where = ("--url", f"{server.url}/v1", "--api-key-env", "KEY")
    found = run("ask", QUESTION, "-i", BEFORE, "-i", AFTER, *where, "--json", env=env)
    assert json.loads(found.stdout)["answer"]
    chat = run("chat", *where, env=env, stdin="What is a bird?\n")
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()
    watched = run("watch", CLIP, "--ask", "What is there?", "--fps", 1, *where, "--json", env=env)
    assert watched.returncode == 0, watched.stderr
    assert "answer" in watched.stdout
    alerts = run("watch", CLIP, "--when", "Is there a circle?", "--fps", 1, "--out", tmp_path / "out", *where, env=env)
    assert alerts.returncode == 0, alerts.stderr
    assert "no such variable" in error_line(run("ask", "?", *where[:3], "NONE", env=env), 2)
    assert "--context is for a model on this machine" in error_line(
        run("ask", "?", *where, "--context", 99, env=env), 2
    )


def test_llama_cpp_pythons_server(peer: str) -> None:
    with ei.load(url=peer) as model:
        answer = model.ask("What can you do?", max_tokens=8)
        assert answer.text
        assert answer.stats.answer_tokens <= 8
        with model.chat() as chat:
            assert chat.ask("Hello", max_tokens=4).text is not None
            assert chat.ask("And?", max_tokens=4).text is not None


def test_nothing_is_sent_unless_a_url_is_given() -> None:
    """The client's package is not even imported."""
    script = "import sys, edge_interleave as ei\nei.load().ask('Hello', max_tokens=1)\nprint('openai' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert found.stdout.strip() == "False"
