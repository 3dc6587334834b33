"""Converts a checkpoint's vision tower and projector to llama.cpp's mmproj GGUF, for llama-server and Ollama.

With the bundle's `decoder.gguf`, the file makes a multimodal model for programs built on llama.cpp's mtmd. llama.cpp's
converter does not support these checkpoints. This package never reads the file. mtmd runs the tower with the projector
type `mlp` (LLaVA's). These are refused, since mtmd cannot run them:

- CLIP towers: mtmd puts the class token after the patches, and then drops the first patch instead of the token.
- activations other than tanh-approximated GELU, which also replaces exact GELU (they differ by 0.0005 at most), and,
  in the tower only, quick GELU.

mtmd computes a product in its matrix's type: an f16 matrix rounds the activations to f16, and a q8_0 matrix rounds them
in blocks of 32 with one scale. So inputs that exceed f16 in the probe (`onnx.probe`) get f32 matrices, and inputs with
outlier channels get no q8_0.

mtmd resizes pictures itself: it pads pictures that are not square, while these towers were trained on pictures squashed
to a square. Square pictures are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from edge_interleave.bundle.manifest import PartInfo
from edge_interleave.converters.checkpoint.config import VisionConfig
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.gguf.tensors import Computed, Stored, Tensor, fits_f16, stream_tensors
from edge_interleave.converters.onnx.int8 import outlying
from edge_interleave.converters.onnx.probe import F16_MAX, Activations, VisionProbe, passes_f16
from edge_interleave.converters.part_info import Matrix, part_info
from edge_interleave.converters.precisions import MMPROJ_PRECISIONS
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import CheckpointError, UsageError
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.atomic_file import atomic_file

STAGE = "mmproj"

_FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
_GELU = ("gelu", "gelu_pytorch_tanh", "gelu_new")
_Q8_0_BLOCK = 32

# Canonical module to mtmd's name. Names in a block follow `v.blk.N.`.
_MODULES = {
    "vision.embeddings.patch_embedding": "v.patch_embd",
    "vision.embeddings.position_embedding": "v.position_embd",
    "projector.linear_1": "mm.0",
    "projector.linear_2": "mm.2",
}
_BLOCK_MODULES = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
# If both matrices are square, mtmd takes `ffn_down` for the first one, as in older files.
_SQUARE_MODULES = {**_BLOCK_MODULES, "mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up"}


def write_mmproj(
    checkpoint: Checkpoint,
    path: Path,
    precision: str = "f16",
    progress: Progress | None = None,
    probe: VisionProbe | None = None,
) -> PartInfo:
    """Write the vision tower and projector of `checkpoint` to `path`, atomically, some rows in memory at a time.

    `precision` is one of MMPROJ_PRECISIONS. Some matrices get another type: f16 if their rows do not fit q8_0's blocks
    or their inputs have outlier channels; f32 if their values or inputs exceed the range of f16. Norms, biases and
    positions are f32. `progress` gets the stage `mmproj`, in bytes, and the probe's stages if no `probe` is given.
    Returns the types that the matrices got. Raises UsageError for an unknown precision, and CheckpointError for a tower
    that mtmd cannot run (`check_mmproj`) or that overflows in it.
    """
    if precision not in MMPROJ_PRECISIONS:
        raise UsageError(f"mmproj precision {precision!r}: choose one of {', '.join(MMPROJ_PRECISIONS)}")
    check_mmproj(checkpoint)
    activations = (probe or VisionProbe(checkpoint, progress)).activations()
    _check_range(checkpoint, activations)
    with atomic_file(path, durable=True) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
        try:
            _add_parameters(writer, checkpoint, precision)
            tensors = list(_tensors(checkpoint, precision, activations))
            stream_tensors(writer, tensors, None if progress is None else partial(progress, STAGE))
        finally:
            writer.close()
    # The table of positions is not part of a product.
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1 and "position" not in tensor.gguf_name]
    return part_info(
        [Matrix(tensor.gguf_name, tensor.type, math.prod(tensor.shape), tensor.nbytes) for tensor in matrices],
        (precision,),
    )


def check_mmproj(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if mtmd cannot run the tower or projector."""
    vision, problem = checkpoint.config.vision, ""
    if vision.type != "siglip":
        problem = f"a {vision.type} tower, whose class token it puts in the wrong place"
    elif checkpoint.config.tiling is not None:
        problem = "tiles that the model was trained with"
    elif vision.select_strategy != "full":
        problem = f"feature select strategy {vision.select_strategy!r} of a siglip tower"
    elif vision.layers_used < 1:
        problem = "features from before the first block"
    elif vision.hidden_act not in (*_GELU, "quick_gelu"):
        problem = f"activation {vision.hidden_act!r} in the tower"
    elif vision.projector_act not in _GELU:
        problem = f"activation {vision.projector_act!r} in the projector"
    if problem:
        raise CheckpointError(
            f"{checkpoint.folder}: llama.cpp's mtmd cannot run {problem}; convert it without --mmproj"
        )


