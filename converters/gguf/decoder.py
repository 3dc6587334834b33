"""Converts a checkpoint's decoder to a GGUF file for llama.cpp.

The file is a complete text model with weights, hyper-parameters, tokenizer and chat template, laid out like by
llama.cpp's converter. Memory holds some rows of a tensor: the matrices are first written unchanged (bf16 stays bf16)
to a temporary file, which llama.cpp then quantizes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from edge_interleave.bundle.manifest import GGUF_NAME, PartInfo
from edge_interleave.converters.checkpoint.config import DecoderConfig
from edge_interleave.converters.checkpoint.reader import CONFIG_NAME, Checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles, read_tokenizer
from edge_interleave.converters.gguf.quantize import quantize
from edge_interleave.converters.gguf.tensors import (
    Computed,
    Stored,
    Tensor,
    stored_type,
    stream_tensors,
    type_bytes,
)
from edge_interleave.converters.gguf.vocab import Vocabulary, make_vocabulary
from edge_interleave.converters.part_info import Matrix, part_info
from edge_interleave.converters.precisions import DEFAULT_GGUF_QUANTIZATION, GGUF_QUANTIZATIONS
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import BackendError, CheckpointError, UsageError
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.atomic_file import atomic_file

LOG = logging.getLogger(__name__)

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k_m": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
# The types that belong to a quantization. Mixed ones have several, and embeddings have their own.
_NAMED = {
    "q4_0": ("q4_0", "q6_k"),
    "q4_k_m": ("q4_k", "q5_k", "q6_k"),
    "q5_k_m": ("q5_k", "q6_k"),
}


@dataclass(frozen=True)
class GgufSummary:
    """Facts about a written file."""

    quantization: str
    bytes: int
    tensors: int
    fallbacks: int
    """Tensors with rows that are not a multiple of the quantization's block; llama.cpp gave them a larger type."""
    part: PartInfo | None
    """None if llama.cpp's log did not name every matrix."""


def write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    quantization: str = DEFAULT_GGUF_QUANTIZATION,
    progress: Progress | None = None,
) -> GgufSummary:
    """Write the decoder of `checkpoint` to `path`, atomically.

    `quantization` is one of GGUF_QUANTIZATIONS, or `f32` for comparisons. `progress` gets two stages: `decoder`, in
    bytes of the checkpoint's tensors, and `quantize`, in tensors. While it quantizes, the unquantized decoder lies
    beside `path`. Raises UsageError, CheckpointError, and BackendError if llama.cpp fails.
    """
    if quantization not in (*GGUF_QUANTIZATIONS, "f32"):
        raise UsageError(f"quantization {quantization!r}: choose one of {', '.join(GGUF_QUANTIZATIONS)}")
    check_gguf(checkpoint)
    files = read_tokenizer(checkpoint)
    fallbacks = 0
    types: Mapping[str, str] = {}
    with atomic_file(path, durable=True) as temporary:
        if quantization in ("f16", "f32"):
            tensors = _write_plain(checkpoint, files, temporary, quantization, progress)
        else:
            plain = temporary.with_name(f"{temporary.name}.plain")
            try:
                tensors = _write_plain(checkpoint, files, plain, None, progress)
                made = quantize(plain, temporary, int(_FILE_TYPES[quantization]), progress)
            except BackendError as error:
                raise BackendError(f"{path}: {error}") from error
            finally:
                plain.unlink(missing_ok=True)
            fallbacks, types = made.fallbacks, made.types
    part = _part(tensors, quantization, types)
    return GgufSummary(quantization, path.stat().st_size, len(tensors), fallbacks, part)


def _part(tensors: Sequence[Tensor], quantization: str, types: Mapping[str, str]) -> PartInfo | None:
    """The types of the matrices. `types`: those that llama.cpp changed."""
    matrices = []
    for tensor in tensors:
        if len(tensor.shape) < 2:
            continue
        kind = tensor.type if quantization in ("f16", "f32") else types.get(tensor.gguf_name)
        size = None if kind is None else type_bytes(tensor.shape, kind)
        if kind is None or size is None:
            return None
        matrices.append(Matrix(tensor.gguf_name, kind, math.prod(tensor.shape), size))
    return part_info(matrices, _NAMED.get(quantization, (quantization,)))


def check_gguf(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if llama.cpp cannot run the decoder, but the other engines can."""
    decoder = checkpoint.config.decoder
    if decoder.type != "llama" and decoder.rope_scaling is not None and decoder.rope_scaling.type == "llama3":
        raise CheckpointError(
            f"{checkpoint.folder / CONFIG_NAME}: RoPE scaling 'llama3' of a {decoder.type} decoder is not supported by "
            "llama.cpp; convert it for ONNX Runtime or MLX (--backend onnx, --backend mlx)"
        )


def _write_plain(
    checkpoint: Checkpoint, files: TokenizerFiles, path: Path, matrix_type: str | None, progress: Progress | None
) -> list[Tensor]:
    """Write an unquantized file and return its tensors. `matrix_type` None keeps each matrix's type."""
    decoder = checkpoint.config.decoder
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_arch(decoder)])
    try:
        _add_parameters(writer, checkpoint, matrix_type)
        vocabulary = make_vocabulary(files.tokenizer, decoder.vocab_size)
        if vocabulary.lost_flags:
            LOG.warning(
                "%s: cannot store that %s; other programs that run it will tokenize such text differently",
                GGUF_NAME,
                ", ".join(vocabulary.lost_flags),
            )
        _add_vocabulary(writer, vocabulary, files, checkpoint.config.bos_token_id)
        tensors = list(_tensors(checkpoint, matrix_type))
        stream_tensors(writer, tensors, None if progress is None else partial(progress, "decoder"))
    finally:
        writer.close()
    return tensors


