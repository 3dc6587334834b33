"""Stage two: the whole model learns to answer.

The tower learns on, slowly, and its patches are still asked what lies there. Besides the answers' tokens, two things
are asked of a layer in the decoder's middle at every visual token: which image of the
sequence the token belongs to (nothing else in the prompt says so, and "which image" and "in image 3" hang on it), and
what lay at the same place in the image before (on which hang change, motion and appearance). And one attention head of
that layer is shown where to look, from the name of a thing in a question to the visual tokens where it lies; after the
layer, the name's own position must tell what the thing is, where it lies and in which image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lean_decoder
import numpy as np
import states
import torch
import torch.nn.functional as F
from optimizers import make_optimizers, set_rate, step_all
from packing import IGNORE, Packed
from pool import DOUBT, EMPTY, GRID
from precision import DEVICE, autocast
from progress import Length, Progress
from stored_pictures import Pictures, Shown
from teach_tower import SAVE_SECONDS, Teacher, mean_loss, pooled_labels, prepare, tower_features
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from edge_interleave.world import vocabulary
from edge_interleave.world.group_questions import TIMES
from edge_interleave.world.phrases import NUMBERS

if TYPE_CHECKING:
    from evaluate_in_torch import Exam

MIDDLE = 4
ORDINALS = 8
"""Images that are told apart by their number; later ones of longer sequences are asked nothing."""
CLASSES = (len(vocabulary.KINDS), len(vocabulary.COLOURS))
"""What can lie somewhere, and its colour; one class more of each stands for nothing."""
# A count's first token tells it, and the rest of the answer repeats the question: so much more does it weigh.
COUNTED = 4.0
NONE = 10**6
"""More than any class has a number."""
# The last steps, by share of the decaying learning rate, that train through 4-bit rounding.
QUANTIZED_SHARE = 0.6
# What the patches' loss weighs beside the answers'.
PATCHES = 0.06


class Student(nn.Module):
    """The whole model as it trains: pictures and questions in, losses out."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: Tokenizer, teacher: Teacher) -> None:
        super().__init__()
        width = model.config.text_config.hidden_size
        numbers = torch.zeros(len(model.get_input_embeddings().weight))
        for word in (*NUMBERS, *filter(None, TIMES)):
            numbers[tokenizer.encode(f" {word}", add_special_tokens=False).ids[0]] = 1.0
        self.register_buffer("numbers", numbers, persistent=False)
        self.projector = model.model.multi_modal_projector
        self.decoder = model.model.language_model
        self.tower = model.model.vision_tower
        self.teacher = teacher
        self.ordinal = nn.Linear(width, ORDINALS)
        self.told = nn.ModuleList(nn.Linear(width, n) for n in (*CLASSES, 9, ORDINALS))
        self.digits = nn.Linear(width, 2 * 10)
        self.many = nn.Linear(width, len(NUMBERS))
        self.before = nn.ModuleList(nn.Linear(width, n + 1) for n in CLASSES)
        for number, classes in enumerate(CLASSES):
            weight = torch.tensor([1.0] * classes + [0.2])
            self.register_buffer(f"before_weight_{number}", weight, persistent=False)
        self.image_id = model.config.image_token_id
        self.four_bits = False

    def hidden(self, batch: Batch, visual: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `lean_decoder.forward` gives, with MIDDLE as the layer in the middle.

        visual: what the projector gives of the batch's images, (images, tokens, width).
        """
        if batch.stride > 1 and len(visual):
            grid = visual.float().permute(0, 2, 1).unflatten(2, (GRID, GRID))
            visual = F.avg_pool2d(grid, batch.stride).flatten(2).permute(0, 2, 1)
        rows = self.decoder.embed_tokens(batch.ids)
        flat = rows.flatten(0, 1).index_copy(0, batch.visual_at, visual.flatten(0, 1).to(rows.dtype))
        rows = flat.view_as(rows)
        return lean_decoder.forward(self.decoder, rows, batch.positions, batch.mask, MIDDLE, four_bits=self.four_bits)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: the head is the embedding matrix."""
        return hidden @ self.decoder.embed_tokens.weight.to(hidden.dtype).T

    def loss(self, batch: Batch, visual: Tensor, shown: Shown) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the answers' tokens, and of what the middle layer is asked.

        visual: (images, tokens, width), of the images that `shown` tells about. Nothing in here asks the device how
        much there is of something, which would make it wait.
        """
        labels = shown.labels
        last, middle, after, looks = self.hidden(batch, visual)
        said = self.logits(last.flatten(0, 1)[batch.answer_at]).float()
        surprise = F.cross_entropy(said, batch.answers, reduction="none")
        weight = 1.0 + COUNTED * self.numbers[batch.answers]
        answers = (surprise * weight).sum() / weight.sum()
        at_visual = middle.flatten(0, 1)[batch.visual_at]
        if batch.live:
            asked = self.number_said(batch, at_visual)
        else:
            told = torch.where(batch.ordinals < ORDINALS, batch.ordinals, IGNORE)
            asked = mean_loss(self.ordinal(at_visual).float(), told)
        if batch.stride > 1:
            labels = pooled_labels(labels)
        asked = asked + self.names(batch, looks, after, labels.flatten(0, 2)) + self.counts(batch, after, shown.items)
        earlier = labels_before(labels[..., :2], batch.ordinals)
        for kind, head in enumerate(self.before):
            weights = getattr(self, f"before_weight_{kind}")
            asked = asked + mean_loss(head(at_visual).float(), earlier[:, kind], weights)
        return answers, asked

    def number_said(self, batch: Batch, at_visual: Tensor) -> Tensor:
        """How badly the visual tokens of a live window tell the number that their frame was announced with.

        Its last two digits, each a class; the mean cross entropies, added up.
        """
        numbers = batch.ordinals + batch.first_numbers
        guesses = self.digits(at_visual).float().unflatten(-1, (2, 10))
        return mean_loss(guesses[:, 0], numbers // 10 % 10) + mean_loss(guesses[:, 1], numbers % 10)

    def names(self, batch: Batch, looks: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """Two things of every name in a question, added up.

        How little the guided head looks from it at the tokens where that thing lies: the mean of -log(share of
        attention on them). And, where the name means one thing, how badly its position after the layer tells the
        thing's shape, colour, place and image: the mean cross entropy. labels: (visual tokens, 3).
        """
        n, t = batch.ids.shape
        count = GRID // batch.stride
        lines = torch.arange(count, device=labels.device) * 3 // count
        cells = (lines[:, None] * 3 + lines).flatten().repeat(len(labels) // count**2)
        facts = torch.full((n * t, 4), -1, device=labels.device)
        facts[batch.visual_at] = torch.stack([labels[:, 0], labels[:, 1], cells, batch.ordinals], 1)
        meant = torch.zeros(n * t, dtype=torch.bool, device=labels.device)
        meant[batch.visual_at] = batch.meant
        facts, meant = facts.view(n, t, 4), meant.view(n, t)
        row = batch.named_at // t
        kind, colour = batch.named[:, 0, None], batch.named[:, 1, None]
        of_row = facts[row]
        ours = batch.talk[row] == batch.talk.flatten()[batch.named_at, None]
        there = (
            ours & meant[row] & ((kind < 0) | (of_row[..., 0] == kind)) & ((colour < 0) | (of_row[..., 1] == colour))
        )
        some = there.any(1).float()
        share = (looks.flatten(0, 1)[batch.named_at].float() * there).sum(1)
        loss = -(share.clamp(min=1e-4).log() * some).sum() / some.sum().clamp(min=1.0)
        states = after.flatten(0, 1)[batch.named_at]
        for number, head in enumerate(self.told[:3] if batch.live else self.told):
            fact = of_row[..., number]
            least = fact.masked_fill(~there, NONE).amin(1)
            most = fact.masked_fill(~there, -1).amax(1)
            one = (least == most) & (least >= 0) & (least < head.out_features)
            loss = loss + mean_loss(head(states).float(), torch.where(one, least, IGNORE))
        return loss

    def counts(self, batch: Batch, after: Tensor, items: Tensor) -> Tensor:
        """How badly the position of a name, after the layer, tells how many of that name the one picture shows.

        The mean cross entropy. items: (images, ITEMS, 2).
        """
        of_name = items[batch.named_image.clamp(min=0)]
        kind, colour = batch.named[:, 0, None], batch.named[:, 1, None]
        same = ((kind < 0) | (of_name[..., 0] == kind)) & ((colour < 0) | (of_name[..., 1] == colour))
        number = (same & (of_name[..., 0] >= 0)).sum(1).clamp(max=len(NUMBERS) - 1)
        told = torch.where(batch.named_image >= 0, number, IGNORE)
        return 2 * mean_loss(self.many(after.flatten(0, 1)[batch.named_at]).float(), told)


def labels_before(labels: Tensor, ordinals: Tensor) -> Tensor:
    """For each visual token, shape and colour at its place in the image before: (tokens, 2); IGNORE in first images."""
    earlier = labels.roll(1, 0).flatten(0, 2)
    nothing = torch.tensor(CLASSES, device=labels.device)
    earlier = torch.where(earlier == EMPTY, nothing, earlier)
    return torch.where((earlier == DOUBT) | (ordinals == 0)[:, None], IGNORE, earlier)


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    teacher: Teacher,
    pictures: Pictures,
    batches: Callable[[], Packed],
    length: Length,
    checkpoint: Path,
    *,
    saved: Callable[[], None] = lambda: None,
    exam: Exam | None = None,
    rate: float = 1.8e-3,
    tower_slowness: float = 0.25,
    decay_share: float = 0.5,
) -> None:
    """Train the whole model on batches; goes on from `checkpoint` where it exists.

    batches: gives the next one. saved: called when a state has been written, once a minute and at the end. The tower
    learns on, at the rate times `tower_slowness`; 0 leaves it as it is.
    """
    student = Student(model, tokenizer, teacher).to(DEVICE)
    if not tower_slowness:
        student.tower.requires_grad_(False)
    optimizers = make_optimizers(student, rate, student.tower, tower_slowness)
    progress = Progress(length)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=DEVICE)
        student.load_state_dict(state["student"])
        for optimizer, before in zip(optimizers, state["optimizers"], strict=True):
            peaks = [group["peak"] for group in optimizer.param_groups]
            optimizer.load_state_dict(before)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak
        progress = Progress(length, state["step"], state["seconds"])
    first, saved_at, losses = progress.step, time.monotonic(), []
    while progress.share < 1:
        left = (1 - progress.share) / decay_share
        set_rate(optimizers, min(1.0, (progress.step + 1) / 100, left))
        student.four_bits = left < QUANTIZED_SHARE
        packed = batches()
        batch = Batch.of(packed)
        shown = pictures.get(packed.images)
        with autocast():
            features = tower_features(model, prepare(shown.pixels, grain=True))
            visual = student.projector(noisy(features.float()))
            answers, asked = student.loss(batch, visual, shown)
            seen, _ = teacher.loss(visual, shown.labels, shown.effects, student.decoder.embed_tokens.weight)
        (answers + 0.1 * asked + PATCHES * seen).backward()
        step_all(optimizers, student.parameters())
        progress.step += 1
        losses.append(torch.stack([answers.detach(), asked.detach(), seen.detach()]))
        if progress.step % 50 == 0 or progress.share >= 1:
            means = torch.stack(losses[-50:]).mean(0).tolist()
            speed = (time.monotonic() - progress.began) / (progress.step - first)
            print(
                f"{progress.step} ({progress.share:.0%}) answers {means[0]:.4f} asked {means[1]:.4f} "
                f"patches {means[2]:.4f} {speed:.3f} s/step, {batch.ids.numel()} positions",
                flush=True,
            )
            losses.clear()
        if time.monotonic() - saved_at > SAVE_SECONDS or progress.share >= 1:
            saved_at = time.monotonic()
            state = {
                "student": student.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": progress.step,
                "seconds": progress.seconds,
            }
            states.save(state, checkpoint)
            saved()
    if exam is not None:
        print(exam.report(student), flush=True)


@dataclass(frozen=True)
class Batch:
    """A packed batch where the training computes; fields as `packing.Packed` has them, int64."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    """(n, 1, t, t) bool: who may look at whom."""
    talk: Tensor
    answer_at: Tensor
    answers: Tensor
    visual_at: Tensor
    ordinals: Tensor
    first_numbers: Tensor
    meant: Tensor
    named_at: Tensor
    named: Tensor
    named_image: Tensor
    live: bool
    stride: int

    @classmethod
    def of(cls, packed: Packed) -> Batch:
        """Move a batch there."""

        def moved(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            if DEVICE.type != "cpu":
                tensor = tensor.pin_memory().to(DEVICE, non_blocking=True)
            return tensor if tensor.dtype == torch.bool else tensor.long()

        talk = moved(packed.talk)
        block, frame, since = (moved(array) for array in (packed.block, packed.frame, packed.since))
        t = block.shape[1]
        same = (block[:, None, :] == block[:, :, None]) | (block[:, None, :] == 0)
        causal = torch.ones(t, t, dtype=torch.bool, device=block.device).tril()
        same &= talk[:, None, :] == talk[:, :, None]
        mask = same & causal & (frame[:, None, :] >= since[:, :, None])
        names = (
            "answer_at",
            "answers",
            "visual_at",
            "ordinals",
            "first_numbers",
            "meant",
            "named_at",
            "named",
            "named_image",
        )
        return cls(
            ids=moved(packed.ids),
            positions=moved(packed.positions),
            mask=mask[:, None],
            talk=talk,
            live=packed.live,
            stride=packed.stride,
            **{name: moved(getattr(packed, name)) for name in names},
        )


def noisy(features: Tensor) -> Tensor:
    """Features with a little noise, so that the decoder does not lean on their last digits (int8 has none)."""
    strength = (torch.rand((len(features), 1, 1), device=features.device) * 3).floor() * 0.03
    return features + strength * features.detach().std() * torch.randn_like(features)
