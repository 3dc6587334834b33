"""Vision tower and projector of a checkpoint to one ONNX graph, built straight from the weights.

    pixels (n, 3, image_size, image_size) float32 -> visual_tokens (n, grid * grid, decoder's hidden size) float32

Standard operators only, so that any execution provider can take the graph. SigLIP and CLIP towers as transformers
defines them; features are `hidden_states[feature_layer]` of transformers, which for the last layer is before the
post-layernorm, and layers after the feature layer are not exported. Knows nothing about how the graph is run.

Precisions:

- `fp32`, and `fp16`: weights and arithmetic in that type.
- `int8`: dynamic quantization of every linear layer, in the operators that ONNX Runtime's `quantize_dynamic` emits
  (DynamicQuantizeLinear, MatMulInteger, a scale), but made tensor by tensor, so that the fp32 model is never in
  memory. Weights are quantized by output channel, symmetrically about 128 in *unsigned* 8 bits: x86 CPUs without VNNI
  add pairs of unsigned x signed products in saturating 16 bits, which is wrong for large values, whereas unsigned
  x unsigned is exact everywhere. Patch embedding, norms, softmax and the products between activations stay fp32.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edge_interleave.bundle import VISION_INPUT, VISION_OUTPUT
from edge_interleave.errors import CheckpointError, UsageError

from .onnx_graph import Array, GraphBuilder, Progress, Spec

if TYPE_CHECKING:
    from .config import CheckpointConfig, VisionConfig

PRECISIONS = ("fp32", "fp16", "int8")

FloatArray = npt.NDArray[np.float32]


class Source(Protocol):
    """What is needed of a checkpoint (`checkpoint.Checkpoint` is one)."""

    @property
    def config(self) -> CheckpointConfig:
        """Architecture."""
        ...

    def names(self) -> Collection[str]:
        """Canonical names of the tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        ...

    def tensor(self, name: str) -> FloatArray:
        """Values of a tensor."""
        ...


