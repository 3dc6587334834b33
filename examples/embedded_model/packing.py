"""Groups of pictures and questions about them, packed into training sequences.

One sequence holds the system prompt and the pictures once, then several questions with their answers. In most
sequences the questions are alternatives: each sees the pictures and itself, at the positions it would have alone, so
that no answer can be copied from another. In the rest they are turns of one conversation.

Knows nothing about weights: it makes ids, positions, masks and targets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import build
import numpy as np
import tasks
import torch
from pool import GRID, Pool
from tokenizers import Tokenizer

IGNORE = -100
ALWAYS = 10**6
"""Stands for the frame of text that every window sees."""
RECIPES = {
    "single": 0.26, "album": 0.18, "change": 0.08, "twins": 0.05, "motion": 0.03, "appearance": 0.03, "live": 0.37,
}  # fmt: skip
LIVE_KINDS = {"still": 0.20, "change": 0.40, "appear": 0.30, "motion": 0.10}


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
    turns: tuple[tasks.QA, ...]
    window: int | None = None
    """Of a live conversation: each image sees so many of the latest, itself included, and the questions likewise. The
    oldest that the questions see sees none before it: a live window computes it anew."""
    number: int = 1
    """Of a live conversation: what its first frame is announced as."""


class Packer:
    """Draws conversations from a pool and packs them."""

    def __init__(self, pool: Pool, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.pool, self.tokenizer, self.rng = pool, tokenizer, rng
        self.by_kind: dict[str, list[int]] = {}
        for index, group in enumerate(pool.groups):
            self.by_kind.setdefault(group.kind, []).append(index)
        self.small = [i for i in self.by_kind["single"] if len(pool.groups[i].scenes[0].items) <= 3]
        self.easy = [i for i in self.by_kind["single"] if len(pool.groups[i].scenes[0].items) <= 2]
        self.appeared = [i for i in self.by_kind["change"] if pool.groups[i].change == "appear"]

    def batch(self, positions: int, strides: Sequence[int] = (1, 2), easy: bool = False) -> Packed:
        """A batch of one recipe and one stride, of about so many positions in all.

        Short sequences come in large batches: a clip costs a third of a picture with twelve questions. Only scenes of
        one or two items where `easy`.
        """
        recipe = self.rng.choices(tuple(RECIPES), tuple(RECIPES.values()))[0]
        pictures = self.rng.choice((2, 2, 3, 3, 4, 5, 6))
        make: Callable[[], Conversation] = {
            "single": lambda: self._single(easy),
            "album": lambda: self._album(pictures, easy),
            "change": self._change,
            "twins": self._twins,
            "motion": self._motion,
            "appearance": self._appearance,
            "live": self._live,
        }[recipe]
        stride = self.rng.choice(strides)
        conversations, room = [], positions
        while room > 0:
            conversations.append(make())
            room -= length(conversations[-1], self.tokenizer, stride)
        return pack(conversations, self.tokenizer, self.rng, stride, chain_share=0.12)

    def _single(self, easy: bool) -> Conversation:
        index = self.rng.choice(self.easy if easy else self.by_kind["single"])
        scene = self.pool.groups[index].scenes[0]
        kinds = [
            "describe",
            *["colour"] * 4,
            "shape",
            "place",
            "place",
            "at_place",
            *["count"] * 6,
            "is there",
            "is there",
        ]
        return self._conversation(index, [tasks.SCENE_QUESTIONS[kind](self.rng, scene) for kind in kinds])

    def _album(self, pictures: int, easy: bool) -> Conversation:
        rng = self.rng
        chosen = rng.sample(self.easy if easy else self.small, pictures)
        scenes = [self.pool.groups[index].scenes[0] for index in chosen]
        turns: list[tasks.QA | None] = [tasks.which_image(rng, scenes) for _ in range(4)]
        turns += [tasks.in_image(rng, scenes) for _ in range(3)]
        for kind in rng.choices(("describe", "colour", "place", "count", "is there"), k=3):
            number = rng.randrange(pictures)
            turns.append(tasks.SCENE_QUESTIONS[kind](rng, scenes[number], f" in image {number + 1}"))
        if pictures == 2:
            turns.append(tasks.true_or_false(rng, scenes))
        images = tuple(self.pool.first_image[index] for index in chosen)
        return Conversation(images, _distinct(turns))

    def _change(self) -> Conversation:
        index = self.rng.choice(self.by_kind["change"])
        group = self.pool.groups[index]
        turns = [tasks.changed(self.rng, group), tasks.changed(self.rng, group)]
        return self._conversation(index, [*turns, *self._about_two(group.scenes, 2)])

    def _twins(self) -> Conversation:
        index = self.rng.choice(self.by_kind["twins"])
        return self._conversation(index, self._about_two(self.pool.groups[index].scenes, 5))

    def _about_two(self, scenes: Sequence[tasks.Scene], statements: int) -> list[tasks.QA | None]:
        rng = self.rng
        turns: list[tasks.QA | None] = [tasks.true_or_false(rng, scenes) for _ in range(statements)]
        return [*turns, tasks.which_image(rng, scenes), tasks.which_image(rng, scenes), tasks.in_image(rng, scenes)]

    def _motion(self) -> Conversation:
        index = self.rng.choice(self.by_kind["motion"])
        group = self.pool.groups[index]
        return self._conversation(index, [tasks.direction(self.rng, group) for _ in range(2)])

    def _appearance(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.appeared)
        item = self.pool.groups[index].after
        assert item is not None
        frames = rng.randint(3, 6)
        frame = rng.randint(2, frames)
        first = self.pool.first_image[index]
        images = (first,) * (frame - 1) + (first + 1,) * (frames - frame + 1)
        return Conversation(images, _distinct([tasks.appearance(rng, item, frame) for _ in range(3)]))

    def _live(self) -> Conversation:
        """A window over a stream: what was before it has left, but what came later still knows of it.

        Questions that name no frame are about the latest one.
        """
        rng = self.rng
        window, number = rng.randint(2, 8), rng.randint(1, 92)
        kind = rng.choices(tuple(LIVE_KINDS), tuple(LIVE_KINDS.values()))[0]
        index = rng.choice(self.appeared if kind == "appear" else self.by_kind["single" if kind == "still" else kind])
        group, first = self.pool.groups[index], self.pool.first_image[index]
        turns: list[tasks.QA | None] = []
        if kind == "still":
            shown = [first] * rng.randint(1, window)
            about = ["describe", "colour", "colour", "shape", "place", "place", "at_place", "count", "count", "count"]
        elif kind != "motion":
            later = rng.randint(1, window - 1)
            shown = [first] * (window - later) + [first + 1] * later
            turns = [tasks.changed(rng, group) for _ in range(3)]
            about = ["colour", "place", "count"]
        else:
            shown = list(range(first, first + len(group.scenes)))[-window:]
            turns = [tasks.direction(rng, group) for _ in range(2)]
            about = ["place"]
        turns += [tasks.SCENE_QUESTIONS[k](rng, group.scenes[-1]) for k in (*about, "is there", "is there")]
        # Of three windows, two have been running for a while.
        before = 0 if len(shown) > window or rng.random() < 0.33 else rng.randint(1, window + 2)
        if group.kind == "change" and rng.random() < 0.5:
            earlier = [first] * before
        else:
            earlier = [self.pool.first_image[i] for i in rng.sample(self.small, before)]
        if group.change == "appear":
            assert group.after is not None
            frame = number + len(earlier) + len(shown) - later
            turns += [tasks.appearance(rng, group.after, frame) for _ in range(3)]
        return Conversation((*earlier, *shown), _distinct(turns), window, number)

    def _conversation(self, index: int, turns: Sequence[tasks.QA | None]) -> Conversation:
        first = self.pool.first_image[index]
        count = len(self.pool.groups[index].scenes)
        return Conversation(tuple(range(first, first + count)), _distinct(turns))


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


def _distinct(turns: Sequence[tasks.QA | None]) -> tuple[tasks.QA, ...]:
    return tuple(dict.fromkeys(turn for turn in turns if turn is not None)) or (("What is this?", "I do not know."),)
