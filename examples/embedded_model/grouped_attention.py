"""Attention of packed rows in groups, without the pairs that never see each other.

A row holds several conversations, and most of their questions are alternatives, so most pairs of a row's
positions are masked. Here, a conversation's prefix (system prompt and pictures) attends to itself, and each alternative
to its prefix and itself; alternatives of similar lengths are computed together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from precision import DEVICE, HALF
from torch import Tensor

SPLITS = (0.5, 0.85)
"""Shares of the alternatives, sorted by length, where a new group begins."""


@dataclass(frozen=True)
class Group:
    """Spans of a batch that are computed together, s spans of up to l positions."""

    places: np.ndarray
    """(s, l) int32: places in the batch (row * t + column); -1 pads."""
    prefixes: np.ndarray | None
    """(s,) int32: the span of the first group that each span attends to besides itself; None for none."""


def groups_of(blocks: Sequence[tuple[int, Sequence[int]]]) -> tuple[Group, ...]:
    """The groups of conversations, each given as its first place and the block of each of its positions.

    A position attends to its own block and to block 0, which comes first.
    """
    prefixes, whole, asked = [], [], []
    for first, numbers in blocks:
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        spans = [np.arange(first + a, first + b) for a, b in zip([0, *ends], ends, strict=False)]
        if len(spans) == 1:
            whole.append(spans[0])
        else:
            asked += [(span, len(prefixes)) for span in spans[1:]]
            prefixes.append(spans[0])
    made = [Group(_padded(spans), None) for spans in (prefixes, whole) if spans]
    asked.sort(key=lambda pair: len(pair[0]))
    cuts = [0, *(round(share * len(asked)) for share in SPLITS), len(asked)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            of = np.array([prefix for _, prefix in asked[start:stop]], np.int32)
            made.append(Group(_padded([span for span, _ in asked[start:stop]]), of))
    return tuple(made)


class GroupedAttention:
    """The groups of one batch on the training device. Positions are numbered row by row: place = row * t + column."""

    def __init__(self, groups: Sequence[Group], frame: Tensor, since: Tensor) -> None:
        """frame, since: (places,) int64; a position sees the frames from its `since` on."""
        slots = np.concatenate([group.places.ravel() for group in groups])
        used = np.flatnonzero(slots >= 0)
        slot_of = np.zeros(len(frame), np.int64)
        slot_of[slots[used]] = used
        filled = np.zeros((len(frame), 1), np.bool_)
        filled[slots[used]] = True
        self._to_slots, self._to_places = _moved(slots.clip(0).astype(np.int64)), _moved(slot_of)
        self._slot_used, self._place_used = _moved((slots >= 0)[:, None]), _moved(filled)
        self._shapes = [group.places.shape for group in groups]
        self._prefixes = [None if g.prefixes is None else _moved(g.prefixes.astype(np.int64)) for g in groups]
        self._biases = self._masks([_moved(group.places.astype(np.int64)) for group in groups], frame, since)

    def __call__(self, qkv: Tensor, heads: int, kv_heads: int) -> Tensor:
        """The mixed values: (places, heads * size), from (places, (heads + 2 * kv_heads) * size) scaled and rotated."""
        size = qkv.shape[1] // (heads + 2 * kv_heads)
        qkv = _Rearranged.apply(qkv, self._to_slots, self._to_places, self._place_used)
        mixed, first, of_prefixes = [], 0, None
        for (spans, longest), prefixes, bias in zip(self._shapes, self._prefixes, self._biases, strict=True):
            part = qkv[first : first + spans * longest].view(spans, longest, heads + 2 * kv_heads, size)
            first += spans * longest
            q, kv = part[:, :, :heads], part[:, :, heads:]
            if of_prefixes is None:
                of_prefixes = kv
            if prefixes is not None:
                kv = torch.cat([of_prefixes.index_select(0, prefixes), kv], 1)
            k, v = (each.transpose(1, 2) for each in kv.chunk(2, 2))
            # The heads that share a KV head are further rows of its queries: (spans, kv_heads, shared, longest, size).
            q = q.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
            scores = (q.flatten(2, 3) @ k.transpose(2, 3)).unflatten(2, (-1, longest)) + bias
            out = (torch.softmax(scores, -1).flatten(2, 3) @ v).unflatten(2, (-1, longest))
            mixed.append(out.permute(0, 3, 1, 2, 4).reshape(spans * longest, heads * size))
        return _Rearranged.apply(torch.cat(mixed), self._to_places, self._to_slots, self._slot_used)

    def _masks(self, places: Sequence[Tensor], frame: Tensor, since: Tensor) -> list[Tensor]:
        """For each group, 0 where a position of a span sees a key, else a large negative number."""
        masks = []
        for at, prefixes in zip(places, self._prefixes, strict=True):
            oldest = since[at.clamp(min=0)][:, :, None]
            length = at.shape[1]
            seen = torch.ones(length, length, dtype=torch.bool, device=at.device).tril() & _seen(at, frame, oldest)
            if prefixes is not None:
                seen = torch.cat([_seen(places[0][prefixes], frame, oldest), seen], 2)
            # A pad sees everything, so that no softmax is empty; what it reads is dropped.
            seen = seen | (at < 0)[:, :, None]
            bias = torch.zeros(seen.shape, dtype=HALF, device=at.device).masked_fill(~seen, -1e9)
            masks.append(bias[:, None, None])
        return masks


def _seen(keys: Tensor, frame: Tensor, oldest: Tensor) -> Tensor:
    """Whether a query, (s, l, 1) of oldest frames, may see a key, (s, k) of places: (s, l, k)."""
    return (keys >= 0)[:, None] & (frame[keys.clamp(min=0)][:, None] >= oldest)


class _Rearranged(torch.autograd.Function):
    """Rows in another order, each at most once; its gradient is a rearrangement too, faster than adding rows up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, to: Tensor, back: Tensor, used: Tensor) -> Tensor:
        ctx.save_for_backward(back, used)
        return rows.index_select(0, to)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        back, used = ctx.saved_tensors
        return grad.index_select(0, back) * used, None, None, None


def _padded(spans: Sequence[np.ndarray]) -> np.ndarray:
    table = np.full((len(spans), max(map(len, spans))), -1, np.int32)
    for row, span in zip(table, spans, strict=True):
        row[: len(span)] = span
    return table


def _moved(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(DEVICE)