def write_vision_onnx(
    checkpoint: Source, path: Path, precision: str = "int8", progress: Progress | None = None
) -> None:
    """Write the vision tower and projector of `checkpoint` to `path`, atomically, with one tensor in memory at a time.

    `progress` is called with bytes written and bytes in all. Raises UsageError for an unknown precision and
    CheckpointError where the feature layer, select strategy or an activation cannot be exported, where a tensor is
    missing or has another shape than the config says, and where the file would pass ONNX's 2 GiB.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"vision precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    vision = checkpoint.config.vision
    doc = f"{vision.type} vision tower and projector, {precision}, made by edge-interleave from a checkpoint's weights"
    metadata = {"vision_type": vision.type, "precision": precision, "feature_layer": str(vision.feature_layer)}
    graph = GraphBuilder("vision", doc, metadata)
    _Export(checkpoint, graph, precision).run()
    graph.write(path, progress)


class _Export:
    """Adds the nodes and weights of tower and projector to a graph, in the order in which they run."""

    def __init__(self, source: Source, graph: GraphBuilder, precision: str) -> None:
        self.source = source
        self.graph = graph
        self.vision = source.config.vision
        self.real = np.dtype(np.float16 if precision == "fp16" else np.float32)
        self.int8 = precision == "int8"
        self.grid = self.vision.image_size // self.vision.patch_size
        self.quantized: dict[str, tuple[str, str, str]] = {}

    def run(self) -> None:
        """The whole graph."""
        size, width = self.vision.image_size, self.vision.hidden_size
        blocks = _blocks_to_run(self.vision)
        first = _first_token(self.vision)
        hidden = self._shape("projector.linear_2.weight", 2)[0]
        x = self.graph.input(VISION_INPUT, np.float32, ["n", 3, size, size])
        if self.real == np.float16:
            x = self.graph.op("Cast", x, name="pixels_fp16", to=TensorProto.FLOAT16)
        x = self.embeddings(x)
        for number in range(blocks):
            x = self.block(x, f"vision.layers.{number}")
        if first:
            x = self.graph.op("Slice", x, *self._indices("patches", [first], [2**31 - 1], [1]), name="patches")
        x = self.linear(x, "projector.linear_1", width)
        x = self.activation(x, "projector.act", self.source.config.projector_act)
        x = self.linear(x, "projector.linear_2", self._shape("projector.linear_1.weight", 2)[0])
        self.graph.op("Cast", x, name=VISION_OUTPUT, to=TensorProto.FLOAT)
        self.graph.output(VISION_OUTPUT, np.float32, ["n", self.grid**2, hidden])

    def embeddings(self, pixels: str) -> str:
        """`hidden_states[0]`: patches, CLS token, positions, and CLIP's norm before the first block."""
        vision, graph = self.vision, self.graph
        width, patch = vision.hidden_size, vision.patch_size
        prefix = "vision.embeddings"
        inputs = [self.weight(f"{prefix}.patch_embedding.weight", (width, 3, patch, patch))]
        if f"{prefix}.patch_embedding.bias" in self.source.names():
            inputs.append(self.weight(f"{prefix}.patch_embedding.bias", (width,)))
        x = graph.op("Conv", pixels, *inputs, name="patch_embedding", strides=[patch, patch])
        x = graph.op("Reshape", x, self._shape_constant(0, width, self.grid**2), name="patch_rows")
        x = graph.op("Transpose", x, name="patch_tokens", perm=[0, 2, 1])
        if vision.type == "clip":
            # A row of zeros before the patches; the CLS embedding is added with that row's position.
            zero = graph.constant("zero", np.zeros((), self.real))
            pads = graph.constant("pads_cls", np.array([0, 1, 0, 0, 0, 0], np.int64))
            x = graph.op("Pad", x, pads, zero, name="cls_and_patches")
        x = graph.op("Add", x, self._positions(), name="embeddings")
        return self.norm(x, "vision.pre_layernorm") if vision.type == "clip" else x

    def block(self, x: str, prefix: str) -> str:
        """One pre-norm transformer block."""
        width = self.vision.hidden_size
        y = self.attention(self.norm(x, f"{prefix}.layer_norm1"), f"{prefix}.self_attn")
        x = self.graph.op("Add", x, y, name=f"{prefix}.attended")
        y = self.linear(
            self.norm(x, f"{prefix}.layer_norm2"), f"{prefix}.mlp.fc1", width, self.vision.intermediate_size
        )
        y = self.activation(y, f"{prefix}.mlp.act", self.vision.hidden_act)
        y = self.linear(y, f"{prefix}.mlp.fc2", self.vision.intermediate_size, width)
        return self.graph.op("Add", x, y, name=f"{prefix}.out")

    def attention(self, x: str, prefix: str) -> str:
        """Multi-head self-attention, without a mask."""
        graph, width, heads = self.graph, self.vision.hidden_size, self.vision.heads
        head = width // heads
        split = self._shape_constant(0, -1, heads, head)
        parts = {}
        # 1 / sqrt(head) lies in the query's weights: one pass less over the scores, and small numbers in fp16.
        for part, perm, scale in (
            ("q", [0, 2, 1, 3], head**-0.5),
            ("k", [0, 2, 3, 1], 1.0),
            ("v", [0, 2, 1, 3], 1.0),
        ):
            y = self.linear(x, f"{prefix}.{part}_proj", width, width, scale)
            y = graph.op("Reshape", y, split, name=f"{prefix}.{part}_split")
            parts[part] = graph.op("Transpose", y, name=f"{prefix}.{part}_heads", perm=perm)
        scores = graph.op("MatMul", parts["q"], parts["k"], name=f"{prefix}.scores")
        share = graph.op("Softmax", scores, name=f"{prefix}.share", axis=-1)
        y = graph.op("MatMul", share, parts["v"], name=f"{prefix}.mixed")
        y = graph.op("Transpose", y, name=f"{prefix}.mixed_rows", perm=[0, 2, 1, 3])
        y = graph.op("Reshape", y, self._shape_constant(0, -1, width), name=f"{prefix}.joined")
        return self.linear(y, f"{prefix}.out_proj", width, width)

    def norm(self, x: str, prefix: str) -> str:
        """Layer normalization; ONNX computes its statistics in fp32 also where `x` is fp16."""
        width = self.vision.hidden_size
        inputs = [self.weight(f"{prefix}.{part}", (width,)) for part in ("weight", "bias")]
        return self.graph.op(
            "LayerNormalization", x, *inputs, name=f"{prefix}.norm", axis=-1, epsilon=self.vision.layer_norm_eps
        )

    def activation(self, x: str, name: str, kind: str) -> str:
        """An activation function, by transformers' name for it."""

        def op(operator: str, *inputs: str, step: str) -> str:
            return self.graph.op(operator, *inputs, name=f"{name}.{step}")

        if kind == "quick_gelu":
            gate = op("Sigmoid", op("Mul", x, self._number(1.702), step="scaled"), step="gate")
            return op("Mul", x, gate, step="out")
        if kind == "gelu":
            curve = op("Erf", op("Div", x, self._number(math.sqrt(2)), step="scaled"), step="curve")
        elif kind in ("gelu_pytorch_tanh", "gelu_new"):
            # tanh(sqrt(2/pi) (x + 0.044715 x^3)), in the arrangement that engines recognise and fuse.
            cube = op("Mul", op("Pow", x, self._number(3.0), step="cube"), self._number(0.044715), step="cubed")
            inner = op("Mul", op("Add", x, cube, step="sum"), self._number(math.sqrt(2 / math.pi)), step="scaled")
            curve = op("Tanh", inner, step="curve")
        else:
            raise CheckpointError(
                f"activation {kind!r} of the vision tower or projector is not supported "
                "(gelu, gelu_pytorch_tanh, gelu_new and quick_gelu are)"
            )
        gate = op("Mul", x, op("Add", curve, self._number(1.0), step="gate"), step="gated")
        return op("Mul", gate, self._number(0.5), step="out")

    def linear(self, x: str, prefix: str, inputs: int, outputs: int | None = None, scale: float = 1.0) -> str:
        """`(x W^T + b) scale`, quantized for int8. `outputs` None takes them from the checkpoint."""
        shape = (self._shape(f"{prefix}.weight", 2)[0] if outputs is None else outputs, inputs)
        multiply = self._matmul_int8 if self.int8 else self._matmul
        x = multiply(x, prefix, shape, scale)
        if f"{prefix}.bias" not in self.source.names():
            return x
        bias = self.weight(f"{prefix}.bias", shape[:1], scale)
        return self.graph.op("Add", x, bias, name=f"{prefix}.out")

    def weight(self, name: str, shape: tuple[int, ...], scale: float = 1.0) -> str:
        """A tensor as it is, in the graph's floating-point type."""

        def make() -> list[Array]:
            return [self._tensor(name, shape, scale)]

        return self.graph.weights([Spec(name, shape, self.real)], make)[0]

    def _matmul(self, x: str, prefix: str, shape: tuple[int, int], scale: float) -> str:
        name = f"{prefix}.weight"

        def make() -> list[Array]:
            return [self._tensor(name, shape, scale).T]

        (weight,) = self.graph.weights([Spec(name, shape[::-1], self.real)], make)
        return self.graph.op("MatMul", x, weight, name=f"{prefix}.product")

    def _matmul_int8(self, x: str, prefix: str, shape: tuple[int, int], scale: float) -> str:
        name = f"{prefix}.weight"

        def make() -> list[Array]:
            return list(_quantize(self._tensor(name, shape, scale)))

        specs = [Spec(name, shape[::-1], np.dtype(np.uint8)), Spec(f"{name}_scale", shape[:1], self.real)]
        weight, weight_scale = self.graph.weights(specs, make)
        if x not in self.quantized:
            names = (f"{x}.uint8", f"{x}.scale", f"{x}.zero")
            rows, step, zero = self.graph.ops("DynamicQuantizeLinear", x, names=names)
            self.quantized[x] = (rows, step, zero)
        rows, step, zero = self.quantized[x]
        middle = self.graph.constant("zero_uint8", np.array(128, np.uint8))
        y = self.graph.op("MatMulInteger", rows, weight, zero, middle, name=f"{prefix}.product_int32")
        y = self.graph.op("Cast", y, name=f"{prefix}.product_float", to=TensorProto.FLOAT)
        unit = self.graph.op("Mul", step, weight_scale, name=f"{prefix}.unit")
        return self.graph.op("Mul", y, unit, name=f"{prefix}.product")

    def _positions(self) -> str:
        """Position embeddings, (1, tokens, width); CLIP's first row with the CLS embedding added."""
        name, width = "vision.embeddings.position_embedding.weight", self.vision.hidden_size
        rows = self.grid**2 + (self.vision.type == "clip")

        def make() -> list[Array]:
            table = self._tensor(name, (rows, width))
            if self.vision.type == "clip":
                table = table.copy()
                table[0] += self._tensor("vision.embeddings.class_embedding", (width,))
            return [table[np.newaxis]]

        return self.graph.weights([Spec(name, (1, rows, width), self.real)], make)[0]

    def _tensor(self, name: str, shape: tuple[int, ...], scale: float = 1.0) -> FloatArray:
        array = self.source.tensor(name)
        if array.shape != shape:
            raise CheckpointError(f"tensor {name} has shape {array.shape} where the config says {shape}")
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name} holds values that are not finite")
        return array if scale == 1.0 else array * np.float32(scale)

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        shape = self.source.shape(name)
        if len(shape) != rank:
            raise CheckpointError(f"tensor {name} has shape {shape}, expected {rank} dimensions")
        return shape

    def _number(self, value: float) -> str:
        return self.graph.constant(f"number_{value:.6g}", np.array(value, self.real))

    def _shape_constant(self, *sizes: int) -> str:
        return self.graph.constant("shape_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))

    def _indices(self, name: str, *values: list[int]) -> list[str]:
        return [self.graph.constant(f"{name}_{i}", np.array(value, np.int64)) for i, value in enumerate(values)]


def _quantize(weight: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """(out, in) float32 to (in, out) uint8 about 128 and a scale for each output: w = (q - 128) scale."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    steps = np.rint(weight.T / scale)
    steps += 128
    return steps.astype(np.uint8), scale


def _blocks_to_run(vision: VisionConfig) -> int:
    """Blocks before the feature layer: hidden_states[k] is the input of block k, the last the output of the last."""
    layer = vision.feature_layer
    blocks = layer if layer >= 0 else vision.layers + 1 + layer
    if not 0 <= blocks <= vision.layers:
        raise CheckpointError(
            f"vision_feature_layer {layer} lies outside the {vision.layers} layers of the vision tower"
        )
    return blocks


def _first_token(vision: VisionConfig) -> int:
    """Tokens dropped at the front, so that a square grid of patches is left."""
    dropped = int(vision.type == "clip")
    if vision.select_strategy != ("default" if dropped else "full"):
        raise CheckpointError(
            f"vision_feature_select_strategy {vision.select_strategy!r} of a {vision.type} tower does not leave a "
            "square grid of patches; supported are 'default' for clip and 'full' for siglip"
        )
    return dropped
