"""Vision tower and projector of a checkpoint to one ONNX graph, built straight from the weights.

    pixels (n, 3, image_size, image_size) float32 -> visual_tokens (n, grid * grid, decoder's hidden size) float32

Standard operators only, so that any execution provider can take the graph. SigLIP and CLIP towers as transformers
defines them; features are `hidden_states[feature_layer]` of transformers, which for the last layer is before the
post-layernorm, and layers after the feature layer are not exported. Knows nothing about how the graph is run.

Precisions:

- `fp32`, and `fp16`: weights and arithmetic in that type. `fp16` is for GPUs and NPUs: on a CPU, ONNX Runtime turns
  the weights back to fp32 when it loads them.
- `int8`: for CPUs; dynamic quantization of every linear layer, in the operators that ONNX Runtime's `quantize_dynamic`
  emits (DynamicQuantizeLinear, MatMulInteger, a scale), but made tensor by tensor, so that the fp32 model is never in
  memory. Weights are signed 8 bits, symmetric, with a scale for each output: the type that CPUs have instructions for.
  On x86 CPUs without VNNI such products saturate; `edge_interleave.vision.tower` finds that out and has them done
  another way. Patch embedding, norms, softmax and the products between activations stay fp32.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edge_interleave.bundle import VISION_BATCH, VISION_INPUT, VISION_OUTPUT
from edge_interleave.errors import CheckpointError, UsageError

from .checkpoint import Checkpoint
from .onnx_graph import GraphBuilder, Spec
from .progress import Progress

PRECISIONS = ("fp32", "fp16", "int8")
STAGE = "vision"

FloatArray = npt.NDArray[np.float32]


def write_vision_onnx(
    checkpoint: Checkpoint, path: Path, precision: str = "int8", progress: Progress | None = None
) -> None:
    """Write the vision tower and projector of `checkpoint` to `path`, atomically, with one tensor in memory at a time.

    `progress` hears of the bytes written (stage `vision`). Raises UsageError for an unknown precision and
    CheckpointError where the feature layer, the select strategy or an activation cannot be exported, where a weight
    is not finite, and where the file would pass ONNX's 2 GiB.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"vision precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    vision = checkpoint.config.vision
    metadata = {
        "source": checkpoint.source,
        "vision_type": vision.type,
        "feature_layer": str(vision.feature_layer),
        "precision": precision,
    }
    doc = f"{vision.type} vision tower and projector of {checkpoint.source}, {precision}, made by edge-interleave"
    graph = GraphBuilder("vision", doc, metadata)
    _Export(checkpoint, graph, precision).run()
    graph.write(path, (lambda done, total: progress(STAGE, done, total)) if progress else None)


