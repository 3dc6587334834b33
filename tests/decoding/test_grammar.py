"""Answers that a JSON Schema allows, whatever the model would rather say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from support.command_line import environment, error_line, run

import edge_interleave as ei
from edge_interleave.decoding.grammar import Grammar
from edge_interleave.errors import UsageError
from edge_interleave.model import Model

COUNT = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["count"],
    "additionalProperties": False,
}


class Seen(BaseModel):
    count: int = Field(ge=0, le=9)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with ei.load(threads=1) as opened:
        yield opened


@pytest.mark.parametrize("schema", [COUNT, json.dumps(COUNT), Seen], ids=["dict", "text", "pydantic"])
def test_a_schema_is_taken_in_each_form(model: Model, schema: Any) -> None:
    answer = model.ask("How many?", schema=schema)
    assert Seen.model_validate_json(answer.text).count in range(10)
    assert answer.finish_reason == "stop"


def test_chats_and_streams_take_one_too(model: Model) -> None:
    with model.chat() as chat:
        assert set(json.loads(chat.ask("How many?", schema=COUNT).text)) == {"count"}
        assert not chat.ask("How many?").text.startswith("{")
    assert "".join(model.stream("How many?", schema=COUNT)).startswith('{"count": ')


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "nope"}, "nope"),
        ({"type": "object", "not": {}}, "not"),
        ("{", "not JSON"),
        ([1], "list"),
        ({"enum": ["x" * (1 << 18)]}, "more than"),
    ],
)
def test_what_is_no_schema_is_refused_before_anything_is_computed(model: Model, schema: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        model.stream("How many?", schema=schema)


def test_an_object_has_only_the_properties_that_the_schema_names(model: Model) -> None:
    inner = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}
    schema = {
        "type": "object",
        "properties": {
            "a": {"anyOf": [{"$ref": "#/$defs/inner"}]},
            "c": {"type": "array", "items": inner, "maxItems": 1},
        },
        "required": ["a", "c"],
        "$defs": {"inner": inner},
    }
    found = json.loads(model.ask("How many?", schema=schema).text)
    assert set(found) == {"a", "c"}
    assert set(found["a"]) == {"b"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": "number"},
        {"type": ["integer", "null"], "minimum": 1},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    ],
    ids=json.dumps,
)
def test_numbers_end_even_if_a_model_would_write_digits_for_ever(model: Model, schema: dict[str, Any]) -> None:
    info = model.bundle.manifest
    grammar = Grammar.of_schema(
        {"type": "object", "properties": {"n": schema}, "required": ["n"]},
        model.tokenizer,
        info.decoder.vocab_size,
        tuple(info.prompt.eos_token_ids),
    )
    texts = [model.tokenizer.decode([number]) for number in range(info.decoder.vocab_size)]
    eager = np.array([len(text) if text and set(text) <= set("0123456789.") else 0 for text in texts], np.float32)
    constraint, ids = grammar.begin(), []
    while not constraint.complete and len(ids) < 80:
        token = int(np.argmax(constraint.masked(eager)))
        constraint.accept(token)
        ids.append(token)
    assert abs(json.loads(model.tokenizer.decode(ids))["n"]) < 10**15


VALUES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["red", "green", 3]},
        {"const": "x"},
        {"type": "integer", "minimum": -5, "maximum": 5},
        {"type": "number"},
        {"type": "string", "maxLength": 5},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    ]
)


@given(st.dictionaries(st.sampled_from("abcdef"), VALUES, min_size=1), st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_logits_are_the_answer_is_valid(model: Model, fields: dict[str, Any], seed: int) -> None:
    """Random logits in place of a model's; what comes out is JSON with exactly the fields, in their types."""
    schema = {"type": "object", "properties": fields, "required": sorted(fields), "additionalProperties": False}
    info = model.bundle.manifest
    grammar = Grammar.of_schema(schema, model.tokenizer, info.decoder.vocab_size, tuple(info.prompt.eos_token_ids))
    chance = np.random.default_rng(seed)
    constraint, ids = grammar.begin(), []
    while not constraint.complete and len(ids) < 400:
        token = int(np.argmax(constraint.masked(chance.standard_normal(info.decoder.vocab_size).astype(np.float32))))
        constraint.accept(token)
        ids.append(token)
    found = json.loads(model.tokenizer.decode(ids))
    assert set(found) == set(fields)
    for name, wanted in fields.items():
        value = found[name]
        if "enum" in wanted:
            assert value in wanted["enum"]
        elif wanted.get("type") == "integer":
            assert value in range(-5, 6)
        elif wanted.get("type") == "string":
            assert len(value) <= 5
        elif wanted.get("type") == "array":
            assert value
            assert all(item in (True, False) for item in value)


def test_the_commands_take_a_file(tmp_path: Path) -> None:
    env = environment(tmp_path)
    file = tmp_path / "count.json"
    file.write_text(json.dumps(COUNT))
    found = run("ask", "How many?", "--schema", file, env=env)
    assert set(json.loads(found.stdout)) == {"count"}
    file.write_text("[]")
    assert "not a JSON object" in error_line(run("ask", "How many?", "--schema", file, env=env), 3)
    assert "no-such" in error_line(run("watch", "x", "--ask", "?", "--schema", tmp_path / "no-such", env=env), 3)
