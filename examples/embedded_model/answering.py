"""Stage two: the decoder learns to answer. The tower is frozen; what it sees of the pool is stored once.

Besides the answers' tokens, two things are asked of the decoder's third layer at every visual token: which image of the
sequence the token belongs to (nothing else in the prompt says so, and "which image" and "in image 3" hang on it), and
what lay at the same place in the image before (on which hang change, motion and appearance). And one attention head of
that layer is shown where to look, from the name of a thing in a question to the visual tokens where it lies; after the
layer, the name's own position must tell what the thing is, where it lies and in which image.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import evaluate_in_torch
import lean_decoder
import numpy as np
import states
import torch
import torch.nn.functional as F
from lessons import Packer
from optimizers import make_optimizers, set_rate, step_all
from packing import IGNORE, Packed
from pool import DOUBT, EMPTY, GRID, Pool
from precision import autocast
from teach_tower import pooled_labels
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from edge_interleave.world import cast
from edge_interleave.world.group_questions import TIMES
from edge_interleave.world.questions import NUMBERS, plural

MIDDLE = 3
ORDINALS = 8
"""Images that are told apart by their number; later ones of longer sequences are asked nothing."""
CLASSES = (len(cast.KINDS), len(cast.COLOURS))
"""What can lie somewhere, and its colour; one class more of each stands for nothing."""
# A count's first token tells it, and the rest of the answer repeats the question: so much more does it weigh.
COUNTED = 4.0
NONE = 10**6
"""More than any class has a number."""
# The last steps, by share of the decaying learning rate, that train through 4-bit rounding.
QUANTIZED_SHARE = 0.6


class Student(nn.Module):
    """Projector and decoder as they train: features in, losses out."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: Tokenizer) -> None:
        super().__init__()
        rows = len(model.get_input_embeddings().weight)
        self.shape_of = ids_of_words(tokenizer, cast.KINDS, rows)
        self.colour_of = ids_of_words(tokenizer, cast.COLOURS, rows)
        self.numbers = torch.zeros(rows)
        for word in (*NUMBERS, *filter(None, TIMES)):
            self.numbers[tokenizer.encode(f" {word}", add_special_tokens=False).ids[0]] = 1.0
        self.projector = model.model.multi_modal_projector
        self.decoder = model.model.language_model
        self.ordinal = nn.Linear(model.config.text_config.hidden_size, ORDINALS)
        self.told = nn.ModuleList(nn.Linear(model.config.text_config.hidden_size, n) for n in (*CLASSES, 9, ORDINALS))
        self.digits = nn.Linear(model.config.text_config.hidden_size, 2 * 10)
        self.before = nn.ModuleList(nn.Linear(model.config.text_config.hidden_size, n + 1) for n in CLASSES)
        self.image_id = model.config.image_token_id
        self.four_bits = False

    def hidden(self, packed: Packed, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `lean_decoder.forward` gives, with MIDDLE as the layer in the middle.

        features: the batch's images, (images, tokens, tower width).
        """
        visual = self.projector(features)
        if packed.stride > 1:
            grid = visual.float().permute(0, 2, 1).unflatten(2, (GRID, GRID))
            visual = F.avg_pool2d(grid, packed.stride).flatten(2).permute(0, 2, 1)
        rows = self.decoder.embed_tokens(packed.ids)
        rows = rows.masked_scatter((packed.ids == self.image_id)[..., None], visual.to(rows.dtype))
        return lean_decoder.forward(self.decoder, rows, packed.positions, packed.mask, MIDDLE, four_bits=self.four_bits)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: the head is the embedding matrix."""
        return hidden @ self.decoder.embed_tokens.weight.to(hidden.dtype).T

    def loss(self, packed: Packed, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the answers' tokens, and of what the third layer is asked.

        labels: the images' patch labels, (images, GRID, GRID, 2) int64 as `pool.patch_labels`.
        """
        last, middle, after, looks = self.hidden(packed, features)
        wanted = packed.targets != IGNORE
        targets = packed.targets[wanted]
        surprise = F.cross_entropy(self.logits(last[wanted]).float(), targets, reduction="none")
        weight = 1.0 + COUNTED * self.numbers[targets]
        answers = (surprise * weight).sum() / weight.sum()
        visual = packed.ordinals != IGNORE
        ordinals = packed.ordinals[visual]
        if packed.live:
            asked = self.number_said(packed, middle, visual)
        else:
            told = torch.where(ordinals < ORDINALS, ordinals, IGNORE)
            asked = F.cross_entropy(self.ordinal(middle[visual]).float(), told)
        if packed.stride > 1:
            labels = pooled_labels(labels)
        asked = asked + self.names(packed, looks, after, labels.flatten(0, 2))
        earlier = labels_before(labels, ordinals)
        if (earlier != IGNORE).any():
            for kind, head in enumerate(self.before):
                weight = torch.ones(CLASSES[kind] + 1)
                weight[-1] = 0.2
                asked = asked + F.cross_entropy(head(middle[visual]).float(), earlier[:, kind], weight=weight)
        return answers, asked

    def number_said(self, packed: Packed, middle: Tensor, visual: Tensor) -> Tensor:
        """How badly the visual tokens of a live window tell the number that their frame was announced with.

        Its last two digits, each a class; the mean cross entropies, added up.
        """
        numbers = (packed.ordinals + packed.first_number[:, None])[visual]
        guesses = self.digits(middle[visual]).float().unflatten(-1, (2, 10))
        return F.cross_entropy(guesses[:, 0], numbers // 10 % 10) + F.cross_entropy(guesses[:, 1], numbers % 10)

    def names(self, packed: Packed, looks: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """Two things of every name in a question, added up.

        How little the guided head looks from it at the tokens where that thing lies: the mean of -log(share of
        attention on them). And, where the name means one thing, how badly its position after the layer tells the
        thing's shape, colour, place and image: the mean cross entropy. labels: (visual tokens, 2).
        """
        visual = packed.ordinals != IGNORE
        lies = torch.full((*packed.ids.shape, 2), -1)
        lies[visual] = labels
        shape, colour = self.shape_of[packed.ids], self.colour_of[packed.ids]
        before = torch.cat([torch.full_like(colour[:, :1], -1), colour[:, :-1]], 1)
        # After a shape's name the colour before it counts as well: "red star".
        colour = torch.where(shape >= 0, before, colour)
        named = ((shape >= 0) | (colour >= 0)) & (packed.targets == IGNORE) & ~visual
        row, at = named.nonzero(as_tuple=True)
        # Questions about a live window mean its latest frame.
        meant = packed.ordinals == packed.last[:, None] if packed.live else visual
        shape, colour = shape[row, at, None], colour[row, at, None]
        there = meant[row] & ((shape < 0) | (lies[row, :, 0] == shape)) & ((colour < 0) | (lies[row, :, 1] == colour))
        some = there.any(1)
        if not some.any():
            return looks.new_zeros((), dtype=torch.float32)
        share = (looks[row, at].float() * there).sum(1)[some]
        loss = -share.clamp(min=1e-4).log().mean()
        count = GRID // packed.stride
        lines = torch.arange(count) * 3 // count
        cells = (lines[:, None] * 3 + lines).flatten().repeat(len(labels) // count**2)
        facts = torch.cat([lies, torch.full((*lies.shape[:2], 2), -1)], 2)
        facts[visual] = torch.stack([labels[:, 0], labels[:, 1], cells, packed.ordinals[visual]], 1)
        states = after[row, at]
        for number, head in enumerate(self.told[:3] if packed.live else self.told):
            fact = facts[row, :, number]
            least = fact.masked_fill(~there, NONE).amin(1)
            one = some & (least == fact.masked_fill(~there, -1).amax(1)) & (least >= 0) & (least < head.out_features)
            if one.any():
                loss = loss + F.cross_entropy(head(states[one]).float(), least[one])
        return loss


def ids_of_words(tokenizer: Tokenizer, words: Sequence[str], rows: int) -> Tensor:
    """(rows,) int64: which word a token is, in the singular or the plural; -1 for any other token."""
    found = torch.full((rows,), -1)
    for number, word in enumerate(words):
        for form in (word, plural(word)):
            token = tokenizer.token_to_id(f"Ġ{form}")
            if token is not None:
                found[token] = number
    return found


def labels_before(labels: Tensor, ordinals: Tensor) -> Tensor:
    """For each visual token, shape and colour at its place in the image before: (tokens, 2); IGNORE in first images."""
    earlier = labels.roll(1, 0).flatten(0, 2)
    earlier = torch.where(earlier == EMPTY, torch.tensor(CLASSES), earlier)
    return torch.where((earlier == DOUBT) | (ordinals == 0)[:, None], IGNORE, earlier)


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    pool: Pool,
    features: Tensor,
    steps: int,
    checkpoint: Path,
    *,
    packer: Packer | None = None,
    batch: int = 5600,
    rate: float = 1.8e-3,
    easy_steps: int = 300,
    decay_share: float = 0.35,
) -> None:
    """Train for `steps` steps in all; goes on from `checkpoint` where it exists. `packer`: what each step is about."""
    student = Student(model, tokenizer)
    optimizers = make_optimizers(student, rate)
    exam = evaluate_in_torch.Exam(model, tokenizer, seed=77, count=40)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"], strict=False)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            if len(saved["state"]) != len(optimizer.param_groups[0]["params"]):
                continue
            peaks = [group["peak"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak
        start = state["step"]
    packer = packer or Packer(pool, tokenizer, random.Random())
    began, losses = time.monotonic(), []
    for step in range(start, steps):
        left = (steps - step) / (decay_share * steps)
        set_rate(optimizers, min(1.0, (step + 1) / 100, left))
        packer.rng.seed(f"pack/{step}")
        student.four_bits = left < QUANTIZED_SHARE
        packed = packer.batch(batch, easy=step < easy_steps)
        seen = noisy(features[packed.images].float(), packer.rng)
        with autocast():
            answers, asked = student.loss(packed, seen, torch.from_numpy(pool.labels[packed.images].astype(np.int64)))
        (answers + 0.1 * asked).backward()
        step_all(optimizers, student.parameters())
        losses.append((answers.item(), asked.item()))
        if (step + 1) % 50 == 0:
            means = np.mean(losses[-50:], axis=0)
            speed = (time.monotonic() - began) / (step + 1 - start)
            print(f"{step + 1}/{steps} answers {means[0]:.4f} asked {means[1]:.4f} {speed:.2f} s/step", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {
                "student": student.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
            }
            states.save(state, checkpoint)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            print(exam.report(student), flush=True)


def noisy(features: Tensor, rng: random.Random) -> Tensor:
    """Features with a little noise, so that the decoder does not lean on their last digits (int8 has none)."""
    return features + rng.choice((0.0, 0.03, 0.06)) * features.std() * torch.randn(features.shape)
