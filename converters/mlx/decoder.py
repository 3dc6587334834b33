"""Converts a checkpoint's decoder to a model of mlx-lm, quantized by MLX.

`decoder-mlx/` is a complete text model, with mlx-lm's names and config: `mlx_lm.generate --model` takes the folder.
mlx-lm's converter would load the whole model through transformers. Here memory holds some rows of a matrix and one file
of the result. MLX is optional and imported when needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import PartInfo
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles
from edge_interleave.converters.mlx.recipes import Quantization, choose, kinds, usual
from edge_interleave.converters.part_info import Matrix, part_info
from edge_interleave.converters.precisions import DEFAULT_MLX_RECIPE, MLX_RECIPES
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import BackendError, UsageError
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.disk_space import check_still_room
from edge_interleave.util.utf8_path import utf8_path

SHARD_BYTES = 1 << 30
"""The greatest size of a file of weights, unless a single tensor is larger."""
CHUNK_BYTES = 64 << 20
"""Bytes of a matrix's rows in float32 that are converted at a time."""


@dataclass(frozen=True)
class _Tensor:
    """A tensor to convert."""

    name: str
    """Its name in the checkpoint."""
    module: str
    """mlx-lm's module that has it as a parameter."""
    part: str
    """`weight` or `bias`."""
    shape: tuple[int, ...]
    quantization: Quantization | None

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return 2 * self.values if self.quantization is None else self.quantization.bytes_for(self.values)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its stored arrays, in the order of `mx.quantize`'s result."""
        if self.quantization is None:
            return (f"{self.module}.{self.part}",)
        kinds = ("weight", "scales") if self.quantization.mode == "mxfp4" else ("weight", "scales", "biases")
        return tuple(f"{self.module}.{kind}" for kind in kinds)


def require_mlx() -> Any:
    """The module `mlx.core`. Raises BackendError, with the command to install it, if it cannot be imported."""
    try:
        return import_module("mlx.core")
    except ImportError as error:
        raise BackendError(
            f"MLX makes its decoder, and cannot be imported ({error}); pip install 'edge-interleave[mlx]'"
        ) from error


def mlx_bytes(checkpoint: Checkpoint, recipe: str = DEFAULT_MLX_RECIPE) -> int:
    """Bytes of the converted weights. Raises UsageError for an unknown recipe."""
    return sum(tensor.bytes for tensor in _tensors(checkpoint, recipe))


def mlx_part(checkpoint: Checkpoint, recipe: str = DEFAULT_MLX_RECIPE) -> PartInfo:
    """The types that the matrices get. Raises UsageError for an unknown recipe."""
    plain = "bf16" if _is_bf16(checkpoint) else "f16"
    matrices = [
        Matrix(tensor.module, tensor.quantization.name if tensor.quantization else plain, tensor.values, tensor.bytes)
        for tensor in _tensors(checkpoint, recipe)
        if len(tensor.shape) == 2
    ]
    return part_info(matrices, kinds(recipe) or (plain,))


