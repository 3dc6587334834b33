"""The decoder of a checkpoint to an ONNX graph for ONNX Runtime, built straight from the weights.

    rows (1, n, hidden) float32                 what extends the timeline: embeddings of tokens, or visual tokens
    positions (1, n) int64                      their positions
    last (1,) int32, total (1,) int32           KV entries behind the run, less one and in all
    cos, sin (positions, head size / 2) float16 RoPE, of every position up to the trained context
    keys.L, values.L (1, kv heads, cells, head size) float16, of each layer L: n entries are written behind the others
    -> logits (1, vocabulary) float32 of the last row; keys.L, values.L as new_keys.L, new_values.L (the same memory)

The graph, its weights and the matrix of embeddings are three files, so that the engine maps the weights into memory
and the embeddings of a token are read as they are used. Some operators are ONNX Runtime's own: `GroupQueryAttention`
has a KV cache that is shared by its input and output, so nothing is copied in a step.

Precisions:

- `int8` (default): weights with a scale for each output, activations with a scale for each row (token), products of
  whole numbers. The outliers of activations are evened out beforehand (`smoothing`).
- `int4`: 4 bits in groups of 32 with a scale and an offset each. The smallest; prefills at a third of int8's speed.
- `f16`: for GPUs. On CPUs it takes the memory of f32.
- `f32`: for comparisons.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edge_interleave.bundle.manifest import ONNX_DATA, ONNX_EMBEDDINGS, ONNX_GRAPH, PartInfo
from edge_interleave.converters.checkpoint.config import DecoderConfig
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.checkpoint.weight_names import EMBEDDING, HEAD
from edge_interleave.converters.onnx.graph import GraphBuilder, Spec
from edge_interleave.converters.onnx.int8 import quantized
from edge_interleave.converters.onnx.nbits import BLOCK, group_bytes, quantized_groups
from edge_interleave.converters.part_info import Matrix, part_info
from edge_interleave.converters.precisions import DEFAULT_ONNX_PRECISION, ONNX_PRECISIONS
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import UsageError

STAGE = "onnx"
DOMAIN = "com.microsoft"
OPSET = 23
"""The first with RMSNormalization."""
APART_SHARE, APART_MULTIPLE = 8, 16
"""Of the feed-forward's inner channels one in so many gets steps of its own, rounded up to a multiple."""
CACHE_ROOM = 1.5
"""A KV cache in int8 holds values up to this many times the largest of the calibration; larger ones are cut off."""
HEAD_BYTES = 32 << 20
"""Of a piece of the head."""
FORMAT = "1"
"""Of the graph's inputs and outputs; the runtime refuses others."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Smoothing:
    """Divisors of the inputs of one layer's products, (channels,) each; the weights are multiplied by them."""

    attention: FloatArray
    """Of the first norm's output."""
    mixed: FloatArray
    """Of what attention gives, (kv heads * head size,): heads that share values share divisors."""
    feed_forward: FloatArray
    """Of the second norm's output."""
    gated: FloatArray
    """Of the feed-forward's inner channels."""
    order: npt.NDArray[np.int64]
    """The inner channels, those with the largest values first, which get steps of their own."""
    keys: FloatArray
    """Largest sizes of what a KV cache holds, (kv heads, head size): the two channels that RoPE rotates have one."""
    values: FloatArray
    """The same for values, (kv heads, head size)."""

    def cache_steps(self, smoothed: bool) -> list[FloatArray]:
        """Steps of a KV cache in int8 for keys and values, (1, kv heads, 1, head size) each.

        `smoothed`: whether the weights are those of `apply`.
        """
        values = self.values / self.mixed.reshape(self.values.shape) if smoothed else self.values
        steps = [np.maximum(peaks * CACHE_ROOM / 127, 1e-9).astype(np.float32) for peaks in (self.keys, values)]
        return [part[np.newaxis, :, np.newaxis] for part in steps]

    def apply(self, name: str, values: FloatArray, config: DecoderConfig) -> FloatArray:
        """A tensor of the layer, `self_attn.q_proj.weight` say, as int8 takes it. May change `values`."""
        part, kind = name.split(".")[-2:]
        if part in ("q_norm", "k_norm"):
            return values  # behind the products, and it would undo any factor on their rows
        if part.endswith("layernorm"):
            return values / (self.attention if part == "input_layernorm" else self.feed_forward)
        if kind == "weight":
            values *= self._columns(part, config)
        if part == "v_proj":
            values = (values.T / self.mixed).T
        if part == "up_proj":
            values = (values.T / self.gated).T
        if part in ("gate_proj", "up_proj"):
            values = values[self.order]
        return values[:, self.order] if name.endswith("down_proj.weight") else values

    def _columns(self, part: str, config: DecoderConfig) -> FloatArray:
        if part == "o_proj":
            heads = self.mixed.reshape(config.kv_heads, 1, config.head_dim)
            return np.repeat(heads, config.heads // config.kv_heads, axis=1).reshape(-1)
        if part == "down_proj":
            return self.gated
        return self.feed_forward if part in ("gate_proj", "up_proj") else self.attention


Smoothings = Callable[[], Sequence[Smoothing]]


def check_precision(precision: str) -> None:
    """Raise UsageError for an unknown precision."""
    if precision not in ONNX_PRECISIONS:
        raise UsageError(f"ONNX precision {precision!r}: choose one of {', '.join(ONNX_PRECISIONS)}")


def decoder_files(
    checkpoint: Checkpoint,
    precision: str = DEFAULT_ONNX_PRECISION,
    smoothings: Smoothings | None = None,
    progress: Progress | None = None,
) -> dict[str, Callable[[Path], object]]:
    """The files of the folder by name, each with a function that writes it to a path. They may be written in any order.

    `smoothings` is called once if int8 or int4 weights are written; None: activations are not smoothed, and there can
    be no KV cache in int8. `progress` is called with the stage `onnx` and bytes of weights. Raises UsageError for an
    unknown precision. Writing raises CheckpointError for values that are not finite, and OSError for a full disk.
    """
    export = export_decoder(checkpoint, precision, smoothings)
    graph = export.graph

    def write_graph(path: Path) -> PartInfo:
        graph.write_apart(path, ONNX_DATA)
        return part_info(export.matrices, NAMED[precision])

    def write_data(path: Path) -> None:
        graph.write_data(path, (lambda done, total: progress(STAGE, done, total)) if progress else None)

    return {
        ONNX_GRAPH: write_graph,
        ONNX_DATA: write_data,
        ONNX_EMBEDDINGS: lambda path: write_embeddings(checkpoint, path, precision),
    }


NAMED = {"int8": ("int8",), "int4": ("int4",), "f16": ("f16",), "f32": ("f32",)}
"""The types that a precision stands for."""


def decoder_bytes(checkpoint: Checkpoint, precision: str = DEFAULT_ONNX_PRECISION) -> int:
    """Bytes that the files will take, nearly. Raises UsageError for an unknown precision."""
    vocab, hidden = checkpoint.shape(EMBEDDING)
    table = vocab * (hidden + 4 if precision in ("int8", "int4") else hidden * (2 if precision == "f16" else 4))
    return export_decoder(checkpoint, precision).graph.data_bytes + table + (1 << 20)


def export_decoder(checkpoint: Checkpoint, precision: str, smoothings: Smoothings | None = None) -> DecoderExport:
    """The whole decoder, its weights not yet made. Raises UsageError for an unknown precision."""
    check_precision(precision)
    decoder = checkpoint.config.decoder
    metadata = {
        "format": FORMAT,
        "source": checkpoint.source,
        "precision": precision,
        "rope_frequencies": json.dumps(rope_frequencies(decoder).tolist()),
        "feed_forward": str(decoder.intermediate_size),
    }
    doc = f"{decoder.type} decoder of {checkpoint.source}, {precision}, made by edge-interleave"
    graph = GraphBuilder("decoder", doc, metadata, OPSET, [DOMAIN])
    export = DecoderExport(checkpoint, graph, precision, smoothings)
    export.whole()
    return export


def write_embeddings(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """The matrix of embeddings as `.npy`: a record for each token, `scale` and int8 `row`, or the row alone."""
    vocab, hidden = checkpoint.shape(EMBEDDING)
    step = max(1, (16 << 20) // (4 * hidden))
    kind: Any = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}.get(precision, np.dtype("<i1"))
    packed = kind.kind == "i"
    record = np.dtype([("scale", "<f4"), ("row", kind, (hidden,))]) if packed else np.dtype((kind, (hidden,)))
    table = np.lib.format.open_memmap(path, "w+", record.base if not packed else record,
                                      (vocab,) if packed else (vocab, hidden))  # fmt: skip
    for start in range(0, vocab, step):
        rows = checkpoint.rows(EMBEDDING, start, min(start + step, vocab))
        part = slice(start, start + len(rows))
        if packed:
            scale = np.abs(rows).max(axis=1) / np.float32(127)
            scale[scale == 0] = 1
            table["scale"][part] = scale
            table["row"][part] = np.rint(rows / scale[:, np.newaxis])
        else:
            table[part] = rows
    table.flush()


def rope_frequencies(decoder: DecoderConfig) -> npt.NDArray[np.float64]:
    """Radians a position, (head size / 2,): as transformers computes them, with `linear` and `llama3` scaling."""
    size = decoder.head_dim
    frequencies = decoder.rope_theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    scaling = decoder.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.type == "linear":
        return frequencies / scaling.factor
    wavelength = 2 * math.pi / frequencies
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    share = smooth.clip(0, 1)
    stretched: npt.NDArray[np.float64] = frequencies * ((1 - share) / scaling.factor + share)
    return stretched


def int8_specs(name: str, inputs: int, outputs: int) -> list[Spec]:
    """A matrix of whole numbers, and the scale of each output."""
    return [
        Spec(f"{name}.int8", (inputs, outputs), np.dtype(np.int8)),
        Spec(f"{name}.scale", (outputs,), np.dtype(np.float32)),
    ]


class DecoderExport:
    """Adds the decoder's nodes and weights to a graph, in the order in which they run."""

    def __init__(
        self, checkpoint: Checkpoint, graph: GraphBuilder, precision: str, smoothings: Smoothings | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config.decoder
        self.graph = graph
        self.precision = precision
        self.matrices: list[Matrix] = []
        self.taken: list[str] = []
        """What the products of the layers take, four tensors a layer, in the order of `Smoothing`."""
        self._names = frozenset(checkpoint.names())
        self._smoothings = smoothings
        self._found: Sequence[Smoothing] | None = None

    def whole(self) -> None:
        """All layers, from `rows` to `logits`."""
        graph, config = self.graph, self.config
        x = graph.input("rows", np.float32, [1, "n", config.hidden_size])
        self.inputs()
        pending: str | None = None
        for layer in range(config.layers):
            x, pending = self.layer(layer, x, pending)
        assert pending is not None
        last = self.integers(-1)
        ends = [graph.op("Gather", part, last, name=f"last.{part}", axis=1) for part in (x, pending)]
        normed, _ = self.norm(ends[0], ends[1], "decoder.norm")
        head = EMBEDDING if self.checkpoint.tied else HEAD
        logits = (
            self.head_int8(normed, head)
            if self.precision == "int8"
            else self.product(normed, "head", [head], self.precision)
        )
        graph.op("Reshape", logits, self.integers(1, config.vocab_size), name="logits")
        graph.output("logits", np.float32, [1, config.vocab_size])

    def inputs(self) -> None:
        """What every layer takes."""
        graph = self.graph
        graph.input("positions", np.int64, [1, "n"])
        graph.input("last", np.int32, [1])
        graph.input("total", np.int32, [1])
        for name in ("cos", "sin"):
            graph.input(name, np.float16, ["trained", self.config.head_dim // 2])

    def layer(self, number: int, x: str, pending: str | None) -> tuple[str, str]:
        """One block. `x` + `pending` is the residual stream before it, and what it gives is the one behind it."""
        graph, prefix = self.graph, f"decoder.layers.{number}"
        normed, x = self.norm(x, pending, f"{prefix}.input_layernorm")
        attention = f"{prefix}.self_attn"
        packed = self.linear(normed, f"{attention}.qkv", [f"{attention}.{name}_proj" for name in "qkv"])
        mixed = self.attention(packed, number)
        self.cache_steps(number)
        added = self.linear(mixed, f"{attention}.o_proj")
        feed_forward, x = self.norm(x, added, f"{prefix}.post_attention_layernorm")
        steps = self.quantized(feed_forward)
        gate = self.linear(feed_forward, f"{prefix}.mlp.gate_proj", steps=steps)
        up = self.linear(feed_forward, f"{prefix}.mlp.up_proj", steps=steps)
        gate = graph.op("QuickGelu", gate, name=f"{prefix}.mlp.silu", domain=DOMAIN, alpha=1.0)
        inner = graph.op("Mul", gate, up, name=f"{prefix}.mlp.gated")
        self.taken += [normed, mixed, feed_forward, inner]
        return x, self.linear(inner, f"{prefix}.mlp.down_proj", apart=self.precision == "int8")

    def attention(self, packed: str, number: int) -> str:
        """Queries, keys and values side by side to what attention mixes, (1, n, heads * head size) float32."""
        graph, config = self.graph, self.config
        shape: list[int | str] = [1, config.kv_heads, "cells", config.head_dim]
        cache = [f"{kind}.{number}" for kind in ("keys", "values")]
        for name in cache:
            graph.input(name, np.float16, shape)
            graph.output(f"new_{name}", np.float16, shape)
        mixed, _, _ = graph.ops(
            "GroupQueryAttention",
            *(self.normed_heads(packed, number) if config.qk_norm else (self.halves(packed), "", "")),
            *cache,
            "last",
            "total",
            "cos",
            "sin",
            "positions",
            names=(f"mixed.{number}.f16", *(f"new_{name}" for name in cache)),
            domain=DOMAIN,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
        )
        return graph.op("Cast", mixed, name=f"mixed.{number}", to=TensorProto.FLOAT)

    def cache_steps(self, number: int) -> None:
        """Weights for a KV cache in int8, which the graph as it is does not use; only for int8 and int4."""
        if self.precision not in ("int8", "int4") or self._smoothings is None:
            return
        shape = (1, self.config.kv_heads, 1, self.config.head_dim)
        specs = [Spec(f"{kind}.{number}.steps", shape, np.dtype(np.float32)) for kind in ("keys", "values")]
        self.graph.weights(specs, lambda: self._smoothing(number).cache_steps(self.precision == "int8"))

    def normed_heads(self, packed: str, number: int) -> list[str]:
        """Queries, keys and values apart, in float16; queries and keys with the RMS norm of each head.

        The norm comes before the rounding to float16: what it takes may be beyond that type's range.
        """
        graph, config = self.graph, self.config
        counts = (config.heads, config.kv_heads, config.kv_heads)
        by_head = graph.op("Reshape", packed, self.integers(0, 0, sum(counts), config.head_dim), name=f"{packed}.heads")
        names = [f"decoder.layers.{number}.self_attn.{part}" for part in "qkv"]
        pieces = graph.ops("Split", by_head, self.integers(*counts), names=[f"{name}_heads" for name in names], axis=2)
        taken = []
        for name, piece, count in zip(names, pieces, counts, strict=True):
            x = piece if name.endswith("v") else self.norm(piece, None, f"{name}_norm")[0]
            x = graph.op("Reshape", x, self.integers(0, 0, count * config.head_dim), name=f"{name}_rows")
            taken.append(self.halves(x))
        return taken

    def halves(self, x: str) -> str:
        """`x` in float16."""
        return self.graph.op("Cast", x, name=f"{x}.f16", to=TensorProto.FLOAT16)

    def norm(self, x: str, pending: str | None, name: str) -> tuple[str, str]:
        """RMS norm of `x` + `pending` over the last axis, and their sum."""
        spec = Spec(f"{name}.weight", self.checkpoint.shape(f"{name}.weight"), np.dtype(np.float32))
        (weight,) = self.graph.weights([spec], lambda: [self.tensor(spec.name)])
        epsilon = self.config.rms_norm_eps
        if pending is None:
            return self.graph.op("RMSNormalization", x, weight, name=f"{name}.out", axis=-1, epsilon=epsilon), x
        out, _, _, total = self.graph.ops(
            "SkipSimplifiedLayerNormalization",
            x,
            pending,
            weight,
            names=(f"{name}.out", "", "", f"{name}.sum"),
            domain=DOMAIN,
            epsilon=epsilon,
        )
        return out, total

    def linear(
        self,
        x: str,
        name: str,
        parts: Sequence[str] = (),
        *,
        steps: tuple[str, str] | None = None,
        apart: bool = False,
    ) -> str:
        """`x W^T + b` of linear layers side by side. `steps`: of `x` in whole numbers, where those are known.

        `apart`: the first channels, which have the largest values, get steps of their own.
        """
        parts = list(parts) or [name]
        matrices = [f"{part}.weight" for part in parts]
        if apart:
            y = self.product_apart(x, name, matrices[0])
        else:
            y = self.product(x, name, matrices, self.precision, steps)
        sizes = [self.checkpoint.shape(matrix)[0] for matrix in matrices]
        held = [f"{part}.bias" in self._names for part in parts]
        if not any(held):
            return y
        spec = Spec(f"{name}.bias", (sum(sizes),), np.dtype(np.float32))

        def make() -> list[FloatArray]:
            values = [
                self.tensor(f"{part}.bias") if there else np.zeros(size, np.float32)
                for part, size, there in zip(parts, sizes, held, strict=True)
            ]
            return [np.concatenate(values)]

        (bias,) = self.graph.weights([spec], make)
        return self.graph.op("Add", y, bias, name=f"{name}.out")

    def product(
        self, x: str, name: str, matrices: Sequence[str], precision: str, steps: tuple[str, str] | None = None
    ) -> str:
        """`x W^T`, in float32."""
        graph = self.graph
        outputs = sum(self.checkpoint.shape(matrix)[0] for matrix in matrices)
        inputs = self.checkpoint.shape(matrices[0])[1]

        def weight() -> FloatArray:
            return np.concatenate([self.tensor(matrix) for matrix in matrices])

        if precision == "int8":
            specs = int8_specs(name, inputs, outputs)
            graph.weights(specs, lambda: quantized(weight()))
            self._note(matrices, "int8", inputs * outputs, sum(spec.bytes for spec in specs))
            return self.product_int8(name, specs, steps or self.quantized(x))
        if precision == "int4":
            groups = -(-inputs // BLOCK)
            specs = [
                Spec(f"{name}.int4", (outputs, groups, BLOCK // 2), np.dtype(np.uint8)),
                Spec(f"{name}.scales", (outputs, groups), np.dtype(np.float32)),
                Spec(f"{name}.zeros", (outputs, -(-groups // 2)), np.dtype(np.uint8)),
            ]
            names = graph.weights(specs, lambda: quantized_groups(weight()))
            self._note(matrices, "int4", inputs * outputs, group_bytes(outputs, inputs))
            how = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
            return graph.op("MatMulNBits", x, *names, name=f"{name}.product", domain=DOMAIN, **how)
        real = np.dtype(np.float16 if precision == "f16" else np.float32)
        (stored,) = graph.weights([Spec(f"{name}.{precision}", (inputs, outputs), real)], lambda: [weight().T])
        self._note(matrices, precision, inputs * outputs, inputs * outputs * real.itemsize)
        if precision == "f32":
            return graph.op("MatMul", x, stored, name=f"{name}.product")
        # Norms and the residual stream stay in float32, for some activations of these models are beyond float16.
        x = graph.op("Cast", x, name=f"{name}.input", to=TensorProto.FLOAT16)
        y = graph.op("MatMul", x, stored, name=f"{name}.halves")
        return graph.op("Cast", y, name=f"{name}.product", to=TensorProto.FLOAT)

    def product_apart(self, x: str, name: str, matrix: str) -> str:
        """`x W^T` in whole numbers, the first of the channels with steps of their own."""
        outputs, inputs = self.checkpoint.shape(matrix)
        first = -(-inputs // APART_SHARE // APART_MULTIPLE) * APART_MULTIPLE
        sizes = (first, inputs - first)
        names = [f"{name}.{part}" for part in ("first", "rest")]
        pieces = self.graph.ops("Split", x, self.integers(*sizes), names=[f"{part}.input" for part in names], axis=2)
        specs = [int8_specs(part, size, outputs) for part, size in zip(names, sizes, strict=True)]

        def make() -> Sequence[npt.NDArray[Any]]:
            weight = self.tensor(matrix)
            return [*quantized(weight[:, :first]), *quantized(weight[:, first:])]

        self.graph.weights([*specs[0], *specs[1]], make)
        self._note([matrix], "int8", inputs * outputs, sum(spec.bytes for part in specs for spec in part))
        products = [
            self.product_int8(part, spec, self.quantized(piece))
            for part, spec, piece in zip(names, specs, pieces, strict=True)
        ]
        return self.graph.op("Add", *products, name=f"{name}.product")

    def product_int8(self, name: str, specs: Sequence[Spec], steps: tuple[str, str]) -> str:
        """Rows of whole numbers times a matrix of them."""
        weight, scale = (spec.name for spec in specs)
        inputs = (steps[0], weight, self.number(1.0), scale, self.zero())
        y = self.graph.op("MatMulIntegerToFloat", *inputs, name=f"{name}.steps", domain=DOMAIN)
        return self.graph.op("Mul", y, steps[1], name=f"{name}.product")

    def head_int8(self, x: str, matrix: str) -> str:
        """The head's product of one row, which is quantized twice: what the first steps leave over gets finer ones.

        The head is read from memory as a whole, and that takes the time: two rows take no more of it than one.
        """
        graph = self.graph
        rows, step = self.quantized(x)
        whole = graph.op("DequantizeLinear", rows, self.number(1.0), self.zero(), name="head.whole")
        rest = graph.op("Sub", x, graph.op("Mul", whole, step, name="head.near"), name="head.rest")
        finer, fine_step = self.quantized(rest)
        both = graph.op("Concat", rows, finer, name="head.rows", axis=1)
        steps = graph.op("Concat", step, fine_step, name="head.row_steps", axis=1)
        # In pieces: the engine holds a matrix twice while it opens it, and the converter in float32 while it makes it.
        vocab, inputs = self.checkpoint.shape(matrix)
        height = max(1, HEAD_BYTES // inputs)
        pieces = []
        for number, start in enumerate(range(0, vocab, height)):
            stop = min(start + height, vocab)
            specs = int8_specs(f"head.{number}", inputs, stop - start)
            graph.weights(specs, partial(self._quantized_rows, matrix, start, stop))
            pieces.append(self.product_int8(f"head.{number}", specs, (both, steps)))
        self._note([matrix], "int8", vocab * inputs, vocab * (inputs + 4))
        y = graph.op("Concat", *pieces, name="head.both", axis=2) if len(pieces) > 1 else pieces[0]
        return graph.op("ReduceSum", y, self.integers(1), name="head.sum", keepdims=1)

    def _quantized_rows(self, matrix: str, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        return quantized(self.checkpoint.rows(matrix, start, stop))

    def quantized(self, x: str) -> tuple[str, str]:
        """Rows of `x` as uint8 about 128, and the step of each row: x = (rows - 128) * step. Nothing but for int8."""
        if self.precision != "int8":
            return x, ""
        graph = self.graph
        size = graph.op("Abs", x, name=f"{x}.size")
        most = graph.op("ReduceMax", size, self.integers(-1), name=f"{x}.most", keepdims=1)
        step = graph.op("Mul", most, self.number(1 / 127), name=f"{x}.least_step")
        step = graph.op("Max", step, self.number(1e-12), name=f"{x}.step")
        share = graph.op("Div", x, step, name=f"{x}.share")
        return graph.op("QuantizeLinear", share, self.number(1.0), self.zero(), name=f"{x}.uint8"), step

    def tensor(self, name: str) -> FloatArray:
        """A tensor of the checkpoint, for int8 with the outliers evened out; the caller's own copy."""
        values = self.checkpoint.tensor(name)
        if self._smoothings is None or self.precision != "int8" or not name.startswith("decoder.layers."):
            return values
        return self._smoothing(int(name.split(".")[2])).apply(name, values, self.config)

    def _smoothing(self, layer: int) -> Smoothing:
        assert self._smoothings is not None
        if self._found is None:
            self._found = self._smoothings()
        return self._found[layer]

    def zero(self) -> str:
        """The zero point of rows."""
        return self.graph.constant("zero", np.array(128, np.uint8))

    def number(self, value: float) -> str:
        """A scalar."""
        return self.graph.constant(f"number_{value:.6g}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """A list of integers."""
        return self.graph.constant("_".join(map(str, ("integers", *values))), np.array(values, np.int64))

    def _note(self, matrices: Sequence[str], kind: str, weights: int, size: int) -> None:
        for matrix in matrices:
            part = math.prod(self.checkpoint.shape(matrix))
            self.matrices.append(Matrix(matrix, kind, part, size * part // weights))
