"""Counts the rows that the engines compute, whatever call of a decoder computes them.

The `Decoder` protocol does not tell how many rows a `recompute` takes from a preparation, so the counter wraps the
engines' own function that computes a batch. No other test reaches into them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from edge_interleave.backends.llama_cpp.decoder import LlamaCppDecoder
from edge_interleave.backends.onnx.decoder import OnnxDecoder


class ComputedRows:
    """The number of rows computed by all decoders of this process. Call it for those since the last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counts until `monkeypatch` is undone."""
        self._count = 0
        monkeypatch.setattr(LlamaCppDecoder, "_decode", self._counting(LlamaCppDecoder._decode))
        monkeypatch.setattr(OnnxDecoder, "_compute", self._counting(OnnxDecoder._compute))
        if find_spec("mlx"):
            from edge_interleave.backends.mlx.decoder import MlxDecoder

            monkeypatch.setattr(MlxDecoder, "_compute", self._counting(MlxDecoder._compute))

    def __call__(self) -> int:
        """Rows computed since the last call."""
        found, self._count = self._count, 0
        return found

    def _counting(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        def counting(decoder: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
            self._count += len(rows)
            return compute(decoder, rows, *arguments, **options)

        return counting