class _Export:
    """Adds the nodes and weights of tower and projector to a graph, in the order in which they run."""

    def __init__(self, checkpoint: Checkpoint, graph: GraphBuilder, precision: str) -> None:
        self.checkpoint = checkpoint
        self.graph = graph
        self.vision = checkpoint.config.vision
        self.real = np.dtype(np.float16 if precision == "fp16" else np.float32)
        self.int8 = precision == "int8"
        self.names = frozenset(checkpoint.names())
        self.quantized: dict[str, tuple[str, ...]] = {}

    def run(self) -> None:
        """The whole graph."""
        vision, graph = self.vision, self.graph
        self.check()
        x = graph.input(VISION_INPUT, np.float32, [VISION_BATCH, 3, vision.image_size, vision.image_size])
        if self.real == np.float16:
            x = graph.op("Cast", x, name="pixels_fp16", to=TensorProto.FLOAT16)
        x = self.embeddings(x)
        for number in range(vision.layers_used):
            x = self.block(x, f"vision.layers.{number}")
        if vision.type == "clip":
            start, end, axis = (self.integers(value) for value in (1, np.iinfo(np.int64).max, 1))
            x = graph.op("Slice", x, start, end, axis, name="patches")
        x = self.linear(x, "projector.linear_1")
        x = self.activation(x, "projector.act", vision.projector_act)
        x = self.linear(x, "projector.linear_2")
        graph.op("Cast", x, name=VISION_OUTPUT, to=TensorProto.FLOAT)
        hidden = self.checkpoint.shape("projector.linear_2.weight")[0]
        graph.output(VISION_OUTPUT, np.float32, [VISION_BATCH, vision.grid**2, hidden])

    def check(self) -> None:
        """Refuse what would not give a square grid of patches, and a layer that is not there."""
        vision, folder = self.vision, self.checkpoint.folder
        if not 0 <= vision.layers_used <= vision.layers:
            raise CheckpointError(
                f"{folder}: feature layer {vision.feature_layer} lies outside the tower's {vision.layers} layers"
            )
        if vision.select_strategy != ("default" if vision.type == "clip" else "full"):
            raise CheckpointError(
                f"{folder}: feature select strategy {vision.select_strategy!r} of a {vision.type} tower does not "
                "leave a square grid of patches; supported are 'default' for clip and 'full' for siglip"
            )

    def embeddings(self, pixels: str) -> str:
        """`hidden_states[0]`: patches, CLS token, positions, and CLIP's norm before the first block."""
        vision, graph = self.vision, self.graph
        clip, patch, prefix = vision.type == "clip", vision.patch_size, "vision.embeddings"
        inputs = self.present(f"{prefix}.patch_embedding.weight", f"{prefix}.patch_embedding.bias")
        x = graph.op("Conv", pixels, *inputs, name="patch_embedding", strides=[patch, patch])
        x = graph.op("Reshape", x, self.integers(0, vision.hidden_size, vision.grid**2), name="patch_rows")
        x = graph.op("Transpose", x, name="patch_tokens", perm=[0, 2, 1])
        if clip:
            # A row of zeros before the patches; the CLS embedding is added with that row's position.
            x = graph.op("Pad", x, self.integers(0, 1, 0, 0, 0, 0), self.number(0.0), name="cls_and_patches")
        x = graph.op("Add", x, self.positions(), name="embeddings")
        return self.norm(x, "vision.pre_layernorm") if clip else x

    def block(self, x: str, prefix: str) -> str:
        """One pre-norm transformer block."""
        y = self.attention(self.norm(x, f"{prefix}.layer_norm1"), f"{prefix}.self_attn")
        x = self.graph.op("Add", x, y, name=f"{prefix}.attended")
        y = self.linear(self.norm(x, f"{prefix}.layer_norm2"), f"{prefix}.mlp.fc1")
        y = self.activation(y, f"{prefix}.mlp.act", self.vision.hidden_act)
        y = self.linear(y, f"{prefix}.mlp.fc2")
        return self.graph.op("Add", x, y, name=f"{prefix}.out")

    def attention(self, x: str, prefix: str) -> str:
        """Multi-head self-attention, without a mask."""
        graph, width, heads = self.graph, self.vision.hidden_size, self.vision.heads
        size = width // heads
        # 1 / sqrt(size) lies in the query's weights: one pass less over the scores, and small numbers in fp16.
        q = self.heads(self.linear(x, f"{prefix}.q_proj", size**-0.5), f"{prefix}.q", [0, 2, 1, 3])
        k = self.heads(self.linear(x, f"{prefix}.k_proj"), f"{prefix}.k", [0, 2, 3, 1])
        v = self.heads(self.linear(x, f"{prefix}.v_proj"), f"{prefix}.v", [0, 2, 1, 3])
        share = graph.op("Softmax", graph.op("MatMul", q, k, name=f"{prefix}.scores"), name=f"{prefix}.share", axis=-1)
        y = graph.op("MatMul", share, v, name=f"{prefix}.mixed")
        y = graph.op("Transpose", y, name=f"{prefix}.mixed_rows", perm=[0, 2, 1, 3])
        y = graph.op("Reshape", y, self.integers(0, -1, width), name=f"{prefix}.joined")
        return self.linear(y, f"{prefix}.out_proj")

    def heads(self, x: str, name: str, perm: list[int]) -> str:
        """(n, tokens, width) to (n, tokens, heads, size), then transposed."""
        size = self.vision.hidden_size // self.vision.heads
        y = self.graph.op("Reshape", x, self.integers(0, -1, self.vision.heads, size), name=f"{name}_split")
        return self.graph.op("Transpose", y, name=f"{name}_heads", perm=perm)

    def norm(self, x: str, prefix: str) -> str:
        """Layer normalization; ONNX computes its statistics in fp32 also where `x` is fp16."""
        inputs = self.present(f"{prefix}.weight", f"{prefix}.bias")
        return self.graph.op(
            "LayerNormalization", x, *inputs, name=f"{prefix}.norm", axis=-1, epsilon=self.vision.layer_norm_eps
        )

    def activation(self, x: str, name: str, kind: str) -> str:
        """An activation function, by transformers' name for it, arranged as engines recognise and fuse it."""

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

    def linear(self, x: str, prefix: str, scale: float = 1.0) -> str:
        """`(x W^T + b) scale`, quantized for int8."""
        x = self.product_int8(x, prefix, scale) if self.int8 else self.product(x, prefix, scale)
        if f"{prefix}.bias" not in self.names:
            return x
        return self.graph.op("Add", x, self.weight(f"{prefix}.bias", scale), name=f"{prefix}.out")

    def product(self, x: str, prefix: str, scale: float) -> str:
        """`x W^T scale` in the graph's floating-point type."""
        name = f"{prefix}.weight"
        rows, columns = self.checkpoint.shape(name)
        specs = [Spec(name, (columns, rows), self.real)]
        (weight,) = self.graph.weights(specs, lambda: [self.tensor(name, scale).T])
        return self.graph.op("MatMul", x, weight, name=f"{prefix}.product")

    def product_int8(self, x: str, prefix: str, scale: float) -> str:
        """`x W^T scale` with `x` quantized as it comes, once however many products take it."""
        name = f"{prefix}.weight"
        rows, columns = self.checkpoint.shape(name)
        specs = [Spec(name, (columns, rows), np.dtype(np.int8)), Spec(f"{name}_scale", (rows,), self.real)]
        weight, weight_scale = self.graph.weights(specs, lambda: quantized(self.tensor(name, scale)))
        if x not in self.quantized:
            parts = (f"{x}.uint8", f"{x}.scale", f"{x}.zero")
            self.quantized[x] = self.graph.ops("DynamicQuantizeLinear", x, names=parts)
        steps, step, zero = self.quantized[x]
        y = self.graph.op("MatMulInteger", steps, weight, zero, name=f"{prefix}.product_int32")
        y = self.graph.op("Cast", y, name=f"{prefix}.product_steps", to=TensorProto.FLOAT)
        unit = self.graph.op("Mul", step, weight_scale, name=f"{prefix}.unit")
        return self.graph.op("Mul", y, unit, name=f"{prefix}.product")

    def positions(self) -> str:
        """Position embeddings, (1, tokens, width); CLIP's first row with the CLS embedding added."""
        name = "vision.embeddings.position_embedding.weight"

        def make() -> list[FloatArray]:
            table = self.tensor(name)
            if self.vision.type == "clip":
                table[0] += self.tensor("vision.embeddings.class_embedding")
            return [table[np.newaxis]]

        return self.graph.weights([Spec(name, (1, *self.checkpoint.shape(name)), self.real)], make)[0]

    def present(self, *names: str) -> list[str]:
        """Those of the tensors that the checkpoint has."""
        return [self.weight(name) for name in names if name in self.names]

    def weight(self, name: str, scale: float = 1.0) -> str:
        """A tensor in the graph's floating-point type."""
        specs = [Spec(name, self.checkpoint.shape(name), self.real)]
        return self.graph.weights(specs, lambda: [self.tensor(name, scale)])[0]

    def tensor(self, name: str, scale: float = 1.0) -> FloatArray:
        """The values, which the checkpoint has checked: one infinity would make every visual token NaN."""
        array = self.checkpoint.tensor(name)
        if scale != 1.0:
            array *= np.float32(scale)
        return array

    def number(self, value: float) -> str:
        """A scalar constant in the graph's floating-point type."""
        return self.graph.constant(f"number_{value:.6g}", np.array(value, self.real))

    def integers(self, *values: int) -> str:
        """A constant list of integers: a shape, pads, an index."""
        return self.graph.constant("_".join(map(str, ("integers", *values))), np.array(values, np.int64))


def quantized(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """(out, in) float32 to (in, out) int8 and a scale for each output: weight.T = int8 * scale, nearly."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight.T / scale).astype(np.int8), scale
