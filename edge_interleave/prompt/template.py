"""Renders a model's chat template: untrusted Jinja2 source, run in a sandbox with limits.

Templates get the environment of Hugging Face transformers: trimmed blocks, loop controls, `raise_exception`, `tojson`,
`strftime_now`, and `{% generation %}` blocks, which only group here. Only the filters and string methods that chat
templates use are available. The limits bound the length of the source, of the output and of every intermediate text or
list, the numbers given to calls, and the total of steps: loop rounds, calls, and the values that filters, tests, slices
and comparisons traverse.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edge_interleave.errors import BundleError, UsageError, one_line

SOURCE_CHARACTERS_MAX = 1 << 18
OUTPUT_CHARACTERS_MAX = 1 << 22
STEPS_MAX = 1_000_000
WIDTH_MAX = 10_000
CHARACTERS_PER_STEP = 16
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round",
    "safe", "select", "selectattr", "sort", "string", "title", "tojson", "trim", "unique", "upper",
)  # fmt: skip
TEXT_METHODS = (
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
    "strip", "swapcase", "title", "upper",
)  # fmt: skip
INDENT_MAX = 16
# Filters linear in the length of a list; all others may stringify or recurse.
_SHALLOW_FILTERS = (
    "count", "d", "default", "first", "items", "join", "last", "length", "list", "map", "reject", "rejectattr",
    "reverse", "select", "selectattr",
)  # fmt: skip
_COMPARING_TESTS = (
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lower", "lt",
    "ne", "upper",
)  # fmt: skip
_COUNTED, _JOINED, _WEIGHED = "counted of", "joined of", "weighed of"

_CONTAINERS: Any = (dict, list, tuple, set, frozenset, type({}.keys()), type({}.values()), type({}.items()))
_ONCE: Any = (*_CONTAINERS, range)

QWEN_1_5_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template for checkpoints without one: the conversation `qwen_1_5` of the original LLaVA-NeXT code. Messages are
plain text, with a newline after each image marker."""


