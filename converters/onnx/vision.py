"""Converts a checkpoint's vision tower and projector to an ONNX graph.

    pixels (n, 3, image_size, image_size) float32 -> visual_tokens (n, tokens, decoder's hidden size) float32

There are grid * grid tokens, or one less if the model leaves out the first patch (`VisionConfig.first_patch_dropped`).

A model whose video frames are pooled before the projector (LLaVA-NeXT-Video) gets a second output, `frame_tokens`. The
pooled grid then goes through the projector behind the whole one, as more rows of the same matrix.

The graph has standard operators only, for any execution provider. SigLIP and CLIP towers follow transformers. Features
are transformers' `hidden_states[feature_layer]`, which for the last layer is before the post-layernorm. Layers after
the feature layer are not exported.

The tower is a chain of stages: the embeddings, each block, the projector. `write_vision_onnx` writes the whole chain.
`stage_graph` makes one stage, which the probe runs before the file is written.

Precisions:

- `fp32` and `fp16`: weights and arithmetic in that type. `fp16` is for GPUs and NPUs: on a CPU, ONNX Runtime widens the
  weights to fp32 when it loads them.
- `int8`: for CPUs, integer products in every linear layer. Weights are signed, symmetric 8-bit numbers with a scale for
  each output, for which CPUs have instructions. Activations are unsigned 8-bit numbers (signed ones are ten times
  slower on x86) with a step for each row (token) and a fixed zero point: 128, or 32 after a GELU, which has no values
  below -0.17. Outlier channels stay fp32 (`onnx.int8`; reasons in docs/decisions/0001-int8-tower.md). The patch
  embedding's weights are stored in the same way, but it computes in fp32, and so do norms, softmax and products between
  activations.
  On x86 CPUs without VNNI integer products saturate; `edge_interleave.vision.tower` detects this and avoids it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edge_interleave.bundle.manifest import FRAME_OUTPUT, VISION_BATCH, VISION_INPUT, VISION_OUTPUT, PartInfo
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.onnx.graph import GraphBuilder, Spec
from edge_interleave.converters.onnx.int8 import Balance, quantized
from edge_interleave.converters.part_info import Matrix, part_info
from edge_interleave.converters.precisions import VISION_PRECISIONS
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import CheckpointError, UsageError
from edge_interleave.util.arrays import FloatArray

STAGE = "vision"
STAGE_INPUT = "x"
"""The input of every stage except the first: hidden states, (n, tokens, width) float32."""
STAGE_OUTPUT = "y"
PEAK = "peak of "
"""Prefix of a tensor's name: the output of a watched graph with the tensor's largest absolute values."""

STEPS = 255
"""Steps of 8 bits."""
ZERO, ZERO_AFTER_GELU = 128, 32
"""Zero points. A GELU has no values below -0.1701, so most steps are for values above."""
INT8_APART = "int8 with fp32 channels"
"""The type of a matrix with some input channels kept apart."""


def write_vision_onnx(
    checkpoint: Checkpoint,
    path: Path,
    precision: str = "int8",
    progress: Progress | None = None,
    balances: Mapping[str, Balance] | None = None,
) -> PartInfo:
    """Write the vision tower and projector of `checkpoint` to `path`, atomically, with one tensor in memory at a time.

    `balances`, for int8: first linear layer of an input to the input's balance, from the probe; without them, no
    channels are kept apart. `progress` gets the stage `vision`, in bytes. Returns the types that the matrices got.
    Raises UsageError for an unknown precision. Raises CheckpointError if the feature layer, the select strategy or an
    activation is not supported, if a weight is not finite, or if the file would exceed ONNX's 2 GiB.
    """
    if precision not in VISION_PRECISIONS:
        raise UsageError(f"vision precision {precision!r}: choose one of {', '.join(VISION_PRECISIONS)}")
    vision = checkpoint.config.vision
    metadata = {
        "source": checkpoint.source,
        "vision_type": vision.type,
        "feature_layer": str(vision.feature_layer),
        "precision": precision,
    }
    doc = f"{vision.type} vision tower and projector of {checkpoint.source}, {precision}, made by edge-interleave"
    graph = GraphBuilder("vision", doc, metadata)
    export = _Export(checkpoint, graph, precision, balances or {})
    export.run(range(stages(checkpoint)), VISION_OUTPUT)
    graph.write(path, (lambda done, total: progress(STAGE, done, total)) if progress else None)
    return part_info(export.matrices, (precision, INT8_APART) if precision == "int8" else (precision,))


def stages(checkpoint: Checkpoint) -> int:
    """Number of stages: the embeddings, each block, the projector. Raises CheckpointError like `write_vision_onnx`."""
    _check(checkpoint)
    return checkpoint.config.vision.layers_used + 2


def stage_graph(
    checkpoint: Checkpoint,
    stage: int,
    precision: str,
    balances: Mapping[str, Balance] | None = None,
    *,
    watched: bool = False,
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """A stage as an ONNX model with its weights, and first linear layer to all linear layers with the same input.

    The first stage takes VISION_INPUT, the others STAGE_INPUT; all give STAGE_OUTPUT, in float32. A `watched` graph has
    more outputs: PEAK + the first linear layer of an input, (channels,), with the input's largest absolute values by
    channel; and PEAK + the name of every other tensor that fp16 must hold, (). Raises CheckpointError like
    `write_vision_onnx`.
    """
    graph = GraphBuilder("stage", "", {})
    export = _Export(checkpoint, graph, precision, balances or {}, watched)
    export.run(range(stage, stage + 1), STAGE_OUTPUT)
    return graph.serialized(), export.linears_by_input


def _check(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a missing layer, or a class token among the features."""
    vision, folder = checkpoint.config.vision, checkpoint.folder
    if not 0 <= vision.layers_used <= vision.layers:
        raise CheckpointError(
            f"{folder}: feature layer {vision.feature_layer} lies outside the tower's {vision.layers} layers"
        )
    if vision.type == "clip" and vision.select_strategy != "default":
        raise CheckpointError(
            f"{folder}: feature select strategy {vision.select_strategy!r} of a clip tower (field "
            "'vision_feature_select_strategy' or 'mm_vision_select_feature') keeps the class token; only 'default' and "
            "'patch' are supported"
        )


