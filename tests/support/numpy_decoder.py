"""The reference decoder: Qwen2 and Qwen3 in float64 NumPy, with the timeline operations of the `Decoder` protocol.

An entry's keys and values are computed once, from the entries visible when it is appended. Keys are stored before
rotation, so positions can change without rounding. Attention is the plain formula over all entries, with an explicit
visibility matrix; it is slow on purpose. Sources: the Qwen2 report (arXiv 2407.10671, section 2.2), the Qwen3 report
(arXiv 2505.09388, section 2: QK-Norm) and RoFormer (arXiv 2104.09864), with the rotation over halves of the published
code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from support.safetensors_edit import header_of

Array = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
Visibility = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Entries:
    """The n entries of a timeline, in order."""

    positions: Positions
    """(n,)"""
    keys: Array
    """(layers, n, kv heads, head size), before rotation."""
    values: Array
    """(layers, n, kv heads, head size)."""

    def chosen(self, which: npt.NDArray[np.bool_]) -> Entries:
        """The entries selected by a mask (n,)."""
        return Entries(self.positions[which], self.keys[:, which], self.values[:, which])

    def followed_by(self, more: Entries) -> Entries:
        """These entries, then more."""
        return Entries(
            np.concatenate((self.positions, more.positions)),
            np.concatenate((self.keys, more.keys), 1),
            np.concatenate((self.values, more.values), 1),
        )


class Qwen:
    """A checkpoint's decoder weights, and the forward pass."""

    def __init__(self, checkpoint: Path) -> None:
        """Read a folder with `config.json` and one float16 `model.safetensors` with tied embeddings."""
        config = json.loads((checkpoint / "config.json").read_text("utf-8"))["text_config"]
        assert config["tie_word_embeddings"]
        assert config["rope_parameters"]["rope_type"] == "default"
        self.layers: int = config["num_hidden_layers"]
        self.hidden_size: int = config["hidden_size"]
        self.vocab_size: int = config["vocab_size"]
        self._heads: int = config["num_attention_heads"]
        self._kv_heads: int = config["num_key_value_heads"]
        self._head_size: int = config.get("head_dim", self.hidden_size // self._heads)
        self._epsilon: float = config["rms_norm_eps"]
        exponents = np.arange(0, self._head_size, 2) / self._head_size
        self._frequencies = config["rope_parameters"]["rope_theta"] ** -exponents
        self.weights = _decoder_weights(checkpoint / "model.safetensors")
        """By name within the decoder, in float64."""

    def nothing(self) -> Entries:
        """No entries."""
        none = np.zeros((self.layers, 0, self._kv_heads, self._head_size))
        return Entries(np.zeros(0, np.int64), none, none)

    def embed(self, ids: Sequence[int]) -> Array:
        """The embeddings of token ids: (n, hidden)."""
        return self.weights["embed_tokens.weight"][list(ids)]

    def forward(self, rows: Array, positions: Positions, past: Entries, visible: Visibility) -> tuple[Array, Entries]:
        """Logits (n, vocabulary) of new rows (n, hidden) at positions (n,), and their new entries.

        `visible`: (n, past + n), which past and new entries each new entry attends to.
        """
        stream, keys, values = rows, [], []
        for layer in range(self.layers):
            block = f"layers.{layer}."
            normed = self._norm(stream, block + "input_layernorm.weight")
            q, k, v = (self._heads_of(self._linear(normed, f"{block}self_attn.{name}_proj")) for name in "qkv")
            if f"{block}self_attn.q_norm.weight" in self.weights:
                q, k = (
                    self._norm(q, f"{block}self_attn.q_norm.weight"),
                    self._norm(k, f"{block}self_attn.k_norm.weight"),
                )
            keys.append(k)
            values.append(v)
            mixed = self._attend(
                self._rotate(q, positions),
                self._rotate(np.concatenate((past.keys[layer], k)), np.concatenate((past.positions, positions))),
                np.concatenate((past.values[layer], v)),
                visible,
            )
            stream = stream + self._linear(mixed, block + "self_attn.o_proj")
            normed = self._norm(stream, block + "post_attention_layernorm.weight")
            gate, up = (self._linear(normed, f"{block}mlp.{name}_proj") for name in ("gate", "up"))
            stream = stream + self._linear(gate / (1 + np.exp(-gate)) * up, block + "mlp.down_proj")
        logits = self._norm(stream, "norm.weight") @ self.weights["embed_tokens.weight"].T
        return logits, Entries(positions, np.stack(keys), np.stack(values))

    def _attend(self, q: Array, k: Array, v: Array, visible: Visibility) -> Array:
        """q (n, heads, size), k and v (m, kv heads, size), visible (n, m) -> (n, heads * size)."""
        k, v = (np.repeat(x, self._heads // self._kv_heads, axis=1) for x in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self._head_size)
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hij,jhd->ihd", weights, v).reshape(len(q), -1)

    def _rotate(self, x: Array, positions: Positions) -> Array:
        angles = positions[:, None, None] * self._frequencies
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), -1)

    def _heads_of(self, x: Array) -> Array:
        return x.reshape(len(x), -1, self._head_size)

    def _norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self._epsilon) * self.weights[name]

    def _linear(self, x: Array, name: str) -> Array:
        product = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return product if bias is None else product + bias


