"""Checks an untrusted ONNX file before ONNX Runtime parses it: a graph with a loop may never end.

A vision tower and a decoder need no loops, branches or functions, so a file with any of them is refused. Weights in
another file must lie within the file that belongs to the graph. The check walks the protobuf fields and skips the
weights. ONNX Runtime reports all other errors of a graph itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_interleave.errors import BundleError

NODES_MAX = 1 << 16
_TEXT_MAX = 4096

# Field numbers of onnx.proto: ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto,
# StringStringEntryProto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE = 5
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_IN_THE_GRAPH = bytes([_TENSOR_LOCATION << 3, 0])
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_onnx(path: Path, data: Path | None = None) -> None:
    """Raise BundleError if the file has control flow, functions or too many nodes, or is no protobuf message.

    `data`: the file with the weights, in the same folder. A graph with weights elsewhere is refused.
    """
    try:
        with path.open("rb") as file:
            nodes = 0
            for field, start, end in _fields(file, 0, path.stat().st_size):
                if field == _MODEL_FUNCTIONS:
                    raise _refused(path, "holds functions")
                if field != _MODEL_GRAPH:
                    continue
                for inner, first, last in _fields(file, start, end):
                    nodes += inner == _GRAPH_NODE
                    if nodes > NODES_MAX:
                        raise _refused(path, f"holds more than {NODES_MAX} nodes")
                    if inner == _GRAPH_NODE and _holds_graph(file, first, last):
                        raise _refused(path, "holds loops or branches")
                    if inner == _GRAPH_INITIALIZER:
                        _check_place(path, _external(file, first, last), data)
                    if inner == _GRAPH_SPARSE:
                        raise _refused(path, "holds sparse weights")
    except (_UnsoundError, OSError) as error:
        raise BundleError(
            f"{path}: not a vision tower or decoder ({error}), cut off or damaged; convert or pull the model again"
        ) from error


class _UnsoundError(Exception):
    """Not a protobuf message."""


def _refused(path: Path, what: str) -> BundleError:
    return BundleError(f"{path}: not a vision tower or decoder, since it {what}; convert or pull the model again")


def _holds_graph(file: BinaryIO, start: int, end: int) -> bool:
    """Whether one of a node's attributes is a graph."""
    return any(
        inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        for field, first, last in _fields(file, start, end)
        if field == _NODE_ATTRIBUTE
        for inner, _, _ in _fields(file, first, last)
    )


def _check_place(path: Path, external: dict[str, str], data: Path | None) -> None:
    """Raise BundleError if a weight in another file does not lie within `data`."""
    if not external:
        return
    if data is None:
        raise _refused(path, "has weights in another file")
    offset, length = (external.get(key, "") for key in ("offset", "length"))
    numbers = all(text.isascii() and text.isdecimal() and len(text) < 16 for text in (offset, length))
    if external.get("location") != data.name or not numbers or int(offset) + int(length) > data.stat().st_size:
        raise BundleError(f"{path}: a weight does not lie within {data.name}; convert or pull the model again")


def _external(file: BinaryIO, start: int, end: int) -> dict[str, str]:
    """`location`, `offset` and `length` of a tensor's values in another file; empty if they are in the graph."""
    found: dict[str, str] = {}
    apart = False
    for field, first, last in _fields(file, start, end):
        if field == _TENSOR_LOCATION:
            # 0, in the graph, may be written out. A byte without its high bit ends a number, so these two are the whole
            # field; anything longer is taken for another file.
            file.seek(first - 2)
            apart |= file.read(2) != _IN_THE_GRAPH
        if field == _TENSOR_EXTERNAL:
            entry = {key: _text(file, *span) for key, *span in _fields(file, first, last)}
            found[entry.get(_ENTRY_KEY, "")] = entry.get(_ENTRY_VALUE, "")
    return found or ({"location": ""} if apart else {})


def _text(file: BinaryIO, start: int, end: int) -> str:
    if end - start > _TEXT_MAX:
        raise _UnsoundError("not an ONNX file")
    file.seek(start)
    return file.read(end - start).decode("utf-8", "replace")


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of the message from `start` to `end`; an empty span for plain numbers."""
    while start < end:
        file.seek(start)
        tag, start = _varint(file, start)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == _VARINT:
            _, start = _varint(file, start)
        elif kind == _LENGTH:
            size, start = _varint(file, start)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            start += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _UnsoundError("not an ONNX file")
        if start + size > end:
            raise _UnsoundError("a field ends after the file")
        yield number, start, start + size
        start += size


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """A varint (7 bits in each byte), and the position of its end."""
    value = 0
    for index, byte in enumerate(file.read(10)):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            file.seek(at + index + 1)
            return value, at + index + 1
    raise _UnsoundError("not an ONNX file")
