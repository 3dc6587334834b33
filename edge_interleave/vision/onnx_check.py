"""Checks an ONNX file before ONNX Runtime sees it: a graph with loops in it can run for ever.

A vision tower needs neither loops nor branches, nor functions of its own. The file is walked field by field (protobuf),
weights are stepped over. What else may be wrong with a graph, ONNX Runtime says itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_interleave.errors import BundleError

NODES_MAX = 1 << 16

# Field numbers of onnx.proto: ModelProto, GraphProto, NodeProto, AttributeProto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_onnx(path: Path) -> None:
    """Raise BundleError where the file holds control flow, or is cut off or otherwise no protobuf message."""
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
    except (_UnsoundError, OSError) as error:
        raise BundleError(
            f"{path}: not a vision tower ({error}), cut off or damaged; convert or pull the model again"
        ) from error


class _UnsoundError(Exception):
    """Not a protobuf message."""


def _refused(path: Path, what: str) -> BundleError:
    return BundleError(f"{path}: {what}, which a vision tower does not; convert or pull the model again")


def _holds_graph(file: BinaryIO, start: int, end: int) -> bool:
    """Whether one of a node's attributes is a graph."""
    return any(
        inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        for field, first, last in _fields(file, start, end)
        if field == _NODE_ATTRIBUTE
        for inner, _, _ in _fields(file, first, last)
    )


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of the message from `start` to `end`; the span is empty for plain numbers."""
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
    """A number of 7 bits a byte, and where it ends."""
    value = 0
    for index, byte in enumerate(file.read(10)):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            file.seek(at + index + 1)
            return value, at + index + 1
    raise _UnsoundError("not an ONNX file")