def _arch(decoder: DecoderConfig) -> gguf.MODEL_ARCH:
    known = {"qwen2": gguf.MODEL_ARCH.QWEN2, "llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
    return known[decoder.type]


def _add_parameters(writer: gguf.GGUFWriter, checkpoint: Checkpoint, matrix_type: str | None) -> None:
    decoder = checkpoint.config.decoder
    kind = matrix_type or checkpoint.dtype("decoder.layers.0.mlp.gate_proj.weight")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(checkpoint.source.rsplit("/", 1)[-1])
    writer.add_file_type(int(_FILE_TYPES[kind]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(decoder.context_length)
    writer.add_embedding_length(decoder.hidden_size)
    writer.add_block_count(decoder.layers)
    writer.add_feed_forward_length(decoder.intermediate_size)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_dim)
    writer.add_value_length(decoder.head_dim)
    writer.add_layer_norm_rms_eps(decoder.rms_norm_eps)
    writer.add_rope_dimension_count(decoder.head_dim)
    writer.add_rope_freq_base(decoder.rope_theta)
    writer.add_vocab_size(decoder.vocab_size)
    if decoder.rope_scaling is not None and decoder.rope_scaling.type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(decoder.rope_scaling.factor)


def _add_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, files: TokenizerFiles, configured_bos: int | None
) -> None:
    tokenizer = files.tokenizer
    eos = tokenizer.token_to_id(files.eos_token)
    bos = tokenizer.token_to_id(files.bos_token) if files.bos_token is not None else configured_bos
    pad = None if files.pad_token is None else tokenizer.token_to_id(files.pad_token)
    # llama.cpp has fields for three end tokens, and recognises some others by their text.
    ends = dict.fromkeys((files.turn_end_id, *(end for end in files.eos_token_ids if end != eos)))
    turn_end, message_end = (*(end for end in ends if end is not None), None, None)[:2]
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "llama":
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    else:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.unknown_id is not None:
        writer.add_unk_token_id(vocabulary.unknown_id)
    assert eos is not None  # checked by read_tokenizer
    writer.add_eos_token_id(eos)
    # Without the field llama.cpp picks an id itself.
    writer.add_bos_token_id(eos if bos is None or bos >= len(vocabulary.tokens) else bos)
    if pad is not None:
        writer.add_pad_token_id(pad)
    if turn_end is not None:
        writer.add_eot_token_id(turn_end)
    if message_end is not None:
        writer.add_eom_token_id(message_end)
    writer.add_add_bos_token(files.adds_bos)
    if files.text_template is not None:
        writer.add_chat_template(files.text_template)


def _tensors(checkpoint: Checkpoint, matrix_type: str | None) -> Iterator[Tensor]:
    decoder = checkpoint.config.decoder
    names = gguf.get_tensor_name_map(_arch(decoder), decoder.layers)
    factors = _rope_factors(decoder)
    if factors is not None:
        yield Computed(factors, "rope_freqs.weight")
    for name in checkpoint.names():
        if not name.startswith("decoder."):
            continue
        spelt = name.removeprefix("decoder.")
        gguf_name = names.get_name(spelt if spelt.startswith("lm_head.") else f"model.{spelt}", (".weight", ".bias"))
        assert gguf_name is not None, name
        heads = 0
        if decoder.type == "llama" and ".self_attn.q_proj." in name:
            heads = decoder.heads
        elif decoder.type == "llama" and ".self_attn.k_proj." in name:
            heads = decoder.kv_heads
        yield Stored(checkpoint, name, gguf_name, stored_type(checkpoint, name, matrix_type), heads)


def _rope_factors(decoder: DecoderConfig) -> FloatArray | None:
    """Llama 3's RoPE scaling as divisors of each frequency, (head_dim / 2,): transformers' `llama3` type."""
    scaling = decoder.rope_scaling
    if scaling is None or scaling.type != "llama3":
        return None
    exponents = np.arange(0, decoder.head_dim, 2, dtype=np.float64) / decoder.head_dim
    wavelength = 2 * math.pi * decoder.rope_theta**exponents
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    # 1 for short wavelengths, `factor` for long ones, and in between an average of the frequencies.
    between = 1 / ((1 - smooth) / scaling.factor + smooth)
    factors = np.where(smooth >= 1, 1.0, np.where(smooth <= 0, scaling.factor, between))
    return factors.astype(np.float32)
