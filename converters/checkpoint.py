"""Reads a LLaVA-Interleave checkpoint of either layout: one config, one canonical naming, one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from .config import ModelConfig
from .progress import Progress

FloatArray = npt.NDArray[np.float32]


class Checkpoint:
    """An open checkpoint; a context manager. All names and shapes were checked against the config when it was opened."""

    folder: Path
    source: str
    """The Hub repository id, or the folder's name."""
    config: ModelConfig
    tied: bool
    """Whether the head is the embedding matrix: then there is no `decoder.lm_head.weight`."""

    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors that the model uses."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        raise NotImplementedError

    def dtype(self, name: str) -> str:
        """Type in the file: `f32`, `f16` or `bf16`."""
        raise NotImplementedError

    def tensor(self, name: str) -> FloatArray:
        """A tensor, widened to float32; the caller's own copy."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the files."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(source: Path | str, *, revision: str | None = None, progress: Progress | None = None) -> Checkpoint:
    """Open a folder or, where there is none of that name, a Hub repository id. Raises CheckpointError."""
    raise NotImplementedError
