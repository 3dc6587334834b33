"""Programs and libraries that people point at the server, beside OpenAI's own client."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.serving import DEMO, Server, data_uri

REQUESTS = Path(__file__).parent / "requests"
PICTURES = {"IMAGE_1": DEMO / "before.png", "IMAGE_2": DEMO / "after.png"}
FILES = {**PICTURES, "VIDEO_1": DEMO / "clip.mp4"}


def request(name: str) -> dict[str, Any]:
    text = (REQUESTS / f"{name}.json").read_text()
    for place, file in FILES.items():
        text = text.replace(place, data_uri(file))
    found: dict[str, Any] = json.loads(text)
    return found


def answer(server: Server, name: str) -> dict[str, Any]:
    found = server.post("/v1/chat/completions", request(name))
    assert found.status_code == 200, found.text
    body: dict[str, Any] = found.json()
    return body


def chunks(server: Server, name: str) -> list[dict[str, Any]]:
    found = server.post("/v1/chat/completions", request(name))
    assert found.status_code == 200, found.text
    lines = found.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_every_request_is_tested() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{file.stem}"' in text for file in REQUESTS.glob("*.json"))


def test_frigate_finds_its_model_and_modalities(server: Server) -> None:
    (model,) = server.get("/v1/models").json()["data"]
    assert "embedded" in {model["id"], *model["aliases"]}
    assert "image" in model["architecture"]["input_modalities"]
    assert model["meta"]["n_ctx"] == model["max_model_len"] == 4096
    props = server.get("/props", params={"model": "embedded"}).json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert props["modalities"]["vision"]
    # What switches tools and thinking on in Frigate.
    assert props["chat_template_caps"]["supports_tools"] is False
    assert "enable_thinking" not in props["chat_template"]


def test_frigate_describes_frames_as_json(server: Server) -> None:
    found = answer(server, "frigate-llama-cpp-description")
    assert set(json.loads(found["choices"][0]["message"]["content"])) == {"title", "potential_threat_level"}


def test_frigate_measures_the_tokens_of_an_image(server: Server) -> None:
    assert answer(server, "frigate-llama-cpp-probe")["usage"]["prompt_tokens"] > 36


def test_frigates_chat_streams_with_its_speed(server: Server) -> None:
    found = chunks(server, "frigate-llama-cpp-chat")
    usage, timings = found[-1]["usage"], found[-1]["timings"]
    assert usage["completion_tokens"] > 0
    assert timings["predicted_ms"] > 0
    assert timings["predicted_per_second"] > 0
    running = [chunk["timings"]["predicted_n"] for chunk in found[1:-2]]
    assert running == sorted(running)
    assert running[-1] == usage["completion_tokens"]


def test_frigate_by_openais_client(server: Server) -> None:
    found = answer(server, "frigate-openai")
    assert found["choices"][0]["message"]["content"].strip()
    # It sends `detail: low`.
    assert found["usage"]["prompt_tokens_details"]["visual_tokens"] == 2 * 9
    assert chunks(server, "frigate-openai-chat")[-1]["usage"]["completion_tokens"] > 0


def test_home_assistants_llm_vision(server: Server) -> None:
    # It adds a provider only if this route answers.
    assert server.get("/readyz").status_code == 200
    for name, images in (("llmvision-localai", 2), ("llmvision-localai-memory", 2), ("llmvision-localai-title", 0)):
        found = answer(server, name)
        assert found["choices"][0]["message"]["content"] is not None
        assert found["usage"]["prompt_tokens_details"]["visual_tokens"] == images * 36
    for name in ("llmvision-localai-json", "llmvision-openai-json"):
        found = json.loads(answer(server, name)["choices"][0]["message"]["content"])
        assert set(found) == {"title", "person"}


def test_open_webui(server: Server) -> None:
    found = chunks(server, "open-webui")
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in found if c["choices"])
    assert found[-1]["usage"]["completion_tokens"] > 0
    assert answer(server, "open-webui-title")["object"] == "chat.completion"


def test_vllms_clients(server: Server) -> None:
    for name, pictures in (("vllm-images", 2), ("vllm-video", 8)):
        assert answer(server, name)["usage"]["prompt_tokens_details"]["visual_tokens"] == pictures * 36


def test_langchain(server: Server) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="embedded", max_retries=0)
    content = [
        {"type": "text", "text": "What changed between the two images?"},
        *({"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in PICTURES.values()),
    ]
    found = model.invoke([{"role": "user", "content": content}])
    assert found.content
    assert found.usage_metadata["input_tokens"] > 72
    assert (
        "".join(str(piece.content) for piece in model.stream([{"role": "user", "content": content}])) == found.content
    )


def test_llm_with_an_openai_compatible_model(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: edge\n  model_name: embedded\n  api_base: {server.url}/v1\n  vision: true\n"
    )
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", "-m", "edge", "What is this?", "-a", str(DEMO / "desk.png"), "--no-log"]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()
