"""Towers with outlier activations, which trained vision transformers have and random ones lack.

"Massive activations" (arXiv 2402.17762) are values 100 to 1,000 times the median, in a few fixed channels of a few
tokens, from a middle block on; "outlier features" (arXiv 2208.07339) are in fixed channels of every token. Both are
planted in the weights of a checkpoint, wherever those come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_interleave.converters.checkpoint.reader import Checkpoint

Change = Callable[[np.ndarray], np.ndarray]
TOKENS = (0, 7, 20)
CHANNELS = (5, 77)


class Planted:
    """A checkpoint that changes some tensors when they are read."""

    def __init__(self, checkpoint: Checkpoint, changes: Mapping[str, Change]) -> None:
        self._checkpoint = checkpoint
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)

    @property
    def folder(self) -> Path:
        return self._checkpoint.folder

    def tensor(self, name: str) -> np.ndarray:
        values = self._checkpoint.tensor(name)
        return self._changes[name](values).astype(np.float32) if name in self._changes else values


def added(index: Any, value: Any) -> Change:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] += value
        return values

    return change


def times(index: Any, factor: float) -> Change:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] *= factor
        return values

    return change


def massive_tokens(
    checkpoint: Checkpoint, block: int, size: float, rest: float = 5.0, *, projected: bool
) -> dict[str, Change]:
    """A few tokens get values of about `size` in two channels; `projected`: the projector sees those channels too.

    The tokens carry a mark in their position, which one neuron of the block reads: it is silent for all others. `rest`
    is the root mean square of the hidden states.
    """
    width = checkpoint.config.vision.hidden_size
    mark = np.random.default_rng(0).standard_normal(width)
    mark = (mark - mark.mean()) / np.linalg.norm(mark)
    mlp = f"vision.layers.{block}.mlp."

    def read(values: np.ndarray) -> np.ndarray:
        return np.concatenate([mark[np.newaxis], values[1:]])

    def quiet(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[-5.0], values[1:]])

    def write(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[:, 0] = 0
        values[list(CHANNELS), 0] = size / 10
        return values

    changes = {
        "vision.embeddings.position_embedding.weight": added(list(TOKENS), rest * np.sqrt(width) * mark),
        f"{mlp}fc1.weight": read,
        f"{mlp}fc1.bias": quiet,
        f"{mlp}fc2.weight": write,
    }
    return changes if projected else changes | {"projector.linear_1.weight": times(np.s_[:, list(CHANNELS)], 0)}


def fixed_channels(
    checkpoint: Checkpoint, block: int, size: float, gain: float, rest: float = 4.0
) -> dict[str, Change]:
    """Two channels of every token are `size` and minus that, behind a block; later norms make the rest what it was.

    `rest` is the root mean square of the other channels. `gain` is those norms' own for the two channels; the
    projector's bias takes them out again.
    """
    vision, (one, other) = checkpoint.config.vision, CHANNELS
    growth = size * np.sqrt(2 / vision.hidden_size) / rest

    def norm(values: np.ndarray) -> np.ndarray:
        values = values * growth
        values[list(CHANNELS)] = gain
        return values

    def taken_out(values: np.ndarray) -> np.ndarray:
        weight = checkpoint.tensor("projector.linear_1.weight")
        return values - size * (weight[:, one] - weight[:, other])

    norms = [f"vision.layers.{n}.layer_norm{half}.weight" for n in range(block + 1, vision.layers) for half in (1, 2)]
    return {
        f"vision.layers.{block}.mlp.fc2.bias": added(list(CHANNELS), [size, -size]),
        "projector.linear_1.bias": taken_out,
        **dict.fromkeys(norms, norm),
    }


def loud_neuron(checkpoint: Checkpoint, block: int, size: float) -> dict[str, Change]:
    """One neuron of a block outputs `size` for every token; the following bias cancels it."""
    fc1, fc2 = (f"vision.layers.{block}.mlp.{name}" for name in ("fc1", "fc2"))
    weight = checkpoint.tensor(f"{fc2}.weight")
    return {f"{fc1}.bias": added(9, size), f"{fc2}.bias": lambda values: values - size * weight[:, 9]}


def loud_value(checkpoint: Checkpoint, block: int, size: float) -> dict[str, Change]:
    """One channel of the attention's values is increased by `size`; the output bias cancels it."""
    value, output = (f"vision.layers.{block}.self_attn.{name}_proj" for name in ("v", "out"))
    weight = checkpoint.tensor(f"{output}.weight")
    return {f"{value}.bias": added(9, size), f"{output}.bias": lambda values: values - size * weight[:, 9]}


def unequal_weights(checkpoint: Checkpoint, block: int, size: float) -> dict[str, Change]:
    """One norm scales a channel by `size` and another down; the following weights cancel it."""
    prefix = f"vision.layers.{block}."
    changes = {f"{prefix}self_attn.{name}_proj.weight": times(np.s_[:, 9], 1 / size) for name in "qkv"}
    changes |= {f"{prefix}layer_norm1.{kind}": times(9, size) for kind in ("weight", "bias")}
    changes |= {f"{prefix}layer_norm2.{kind}": times(9, 1 / size) for kind in ("weight", "bias")}
    return changes | {f"{prefix}mlp.fc1.weight": times(np.s_[:, 9], size)}


def quiet_neurons(checkpoint: Checkpoint, size: float) -> dict[str, Change]:
    """All neurons of all blocks say `size` times what they said, and the matrices behind them take that out.

    Not the same function, for a GELU bends less of what is small.
    """
    changes: dict[str, Change] = {}
    for number in range(checkpoint.config.vision.layers):
        mlp = f"vision.layers.{number}.mlp."
        changes |= {f"{mlp}fc1.{kind}": times(np.s_[:], size) for kind in ("weight", "bias")}
        changes[f"{mlp}fc2.weight"] = times(np.s_[:], 1 / size)
    return changes


def projector_offset(checkpoint: Checkpoint, size: float) -> dict[str, Change]:
    """One channel that the projector reads is increased by `size`; the projector's bias cancels it."""
    last = checkpoint.config.vision.layers_used - 1
    weight = checkpoint.tensor("projector.linear_1.weight")
    return {
        f"vision.layers.{last}.mlp.fc2.bias": added(5, size),
        "projector.linear_1.bias": lambda values: values - size * weight[:, 5],
    }
