"""Restricts answers to a grammar: JSON that a JSON Schema allows, or any JSON object.

    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    grammar = Grammar.of_schema(schema, tokenizer, vocab_size, eos)

llguidance determines which tokens may come next; the logits of all others become -inf before a token is drawn. This
works with every backend and at any temperature. Needs llguidance (`pip install 'edge-interleave[schema]'`).
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
# Only one form of white space between values: a small model that may write more newlines may never stop.
_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
_OPEN_KEYWORDS = {"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"}
# A small model that may write more digits may never stop. 15 digits are exact in every reader's numbers.
_NUMBER_MAX = 10**15 - 1
_NUMBER_STEP = 1e-9
_tokenizers: weakref.WeakKeyDictionary[TextTokenizer, LLTokenizer] = weakref.WeakKeyDictionary()
_tokenizers_lock = threading.Lock()


class Grammar:
    """A grammar for one tokenizer. `begin` returns the constraint for one answer."""

    def __init__(self, grammar: str, tokenizer: LLTokenizer) -> None:
        """Use `of_schema`."""
        self._grammar = grammar
        self._tokenizer = tokenizer

    @classmethod
    def of_schema(cls, schema: Any, tokenizer: TextTokenizer, vocab_size: int, eos: tuple[int, ...]) -> Grammar:
        """Compile a JSON Schema. `schema`: see `schema_of`; None: any JSON object.

        `vocab_size`: the number of the decoder's logits. `eos`: the tokens that end an answer.
        Raises UsageError if `schema` is not a JSON Schema or has keywords that cannot be enforced, BackendError if
        llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise BackendError(
                f"answers that follow a schema need llguidance ({error}); pip install 'edge-interleave[schema]'"
            ) from error
        found = _ANY_OBJECT if schema is None else _narrowed(schema_of(schema))
        text = json.dumps(found)
        if len(text) > SCHEMA_BYTES_MAX:
            raise UsageError(f"the schema has {len(text)} bytes, more than {SCHEMA_BYTES_MAX}; give a smaller one")
        guide = _guide(tokenizer, vocab_size, eos)
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=_LAYOUT)
            wrong, problems = LLMatcher.validate_grammar_with_warnings(grammar, guide)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line(error)}") from error
        if wrong:
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line('; '.join(problems))}")
        return cls(grammar, guide)

    def begin(self) -> Constraint:
        """The constraint for a new answer. Raises UsageError for a schema that is too complex."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        if matcher.is_error():
            raise UsageError(f"not a JSON Schema that answers can follow: {one_line(matcher.get_error())}")
        return Constraint(matcher, self._tokenizer.vocab_size)


class Constraint:
    """Follows one answer, and masks the tokens that the grammar does not allow next."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        """Use `Grammar.begin`."""
        self._matcher = matcher
        self._mask = np.zeros((1, (vocab_size + 31) // 32), np.int32)

    @property
    def complete(self) -> bool:
        """Whether only an end token can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, logits: FloatArray) -> FloatArray:
        """The logits, float32 (vocab_size,), with -inf for every token that is not allowed.

        Raises UsageError if no token is allowed.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        allowed = np.unpackbits(self._mask.view(np.uint8)[0], bitorder="little")[: len(logits)].astype(bool)
        if self._matcher.is_error() or not allowed.any():
            raise UsageError(f"the answer cannot follow the schema: {one_line(self._matcher.get_error())}")
        found: FloatArray = np.where(allowed, logits[: len(allowed)], np.float32(-np.inf))
        return found

    def accept(self, token: int) -> None:
        """Record the answer's next token, which `masked` must allow."""
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


def _narrowed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without properties that its objects do not name, and with numbers that end.

    Objects are closed as in llama.cpp's server and OpenAI's strict mode; objects with a rule for further properties
    stay as they are. Numbers get bounds and at most nine decimals, unless the schema says otherwise. The result only
    allows JSON that the given schema allows too. A schema with `allOf` stays as it is, because that merges schemas.
    """
    return schema if '"allOf"' in json.dumps(schema) else dict(_narrowed_below(schema))


def _narrowed_below(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    narrowed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            narrowed[key] = {name: _narrowed_below(one) for name, one in value.items()}
        elif key in _LISTS_OF_SCHEMAS and isinstance(value, list):
            narrowed[key] = [_narrowed_below(one) for one in value]
        elif key in _SCHEMAS:
            narrowed[key] = _narrowed_below(value)
        else:
            narrowed[key] = value
    if "properties" in schema and not _OPEN_KEYWORDS & schema.keys():
        narrowed["additionalProperties"] = False
    return {**_number_limits(schema), **narrowed}


def _number_limits(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that bound the digits of a schema's numbers."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not {"integer", "number"} & set(map(str, kinds)) or {"enum", "const"} & schema.keys():
        return {}
    given = [
        abs(schema[key])
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        if isinstance(schema.get(key), (int, float))
    ]
    limits: dict[str, Any] = {}
    if max(given, default=0) < _NUMBER_MAX:
        if "exclusiveMinimum" not in schema:
            limits["minimum"] = -_NUMBER_MAX
        if "exclusiveMaximum" not in schema:
            limits["maximum"] = _NUMBER_MAX
    if "number" in kinds:
        limits["multipleOf"] = _NUMBER_STEP
    return limits


def _guide(tokenizer: TextTokenizer, vocab_size: int, eos: tuple[int, ...]) -> LLTokenizer:
    """llguidance's view of a tokenizer, made once for each."""
    from llguidance import LLTokenizer

    with _tokenizers_lock:
        found = _tokenizers.get(tokenizer)
        if found is None:
            found = LLTokenizer(tokenizer.json(), n_vocab=vocab_size, eos_token=list(eos))
            _tokenizers[tokenizer] = found
        return found
