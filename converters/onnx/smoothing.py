"""Evens out what the decoder's products take, before it is quantized: a short run through its layers in float32.

Trained decoders have channels tens of times beyond the others. A row of activations is quantized with one step, which
such a channel sets alone. So each channel is divided by a number, and the weights that meet it are multiplied by the
same (SmoothQuant, arXiv 2211.10438). What stands in front of the products takes the division for nothing: norms, the
rows of the value projection, the rows of the up projection.

The run goes layer by layer, with the weights of one in memory, over a text that ships with the package and over the
visual tokens of some pictures. On the way it finds how large the keys and values are, for a KV cache in int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.checkpoint.weight_names import EMBEDDING
from edge_interleave.converters.onnx.decoder import DOMAIN, OPSET, DecoderExport, Smoothing, rope_frequencies
from edge_interleave.converters.onnx.graph import GraphBuilder
from edge_interleave.converters.progress import Progress
from edge_interleave.util.arrays import FloatArray
from edge_interleave.vision.tower import open_graph

STAGE = "calibrate"
EXPONENT = 0.6
"""Of SmoothQuant: 0 leaves activations alone, 1 weights."""
MOST = 8.0
"""A divisor lies within this factor of the mean: what was silent here may speak up elsewhere."""
TEXT_TOKENS = 512
INPUTS = ("attention", "mixed", "feed_forward", "gated")


def find_smoothings(
    checkpoint: Checkpoint, tokens: Sequence[int], visual: FloatArray, progress: Progress | None = None
) -> list[Smoothing]:
    """The divisors of each layer. `tokens`: of some text; `visual` (n, hidden): visual tokens that follow it.

    `progress` is called after each layer. Raises CheckpointError for values that are not finite.
    """
    config = checkpoint.config.decoder
    table = [checkpoint.rows(EMBEDDING, token, token + 1)[0] for token in tokens]
    x = np.concatenate((np.stack(table), visual.astype(np.float32)))[np.newaxis]
    angles = np.arange(x.shape[1])[:, np.newaxis] * rope_frequencies(config)
    cache = np.zeros((1, config.kv_heads, x.shape[1], config.head_dim), np.float16)
    common = {
        "positions": np.arange(x.shape[1], dtype=np.int64)[np.newaxis],
        "last": np.array([x.shape[1] - 1], np.int32),
        "total": np.array([x.shape[1]], np.int32),
        "cos": np.cos(angles).astype(np.float16),
        "sin": np.sin(angles).astype(np.float16),
    }
    found = []
    for layer in range(config.layers):
        session = open_graph(layer_graph(checkpoint, layer))
        caches = {f"{kind}.{layer}": cache for kind in ("keys", "values")}
        wanted = ["out", *(f"new_{name}" for name in caches), *INPUTS]
        x, keys, values, *peaks = session.run(wanted, {"rows": x, **common, **caches})
        del session
        found.append(
            Smoothing(
                **_divisors_and_order(checkpoint, layer, dict(zip(INPUTS, peaks, strict=True))),
                keys=_radii(keys[0]),
                values=np.abs(values[0]).max(axis=1).astype(np.float32),
            )
        )
        if progress is not None:
            progress(STAGE, layer + 1, config.layers)
    return found


def calibration_text() -> str:
    """Some English of several kinds."""
    return files("edge_interleave.converters.onnx").joinpath("calibration.txt").read_text("utf-8")


def layer_graph(checkpoint: Checkpoint, number: int) -> bytes:
    """One block in float32 as an ONNX model: `rows` to `out`, and the largest absolute values of INPUTS by channel."""
    graph = GraphBuilder("layer", "", {}, OPSET, [DOMAIN])
    export = DecoderExport(checkpoint, graph, "f32")
    hidden = checkpoint.config.decoder.hidden_size
    x = graph.input("rows", np.float32, [1, "n", hidden])
    export.inputs()
    stream, pending = export.layer(number, x, None)
    graph.op("Add", stream, pending, name="out")
    graph.output("out", np.float32, [1, "n", hidden])
    for name, tensor in zip(INPUTS, export.taken, strict=True):
        size = graph.op("Abs", tensor, name=f"{name}.size")
        graph.op("ReduceMax", size, export.integers(0, 1), name=name, keepdims=0)
        graph.output(name, np.float32, ["channels"])
    return graph.serialized()


def _radii(keys: npt.NDArray[np.float16]) -> FloatArray:
    """Largest sizes of keys (heads, n, size) by channel: of the pair that RoPE rotates, whatever the position."""
    left, right = np.split(keys.astype(np.float32), 2, axis=2)
    radius: FloatArray = np.hypot(left, right).max(axis=1)
    return np.tile(radius, 2)


def _divisors_and_order(checkpoint: Checkpoint, layer: int, peaks: Mapping[str, FloatArray]) -> dict[str, Any]:
    config, prefix = checkpoint.config.decoder, f"decoder.layers.{layer}"
    takers = {
        "attention": [f"self_attn.{name}_proj" for name in "qkv"],
        "mixed": ["self_attn.o_proj"],
        "feed_forward": ["mlp.gate_proj", "mlp.up_proj"],
        "gated": ["mlp.down_proj"],
    }
    found: dict[str, Any] = {}
    for name, linears in takers.items():
        reach = np.max([_reach(checkpoint, f"{prefix}.{linear}.weight") for linear in linears], axis=0)
        peak = peaks[name]
        if name == "mixed":
            # Query heads that share values share divisors.
            reach, peak = (
                values.reshape(config.kv_heads, -1, config.head_dim).max(axis=1).reshape(-1) for values in (reach, peak)
            )
        found[name] = divisors(peak, reach)
    return {**found, "order": np.argsort(-peaks["gated"] / found["gated"], kind="stable")}


def _reach(checkpoint: Checkpoint, name: str) -> FloatArray:
    """The largest absolute weight that meets each channel."""
    rows, columns = checkpoint.shape(name)
    reach, step = np.zeros(columns, np.float32), max(1, (64 << 20) // (4 * columns))
    for start in range(0, rows, step):
        reach = np.maximum(reach, np.abs(checkpoint.rows(name, start, min(start + step, rows))).max(axis=0))
    return reach


def divisors(peaks: FloatArray, reach: FloatArray) -> FloatArray:
    """What to divide each channel by, from the largest absolute values of the channel and of the weights it meets."""
    known = (peaks > 0) & (reach > 0)
    values = np.ones_like(peaks)
    if known.any():
        values[known] = peaks[known] ** EXPONENT / reach[known] ** (1 - EXPONENT)
        values[known] /= np.exp(np.log(values[known]).mean())
    return values.clip(1 / MOST, MOST)
