"""The engine: a Qwen2 decoder in NumPy, float32. A real engine is faster and has the same interface.

Formulas: the Qwen2 report (arXiv 2407.10671, section 2.2) and RoFormer (arXiv 2104.09864). The rotation pairs the two
halves of a head, as in the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .weights import Config, load_weights

Array = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Positions = npt.NDArray[np.int64]


class Qwen2:
    """The weights of a bundle's decoder, and one forward pass."""

    def __init__(self, config: Config) -> None:
        """Raises BundleError if the weights are damaged."""
        self._config = config
        self._weights = load_weights(config)
        self._frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)

    def embed(self, ids: npt.NDArray[np.integer]) -> Array:
        """Token ids (n,) to rows (n, hidden)."""
        rows: Array = self._weights["model.embed_tokens.weight"][ids]
        return rows

    def forward(
        self, rows: Array, positions: Positions, keys: Halves, values: Halves, check: Callable[[], None]
    ) -> Array:
        """Rows (n, hidden) to hidden states (n, hidden). The rows are the last n of m entries; attention is causal.

        `positions` (m,), `keys` and `values` (layers, m, kv heads, head size) belong to all m entries. The new keys and
        values are written into them. Keys are stored before rotation and rotated when used, so moving an entry only
        changes its position. `check` is called before each layer.
        """
        new = slice(len(positions) - len(rows), None)
        visible = positions <= positions[new, None]
        for layer in range(self._config.layers):
            check()
            block = f"model.layers.{layer}."
            normed = self._norm(rows, block + "input_layernorm")
            q, keys[layer, new], values[layer, new] = (
                self._linear(normed, f"{block}self_attn.{name}_proj").reshape(len(rows), -1, self._config.head_dim)
                for name in "qkv"
            )
            k = self._rotated(keys[layer].astype(np.float32), positions)
            mixed = self._attend(self._rotated(q, positions[new]), k, values[layer].astype(np.float32), visible)
            rows = rows + self._linear(mixed, block + "self_attn.o_proj")
            normed = self._norm(rows, block + "post_attention_layernorm")
            gate, up = (self._linear(normed, f"{block}mlp.{name}_proj") for name in ("gate", "up"))
            silu = gate * (1 + np.tanh(gate / 2)) / 2
            rows = rows + self._linear(silu * up, block + "mlp.down_proj")
        return rows

    def logits(self, row: Array) -> Array:
        """A hidden state (hidden,) to logits (vocabulary,)."""
        return self._linear(self._norm(row, "model.norm"), "model.embed_tokens" if self._config.tied else "lm_head")

    def _attend(self, q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
        """q (n, heads, size), k and v (m, kv heads, size), visible (n, m) -> (n, hidden)."""
        n, (m, groups, size) = len(q), k.shape
        q = q.reshape(n, groups, -1, size).transpose(1, 2, 0, 3)  # (kv heads, heads that share one, n, size)
        k, v = (x.reshape(m, groups, 1, size).transpose(1, 2, 0, 3) for x in (k, v))
        scores = q @ k.swapaxes(-1, -2) / np.float32(math.sqrt(size))
        scores = np.where(visible, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed: Array = weights @ v
        return mixed.transpose(2, 0, 1, 3).reshape(n, -1)

    def _rotated(self, x: Array, positions: Positions) -> Array:
        angles = positions[:, None, None] * self._frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), -1)

    def _norm(self, x: Array, name: str) -> Array:
        epsilon = np.float32(self._config.rms_norm_eps)
        normed: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * self._weights[f"{name}.weight"]
        return normed

    def _linear(self, x: Array, name: str) -> Array:
        product = x @ self._weights[f"{name}.weight"].T
        return product + self._weights[f"{name}.bias"] if f"{name}.bias" in self._weights else product
