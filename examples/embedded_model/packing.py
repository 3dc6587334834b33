"""Conversations about images, packed into training sequences.

One conversation holds the system prompt and the pictures once, then several questions with their answers; a row holds
as many conversations as it has room for. In most
sequences the questions are alternatives: each sees the pictures and itself, at the positions it would have alone, so
that no answer can be copied from another. In the rest they are turns of one conversation.

Knows nothing about scenes or weights: it makes ids, positions, targets and what a mask follows from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pool import GRID
from tokenizers import Tokenizer

from edge_interleave.world.phrases import QA, plural
from edge_interleave.world.vocabulary import COLOURS, KINDS

SYSTEM = "You are a helpful assistant."
IGNORE = -100
ALWAYS = 10**6
"""Stands for the frame of text that every window sees."""


@dataclass(frozen=True)
class Packed:
    """A batch, as a process makes it: NumPy arrays. n is rows, t positions; a place is a row times t plus a column."""

    ids: np.ndarray
    """(n, t) int32; the image token where a visual token goes."""
    positions: np.ndarray
    """(n, t) int32."""
    block: np.ndarray
    """(n, t) int32: a position sees those of its own block and of block 0 in its conversation."""
    frame: np.ndarray
    """(n, t) int32: the image that a position belongs to; ALWAYS for text that every window sees."""
    since: np.ndarray
    """(n, t) int32: the first frame that a position sees."""
    talk: np.ndarray
    """(n, t) int32: the conversation that a position belongs to; a row holds several. -1 is padding."""
    answer_at: np.ndarray
    """(answers' tokens,) int32: places whose next token is the answer's."""
    answers: np.ndarray
    """(answers' tokens,) int32: those next tokens."""
    visual_at: np.ndarray
    """(visual tokens,) int32: places of visual tokens, image by image."""
    ordinals: np.ndarray
    """(visual tokens,) int32: which image of its sequence each belongs to (0, 1, ...)."""
    first_numbers: np.ndarray
    """(visual tokens,) int32: of a live window, what its first frame is announced as."""
    meant: np.ndarray
    """(visual tokens,) bool: whether questions that name no image can mean it; in a live window, the latest frame."""
    named_at: np.ndarray
    """(names,) int32: places of names of things in questions."""
    named: np.ndarray
    """(names, 2) int32: which kind and which colour; -1 for none."""
    named_image: np.ndarray
    """(names,) int32: the one image, of `images`, that the name's conversation is about; -1 where there are others."""
    live: bool
    """Whether the images are frames of live windows."""
    images: np.ndarray
    """(images,) int32: rows of the pool, in the order of their visual tokens."""
    stride: int


class Names:
    """Which tokens name a kind of thing or a colour, in the singular or the plural."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.kinds = ids_of_words(tokenizer, KINDS)
        self.colours = ids_of_words(tokenizer, COLOURS)


def ids_of_words(tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    """(vocabulary,) int32: which of the words a token is, in the singular or the plural; -1 for any other token."""
    found = np.full(tokenizer.get_vocab_size(), -1, np.int32)
    for number, word in enumerate(words):
        for form in (word, plural(word)):
            token = tokenizer.token_to_id(f"Ġ{form}")
            if token is not None:
                found[token] = number
    return found


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
    names: Names,
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
    talks = []
    for number, conversation in enumerate(conversations):
        talks.append(_laid_out(conversation, number, tokenizer, rng, tokens, image_id, gap_share, chain_share))
    # Few different lengths: the allocator then finds the blocks of an earlier batch again.
    longest = -(-max(len(talk.ids) for talk in talks) // 64) * 64
    rows = _filled(talks, longest)
    pads = {"ids": tokenizer.token_to_id("<|endoftext|>"), "targets": IGNORE, "owner": IGNORE, "block": -1, "talk": -1}

    def table(name: str) -> np.ndarray:
        made = np.full((len(rows), longest), pads.get(name, 0), np.int32)
        for row, members in enumerate(rows):
            at = 0
            for talk in members:
                values = getattr(talk, name)
                made[row, at : at + len(values)] = values
                at += len(values)
        return made

    names_of = ("ids", "positions", "targets", "owner", "block", "frame", "since", "talk", "first_number", "last")
    ids_, positions_, targets_, owner_, block_, frame_, since_, talk_, first_number, last = map(table, names_of)
    live = conversations[0].window is not None
    visual = owner_ != IGNORE
    wanted = targets_ != IGNORE
    kinds, colours = names.kinds[ids_], names.colours[ids_]
    # After a kind's name the colour before it counts as well: "red star".
    before = np.concatenate([np.full_like(colours[:, :1], -1), colours[:, :-1]], 1)
    colours = np.where(kinds >= 0, before, colours)
    named = ((kinds >= 0) | (colours >= 0)) & ~wanted & ~visual
    meant = owner_ == last if live else visual
    only: dict[int, int] = {}
    number = 0
    for talk in (talk for row in rows for talk in row):
        if len(talk.images) == 1:
            only[talk.talk[0]] = number
        number += len(talk.images)
    return Packed(
        ids=ids_,
        positions=positions_,
        block=block_,
        frame=frame_,
        since=since_,
        talk=talk_,
        answer_at=np.flatnonzero(wanted).astype(np.int32),
        answers=targets_[wanted],
        visual_at=np.flatnonzero(visual).astype(np.int32),
        ordinals=owner_[visual],
        first_numbers=first_number[visual],
        meant=meant[visual],
        named_at=np.flatnonzero(named).astype(np.int32),
        named=np.stack([kinds[named], colours[named]], 1),
        named_image=np.array([only.get(talk, -1) for talk in talk_[named].tolist()], np.int32),
        live=live,
        images=np.array([image for row in rows for talk in row for image in talk.images], np.int32),
        stride=stride,
    )


@dataclass(frozen=True)
class _Talk:
    """One conversation laid out; every list has one number a position."""

    images: tuple[int, ...]
    ids: list[int]
    positions: list[int]
    targets: list[int]
    owner: list[int]
    block: list[int]
    frame: list[int]
    since: list[int]
    talk: list[int]
    first_number: list[int]
    last: list[int]


def _laid_out(
    conversation: Conversation,
    number: int,
    tokenizer: Tokenizer,
    rng: random.Random,
    tokens: int,
    image_id: int,
    gap_share: float,
    chain_share: float,
) -> _Talk:
    head = _ids(tokenizer, f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")
    user = _ids(tokenizer, "<|im_start|>user\n")
    newline = _ids(tokenizer, "\n")
    ids, owner = [*head, *user], []
    owner += [IGNORE] * len(ids)
    frame = [ALWAYS] * len(ids)
    for image in range(len(conversation.images)):
        live = conversation.window is not None
        announced = _ids(tokenizer, f"Frame {conversation.number + image}:") if live else []
        ids += announced + [image_id] * tokens + newline
        owner += [IGNORE] * len(announced) + [image] * tokens + [IGNORE] * len(newline)
        frame += [image] * (len(announced) + tokens + len(newline))
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
    last, window = len(conversation.images) - 1, conversation.window or ALWAYS
    oldest = last - window + 1
    since = [oldest if of in (ALWAYS, oldest) else of - window + 1 for of in frame]
    same = ([value] * len(ids) for value in (number, conversation.number, last))
    return _Talk(conversation.images, ids, positions, targets, owner, block, frame, since, *same)


def _filled(talks: Sequence[_Talk], longest: int) -> list[list[_Talk]]:
    """The conversations in rows of at most so many positions, the longest first, each in the first row with room."""
    rows: list[list[_Talk]] = []
    room: list[int] = []
    for talk in sorted(talks, key=lambda talk: len(talk.ids), reverse=True):
        for number, left in enumerate(room):
            if left >= len(talk.ids):
                rows[number].append(talk)
                room[number] -= len(talk.ids)
                break
        else:
            rows.append([talk])
            room.append(longest - len(talk.ids))
    return rows


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    cached = _cache.get(text)
    if cached is None:
        if len(_cache) > 200_000:
            _cache.clear()
        cached = _cache[text] = tokenizer.encode(text, add_special_tokens=False).ids
    return cached


_cache: dict[str, list[int]] = {}
