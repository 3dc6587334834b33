"""Conversations about images, packed into training sequences.

One sequence holds the system prompt and the pictures once, then several questions with their answers. In most
sequences the questions are alternatives: each sees the pictures and itself, at the positions it would have alone, so
that no answer can be copied from another. In the rest they are turns of one conversation.

Knows nothing about scenes or weights: it makes ids, positions, masks and targets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import build
import numpy as np
import torch
from pool import GRID
from tokenizers import Tokenizer

from edge_interleave.world.questions import QA

IGNORE = -100
ALWAYS = 10**6
"""Stands for the frame of text that every window sees."""


@dataclass(frozen=True)
class Packed:
    """A batch. n is sequences, t positions, v visual tokens of the whole batch."""

    ids: torch.Tensor
    """(n, t) int64; the image token where a visual token goes."""
    positions: torch.Tensor
    """(n, t) int64."""
    mask: torch.Tensor
    """(n, 1, t, t) bool: who may look at whom."""
    targets: torch.Tensor
    """(n, t) int64: the next token, or IGNORE."""
    ordinals: torch.Tensor
    """(n, t) int64: at a visual token, which image of the sequence it belongs to (0, 1, ...); IGNORE elsewhere."""
    last: torch.Tensor
    """(n,) int64: the ordinal of the sequence's last image."""
    first_number: torch.Tensor
    """(n,) int64: of a live window, what its first frame is announced as."""
    live: bool
    """Whether the images are frames of live windows."""
    images: np.ndarray
    """(images,) int64: rows of the feature store, in the order of their visual tokens."""
    stride: int


@dataclass(frozen=True)
class Conversation:
    """Images (rows of the feature store) and questions about them."""

    images: tuple[int, ...]
    turns: tuple[QA, ...]
    window: int | None = None
    """Of a live conversation: each image sees so many of the latest, itself included, and the questions likewise. The
    oldest that the questions see sees none before it: a live window computes it anew."""
    number: int = 1
    """Of a live conversation: what its first frame is announced as."""


def length(conversation: Conversation, tokenizer: Tokenizer, stride: int) -> int:
    """About how many positions a conversation takes."""
    around = 1 if conversation.window is None else 9
    visual = len(conversation.images) * ((GRID // stride) ** 2 + around)
    return 25 + visual + sum(len(_ids(tokenizer, q)) + len(_ids(tokenizer, a)) + 7 for q, a in conversation.turns)


def pack(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    rng: random.Random,
    stride: int,
    chain_share: float = 0.0,
    gap_share: float = 0.3,
) -> Packed:
    """Pack conversations; `chain_share` of them as turns of one conversation instead of alternatives.

    In `gap_share` of the sequences the pictures start at a later position than the system prompt's end: so they do
    in a live window whose oldest frames were evicted.
    """
    image_id = tokenizer.token_to_id("<image>")
    tokens = (GRID // stride) ** 2
    head = _ids(tokenizer, f"<|im_start|>system\n{build.SYSTEM}<|im_end|>\n")
    user = _ids(tokenizer, "<|im_start|>user\n")
    newline = _ids(tokenizer, "\n")
    rows = []
    for conversation in conversations:
        ids, owner = [*head, *user], []
        owner += [IGNORE] * len(ids)
        frame = [ALWAYS] * len(ids)
        for number in range(len(conversation.images)):
            live = conversation.window is not None
            announced = _ids(tokenizer, f"Frame {conversation.number + number}:") if live else []
            ids += announced + [image_id] * tokens + newline
            owner += [IGNORE] * len(announced) + [number] * tokens + [IGNORE] * len(newline)
            frame += [number] * (len(announced) + tokens + len(newline))
        gap = rng.randint(1, 2500) if rng.random() < gap_share else 0
        prefix = len(ids)
        positions = [i + (gap if i >= len(head) else 0) for i in range(prefix)]
        targets, block = [IGNORE] * prefix, [0] * prefix
        chained = rng.random() < chain_share
        for turn, (question, answer) in enumerate(conversation.turns):
            lead = user if chained and turn else []
            ask = [*lead, *_ids(tokenizer, f"{question}<|im_end|>\n<|im_start|>assistant\n")]
            reply = _ids(tokenizer, f"{answer}<|im_end|>\n")
            start = positions[-1] + 1 if chained else positions[prefix - 1] + 1
            ids += ask + reply
            positions += range(start, start + len(ask) + len(reply))
            # The newline after <|im_end|> is the template's, not the model's: it is not learnt.
            targets += [IGNORE] * (len(ask) - 1) + reply[:-1] + [IGNORE, IGNORE]
            block += [0 if chained else turn + 1] * (len(ask) + len(reply))
        owner += [IGNORE] * (len(ids) - len(owner))
        frame += [ALWAYS] * (len(ids) - len(frame))
        rows.append((ids, positions, targets, owner, block, frame))
    # Few different lengths: the allocator then finds the blocks of an earlier batch again.
    longest = -(-max(len(row[0]) for row in rows) // 64) * 64
    pads = (tokenizer.token_to_id("<|endoftext|>"), 0, IGNORE, IGNORE, -1, ALWAYS)
    padded = [
        torch.tensor([row[part] + [pads[part]] * (longest - len(row[part])) for row in rows]) for part in range(6)
    ]
    ids_, positions_, targets_, owner_, block_, frame_ = padded
    same = (block_[:, None, :] == block_[:, :, None]) | (block_[:, None, :] == 0)
    mask = (same & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
    last = torch.tensor([len(conversation.images) - 1 for conversation in conversations])
    first_number = torch.tensor([conversation.number for conversation in conversations])
    windows = torch.tensor([conversation.window or ALWAYS for conversation in conversations])
    oldest = (last - windows + 1)[:, None]
    since = torch.where(frame_ == ALWAYS, oldest, torch.where(frame_ == oldest, oldest, frame_ - windows[:, None] + 1))
    mask &= (frame_[:, None, :] >= since[:, :, None])[:, None]
    live = conversations[0].window is not None
    images = np.array([image for conversation in conversations for image in conversation.images])
    return Packed(ids_, positions_, mask, targets_, owner_, last, first_number, live, images, stride)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    cached = _cache.get(text)
    if cached is None:
        if len(_cache) > 200_000:
            _cache.clear()
        cached = _cache[text] = tokenizer.encode(text, add_special_tokens=False).ids
    return cached


_cache: dict[str, list[int]] = {}
