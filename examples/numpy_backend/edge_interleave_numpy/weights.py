"""Reads an unquantized `decoder-mlx/`: `config.json` and tensors by name.

Bundles are untrusted: all names and shapes are compared with the manifest before a weight is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_interleave.bundle.manifest import MLX_NAME, Bundle
from edge_interleave.bundle.safetensors_header import Entry, read_header
from edge_interleave.errors import BundleError

CONFIG_NAME = f"{MLX_NAME}/config.json"
CONFIG_BYTES_MAX = 1 << 20
_DTYPES = {"F32": "<f4", "F16": "<f2"}
_REMEDY = "convert it with --backend mlx --mlx-quantization f16"


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder, and the places of its tensors."""

    layers: int
    head_dim: int
    feed_forward: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool
    """Whether the head is the embedding matrix."""
    tensors: dict[str, tuple[Path, Entry]]

    @property
    def bytes(self) -> int:
        """Bytes of all weights as float32."""
        return sum(4 * math.prod(entry.shape) for _, entry in self.tensors.values())


def read_config(bundle: Bundle) -> Config:
    """Config and headers. Raises BundleError if they are damaged, quantized, or not of the manifest's decoder."""
    info, path = bundle.manifest.decoder, bundle.file(CONFIG_NAME)
    if info.type != "qwen2" or info.heads % info.kv_heads or info.head_dim % 2:
        raise BundleError(f"{bundle.folder}: the NumPy example cannot run its decoder; use another backend")
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ValueError("too large")
        raw = json.loads(path.read_text("utf-8"))
        if raw.get("rope_scaling") is not None:
            raise ValueError("rope_scaling is not supported")
        numbers = int(raw["intermediate_size"]), float(raw["rms_norm_eps"]), float(raw["rope_theta"])
        tied = bool(raw.get("tie_word_embeddings"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be used ({str(error)[:100]}); {_REMEDY}") from error
    tensors = {}
    for name, file in bundle.files_in(MLX_NAME).items():
        if name.endswith(".safetensors"):
            with file.open("rb") as opened:
                entries = read_header(file, opened, BundleError, remedy=_REMEDY, dtypes=_DTYPES)
            tensors.update({tensor: (file, entry) for tensor, entry in entries.items()})
    wanted = _shapes(bundle, numbers[0], tied)
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tensors[name][1].shape if name in tensors else None
        if found != wanted.get(name):
            raise BundleError(f"{path.parent}: tensor {name!r:.80} is {found}, not {wanted.get(name)}; {_REMEDY}")
    return Config(info.layers, info.head_dim, *numbers, tied, tensors)


def load_weights(config: Config) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor, as float32. Raises BundleError."""
    weights = {}
    for name, (path, entry) in config.tensors.items():
        try:
            with path.open("rb") as file:
                file.seek(entry.start)
                raw = np.frombuffer(file.read(entry.bytes), _DTYPES[entry.dtype])
                weights[name] = raw.reshape(entry.shape).astype(np.float32)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read ({str(error)[:100]}); {_REMEDY}") from error
    return weights


def _shapes(bundle: Bundle, feed_forward: int, tied: bool) -> dict[str, tuple[int, ...]]:
    info = bundle.manifest.decoder
    hidden, heads, kv = info.hidden_size, info.heads * info.head_dim, info.kv_heads * info.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (info.vocab_size, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (info.vocab_size, hidden)
    for layer in range(info.layers):
        block = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}{name}.weight"] = (hidden,)
        for name, width in (("q", heads), ("k", kv), ("v", kv)):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (width, hidden)
            shapes[f"{block}self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{block}self_attn.o_proj.weight"] = (hidden, heads)
        for name in ("gate", "up"):
            shapes[f"{block}mlp.{name}_proj.weight"] = (feed_forward, hidden)
        shapes[f"{block}mlp.down_proj.weight"] = (hidden, feed_forward)
    return shapes
