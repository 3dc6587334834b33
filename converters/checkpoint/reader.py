"""Opens a LLaVA-Interleave checkpoint of either layout: its config, canonical tensor names, one tensor at a time.

Opening checks the headers before any tensor is read: every tensor that the model uses must occur once, with the
shape that the config needs. Other tensors must be known extras of such checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from edge_interleave.bundle.safetensors_header import Entry
from edge_interleave.converters.checkpoint.config import ModelConfig
from edge_interleave.converters.checkpoint.config_hf import parse_config
from edge_interleave.converters.checkpoint.json_files import read_json
from edge_interleave.converters.checkpoint.safetensors_file import SafetensorsFile
from edge_interleave.converters.checkpoint.weight_names import (
    EMBEDDING,
    HEAD,
    canonical_names,
    expected_shapes,
    is_unused,
)
from edge_interleave.converters.hub import download, is_repository_id
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import CheckpointError, shown
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.utf8_path import utf8_text

LOG = logging.getLogger(__name__)
CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_COMPARE_BYTES = 16 << 20


def open_checkpoint(source: Path | str, *, revision: str | None = None, progress: Progress | None = None) -> Checkpoint:
    """Open a folder, or a Hub repository id (`owner/name`) if there is no such folder; it is downloaded as needed.

    `revision`: a branch, tag or commit of the Hub. `progress` gets the stage `download`. Raises CheckpointError, naming
    the file or tensor, if the checkpoint cannot be converted.
    """
    folder = Path(source)
    name = utf8_text(folder.resolve().name)
    if not folder.exists() and is_repository_id(str(source)):
        name = str(source)
        folder = download(name, revision, progress)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}; give a checkpoint's folder or a Hub repository id (owner/name)")
    generation = folder / GENERATION_NAME
    config = parse_config(
        folder / CONFIG_NAME,
        read_json(folder / CONFIG_NAME),
        read_json(generation) if generation.is_file() else None,
    )
    files = _open_files(folder)
    try:
        return Checkpoint(folder, name, config, files)
    except BaseException:
        for file in files:
            file.close()
        raise


class Checkpoint:
    """An open checkpoint, made by `open_checkpoint`; a context manager. For one thread at a time."""

    def __init__(self, folder: Path, source: str, config: ModelConfig, files: list[SafetensorsFile]) -> None:
        self.folder = folder
        self.source = source
        """The Hub repository id, or the folder's name."""
        self.config = config
        self._files = files
        self._places = _places(folder, files)
        self.generation, by_name = canonical_names(self._places)
        """The file's naming: `original`, `hf-2024`, `hf-4.52` or `hf-5`."""
        self._names = {new: old for old, new in by_name.items()}
        self.tied = self._settle_head()
        """Whether the head is the embedding matrix; there is no `decoder.lm_head.weight` then."""
        self._shapes = expected_shapes(config)
        if self.tied:
            del self._shapes[HEAD]
        self._check()

    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors of tower, projector and decoder."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """A tensor's type in the file: `f32`, `f16` or `bf16`."""
        return str(self._kind(name))

    def tensor(self, name: str) -> FloatArray:
        """A tensor, widened to float32. The array is a new copy. Raises CheckpointError like `rows`."""
        shape = self._shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1)

    def rows(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows start <= i < stop of a tensor's first axis, widened to float32. The array is a new copy.

        Raises CheckpointError if the file was cut off since it was opened, or has values that are not finite.
        """
        file, old = self._places[self._names[name]]
        values = file.rows(old, start, stop)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{file.path}: tensor {old} has values that are not finite; download it again")
        return values

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> Entry:
        file, old = self._places[self._names[name]]
        return file.entries[old]

    def _kind(self, name: str) -> str | None:
        file, old = self._places[self._names[name]]
        return file.kind(old)

    def _settle_head(self) -> bool:
        """Decide whether the head is the embedding matrix, like transformers.

        If the config ties them, either may be missing, and two different ones are both kept. Raises CheckpointError if
        the config does not tie them and one is missing; transformers would initialise it at random.
        """
        held = [name for name in (EMBEDDING, HEAD) if name in self._names]
        if not self.config.decoder.tie_word_embeddings:
            if len(held) == 1:
                lacks = "head" if held == [EMBEDDING] else "embedding matrix"
                raise CheckpointError(
                    f"{self.folder / CONFIG_NAME}: field 'tie_word_embeddings' is false, but the weights have no "
                    f"{lacks} beside {self._names[held[0]]}; set it to true if the model was trained so, or download "
                    "the checkpoint again"
                )
            return False
        if held == [HEAD]:
            self._names[EMBEDDING] = self._names.pop(HEAD)
        if len(held) < 2 or self._same(EMBEDDING, HEAD):
            return True
        LOG.warning(
            "%s: field 'tie_word_embeddings' is true, but %s and %s differ; both are kept, as transformers does",
            self.folder / CONFIG_NAME,
            self._names[EMBEDDING],
            self._names[HEAD],
        )
        return False

    def _same(self, one: str, other: str) -> bool:
        a, b = self._entry(one), self._entry(other)
        if a.shape != b.shape or self._kind(one) is None or self._kind(other) is None or not a.shape:
            return False
        step = max(1, _COMPARE_BYTES * a.shape[0] // max(a.bytes, 1))
        for start in range(0, a.shape[0], step):
            stop = min(start + step, a.shape[0])
            if not np.array_equal(self.rows(one, start, stop), self.rows(other, start, stop)):
                return False
        return True

    def _check(self) -> None:
        if not any(name.startswith("vision.") for name in self._names):
            raise CheckpointError(
                f"{self.folder}: has no weights of the vision tower, which LLaVA's original code leaves out if it did "
                "not train them; convert the same model in the Hugging Face layout"
            )
        for name, shape in self._shapes.items():
            if name not in self._names:
                raise CheckpointError(
                    f"{self.folder}: tensor {name} (shape {shape}) is missing; download the whole checkpoint"
                )
            entry = self._entry(name)
            spelt = self._names[name]
            if entry.shape != shape:
                raise CheckpointError(
                    f"{self._places[spelt][0].path}: tensor {spelt} has shape {entry.shape} where config.json needs "
                    f"{shape}; the two do not belong together"
                )
            if self._kind(name) is None:
                raise CheckpointError(
                    f"{self._places[spelt][0].path}: tensor {spelt} is of type {entry.dtype}; "
                    "use a checkpoint in fp32, fp16 or bf16 (not a quantized one)"
                )
        unknown = [
            old
            for new, old in self._names.items()
            if new not in self._shapes and not is_unused(new, self.config) and not (self.tied and new == HEAD)
        ]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise CheckpointError(
                f"{self._places[unknown[0]][0].path}: unknown tensor {shown(unknown[0])}{more}; "
                "is this a LLaVA-Interleave checkpoint, with its adapters merged?"
            )


def _open_files(folder: Path) -> list[SafetensorsFile]:
    index = folder / INDEX_NAME
    if (folder / WEIGHTS_NAME).is_file() or not index.is_file():
        if not (folder / WEIGHTS_NAME).is_file():
            raise _no_weights(folder)
        return [SafetensorsFile(folder / WEIGHTS_NAME)]
    weights = read_json(index)
    weights = weights.get("weight_map") if isinstance(weights, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{index}: has no weight_map; download it again")
    for name in weights.values():
        if not _is_plain_file_name(name):
            raise CheckpointError(f"{index}: names the file {shown(name)}; do not trust this checkpoint")
    files: list[SafetensorsFile] = []
    try:
        for name in sorted(set(weights.values())):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / name}: missing, but {INDEX_NAME} names it; download it")
            files.append(SafetensorsFile(folder / name))
        _check_index(index, weights, files)
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _no_weights(folder: Path) -> CheckpointError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        return CheckpointError(
            f"{folder}: only PyTorch pickles ({pickles[0]}), which can run code and are not read; "
            "save the model as safetensors"
        )
    return CheckpointError(
        f"{folder}: has neither {WEIGHTS_NAME} nor {INDEX_NAME}; download the whole checkpoint, "
        "or save the model as safetensors if it is published as pickles only"
    )


def _is_plain_file_name(name: Any) -> bool:
    """Whether it is a file name without a path. Links are allowed: the Hub's cache links files out of its folder."""
    if not isinstance(name, str) or not name.isprintable() or name.startswith("."):
        return False
    return name.endswith(".safetensors") and not set(name) & set("/\\:")


def _check_index(index: Path, weights: Mapping[str, str], files: list[SafetensorsFile]) -> None:
    held = {file.path.name: file.entries for file in files}
    for name, where in weights.items():
        if name not in held[where]:
            raise CheckpointError(f"{index.parent / where}: has no tensor {shown(name)}, which {index.name} names")
    for where, entries in held.items():
        for name in entries:
            if name not in weights:
                raise CheckpointError(f"{index.parent / where}: tensor {shown(name)} is not in {index.name}")


def _places(folder: Path, files: list[SafetensorsFile]) -> dict[str, tuple[SafetensorsFile, str]]:
    places: dict[str, tuple[SafetensorsFile, str]] = {}
    for file in files:
        for name in file.entries:
            if name in places:
                raise CheckpointError(
                    f"{folder}: tensor {shown(name)} is in {places[name][0].path.name} and in {file.path.name}"
                )
            places[name] = (file, name)
    return places
