"""OpenAI's own client against a real server: what an app does that was written for the cloud."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from PIL import Image
from pydantic import BaseModel, Field
from support.serving import DEMO, Server, data_uri, image_part, serving, user
from support.tiny import change_manifest

import edge_interleave as ei
from edge_interleave.bundle.store import embedded_folder

BEFORE, AFTER = DEMO / "before.png", DEMO / "after.png"
QUESTION = "What changed between the two images?"


class Count(BaseModel):
    # Bounded, for the embedded model has never seen JSON: left alone it would write digits for ever.
    count: int = Field(ge=0, le=9)


def ask(server: Server, *parts: Any, **options: Any) -> Any:
    return server.client().chat.completions.create(model="embedded", messages=[user(*parts)], **options)


def test_answers_about_several_images_as_the_library_does(server: Server) -> None:
    with ei.load(threads=1) as model:
        expected = model.ask([BEFORE, AFTER, QUESTION])
    found = ask(server, BEFORE, AFTER, QUESTION)
    assert found.choices[0].message.content == expected.text
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.prompt_tokens == expected.stats.prompt_tokens
    assert found.usage.completion_tokens == expected.stats.answer_tokens
    assert found.usage.prompt_tokens_details.visual_tokens == 72


def test_text_may_come_before_between_and_after_images(server: Server) -> None:
    found = ask(server, "Image 1:", BEFORE, "Image 2:", AFTER, QUESTION)
    assert found.choices[0].message.content


def test_a_second_question_about_the_same_images_computes_only_itself(server: Server) -> None:
    ask(server, BEFORE, AFTER, "How many shapes are there?")
    found = ask(server, BEFORE, AFTER, "What color is the rabbit?")
    assert found.usage.prompt_tokens_details.cached_tokens > 72
    assert found.timings["prompt_n"] == found.usage.prompt_tokens - found.usage.prompt_tokens_details.cached_tokens


def test_a_stream_holds_the_same_text_and_ends_with_the_usage(server: Server) -> None:
    whole = ask(server, BEFORE, AFTER, QUESTION)
    chunks = list(ask(server, BEFORE, AFTER, QUESTION, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_asynchronous_client_streams_too(server: Server) -> None:
    async def run() -> str:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="embedded", messages=[user(BEFORE, "What is this?")], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run())


def test_a_conversation_goes_on(server: Server) -> None:
    client = server.client()
    messages = [{"role": "system", "content": "You are a helpful assistant."}, user(BEFORE, "What animal is this?")]
    first = client.chat.completions.create(model="embedded", messages=messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, user("Where is it?")]
    second = client.chat.completions.create(model="embedded", messages=messages)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


def test_stop_texts_and_lengths_end_an_answer(server: Server) -> None:
    whole = ask(server, BEFORE, AFTER, QUESTION).choices[0].message.content
    word = whole.split()[3]
    stopped = ask(server, BEFORE, AFTER, QUESTION, stop=[word])
    assert stopped.choices[0].message.content == whole[: whole.index(word)]
    assert stopped.choices[0].finish_reason == "stop"
    for name in ("max_tokens", "max_completion_tokens"):
        cut = ask(server, BEFORE, AFTER, QUESTION, **{name: 3})
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage.completion_tokens == 3


def test_a_seed_repeats_a_random_answer(server: Server) -> None:
    def drawn(seed: int) -> str:
        found = ask(server, BEFORE, "Describe the image.", temperature=3.0, seed=seed, max_tokens=12)
        return str(found.choices[0].message.content)

    # What is computed anew and what is found in the cache differ in the last digits, so the first one is no measure.
    drawn(1)
    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_penalties_change_the_answer(server: Server) -> None:
    # The embedded model repeats digits where it must write a number.
    number = {"n": {"type": "integer"}}
    digits = {"type": "object", "properties": number, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": digits}}

    def said(**penalties: Any) -> str:
        found = ask(server, "How many cats?", response_format=wanted, max_tokens=40, extra_body=penalties)
        return str(found.choices[0].message.content)

    def repeated(text: str) -> int:
        return max(text.count(digit) for digit in "0123456789")

    plain = said()
    for name in ("frequency_penalty", "presence_penalty"):
        assert said(**{name: 2.0}) != plain
    assert repeated(said(frequency_penalty=2.0)) < repeated(plain)
    assert said(repetition_penalty=3.0) == said(repeat_penalty=3.0) != plain


def test_probabilities_of_tokens(server: Server) -> None:
    found = ask(server, BEFORE, AFTER, QUESTION, logprobs=True, top_logprobs=3)
    tokens = found.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == found.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        # The likeliest token is drawn at temperature 0.
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
    chunks = ask(server, BEFORE, AFTER, QUESTION, logprobs=True, stream=True)
    streamed = [t.token for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == [token.token for token in tokens]


def test_json_by_a_schema(server: Server) -> None:
    client = server.client()
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["count"],
        "additionalProperties": False,
    }
    found = client.chat.completions.create(
        model="embedded",
        messages=[user(DEMO / "desk.png", "How many hearts are there?")],
        response_format={"type": "json_schema", "json_schema": {"name": "count", "strict": True, "schema": schema}},
    )
    # It has never seen JSON, so the number may be wrong: docs/guides/serve.md says so.
    counted = json.loads(found.choices[0].message.content)
    assert list(counted) == ["count"]
    assert counted["count"] in range(10)
    assert found.choices[0].finish_reason == "stop"


def test_a_pydantic_model_is_parsed(server: Server) -> None:
    found = server.client().chat.completions.parse(
        model="embedded", messages=[user(DEMO / "desk.png", "How many objects are there?")], response_format=Count
    )
    assert isinstance(found.choices[0].message.parsed, Count)


def test_any_json_object(server: Server) -> None:
    found = ask(server, BEFORE, "What is this?", response_format={"type": "json_object"}, max_tokens=200)
    assert found.choices[0].message.content.startswith("{")


def test_the_newer_interface(server: Server) -> None:
    client = server.client()
    content = [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": data_uri(BEFORE)},
        {"type": "input_image", "image_url": data_uri(AFTER)},
    ]
    whole = client.responses.create(model="embedded", input=[{"role": "user", "content": content}])
    assert whole.output_text == ask(server, QUESTION, BEFORE, AFTER).choices[0].message.content
    assert whole.usage.input_tokens_details.cached_tokens >= 0
    assert whole.status == "completed"
    events = list(client.responses.create(model="embedded", input=[{"role": "user", "content": content}], stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    parsed = client.responses.parse(model="embedded", input="How many?", text_format=Count)
    assert isinstance(parsed.output_parsed, Count)


def test_details_choose_how_many_visual_tokens_an_image_has(server: Server) -> None:
    def tokens(detail: str, **more: Any) -> int:
        found = ask(server, image_part(BEFORE, detail=detail), "What?", max_tokens=1, extra_body=more or None)
        return int(found.usage.prompt_tokens_details.visual_tokens)

    assert (tokens("high"), tokens("auto"), tokens("low")) == (36, 36, 9)
    assert tokens("high", pool=3) == 4


def test_high_detail_adds_tiles_if_the_model_was_trained_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "tiling"
    shutil.copytree(embedded_folder(), folder)
    change_manifest(
        folder,
        "vision",
        tiling={"grids": [[2, 1], [1, 2], [2, 2]], "most_tiles": None, "several": False, "small": False},
    )
    large = Image.open(BEFORE).convert("RGB").resize((448, 448))
    with serving(tmp_path, "--model", folder) as tiling:

        def tokens(*images: Any) -> int:
            found = tiling.client().chat.completions.create(
                model="tiling", messages=[user(*images, "What?")], max_tokens=1
            )
            return int(found.usage.prompt_tokens_details.visual_tokens)

        high, auto, low = (image_part(large, detail=detail) for detail in ("high", "auto", "low"))
        # An overview and four tiles; a model that was trained so splits a single image by itself.
        assert tokens(auto) == 5 * 36
        assert tokens(auto, auto) == 2 * 36
        assert tokens(high, auto, low) == 5 * 36 + 36 + 9
        # Without room for all the tiles, the images are whole.
        assert tokens(*[high] * 30) == 30 * 36


def test_auto_pools_images_that_would_not_fit(server: Server) -> None:
    many = [image_part(BEFORE) for _ in range(60)]
    full = ask(server, *many, "What?", max_tokens=1).usage.prompt_tokens_details.visual_tokens
    assert full == 60 * 36
    with pytest.raises(BadRequestError, match="65 images and frames are more than 64"):
        ask(server, *[image_part(BEFORE) for _ in range(65)], "What?")


def test_a_prompt_that_is_too_long_is_refused_by_its_code(server: Server) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(server, "word " * 5000)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("logit_bias", {"1": 5}),
        ("temperature", -1),
        ("top_p", 0),
        ("top_logprobs", 3),
        ("stop", [""]),
        ("max_tokens", 0),
        ("pool", 0),
        ("unheard_of", 1),
    ],
)
def test_unsupported_fields_are_refused_by_name(server: Server, field: str, value: Any) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(server, "Hello", extra_body={field: value})
    assert refused.value.param == field
    assert field in refused.value.message


def test_markers_place_images_and_are_text_without_images(server: Server) -> None:
    placed = ask(server, "In <image> and <image>, what changed?", BEFORE, AFTER)
    assert placed.usage.prompt_tokens_details.visual_tokens == 72
    assert ask(server, "What does <image> mean in HTML?").choices[0].message.content
    with pytest.raises(BadRequestError, match="markers in the text: 1") as refused:
        ask(server, "What is in <image>?", BEFORE, AFTER)
    assert refused.value.param == "messages.0.content"


def test_what_is_not_supported_says_so(server: Server) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(BadRequestError, match="tools: not supported; leave it out"):
        ask(server, "Hello", tools=tools)
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    with pytest.raises(BadRequestError, match="'input_audio' is not supported; give one of 'text'") as refused:
        ask(server, audio, "Hello")
    assert refused.value.param == "messages.0.content.0.type"
    for body, said in (({}, "messages is missing"), ("x", "the body is not JSON: expected value at line 1 column 1")):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        answer = httpx.post(f"{server.url}/v1/chat/completions", content=content, timeout=60)
        assert answer.json()["error"]["message"] == said
    empty = server.post("/v1/responses", {"input": []}).json()["error"]["message"]
    assert empty == "input: List should have at least 1 item after validation, not 0, not []"
    assert server.post("/v1/embeddings", {"model": "embedded", "input": "x"}).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64,!!", "base64"),
        ("data:image/png,abc", "base64"),
        ("file:///etc/passwd", "neither a data URI nor"),
        ("/etc/passwd", "neither a data URI nor"),
        ("https://example.com/a.png", "--allow-remote-images"),
    ],
)
def test_an_unreadable_image_is_named(server: Server, url: str, said: str, stream: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(BadRequestError, match=said) as refused:
        ask(server, image_part(BEFORE), part, "What?", stream=stream)
    assert refused.value.param == "messages.0.content.1.image_url"


def test_a_bad_schema_is_named(server: Server) -> None:
    for schema in ({"type": "nope"}, {"type": "object", "not": {"type": "string"}}):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(BadRequestError) as refused:
            ask(server, "Hello", response_format=wanted)
        assert refused.value.param == "response_format.json_schema.schema"


def test_models_are_listed_with_their_modalities(server: Server) -> None:
    (model,) = server.client().models.list().data
    found = model.model_dump()
    assert found["id"] == "embedded"
    assert found["architecture"]["input_modalities"] == ["text", "image", "video"]
    assert found["meta"]["n_ctx"] == found["max_model_len"] == 4096
    assert server.client().models.retrieve("embedded").id == "embedded"
    with pytest.raises(NotFoundError) as missing:
        server.client().chat.completions.create(model="gpt-4o", messages=[user("Hello")])
    assert missing.value.code == "model_not_found"


def test_props_and_health_are_as_llama_servers(server: Server) -> None:
    props = server.get("/props", params={"model": "embedded"}).json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert props["modalities"] == {"vision": True, "audio": False, "video": True}
    assert props["media_marker"] == "<image>"
    assert "<|im_start|>" in props["chat_template"]
    assert server.get("/health").json() == {"status": "ok"}


def test_metrics_count_requests_and_tokens(server: Server) -> None:
    before = server.metric("tokens_total")
    found = ask(server, BEFORE, "What is this?")
    usage = found.usage
    expected = (
        usage.total_tokens + usage.prompt_tokens_details.cached_tokens + usage.prompt_tokens_details.visual_tokens
    )
    assert server.metric("tokens_total") - before == expected
    assert server.metric("requests_total") > 0
    assert server.metric("stage_seconds_total") > 0
    assert server.metric("memory_bytes") > 1 << 20


def test_errors_have_openais_shape(server: Server) -> None:
    for path, body, status in (
        ("/v1/chat/completions", "x", 400),
        ("/v1/chat/completions", {}, 400),
        ("/v1/nothing", {}, 404),
        ("/v1/models", {}, 405),
    ):
        answer = server.post(path, body)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
