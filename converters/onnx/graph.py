"""Builds an ONNX graph whose weights are made one by one while the file is written.

`onnx.save` needs the whole model in memory, twice during serialization. Here a weight is a name, a shape, a type and a
function that makes its values. The graph is checked without the values, and one weight is in memory at a time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_interleave.errors import CheckpointError
from edge_interleave.util.atomic_file import atomic_file

Array = npt.NDArray[Any]
OPSET = 17
"""The first opset with LayerNormalization; execution providers support older opsets more widely."""
IR_VERSION = 8
FILE_BYTES_MAX = 2**31 - 1
"""A protobuf message cannot be larger."""
DATA_ALIGNMENT = 4096
"""Bytes, for weights in a file of their own: engines map it into memory by pages."""

# Keys (field number << 3 | wire type 2, length-delimited) of the three messages that are written by hand.
_MODEL_GRAPH = bytes([7 << 3 | 2])
_GRAPH_INITIALIZER = bytes([5 << 3 | 2])
_TENSOR_RAW_DATA = bytes([9 << 3 | 2])


@dataclass(frozen=True)
class Spec:
    """Name, shape and type of a weight."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Group:
    specs: tuple[Spec, ...]
    make: Callable[[], Sequence[Array]]


class GraphBuilder:
    """A graph of nodes, in the order they are added, and weights, made when the file is written."""

    def __init__(
        self, name: str, doc: str, metadata: Mapping[str, str], opset: int = OPSET, domains: Sequence[str] = ()
    ) -> None:
        """`domains`: operator sets beside the standard one, of version 1; what they compute is not checked."""
        self._name = name
        self._doc = doc
        self._metadata = dict(metadata)
        self._opset = opset
        self._domains = tuple(domains)
        self._nodes: list[onnx.NodeProto] = []
        self._groups: list[_Group] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph; a string in the shape names a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))
        return name

    def output(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
        """Declare an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))

    def op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node of the default domain with one output of the same name."""
        return self.ops(kind, *inputs, names=(name,), **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs."""
        self._nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return tuple(names)

    def weights(self, specs: Sequence[Spec], make: Callable[[], Sequence[Array]]) -> tuple[str, ...]:
        """Declare weights that one call of `make` returns, in the order of `specs`."""
        self._groups.append(_Group(tuple(specs), make))
        return tuple(spec.name for spec in specs)

    def constant(self, name: str, values: Array) -> str:
        """A small tensor in memory. A name that is already used means the existing constant."""
        self._constants.setdefault(name, numpy_helper.from_array(np.asarray(values), name))
        return name

    def write(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Check the graph and write it to `path`, atomically. `progress` gets the bytes written and the bytes in all.

        Raises CheckpointError if the file would exceed ONNX's 2 GiB.
        """
        head, total = self._head()
        if total > FILE_BYTES_MAX:
            raise CheckpointError(
                f"{path}: would need {total / 2**30:.2f} GiB and an ONNX file holds less than 2; "
                "choose a smaller vision precision (fp16 or int8)"
            )
        with atomic_file(path, durable=True) as temporary, temporary.open("wb") as file:
            file.write(head)
            for group in self._groups:
                _write_group(file, group)
                if progress is not None:
                    progress(file.tell(), total)

    def serialized(self) -> bytes:
        """The checked graph with all its weights, in memory."""
        head, _ = self._head()
        file = io.BytesIO()
        file.write(head)
        for group in self._groups:
            _write_group(file, group)
        return file.getvalue()

    def write_apart(self, path: Path, data_name: str) -> None:
        """Check the graph and write it without its weights, which `write_data` puts into a file beside it."""
        model = self._model()
        self._check(model)
        for spec, offset in self._places():
            entry = model.graph.initializer.add(name=spec.name, dims=spec.shape, data_type=_onnx_type(spec.dtype))
            entry.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data_name), ("offset", offset), ("length", spec.bytes)):
                entry.external_data.add(key=key, value=str(value))
        path.write_bytes(model.SerializeToString())

    @property
    def data_bytes(self) -> int:
        """Size of the file that `write_data` writes."""
        return max((offset + spec.bytes for spec, offset in self._places()), default=0)

    def write_data(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the weights alone, one group in memory at a time; `progress` gets the bytes written and their total."""
        places, total = dict(self._places()), self.data_bytes
        with atomic_file(path, durable=True) as temporary, temporary.open("wb") as file:
            for group in self._groups:
                for spec, array in zip(group.specs, group.make(), strict=True):
                    file.write(b"\0" * (places[spec] - file.tell()))
                    file.write(_values(spec, array))
                if progress is not None:
                    progress(file.tell(), total)

    def _places(self) -> Iterator[tuple[Spec, int]]:
        """Each weight, and where it begins in the file of weights."""
        offset = 0
        for group in self._groups:
            for spec in group.specs:
                offset = -(-offset // DATA_ALIGNMENT) * DATA_ALIGNMENT
                yield spec, offset
                offset += spec.bytes

    def _head(self) -> tuple[bytes, int]:
        """Check the graph. Returns the file's bytes before the weights, and the size of the whole file."""
        model = self._model()
        self._check(model)
        graph = model.graph.SerializeToString()
        model.ClearField("graph")
        head = model.SerializeToString()
        specs = [spec for group in self._groups for spec in group.specs]
        length = len(graph) + sum(len(_before_values(spec)) + spec.bytes for spec in specs)
        head += _MODEL_GRAPH + _varint(length) + graph
        return head, len(head) - len(graph) + length

    def _model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._constants.values()), self._doc
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", self._opset),
                *(helper.make_opsetid(domain, 1) for domain in self._domains),
            ],
            ir_version=max(IR_VERSION, helper.find_min_ir_version_for([helper.make_opsetid("", self._opset)])),
            producer_name="edge-interleave",
            doc_string=self._doc,
        )
        helper.set_model_props(model, self._metadata)
        return model

    def _check(self, model: onnx.ModelProto) -> None:
        """Check types and shapes through the whole graph, with the weights as if they were inputs."""
        skeleton = onnx.ModelProto()
        skeleton.CopyFrom(model)
        skeleton.graph.input.extend(
            helper.make_tensor_value_info(spec.name, _onnx_type(spec.dtype), spec.shape)
            for group in self._groups
            for spec in group.specs
        )
        onnx.checker.check_model(skeleton)
        # Shapes are unknown behind operators of other domains.
        if not self._domains:
            onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)


def _write_group(file: BinaryIO, group: _Group) -> None:
    arrays = group.make()
    for spec, array in zip(group.specs, arrays, strict=True):
        file.write(_before_values(spec))
        file.write(_values(spec, array))


def _values(spec: Spec, array: Array) -> memoryview:
    """A weight's bytes. Raises CheckpointError where its shape is not the declared one."""
    if array.shape != spec.shape:
        raise CheckpointError(f"{spec.name} has shape {array.shape} where {spec.shape} was declared")
    # Values that overflow fp16 become infinite; the tower's probe finds them.
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=spec.dtype.newbyteorder("<"))
    return stored.reshape(-1).view(np.uint8).data


def _before_values(spec: Spec) -> bytes:
    """A weight's entry in the graph message up to its values: GraphProto.initializer = TensorProto {...}."""
    entry = TensorProto(name=spec.name, dims=spec.shape, data_type=_onnx_type(spec.dtype))
    tensor: bytes = entry.SerializeToString()
    tensor += _TENSOR_RAW_DATA + _varint(spec.bytes)
    return _GRAPH_INITIALIZER + _varint(len(tensor) + spec.bytes) + tensor


def _varint(value: int) -> bytes:
    """Protobuf's base-128 integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))
