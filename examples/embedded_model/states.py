"""What training keeps on disk appears whole or not at all. Knows nothing about what is in it."""

from __future__ import annotations

from pathlib import Path

import torch


def save(state: object, path: Path) -> None:
    """Write beside the path, then rename: a run that is killed finds the state before."""
    beside = path.with_suffix(".partial")
    torch.save(state, beside)
    beside.rename(path)
