"""Saves the state of a training run."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_interleave.util.atomic_file import atomic_file


def save(state: object, path: Path) -> None:
    """Write a state atomically; a killed run leaves the previous state."""
    with atomic_file(path) as temporary:
        torch.save(state, temporary)