@dataclass(frozen=True)
class _Steps:
    """A quantized input: names of tensors of the graph."""

    rows: str
    """uint8 (n * tokens, channels)."""
    zero: str
    """The zero point of all rows."""
    highest: str
    """The largest step of all rows, ()."""
    part: str
    """Each row's step divided by the largest, (n * tokens, 1)."""
    apart: str | None
    """The channels kept apart, float32 (n * tokens, channels)."""
    balance: Balance | None


class _Export:
    """Adds the nodes and weights of stages to a graph, in execution order.

    Hidden states are (n, tokens, width), or (n * tokens, width) for int8, which has a step for each row of a matrix.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        graph: GraphBuilder,
        precision: str,
        balances: Mapping[str, Balance],
        watched: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.graph = graph
        self.vision = checkpoint.config.vision
        self.tokens = self.vision.grid**2 + (self.vision.type == "clip")
        self.real = np.dtype(np.float16 if precision == "fp16" else np.float32)
        self.int8 = precision == "int8"
        self.names = frozenset(checkpoint.names())
        self.balances = balances
        self.watched = watched
        self.linears_by_input: dict[str, tuple[str, ...]] = {}
        self.quantized: dict[str, _Steps] = {}
        self.matrices: list[Matrix] = []

    def run(self, numbers: range, output: str) -> None:
        """Add the stages `numbers`, from the first stage's input to `output`."""
        graph, vision, last = self.graph, self.vision, stages(self.checkpoint) - 1
        if numbers.start == 0:
            x = graph.input(VISION_INPUT, np.float32, [VISION_BATCH, 3, vision.image_size, vision.image_size])
        else:
            x = graph.input(STAGE_INPUT, np.float32, [VISION_BATCH, self.tokens, vision.hidden_size])
        if self.real == np.float16:
            x = graph.op("Cast", x, name=f"{x}_fp16", to=TensorProto.FLOAT16)
        if numbers.start > 0 and self.int8:
            x = graph.op("Reshape", x, self.integers(-1, vision.hidden_size), name="rows")
        for number in numbers:
            if number == 0:
                x = self.embeddings(x)
            elif number < last:
                x = self.block(x, f"vision.layers.{number - 1}")
            else:
                x = self.projector(x)
        rows, width = self.tokens, vision.hidden_size
        if numbers.stop > last:
            rows, width = vision.tokens + self.pooled_side**2, self.checkpoint.shape("projector.linear_2.weight")[0]
        if self.int8:
            x = graph.op("Reshape", x, self.integers(-1, rows, width), name="by_image")
        if output != VISION_OUTPUT or not self.pooled_side:
            self.output(x, output, rows, width)
            return
        for name, start, end in ((output, 0, vision.grid**2), (FRAME_OUTPUT, vision.grid**2, rows)):
            span = (self.integers(start), self.integers(end), self.integers(1))
            self.output(graph.op("Slice", x, *span, name=f"{name}_rows"), name, end - start, width)

    @property
    def pooled_side(self) -> int:
        """The side of the grid of a frame that is pooled before the projector; 0 if none is."""
        video = self.checkpoint.config.video
        return self.vision.grid // video.stride if video is not None and video.before_projector else 0

    def output(self, x: str, name: str, rows: int, width: int) -> None:
        """Make `x` the graph's output `name`, float32 (n, rows, width)."""
        self.graph.op("Cast", x, name=name, to=TensorProto.FLOAT)
        self.graph.output(name, np.float32, [VISION_BATCH, rows, width])

    def embeddings(self, pixels: str) -> str:
        """`hidden_states[0]`: patches, CLS token, positions, and CLIP's norm before the first block."""
        vision, graph = self.vision, self.graph
        clip, patch, prefix = vision.type == "clip", vision.patch_size, "vision.embeddings"
        inputs = [self.filters(f"{prefix}.patch_embedding.weight"), *self.present(f"{prefix}.patch_embedding.bias")]
        x = graph.op("Conv", pixels, *inputs, name="patch_embedding", strides=[patch, patch])
        x = graph.op("Reshape", x, self.integers(0, vision.hidden_size, vision.grid**2), name="patch_rows")
        x = graph.op("Transpose", x, name="patch_tokens", perm=[0, 2, 1])
        if clip:
            # A row of zeros before the patches; its position embedding includes the CLS embedding.
            x = graph.op("Pad", x, self.integers(0, 1, 0, 0, 0, 0), self.number(0.0), name="cls_and_patches")
        x = self.watch(graph.op("Add", x, self.positions(), name="embeddings"))
        if clip:
            x = self.watch(self.norm(x, "vision.pre_layernorm"))
        return graph.op("Reshape", x, self.integers(-1, vision.hidden_size), name="rows") if self.int8 else x

    def filters(self, name: str) -> str:
        """The weights of a convolution, (out, in, height, width); int8 stores them with a scale for each output."""
        if not self.int8:
            self.stored(name)
            return self.weight(name)
        shape = self.checkpoint.shape(name)
        specs = [Spec(name, shape, np.dtype(np.int8)), Spec(f"{name}_scale", (shape[0], 1, 1, 1), self.real)]
        self.matrices.append(Matrix(name, "int8", math.prod(shape), sum(spec.bytes for spec in specs)))

        def make() -> Sequence[npt.NDArray[Any]]:
            values, scale = quantized(self.tensor(name).reshape(shape[0], -1))
            return [values.T.reshape(shape), scale.reshape(-1, 1, 1, 1)]

        weight, scale = self.graph.weights(specs, make)
        # ONNX Runtime computes these two once, when it opens the graph, but a DequantizeLinear in every run. Without
        # zero points, that even fails with the option for CPUs whose int8 products saturate.
        weight = self.graph.op("Cast", weight, name=f"{name}_steps", to=TensorProto.FLOAT)
        return self.graph.op("Mul", weight, scale, name=f"{name}_whole")

    def block(self, x: str, prefix: str) -> str:
        """One pre-norm transformer block."""
        projections = tuple(f"{prefix}.self_attn.{name}_proj" for name in "qkv")
        y = self.input_of(projections, self.norm(x, f"{prefix}.layer_norm1", projections[0]), divided=True)
        y = self.attention(y, f"{prefix}.self_attn")
        x = self.watch(self.graph.op("Add", x, y, name=f"{prefix}.attended"))
        fc1, fc2 = f"{prefix}.mlp.fc1", f"{prefix}.mlp.fc2"
        y = self.linear(self.input_of((fc1,), self.norm(x, f"{prefix}.layer_norm2", fc1), divided=True), fc1)
        y = self.activation(y, f"{prefix}.mlp.act", self.vision.hidden_act)
        y = self.linear(self.input_of((fc2,), y, zero=ZERO_AFTER_GELU), fc2)
        return self.watch(self.graph.op("Add", x, y, name=f"{prefix}.out"))

    def projector(self, x: str) -> str:
        """The projector, from the tower's hidden states to the decoder's width.

        It leaves out the first row: CLIP's class token, or a patch (`VisionConfig.first_patch_dropped`). Of a model
        that pools frames before it, it also gives the pooled grid, behind the whole one.
        """
        vision, graph, one, two = self.vision, self.graph, "projector.linear_1", "projector.linear_2"
        dropped = self.tokens != vision.tokens
        apart = dropped or self.pooled_side > 0
        if apart and self.int8:
            x = graph.op("Reshape", x, self.integers(-1, self.tokens, vision.hidden_size), name="by_picture")
        if dropped:
            start, end, axis = (self.integers(value) for value in (1, np.iinfo(np.int64).max, 1))
            x = graph.op("Slice", x, start, end, axis, name="patches")
        if self.pooled_side:
            x = graph.op("Concat", x, self.pooled(x), name="patches_and_pooled", axis=1)
        if apart and self.int8:
            x = graph.op("Reshape", x, self.integers(-1, vision.hidden_size), name="patch_matrix")
        x = self.linear(self.input_of((one,), x), one)
        x = self.activation(x, "projector.act", vision.projector_act)
        return self.linear(self.input_of((two,), x, zero=ZERO_AFTER_GELU), two)

    def pooled(self, x: str) -> str:
        """The patches, (n, grid * grid, width), pooled as those of a frame: (n, pooled grid's patches, width)."""
        graph, vision, config = self.graph, self.vision, self.checkpoint.config
        stride = config.video.stride if config.video is not None else 1
        kind = {"average": "AveragePool", "max": "MaxPool"}[config.pooling_mode]
        x = graph.op("Transpose", x, name="channels_first", perm=[0, 2, 1])
        x = graph.op("Reshape", x, self.integers(-1, vision.hidden_size, vision.grid, vision.grid), name="patch_grid")
        x = graph.op(kind, x, name="pooled_grid", kernel_shape=[stride, stride], strides=[stride, stride])
        x = graph.op("Reshape", x, self.integers(-1, vision.hidden_size, self.pooled_side**2), name="pooled_cells")
        return graph.op("Transpose", x, name="pooled_patches", perm=[0, 2, 1])

    def attention(self, x: str, prefix: str) -> str:
        """Multi-head self-attention, without a mask."""
        graph, width, heads = self.graph, self.vision.hidden_size, self.vision.heads
        size = width // heads
        # The query's weights include 1 / sqrt(size): one pass less over the scores, and smaller numbers in fp16.
        q = self.heads(self.linear(x, f"{prefix}.q_proj", size**-0.5), f"{prefix}.q", [0, 2, 1, 3])
        k = self.heads(self.linear(x, f"{prefix}.k_proj"), f"{prefix}.k", [0, 2, 3, 1])
        v = self.heads(self.linear(x, f"{prefix}.v_proj"), f"{prefix}.v", [0, 2, 1, 3])
        scores = self.watch(graph.op("MatMul", q, k, name=f"{prefix}.scores"))
        share = graph.op("Softmax", scores, name=f"{prefix}.share", axis=-1)
        y = graph.op("MatMul", share, v, name=f"{prefix}.mixed")
        y = graph.op("Transpose", y, name=f"{prefix}.mixed_rows", perm=[0, 2, 1, 3])
        shape = (-1, width) if self.int8 else (0, -1, width)
        y = graph.op("Reshape", y, self.integers(*shape), name=f"{prefix}.joined")
        return self.linear(self.input_of((f"{prefix}.out_proj",), y), f"{prefix}.out_proj")

    def heads(self, x: str, name: str, perm: list[int]) -> str:
        """Hidden states to (n, tokens, heads, size), then transposed."""
        size = self.vision.hidden_size // self.vision.heads
        start = (-1, self.tokens) if self.int8 else (0, -1)
        y = self.graph.op("Reshape", x, self.integers(*start, self.vision.heads, size), name=f"{name}_split")
        return self.graph.op("Transpose", y, name=f"{name}_heads", perm=perm)

    def norm(self, x: str, prefix: str, linear: str | None = None) -> str:
        """Layer normalization. ONNX computes its statistics in fp32 even if `x` is fp16.

        It also divides by the balance of the linear layer `linear`'s input.
        """
        balance = self.balances.get(linear) if linear is not None and self.int8 else None
        scale = 1.0 if balance is None else np.float32(1) / balance.divisors
        names = [f"{prefix}.{kind}" for kind in ("weight", "bias") if f"{prefix}.{kind}" in self.names]
        inputs = [self.weight(name, scale) for name in names]
        return self.graph.op(
            "LayerNormalization", x, *inputs, name=f"{prefix}.norm", axis=-1, epsilon=self.vision.layer_norm_eps
        )

    def activation(self, x: str, name: str, kind: str) -> str:
        """An activation function by transformers' name, in a form that engines recognise and fuse."""

        def op(operator: str, *inputs: str, step: str) -> str:
            return self.graph.op(operator, *inputs, name=f"{name}.{step}")

        if kind == "quick_gelu":
            gate = op("Sigmoid", op("Mul", x, self.number(1.702), step="scaled"), step="gate")
            return op("Mul", x, gate, step="out")
        if kind == "gelu":
            # x (1 + erf(x / sqrt(2))) / 2
            curve = op("Erf", op("Div", x, self.number(math.sqrt(2)), step="scaled"), step="curve")
            twice = op("Mul", x, op("Add", curve, self.number(1.0), step="gate"), step="twice")
            return op("Mul", twice, self.number(0.5), step="out")
        if kind in ("gelu_pytorch_tanh", "gelu_new"):
            # x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
            cubed = op("Mul", op("Pow", x, self.number(3.0), step="cube"), self.number(0.044715), step="cubed")
            inner = op("Mul", op("Add", x, cubed, step="sum"), self.number(math.sqrt(2 / math.pi)), step="scaled")
            gate = op("Add", op("Tanh", inner, step="curve"), self.number(1.0), step="gate")
            return op("Mul", op("Mul", x, self.number(0.5), step="half"), gate, step="out")
        raise CheckpointError(
            f"{self.checkpoint.folder}: activation {kind!r} of the vision tower or projector is not supported "
            "(gelu, gelu_pytorch_tanh, gelu_new and quick_gelu are)"
        )

    def watch(self, x: str, name: str = "") -> str:
        """Return `x`. A watched graph outputs its largest absolute value, by channel if `name` is given."""
        if self.watched:
            size = self.graph.op("Abs", x, name=f"{x}.size")
            axes = {"axes": [0, 1]} if name else {}
            peak = self.graph.op("ReduceMax", size, name=f"{PEAK}{name or x}", keepdims=0, **axes)
            self.graph.output(peak, np.float32, [self.checkpoint.shape(f"{name}.weight")[1]] if name else [])
        return x

    def input_of(self, linears: Sequence[str], x: str, *, divided: bool = False, zero: int = ZERO) -> str:
        """Return `x`, the input of these linear layers; for int8, quantize it once for all of them.

        `divided`: whether `x` is already divided by its balance. `zero`: the zero point for its values.
        """
        self.linears_by_input[linears[0]] = tuple(linears)
        if self.int8:
            self.quantized[x] = self.steps(x, self.balances.get(linears[0]), divided, zero)
        return self.watch(x, linears[0])

    def steps(self, x: str, balance: Balance | None, divided: bool, zero: int) -> _Steps:
        """Quantize rows, each with its own step: x = (rows - zero) * highest step * part.

        Engines fuse an integer product with one scale for the input and one for each output: the highest step is that
        scale. The row's part of it is one more multiplication.
        """
        graph, whole, apart = self.graph, x, None
        if balance is not None and balance.apart:
            apart = graph.op("Gather", x, self.integers(*balance.apart), name=f"{x}.apart", axis=1)
            if not divided:
                kept = graph.constant(f"{x}.kept", (1 / balance.divisors).astype(np.float32))
                whole = graph.op("Mul", x, kept, name=f"{x}.whole")
        # All values of a row must fit in 8 bits, on both sides of the zero point.
        most = graph.op("ReduceMax", whole, name=f"{x}.most", axes=[-1], keepdims=1)
        most = graph.op("Mul", most, self.number(1 / (STEPS - zero)), name=f"{x}.most_step")
        least = graph.op("ReduceMin", whole, name=f"{x}.least", axes=[-1], keepdims=1)
        least = graph.op("Mul", least, self.number(-1 / zero), name=f"{x}.least_step")
        tiny = self.number(float(np.finfo(np.float32).tiny) * STEPS)
        step = graph.op("Max", most, least, tiny, name=f"{x}.steps")
        flat = graph.op("Reshape", step, self.integers(-1), name=f"{x}.step_list")
        zeros = graph.constant(f"zero_{zero}_list", np.array([zero], np.uint8))
        zeros = graph.op("Expand", zeros, graph.op("Shape", flat, name=f"{x}.rows"), name=f"{x}.zeros")
        rows = graph.op("QuantizeLinear", whole, flat, zeros, name=f"{x}.uint8", axis=0)
        highest = graph.op("ReduceMax", step, name=f"{x}.highest_step", keepdims=0)
        part = graph.op("Div", step, highest, name=f"{x}.part")
        return _Steps(rows, graph.constant(f"zero_{zero}", np.array(zero, np.uint8)), highest, part, apart, balance)

    def linear(self, x: str, prefix: str, scale: float = 1.0) -> str:
        """`(x W^T + b) scale`; in int8, with a quantized product."""
        bias = f"{prefix}.bias" in self.names
        if not self.int8:
            y = self.product(x, prefix, scale)
            if bias:
                y = self.graph.op("Add", y, self.weight(f"{prefix}.bias", scale), name=f"{prefix}.out")
            return self.watch(y)
        y = self.product_int8(x, prefix, scale)
        added = self.weight(f"{prefix}.bias", scale) if bias else None
        added = self.product_apart(x, prefix, scale, added)
        return y if added is None else self.graph.op("Add", y, added, name=f"{prefix}.out")

    def product(self, x: str, prefix: str, scale: float) -> str:
        """`x W^T scale` in the graph's floating-point type."""
        name = f"{prefix}.weight"
        rows, columns = self.checkpoint.shape(name)
        specs = [Spec(name, (columns, rows), self.real)]
        (weight,) = self.graph.weights(specs, lambda: [self.tensor(name, scale).T])
        self.stored(name)
        return self.graph.op("MatMul", x, weight, name=f"{prefix}.product")

    def product_int8(self, x: str, prefix: str, scale: float) -> str:
        """`x W^T scale` without the channels kept apart."""
        name = f"{prefix}.weight"
        rows, columns = self.checkpoint.shape(name)
        specs = [Spec(name, (columns, rows), np.dtype(np.int8)), Spec(f"{name}_scale", (rows,), self.real)]
        steps = self.quantized[x]
        balance = steps.balance
        apart = len(balance.apart) if balance is not None else 0
        size = sum(spec.bytes for spec in specs) + apart * rows * self.real.itemsize
        self.matrices.append(Matrix(name, INT8_APART if apart else "int8", rows * columns, size))

        def make() -> Sequence[npt.NDArray[Any]]:
            if balance is None:
                return quantized(self.tensor(name, scale))
            weight = self.tensor(name, scale)
            weight[:, list(balance.apart)] = 0
            return quantized(weight * np.where(np.isfinite(balance.divisors), balance.divisors, 1))

        weight, weight_scale = self.graph.weights(specs, make)
        y = self.graph.op("MatMulInteger", steps.rows, weight, steps.zero, name=f"{prefix}.product_int32")
        y = self.graph.op("Cast", y, name=f"{prefix}.product_steps", to=TensorProto.FLOAT)
        unit = self.graph.op("Mul", steps.highest, weight_scale, name=f"{prefix}.unit")
        y = self.graph.op("Mul", y, unit, name=f"{prefix}.product_parts")
        return self.graph.op("Mul", y, steps.part, name=f"{prefix}.product")

    def product_apart(self, x: str, prefix: str, scale: float, bias: str | None) -> str | None:
        """`x W^T scale + bias` of the channels kept apart; only the bias if there are none."""
        steps = self.quantized[x]
        if steps.apart is None or steps.balance is None:
            return bias
        name, channels, divisors = f"{prefix}.weight", list(steps.balance.apart), steps.balance.divisors
        # Division by infinity is for the quantized product only.
        factors = np.where(np.isfinite(divisors), divisors, 1)[channels].astype(np.float32)
        specs = [Spec(f"{name}_apart", (len(channels), self.checkpoint.shape(name)[0]), self.real)]
        (weight,) = self.graph.weights(specs, lambda: [(self.tensor(name, scale)[:, channels] * factors).T])
        inputs = [steps.apart, weight] if bias is None else [steps.apart, weight, bias]
        return self.graph.op("Gemm", *inputs, name=f"{prefix}.product_apart")

    def stored(self, name: str) -> None:
        """Record a matrix in the graph's floating-point type."""
        weights = math.prod(self.checkpoint.shape(name))
        kind = "fp16" if self.real == np.float16 else "fp32"
        self.matrices.append(Matrix(name, kind, weights, weights * self.real.itemsize))

    def positions(self) -> str:
        """Position embeddings, (1, tokens, width); CLIP's first row includes the CLS embedding."""
        name = "vision.embeddings.position_embedding.weight"

        def make() -> list[FloatArray]:
            table = self.tensor(name)
            if self.vision.type == "clip":
                table[0] += self.tensor("vision.embeddings.class_embedding")
            return [table[np.newaxis]]

        return self.graph.weights([Spec(name, (1, *self.checkpoint.shape(name)), self.real)], make)[0]

    def present(self, *names: str) -> list[str]:
        """The tensors that the checkpoint has."""
        return [self.weight(name) for name in names if name in self.names]

    def weight(self, name: str, scale: float | FloatArray = 1.0) -> str:
        """A tensor in the graph's floating-point type."""
        specs = [Spec(name, self.checkpoint.shape(name), self.real)]
        return self.graph.weights(specs, lambda: [self.tensor(name, scale)])[0]

    def tensor(self, name: str, scale: float | FloatArray = 1.0) -> FloatArray:
        """A tensor's values, times `scale`. The checkpoint has checked that they are finite."""
        array = self.checkpoint.tensor(name)
        if not isinstance(scale, float) or scale != 1.0:
            array *= np.asarray(scale, np.float32)
        return array

    def number(self, value: float) -> str:
        """A scalar constant in the graph's floating-point type."""
        return self.graph.constant(f"number_{value:.6g}", np.array(value, self.real))

    def integers(self, *values: int) -> str:
        """A constant list of integers: a shape, pads, an index."""
        return self.graph.constant("_".join(map(str, ("integers", *values))), np.array(values, np.int64))
