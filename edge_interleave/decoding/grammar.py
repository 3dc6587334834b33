"""Answers that a grammar allows, and no others: JSON of a schema, or any JSON object.

    grammar = Grammar.of_schema({"type": "object", "properties": {"count": {"type": "integer"}}}, tokenizer)

llguidance says which tokens may come next; the logits of all others become -inf before a token is drawn. So it works
with every backend, and whatever the temperature. Needs llguidance (`pip install 'edge-interleave[schema]'`).
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_interleave.errors import BackendError, UsageError, one_line
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

SCHEMA_BYTES_MAX = 1 << 18
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
# One spelling of the white space between values: a small model that may write any number of newlines does so for ever.
_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
_OPENING = {"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"}
_tokenizers: weakref.WeakKeyDictionary[TextTokenizer, LLTokenizer] = weakref.WeakKeyDictionary()
_opening = threading.Lock()


class Grammar:
    """A grammar for one tokenizer. `begin` gives what constrains one answer."""

    def __init__(self, grammar: str, tokenizer: LLTokenizer) -> None:
        """Use `of_schema`."""
        self._grammar = grammar
        self._tokenizer = tokenizer

    @classmethod
    def of_schema(cls, schema: Any, tokenizer: TextTokenizer, vocab_size: int, eos: tuple[int, ...]) -> Grammar:
        """JSON that a JSON Schema allows. `schema`: see `schema_of`; None: any JSON object.

        `vocab_size`: logits of the decoder. `eos`: the tokens that end an answer.
        Raises UsageError for what is no schema or holds keywords that cannot be enforced, BackendError where
        llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise BackendError(
                f"answers by a schema need llguidance ({error}); pip install 'edge-interleave[schema]'"
            ) from error
        found = _ANY_OBJECT if schema is None else _closed(schema_of(schema))
        text = json.dumps(found)
        if len(text) > SCHEMA_BYTES_MAX:
            raise UsageError(f"the schema has {len(text)} bytes, more than {SCHEMA_BYTES_MAX}; give a smaller one")
        guide = _guide(tokenizer, vocab_size, eos)
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=_LAYOUT)
            wrong, said = LLMatcher.validate_grammar_with_warnings(grammar, guide)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line(error)}") from error
        if wrong:
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line('; '.join(said))}")
        return cls(grammar, guide)

    def begin(self) -> Constraint:
        """What constrains one answer, at its beginning. Raises UsageError for a schema that is too complex."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        if matcher.is_error():
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line(matcher.get_error())}")
        return Constraint(matcher, self._tokenizer.vocab_size)


class Constraint:
    """What a grammar allows after the tokens of one answer so far."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        """Use `Grammar.begin`."""
        self._matcher = matcher
        self._mask = np.zeros((1, (vocab_size + 31) // 32), np.int32)

    @property
    def complete(self) -> bool:
        """Whether only the end can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, logits: FloatArray) -> FloatArray:
        """The logits, float32 (vocabulary,), with -inf for every token that is not allowed."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        allowed = np.unpackbits(self._mask.view(np.uint8)[0], bitorder="little")[: len(logits)].astype(bool)
        if self._matcher.is_error() or not allowed.any():
            raise UsageError(f"the answer cannot follow the schema: {one_line(self._matcher.get_error())}")
        found: FloatArray = np.where(allowed, logits[: len(allowed)], np.float32(-np.inf))
        return found

    def accept(self, token: int) -> None:
        """Go on behind this token, which `masked` allowed."""
        self._matcher.consume_token(token)


def schema_of(schema: Any) -> Mapping[str, Any]:
    """A JSON Schema: a mapping, its JSON text, or a pydantic model's class. Raises UsageError for anything else."""
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, (str, bytes)):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the schema is not JSON: {one_line(error)}") from error
    if not isinstance(schema, Mapping):
        raise UsageError(f"a schema must be a JSON object or a pydantic model's class, not {type(schema).__name__}")
    return schema


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema, its objects without properties that it does not name, as llama.cpp's server and strict mode have it.

    What it still allows is allowed by the schema as given. Objects that say something about further properties stay as
    they are, and so do all where `allOf` puts objects together.
    """
    return schema if '"allOf"' in json.dumps(schema) else dict(_closed_below(schema))


def _closed_below(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            closed[key] = {name: _closed_below(one) for name, one in value.items()}
        elif key in _LISTS_OF_SCHEMAS and isinstance(value, list):
            closed[key] = [_closed_below(one) for one in value]
        elif key in _SCHEMAS:
            closed[key] = _closed_below(value)
        else:
            closed[key] = value
    if "properties" in schema and not _OPENING & schema.keys():
        closed["additionalProperties"] = False
    return closed


def _guide(tokenizer: TextTokenizer, vocab_size: int, eos: tuple[int, ...]) -> LLTokenizer:
    """llguidance's view of a tokenizer, made once for each."""
    from llguidance import LLTokenizer

    with _opening:
        found = _tokenizers.get(tokenizer)
        if found is None:
            found = LLTokenizer(tokenizer.json(), n_vocab=vocab_size, eos_token=list(eos))
            _tokenizers[tokenizer] = found
        return found
