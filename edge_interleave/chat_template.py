"""Renders a model's chat template: Jinja2 source from a stranger, run in a sandbox with bounds.

The environment is the one that Hugging Face transformers gives templates: trimmed blocks, loop controls,
`raise_exception`, `tojson`, `strftime_now`, and `{% generation %}` blocks, which here only group. Bounds: the source's
length, loop rounds and calls together, lengths that operators and string methods make, widths given to calls, and the
output. Filters that format or pad are left out: chat templates do not use them. Knows nothing about images or tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import BundleError, UsageError

SOURCE_CHARACTERS_MAX = 1 << 18
OUTPUT_CHARACTERS_MAX = 1 << 24
STEPS_MAX = 1_000_000
WIDTH_MAX = 10_000
LEFT_OUT = ("center", "filesizeformat", "format", "indent", "pprint", "urlize", "wordwrap", "xmlattr")

QWEN_1_5_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For checkpoints that bring no template: the conversation `qwen_1_5` of the original LLaVA-NeXT code. Its messages
hold plain text, in which each image marker is followed by a newline."""


class ChatTemplate:
    """A compiled template. Rendering is serialised, so threads may share one."""

    def __init__(self, source: str, *, bos_token: str | None = None, eos_token: str = "") -> None:
        """Compile. Raises BundleError where the source is too long or not Jinja2."""
        if len(source) > SOURCE_CHARACTERS_MAX:
            raise BundleError(f"the chat template is longer than {SOURCE_CHARACTERS_MAX} characters; convert again")
        self._lock = threading.Lock()
        self._environment = _Environment()
        self._variables = {"bos_token": bos_token or "", "eos_token": eos_token, "tools": None, "documents": None}
        try:
            tree = self._environment.parse(source)
            code = self._environment.compile(_bounded(tree, self._environment))
            self._template = jinja2.Template.from_code(self._environment, code, self._environment.globals)
        except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
            raise BundleError(f"the chat template is not sound ({_one_line(error)}); convert again") from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt's text.

        Raises UsageError where the template refuses the messages (say, roles that do not alternate), BundleError where
        it fails or exceeds its bounds.
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
                raise UsageError(f"the model's chat template refuses these messages: {_one_line(error)}") from error
            except Exception as error:  # a template can raise whatever Python's operators raise
                raise BundleError(f"the chat template fails ({_one_line(error)}); convert the model again") from error
            return "".join(pieces)


class _RefusedError(Exception):
    """The template called `raise_exception`."""


class _BoundsError(Exception):
    """The template exceeded a bound."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.steps = 0
        del self.globals["lipsum"]
        for name in LEFT_OUT:
            del self.filters[name]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _strftime_now
        self.filters["tojson"] = _tojson
        self.filters["counted"] = self._counted
        self.filters["joined"] = self._joined
        self.filters["replace"] = self._replace
        self.filters["join"] = self._join

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._count(1)
        text = getattr(obj, "__self__", None)
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, int) and abs(argument) > WIDTH_MAX and obj is not self.globals["range"]:
                raise _BoundsError(f"a call with the number {argument}")
            if isinstance(text, str) and _length(text) * _length(argument) > OUTPUT_CHARACTERS_MAX:
                raise _BoundsError("a text too long")
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._count(1)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            if max(abs(left), abs(right)) > 1 << 53 or (operator == "**" and abs(right) > 64):
                raise _BoundsError("a number too large")
        elif operator == "%" and isinstance(left, str):
            raise _BoundsError("formatting by '%'")
        elif operator == "*":
            self._check_length(_length(left, number=True) * _length(right, number=True))
        else:
            self._check_length(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS_MAX:
            raise _BoundsError(f"more than {STEPS_MAX} steps")

    def _check_length(self, length: int) -> None:
        if length > OUTPUT_CHARACTERS_MAX:
            raise _BoundsError("a text too long")

    def _counted(self, values: Any) -> Any:
        """What a loop goes through, its rounds counted."""
        if isinstance(values, Sized):
            self._count(len(values))
            return values
        return self._counting(values) if isinstance(values, Iterable) else values

    def _counting(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count(1)
            yield value

    def _joined(self, values: Sequence[Any]) -> str:
        """What `~` makes of its operands."""
        self._count(1)
        self._check_length(sum(map(_length, values)))
        return "".join(map(str, values))

    def _replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        self._count(1)
        self._check_length(_length(text) * _length(new))
        return str(text).replace(old, new, count)

    def _join(self, values: Iterable[Any], separator: str = "", attribute: str | int | None = None) -> str:
        items = [str(value if attribute is None else self.getitem(value, attribute)) for value in self._counted(values)]
        self._check_length(sum(map(len, items)) + len(items) * len(separator))
        return separator.join(items)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: marks the assistant's words for training; here it only groups."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _bounded(tree: nodes.Template, environment: jinja2.Environment) -> nodes.Template:
    """The tree with loops and `~` led through the environment's filters that count."""
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
    _replace_concat(tree)
    tree.set_environment(environment)
    return tree


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
        operands = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(operands, "joined", [], [], None, None, lineno=node.lineno)
    return node


def _length(value: Any, *, number: bool = False) -> int:
    """Length of a text or a list; of a number, itself where it is to be a factor."""
    if isinstance(value, int) and number:
        return max(int(value), 0)
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else 1


def _refuse(message: str) -> str:
    raise _RefusedError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