class NumpyDecoder:
    """A timeline with the operations of the `Decoder` protocol. `entries` can be saved and restored."""

    def __init__(self, model: Qwen) -> None:
        self.model = model
        self.entries = model.nothing()

    @property
    def length(self) -> int:
        return len(self.entries.positions)

    @property
    def position(self) -> int:
        return int(self.entries.positions[-1]) + 1 if self.length else 0

    def append_tokens(self, ids: Sequence[int]) -> Array:
        return self.append_embeddings(self.model.embed(ids))

    def append_embeddings(self, rows: npt.NDArray[np.floating]) -> Array:
        """Append rows (n, hidden) with causal attention; returns the logits of the last row, (vocabulary,)."""
        count = len(rows)
        positions = self.position + np.arange(count)
        visible = np.hstack((np.ones((count, self.length), bool), np.tri(count, dtype=bool)))
        logits, new = self.model.forward(rows.astype(np.float64), positions, self.entries, visible)
        self.entries = self.entries.followed_by(new)
        return logits[-1]

    def truncate(self, position: int) -> None:
        self.entries = self.entries.chosen(self.entries.positions < position)

    def evict(self, start: int, end: int) -> None:
        positions = self.entries.positions
        self.entries = self.entries.chosen((positions < start) | (positions >= end))

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | npt.NDArray[np.floating]]) -> None:
        """Recompute the entries of a range as if only the entries before it had ever existed."""
        positions = self.entries.positions
        after = self.entries.chosen(positions >= end)
        self.truncate(start)
        before = self.entries
        for part in parts:
            rows = part if isinstance(part, np.ndarray) else self.model.embed(part)
            self.append_embeddings(rows)
        new = self.entries.chosen(np.arange(self.length) >= len(before.positions))
        new = replace(new, positions=np.arange(start, end))
        self.entries = before.followed_by(new).followed_by(after)

    def rebase(self) -> None:
        self.entries = replace(self.entries, positions=np.arange(self.length))


def _decoder_weights(path: Path) -> dict[str, Array]:
    """The weights by their name within the decoder: `layers.0.mlp.up_proj.weight`."""
    header, data = header_of(path)
    prefix = "language_model.model."
    weights = {}
    for name, entry in header.items():
        if name.startswith(prefix):
            assert entry["dtype"] == "F16", name
            raw = np.frombuffer(data[slice(*entry["data_offsets"])], "<f2")
            weights[name.removeprefix(prefix)] = raw.reshape(entry["shape"]).astype(np.float64)
    return weights