def _check_range(checkpoint: Checkpoint, activations: Activations) -> None:
    """Raise CheckpointError for activations that mtmd always rounds to f16 and that overflow there."""
    vision = checkpoint.config.vision
    # The graph's queries are already divided by the root of a head's width; mtmd divides later.
    factors = {"q_proj": math.sqrt(vision.hidden_size / vision.heads), "k_proj": 1.0, "v_proj": 1.0}
    if vision.hidden_act == "quick_gelu":
        factors["fc1"] = 1.0
    for name, peak in activations.others.items():
        largest = peak * factors.get(name.removesuffix(".out").rsplit(".", 1)[-1], 0.0)
        if passes_f16(largest):
            raise CheckpointError(
                f"{checkpoint.folder}: {name} of the vision tower reaches {largest:.3g}, which llama.cpp's mtmd rounds "
                f"to f16, and f16 ends at {F16_MAX:.0f}; convert it without --mmproj"
            )


def _add_parameters(writer: gguf.GGUFWriter, checkpoint: Checkpoint, precision: str) -> None:
    vision = checkpoint.config.vision
    info = read_vision_info(checkpoint.folder, checkpoint.config, 0)
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(checkpoint.source.rsplit("/", 1)[-1])
    writer.add_file_type(int(_FILE_TYPES[precision]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_projection_dim(checkpoint.config.decoder.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_head_count(vision.heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_image_mean(info.mean)
    writer.add_vision_image_std(info.std)
    writer.add_vision_use_gelu(vision.hidden_act in _GELU)
    writer.add_vision_block_count(vision.layers_used)
    # By default mtmd stops before the last block, like LLaVA 1.5. With this field it runs that block too.
    writer.add_array("clip.vision.feature_layer", [vision.layers_used])


def _tensors(checkpoint: Checkpoint, precision: str, activations: Activations) -> Iterator[Tensor]:
    names = checkpoint.names()
    inputs = {
        f"{linear}.weight": activations.channels[first]
        for first, linears in activations.linears_by_input.items()
        for linear in linears
    }
    for name in names:
        if name.startswith(("vision.", "projector.")):
            kind = _type(checkpoint, name, precision, inputs.get(name))
            yield Stored(checkpoint, name, _gguf_name(name, checkpoint.config.vision), kind)
    for linear in ("projector.linear_1", "projector.linear_2"):
        if f"{linear}.bias" not in names:  # mtmd always adds one
            zeros = np.zeros(checkpoint.shape(f"{linear}.weight")[0], np.float32)
            yield Computed(zeros, _gguf_name(f"{linear}.bias", checkpoint.config.vision))


def _gguf_name(name: str, vision: VisionConfig) -> str:
    module, kind = name.rsplit(".", 1)
    if module in _MODULES:
        return f"{_MODULES[module]}.{kind}"
    number, module = module.removeprefix("vision.layers.").split(".", 1)
    modules = _SQUARE_MODULES if vision.intermediate_size == vision.hidden_size else _BLOCK_MODULES
    return f"v.blk.{number}.{modules[module]}.{kind}"


def _type(checkpoint: Checkpoint, name: str, precision: str, peaks: FloatArray | None) -> str:
    """A tensor's type. `peaks`: the largest absolute value of each input channel of a linear layer's matrix."""
    shape = checkpoint.shape(name)
    if len(shape) < 2 or name.endswith("position_embedding.weight"):
        return "f32"
    if peaks is not None and passes_f16(float(peaks.max())):
        return "f32"
    if precision == "q8_0" and peaks is not None and shape[1] % _Q8_0_BLOCK == 0 and not outlying(peaks):
        return "q8_0"
    return "f16" if checkpoint.dtype(name) == "f16" or fits_f16(checkpoint, name) else "f32"
