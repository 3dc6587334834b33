"""Packs conversations about images into training sequences: ids, positions, targets, and the data for masks.

A conversation holds the system prompt and the pictures once, then several questions with their answers; a row holds as
many conversations as fit. In most conversations the questions are alternatives: each sees the pictures and itself only,
at the positions it would have alone, so no answer can be copied from another. In the rest they are consecutive turns.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from grouped_attention import Group, groups_of
from pool import GRID
from tokenizers import Tokenizer

from edge_interleave.world.phrases import QA, plural
from edge_interleave.world.vocabulary import COLOURS, KINDS

SYSTEM = "You are a helpful assistant."
IGNORE = -100
ALWAYS = 10**6
"""The frame number of text that every window sees."""


@dataclass(frozen=True)
class Packed:
    """A packed batch of NumPy arrays: n rows, t positions. A place is row * t + column."""

    ids: np.ndarray
    """(n, t) int32; the image token stands for each visual token."""
    positions: np.ndarray
    """(n, t) int32."""
    block: np.ndarray
    """(n, t) int32: a position attends to its own block and to block 0 of its conversation."""
    frame: np.ndarray
    """(n, t) int32: the image of a position; ALWAYS for text that every window sees."""
    since: np.ndarray
    """(n, t) int32: the first frame that a position sees."""
    talk: np.ndarray
    """(n, t) int32: the conversation of a position; -1 for padding."""
    answer_at: np.ndarray
    """(answers' tokens,) int32: places whose next token belongs to an answer."""
    answers: np.ndarray
    """(answers' tokens,) int32: the next tokens at `answer_at`."""
    visual_at: np.ndarray
    """(visual tokens,) int32: places of visual tokens, image by image."""
    ordinals: np.ndarray
    """(visual tokens,) int32: index of the token's image in its conversation."""
    first_numbers: np.ndarray
    """(visual tokens,) int32: the announced number of the first frame of a live window."""
    meant: np.ndarray
    """(visual tokens,) bool: whether questions that name no image refer to it; in a live window, the latest frame."""
    named_at: np.ndarray
    """(names,) int32: places of names of things in questions."""
    named: np.ndarray
    """(names, 2) int32: kind and colour; -1 for none."""
    named_image: np.ndarray
    """(names,) int32: index into `images` if the name's conversation has one image, else -1."""
    live: bool
    """Whether the images are frames of live windows."""
    images: np.ndarray
    """(images,) int32: rows of the pool, in the order of their visual tokens."""
    stride: int
    groups: tuple[Group, ...]
    """The spans that `block` and `talk` make, for the attention."""


class Names:
    """The tokens that name a kind or a colour, singular or plural."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.kinds = ids_of_words(tokenizer, KINDS)
        self.colours = ids_of_words(tokenizer, COLOURS)


def ids_of_words(tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    """(vocabulary,) int32: the index of the word that a token spells, singular or plural; -1 for any other token."""
    found = np.full(tokenizer.get_vocab_size(), -1, np.int32)
    for number, word in enumerate(words):
        for form in (word, plural(word)):
            token = tokenizer.token_to_id(f"Ġ{form}")
            if token is not None:
                found[token] = number
    return found


@dataclass(frozen=True)
class Conversation:
    """Images (rows of the pool) and questions about them."""

    images: tuple[int, ...]
    turns: tuple[QA, ...]
    window: int | None = None
    """Window size of a live conversation: each image and each question sees that many latest frames. The oldest frame
    that the questions see sees no earlier one, because a live window recomputes it."""
    number: int = 1
    """The announced number of the first frame of a live conversation."""


def length(conversation: Conversation, tokenizer: Tokenizer, stride: int) -> int:
    """Estimate of a conversation's number of positions."""
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
    """Pack conversations; a share `chain_share` of them as consecutive turns instead of alternatives.

    In a share `gap_share` of the conversations, a gap of positions follows the system prompt, as in a live window that
    has evicted frames.
    """
    image_id = tokenizer.token_to_id("<image>")
    tokens = (GRID // stride) ** 2
    talks = []
    for number, conversation in enumerate(conversations):
        talks.append(_laid_out(conversation, number, tokenizer, rng, tokens, image_id, gap_share, chain_share))
    # Round lengths up, so the allocator can reuse the blocks of earlier batches.
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
    # A colour directly before a kind belongs to the name: "red star".
    before = np.concatenate([np.full_like(colours[:, :1], -1), colours[:, :-1]], 1)
    colours = np.where(kinds >= 0, before, colours)
    named = ((kinds >= 0) | (colours >= 0)) & ~wanted & ~visual
    meant = owner_ == last if live else visual
    blocks: list[tuple[int, list[int]]] = []
    only: dict[int, int] = {}
    number = 0
    for row, members in enumerate(rows):
        at = row * longest
        for talk in members:
            blocks.append((at, talk.block))
            at += len(talk.ids)
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
        groups=groups_of(blocks),
    )


@dataclass(frozen=True)
class _Talk:
    """One conversation as lists with one number per position."""

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
        # The template adds the newline after <|im_end|>, so it is not a target.
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
    """Distribute the conversations over rows of `longest` positions, first-fit by decreasing length."""
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