def mlx_files(
    checkpoint: Checkpoint, files: TokenizerFiles, recipe: str = DEFAULT_MLX_RECIPE, progress: Progress | None = None
) -> dict[str, Callable[[Path], object]]:
    """A function for each file of the folder, by the file's name; it writes the file to a path. Any order works.

    `recipe` is one of MLX_RECIPES. Tensors that are not quantized are bf16 if the checkpoint's matrices are, else f16.
    `progress` gets the stage `mlx`, in bytes of the result. Raises UsageError for an unknown recipe. The functions
    raise CheckpointError for values that are not finite, BackendError if MLX is missing or fails, and OSError if the
    disk is full.
    """
    tensors = _tensors(checkpoint, recipe)
    total = sum(tensor.bytes for tensor in tensors)
    shards = list(_shards(tensors))
    names = [_shard_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    places = {
        part: name for name, shard in zip(names, shards, strict=True) for tensor in shard for part in tensor.parts
    }
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    texts = {
        "config.json": _json(_config(checkpoint, files, tensors, recipe)),
        "tokenizer.json": files.tokenizer.to_str(),
        "tokenizer_config.json": _json(_tokenizer_config(files)),
        "model.safetensors.index.json": _json(index),
    }
    made: dict[str, Callable[[Path], object]] = {name: partial(_write_text, text=text) for name, text in texts.items()}
    done = 0
    for name, shard in zip(names, shards, strict=True):
        report = _ShardProgress(done, total, progress)
        made[name] = partial(_write_shard, checkpoint=checkpoint, tensors=shard, report=report)
        done += sum(tensor.bytes for tensor in shard)
    return made


def _tensors(checkpoint: Checkpoint, recipe: str) -> list[_Tensor]:
    if recipe not in MLX_RECIPES:
        raise UsageError(f"MLX recipe {recipe!r}: choose one of {', '.join(MLX_RECIPES)}")
    layers = checkpoint.config.decoder.layers
    tensors = []
    for name in checkpoint.names():
        if not name.startswith("decoder."):
            continue
        spelt = name.removeprefix("decoder.")
        module, part = (spelt if spelt.startswith("lm_head.") else f"model.{spelt}").rsplit(".", 1)
        shape = checkpoint.shape(name)
        how = choose(recipe, module, shape[1], layers) if len(shape) == 2 else None
        tensors.append(_Tensor(name, module, part, shape, how))
    return tensors


def _shards(tensors: list[_Tensor]) -> Iterator[list[_Tensor]]:
    shard: list[_Tensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.bytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.bytes
    yield shard


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


@dataclass(frozen=True)
class _ShardProgress:
    """Reports the progress of one file as part of all files."""

    before: int
    """Bytes of the earlier files."""
    total: int
    progress: Progress | None

    def __call__(self, done: int) -> None:
        if self.progress is not None:
            self.progress("mlx", self.before + done, self.total)


def _write_shard(path: Path, checkpoint: Checkpoint, tensors: list[_Tensor], report: _ShardProgress) -> None:
    mx = require_mlx()
    # One type for all tensors: MLX computes mixed types in float32.
    kind = mx.bfloat16 if _is_bf16(checkpoint) else mx.float16
    arrays: dict[str, Any] = {}
    done = 0
    try:
        for tensor in tensors:
            chunks = [_stored(mx, tensor, rows.astype(kind)) for rows in _chunks(mx, checkpoint, tensor)]
            for name, parts in zip(tensor.parts, zip(*chunks, strict=True), strict=True):
                arrays[name] = mx.concatenate(parts) if len(parts) > 1 else parts[0]
                mx.eval(arrays[name])
            del chunks
            done += tensor.bytes
            report(done)
        with atomic_file(path, suffix=".safetensors") as temporary:  # MLX requires the suffix
            _save(mx, temporary, arrays)
    except (RuntimeError, MemoryError) as error:
        raise BackendError(f"{path.parent}: MLX failed on a file of weights ({error}); convert again") from error
    finally:
        arrays.clear()
        mx.clear_cache()  # otherwise MLX keeps the memory for later arrays


def _save(mx: Any, path: Path, arrays: dict[str, Any]) -> None:
    """Write a safetensors file. Raises OSError if the disk is full, RuntimeError for MLX's other failures."""
    try:
        with utf8_path(path) as name:
            mx.save_safetensors(name, arrays, metadata={"format": "mlx"})
    except RuntimeError:
        check_still_room(path)
        raise


def _is_bf16(checkpoint: Checkpoint) -> bool:
    return checkpoint.dtype("decoder.layers.0.mlp.gate_proj.weight") == "bf16"


def _chunks(mx: Any, checkpoint: Checkpoint, tensor: _Tensor) -> Iterator[Any]:
    """A tensor's rows in pieces, float32."""
    rows = tensor.shape[0]
    step = max(1, CHUNK_BYTES * rows // (4 * tensor.values))
    for start in range(0, rows, step):
        yield mx.array(checkpoint.rows(tensor.name, start, min(start + step, rows)))
        mx.clear_cache()


def _stored(mx: Any, tensor: _Tensor, values: Any) -> tuple[Any, ...]:
    how = tensor.quantization
    stored = (values,)
    if how is not None:
        stored = tuple(mx.quantize(values, group_size=how.group_size, bits=how.bits, mode=how.mode))
    mx.eval(*stored)
    return stored


def _config(checkpoint: Checkpoint, files: TokenizerFiles, tensors: list[_Tensor], recipe: str) -> dict[str, Any]:
    """`config.json` for mlx-lm's model of the decoder's type."""
    decoder = checkpoint.config.decoder
    config: dict[str, Any] = {
        "model_type": decoder.type,
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.context_length,
        "rms_norm_eps": decoder.rms_norm_eps,
        "rope_theta": decoder.rope_theta,
        "tie_word_embeddings": checkpoint.tied,
        "attention_bias": decoder.attention_bias,
        "mlp_bias": decoder.mlp_bias,
        "eos_token_id": list(files.eos_token_ids),
    }
    scaling = decoder.rope_scaling
    if scaling is not None:
        config["rope_scaling"] = {"rope_type": scaling.type, "factor": scaling.factor}
        if scaling.type == "llama3":
            config["rope_scaling"] |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    most = usual(recipe)
    quantized = {tensor.module: tensor.quantization for tensor in tensors if tensor.quantization is not None}
    if most is not None and quantized:
        others = {module: how.described() for module, how in quantized.items() if how != most}
        config["quantization"] = {**most.described(), **others}
    return config


def _tokenizer_config(files: TokenizerFiles) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": files.eos_token,
    }
    optional = {"bos_token": files.bos_token, "pad_token": files.pad_token, "chat_template": files.text_template}
    return config | {name: value for name, value in optional.items() if value is not None}


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
