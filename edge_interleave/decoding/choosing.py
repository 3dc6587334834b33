"""Probabilities of given answers, from the logits of their tokens.

Spellings that begin with the same tokens share the computation of these tokens: they form a tree, which is searched
best first. Spellings too unlikely to matter are skipped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_interleave.answer import Choice
from edge_interleave.decoding.sampling import Probabilities, log_softmax, softmax
from edge_interleave.decoding.spellings import Spelled, tokenized
from edge_interleave.errors import UsageError
from edge_interleave.util.arrays import FloatArray

_NEGLIGIBLE = math.log(1e-4)
"""The logarithm of a share: a spelling is skipped if it cannot add this share to its option's probability so far."""


def tokenized_options(options: Sequence[str], encode: Callable[[str], Sequence[int]]) -> list[Spelled]:
    """The spellings of each option as token ids. Raises UsageError for no options, and for empty or repeated ones.

    `encode`: converts a text to token ids.
    """
    if isinstance(options, str) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise UsageError("give one or more options, none of them empty")
    if len({option.strip() for option in options}) != len(options):
        raise UsageError("the same option is given twice")
    answers = tokenized(options, encode)
    if not all(answers):
        raise UsageError("the model's tokenizer has no tokens for an option; give another one")
    return answers


def choices(options: Sequence[str], log_probabilities: Probabilities) -> list[Choice]:
    """The options with their shares, from the natural logarithm of each option's probability."""
    total = min(float(np.exp(np.logaddexp.reduce(log_probabilities))), 1.0)
    return [
        Choice(option, float(share), float(score), total)
        for option, share, score in zip(options, softmax(log_probabilities), log_probabilities, strict=True)
    ]


def first_token_scores(logits: FloatArray, answers: Sequence[Spelled]) -> Probabilities:
    """The log probability that an answer begins with each option, float64 (options,).

    `logits`: of the answer's first token, float32 (vocab_size,). A token counts for an option if spellings of that
    option, and of no other, begin with it.
    """
    log_probabilities = log_softmax(logits)
    firsts = [{ids[0] for ids in spelled} for spelled in answers]
    shared = Counter(token for tokens in firsts for token in tokens)
    own = [[token for token in sorted(tokens) if shared[token] == 1] for tokens in firsts]
    return np.array([np.logaddexp.reduce(log_probabilities[tokens]) for tokens in own])


def spelling_scores(
    logits: FloatArray,
    answers: Sequence[Spelled],
    end_tokens: Collection[int],
    room: int,
    append: Callable[[int, int], FloatArray],
) -> Probabilities:
    """The log probability of each answer: of its spellings' tokens, and of an end token after them. float64 (answers,).

    `logits`: of the answer's first token. `room`: the most tokens of a spelling; longer ones are skipped.
    `append(depth, token)`: cuts the timeline back to the prompt and the last `depth` tokens on the way to this one,
    appends the token, and returns its logits.
    """
    end_ids = [token for token in end_tokens if token < len(logits)]
    scores: Probabilities = np.full(len(answers), -np.inf)
    root = _spelling_tree(answers, room)
    pending = [_Branch(root, 0.0, 0)]
    while pending:
        branch = pending.pop()
        # A branch's score is an upper bound for all spellings below it.
        if all(branch.score < scores[answer] + _NEGLIGIBLE for answer in branch.node.answers):
            continue
        if branch.node is not root:
            logits = append(branch.depth - 1, branch.token)
        log_probabilities = log_softmax(logits)
        if branch.node.ends:
            end = branch.score + float(np.logaddexp.reduce(log_probabilities[end_ids]))
            for answer, share in branch.node.ends.items():
                scores[answer] = np.logaddexp(scores[answer], end + np.log(share))
        below = [
            _Branch(node, branch.score + float(log_probabilities[token]), branch.depth + 1, token)
            for token, node in branch.node.next.items()
        ]
        # The likeliest branch is next: early scores let more branches be skipped.
        pending += sorted(below, key=lambda one: one.score)
    return scores


@dataclass
class _Node:
    """The spellings that begin with the same tokens."""

    next: dict[int, _Node] = field(default_factory=dict)
    """The child nodes, by their token."""
    ends: dict[int, float] = field(default_factory=dict)
    """Answers with a spelling that ends here, with the share of the spelling that counts for each."""
    answers: set[int] = field(default_factory=set)
    """Answers with a spelling that ends here or below."""


@dataclass(frozen=True)
class _Branch:
    """A node to compute."""

    node: _Node
    score: float
    """Log probability of the tokens up to this one."""
    depth: int
    """Tokens from the root, this one included."""
    token: int = -1


def _spelling_tree(answers: Sequence[Spelled], room: int) -> _Node:
    root = _Node()
    for answer, spelled in enumerate(answers):
        for ids, share in spelled.items():
            if len(ids) > room:
                continue
            node = root
            node.answers.add(answer)
            for token in ids:
                node = node.next.setdefault(token, _Node())
                node.answers.add(answer)
            node.ends[answer] = share
    return root