class ChatTemplate:
    """A compiled template. Thread-safe: it renders one prompt at a time."""

    def __init__(
        self, source: str, *, bos_token: str | None = None, eos_token: str = "", name: str = "the chat template"
    ) -> None:
        """Compile the source. Errors use `name`. Raises BundleError if the source is too long or not valid Jinja2."""
        self._name = name
        if len(source) > SOURCE_CHARACTERS_MAX:
            raise BundleError(f"{name} is longer than {SOURCE_CHARACTERS_MAX} characters; convert again")
        self._lock = threading.Lock()
        self._environment = _Environment()
        self._variables = {"bos_token": bos_token or "", "eos_token": eos_token, "tools": None, "documents": None}
        try:
            tree = self._environment.parse(source)
            code = self._environment.compile(_bounded(tree, self._environment))
            self._template = jinja2.Template.from_code(self._environment, code, self._environment.globals)
        except Exception as error:  # Jinja2's own errors, and others from its parser and Python's
            raise BundleError(f"{name} is not valid ({one_line(error)}); convert again") from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt's text.

        Raises UsageError if the template refuses the messages (for example roles that do not alternate), BundleError if
        it fails or exceeds a limit.
        """
        with self._lock:
            self._environment.steps = 0
            pieces, length = [], 0
            try:
                for piece in self._template.generate(
                    messages=messages, add_generation_prompt=add_generation_prompt, **self._variables
                ):
                    pieces.append(piece)
                    length += len(piece)
                    if length > OUTPUT_CHARACTERS_MAX:
                        raise _BoundsError("its output is too long")
            except _RefusedError as error:
                raise UsageError(f"{self._name} refuses these messages: {one_line(error)}") from error
            except Exception as error:  # Python's operators raise many types
                raise BundleError(f"{self._name} fails ({one_line(error)}); convert the model again") from error
            return "".join(pieces)


class _RefusedError(Exception):
    """The template called `raise_exception`."""


class _BoundsError(Exception):
    """The template exceeded a limit."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=lambda value: self._count_deep(value),
        )
        self.steps = 0
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _strftime_now
        self.filters["tojson"] = self._tojson
        self.filters["replace"] = self._replace
        self.filters["join"] = self._join
        self.filters["title"] = _title
        filters: dict[str, Any] = self.filters
        tests: dict[str, Any] = self.tests
        self.filters = {name: self._guarded(filters[name], name in _SHALLOW_FILTERS) for name in FILTERS}
        # Filters for `_bounded`. Their names contain a space, so no template can call them.
        self.filters[_COUNTED], self.filters[_JOINED], self.filters[_WEIGHED] = (
            self._counted,
            self._joined,
            self._count_deep,
        )
        self.tests = {name: self._guarded(test, name not in _COMPARING_TESTS) for name, test in tests.items()}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        return not isinstance(obj, (bytes, int, float)) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Forbid `format`: its output can have any width."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._count(1)
        text = getattr(obj, "__self__", None)
        if isinstance(text, str) and obj.__name__ == "join":
            return self._join(args[0] if args else (), text)
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, int) and abs(argument) > WIDTH_MAX and obj is not self.globals["range"]:
                raise _BoundsError(f"a call with the number {argument}")
        self._count_flat(*args, *kwargs.values())
        if isinstance(text, str):
            self._count_flat(text)
            for argument in (*args, *kwargs.values()):
                self._check_length(_length(text) * _length(argument))
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._count(1)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            if max(abs(left), abs(right)) > 1 << 53 or (operator == "**" and abs(right) > 64):
                raise _BoundsError("a number too large")
        elif operator == "%" and isinstance(left, str):
            raise _BoundsError("formatting by '%'")
        elif operator == "*":
            self._count_result(left, right, _length(left, number=True) * _length(right, number=True))
        else:
            self._count_result(left, right, _length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS_MAX:
            raise _BoundsError(f"more than {STEPS_MAX} steps")

    def _count_result(self, left: Any, right: Any, length: int) -> None:
        """Count the steps of making a text or a list of this length."""
        self._check_length(length)
        self._count(length // (CHARACTERS_PER_STEP if isinstance(left, str) or isinstance(right, str) else 1))

    def _check_length(self, length: int) -> None:
        if length > OUTPUT_CHARACTERS_MAX:
            raise _BoundsError("a text too long")

    def _count_flat(self, *values: Any) -> None:
        """Count the steps of traversing each value once, without recursion."""
        for value in values:
            if isinstance(value, str):
                self._count(1 + len(value) // CHARACTERS_PER_STEP)
            elif isinstance(value, _ONCE):
                self._count(1 + len(value))

    def _count_deep(self, value: Any) -> Any:
        """Count everything in the value, and return it. A list that occurs twice counts twice."""
        waiting, characters = [value], 0
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                characters += len(item)
                self._check_length(characters)
            elif isinstance(item, _CONTAINERS):
                self._count(2 * len(item))
                waiting += item
                waiting += item.values() if isinstance(item, dict) else ()
            elif isinstance(item, Namespace):
                raise _BoundsError("a namespace as a value")
        self._count(characters // CHARACTERS_PER_STEP)
        return value

    def _guarded(self, function: Callable[..., Any], shallow: bool) -> Callable[..., Any]:
        """A filter or test that counts its operands, and the items of its result if that is an iterator."""

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._count(1)
            operands = (*args, *kwargs.values())
            if shallow:
                self._count_flat(*operands)
            else:
                self._count_deep(operands)
            found = function(*args, **kwargs)
            return self._counting(found) if isinstance(found, Iterator) else found

        return guarded

    def _counted(self, values: Any) -> Any:
        """The values of a loop; its rounds are counted."""
        if isinstance(values, (str, _ONCE)):
            self._count(len(values))
            return values
        return self._counting(values) if isinstance(values, Iterable) else values

    def _counting(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count(1)
            yield value

    def _joined(self, values: Sequence[Any]) -> str:
        """The result of joining operands by `~`, within the limits."""
        self._count_deep(values)
        return "".join(map(str, values))

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        self._count_deep(text)
        self._check_length(len(str(text)) * _length(new))
        return str(text).replace(old, new, count)

    def _join(self, values: Iterable[Any], separator: str = "", attribute: str | int | None = None) -> str:
        items = [value if attribute is None else self.getitem(value, attribute) for value in self._counted(values)]
        self._count_deep([*items, separator])
        texts = list(map(str, items))
        self._check_length(sum(map(len, texts)) + len(texts) * len(separator))
        return separator.join(texts)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= INDENT_MAX:
            raise _BoundsError(f"an indent of {indent}")
        self._count_deep(value)
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: marks the assistant's words for training; only groups here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _bounded(tree: nodes.Template, environment: jinja2.Environment) -> nodes.Template:
    """The tree with loops, `~`, slices and comparisons wrapped in the environment's counting filters."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _through(_COUNTED, loop.iter)
    for compare in tree.find_all(nodes.Compare):
        compare.expr = _through(_WEIGHED, compare.expr)
        for operand in compare.ops:
            operand.expr = _through(_WEIGHED, operand.expr)
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Slice):
            item.node = _through(_WEIGHED, item.node)
    _replace_concat(tree)
    tree.set_environment(environment)
    return tree


def _through(name: str, value: nodes.Expr | nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _replace_concat(node: nodes.Node) -> None:
    for name in node.fields:
        value = getattr(node, name)
        if isinstance(value, nodes.Node):
            setattr(node, name, _concat_replaced(value))
        elif isinstance(value, list):
            setattr(node, name, [_concat_replaced(item) if isinstance(item, nodes.Node) else item for item in value])


def _concat_replaced(node: nodes.Node) -> nodes.Node:
    _replace_concat(node)
    if isinstance(node, nodes.Concat):
        return _through(_JOINED, nodes.List(node.nodes, lineno=node.lineno))
    return node


def _length(value: Any, *, number: bool = False) -> int:
    """Length of a text or a list; 1 for another value; with `number`, the value of a number (a factor of `*`)."""
    if isinstance(value, int) and number:
        return max(int(value), 0)
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else 1


def _refuse(message: str) -> str:
    raise _RefusedError(message)


def _title(text: Any) -> str:
    return str(text).title()


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
