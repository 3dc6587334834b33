"""Changes a decoder's graph to take a KV cache of int8 instead of float16: half of the bytes.

The converter found a step for each pair of channels that RoPE rotates together, and for each channel of the values.
The graph as converted does not use them: they lie among its weights as `keys.L.steps` and `values.L.steps`, float32
(1, kv heads, 1, head size) for each layer L. ONNX Runtime's `GroupQueryAttention` rounds the keys and values that it
stores, and multiplies whole numbers where one row is computed.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError

_STEP_INPUTS = 14
"""Inputs of `GroupQueryAttention` up to the steps of keys and values, which are the last two."""
_ATTRIBUTES = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}


def with_int8_cache(path: Path, info: DecoderInfo) -> bytes:
    """The graph of `path`, which was checked, with a cache of int8.

    Raises BundleError if it has no steps for one, or steps of another shape or type.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    known = {weight.name: weight for weight in graph.initializer}
    shape = (1, info.kv_heads, 1, info.head_dim)
    for node in graph.node:
        if node.op_type == "GroupQueryAttention":
            steps = [f"{cache}.steps" for cache in node.input[3:5]]
            if not known.keys() >= set(steps):
                raise BundleError(f"{path}: has no steps for a KV cache in q8_0; convert the model again, or take f16")
            for name in steps:
                if tuple(known[name].dims) != shape or known[name].data_type != TensorProto.FLOAT:
                    raise BundleError(f"{path}: {name} is not float32 of shape {shape}; convert the model again")
            node.input.extend([""] * (_STEP_INPUTS - 2 - len(node.input)) + steps)
            node.attribute.extend(helper.make_attribute(name, value) for name, value in _ATTRIBUTES.items())
    for value in (*graph.input, *graph.output):
        if value.name.removeprefix("new_").startswith(("keys.", "values.")):
            value.type.tensor_type.elem_type = TensorProto.INT8
    serialized: bytes = model.SerializeToString()
    return serialized
