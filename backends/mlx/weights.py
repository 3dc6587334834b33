"""Loads `decoder-mlx/`, the folder of an mlx-lm model, once for all decoders of a bundle.

The folder is untrusted. Unlike mlx-lm, this module runs no code that the folder names. Before MLX reads a file, every
tensor must occur once, with the shape that the model needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from edge_interleave.backends.common.shared_weights import SharedWeights, file_key
from edge_interleave.backends.mlx.config import MlxConfig, read_config
from edge_interleave.backends.mlx.models import new_model
from edge_interleave.bundle.manifest import MLX_NAME, Bundle
from edge_interleave.bundle.safetensors_header import Entry, read_header
from edge_interleave.errors import BundleError, one_line, shown
from edge_interleave.util.utf8_path import utf8_path

CONFIG_NAME = f"{MLX_NAME}/config.json"
_WHOLE, _REAL = {"U32": mx.uint32, "U8": mx.uint8}, ("F16", "BF16", "F32")
_REMEDY = "convert or pull the model again"
Key = tuple[tuple[str, int, int], ...]


@dataclass(eq=False)
class Weights:
    """An open model."""

    key: Key
    folder: Path
    model: Any = field(repr=False)
    """mlx-lm's model."""
    tied: bool
    bytes: int

    def head(self, hidden: Any) -> Any:
        """Hidden states (n, hidden) to logits over the vocabulary."""
        return self.model.model.embed_tokens.as_linear(hidden) if self.tied else self.model.lm_head(hidden)


@dataclass(frozen=True)
class MlxFiles:
    """The config of a bundle's folder and the headers of its weights."""

    config: MlxConfig
    tensors: dict[Path, dict[str, Entry]]
    """By file."""

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.bytes for entries in self.tensors.values() for entry in entries.values())


def _free(weights: Weights) -> None:
    weights.model = None
    mx.clear_cache()


_shared: SharedWeights[Weights] = SharedWeights(_free)


def acquire(bundle: Bundle) -> Weights:
    """The weights, loaded unless another decoder uses them. The caller must `release` them once.

    Raises BundleError, BackendError.
    """
    key = tuple(file_key(path) for path in _files(bundle))

    def load() -> Weights:
        found = read_files(bundle)
        model = _load(found, bundle.folder / MLX_NAME)
        return Weights(key, bundle.folder / MLX_NAME, model, found.config.tied, found.bytes)

    return _shared.acquire(key, load)


def release(weights: Weights) -> None:
    """Free the weights if no other decoder uses them."""
    _shared.release(weights.key)


def read_files(bundle: Bundle) -> MlxFiles:
    """Read the config and the headers, but no weights. Raises BundleError if they are damaged or not of `bundle`."""
    info, folder = bundle.manifest.decoder, bundle.folder / MLX_NAME
    config = read_config(bundle.file(CONFIG_NAME), info)
    tensors: dict[Path, dict[str, Entry]] = {}
    names: set[str] = set()
    for path in _files(bundle):
        if path.suffix != ".safetensors":
            continue
        try:
            with path.open("rb") as file:
                tensors[path] = read_header(path, file, BundleError, remedy=_REMEDY, dtypes=(*_WHOLE, *_REAL))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
        if twice := names & tensors[path].keys():
            raise BundleError(f"{path}: tensor {shown(min(twice))} is in another file too; {_REMEDY}")
        names |= tensors[path].keys()
    if info.layers > len(names):
        raise BundleError(f"{folder}: {len(names)} tensors cannot make {info.layers} layers; {_REMEDY}")
    return MlxFiles(config, tensors)


def _files(bundle: Bundle) -> list[Path]:
    """The folder's files. Raises BundleError if the bundle has none."""
    return sorted(bundle.files_in(MLX_NAME).values()) or [bundle.file(CONFIG_NAME)]


def _load(found: MlxFiles, folder: Path) -> Any:
    model = new_model(found.config.fields["model_type"], found.config.fields)
    there = {name: entry for entries in found.tensors.values() for name, entry in entries.items()}
    places = {name: path for path, entries in found.tensors.items() for name in entries}
    try:
        nn.quantize(model, class_predicate=lambda name, module: _how(found.config, there, name, module))
    except ValueError as error:
        raise BundleError(f"{folder}: MLX does not support this quantization ({one_line(error)}); {_REMEDY}") from error
    _check(dict(tree_flatten(model.parameters())), there, places, folder)
    for path in found.tensors:
        try:
            with utf8_path(path) as name:
                arrays = mx.load(name)
                # Evaluates these arrays only: the model's other parameters would be drawn at random.
                mx.eval(list(arrays.values()))
            model.load_weights(list(arrays.items()), strict=False)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: MLX cannot load it ({one_line(error)}); {_REMEDY}") from error
    model.eval()
    return model


def _how(config: MlxConfig, there: Mapping[str, Entry], name: str, module: Any) -> Any:
    """A module's arguments for `nn.quantize`, or False if it is not quantized."""
    how = config.of(name)
    if how is None or not hasattr(module, "to_quantized") or f"{name}.scales" not in there:
        return False
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}


def _check(wanted: Mapping[str, Any], there: Mapping[str, Entry], places: Mapping[str, Path], folder: Path) -> None:
    """Compare the headers with the model's parameters. `places`: the file of each tensor."""
    for name in sorted(wanted.keys() - there.keys()):
        raise BundleError(f"{folder}: tensor {shown(name)} is missing; {_REMEDY}")
    for name in sorted(there.keys() - wanted.keys()):
        raise BundleError(f"{places[name]}: tensor {shown(name)} is not one of this model; {_REMEDY}")
    for name, value in wanted.items():
        entry = there[name]
        kinds = [kind for kind, dtype in _WHOLE.items() if dtype == value.dtype] or _REAL
        if entry.shape != value.shape or entry.dtype not in kinds:
            raise BundleError(
                f"{places[name]}: tensor {shown(name)} is {entry.dtype} {entry.shape} where the model has "
                f"{' or '.join(kinds)} {tuple(value.shape)}; {_REMEDY}"
            )
