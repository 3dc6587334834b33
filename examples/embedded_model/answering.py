"""Stage two: train the whole model to answer.

The tower trains on at a lower rate, and keeps the patch losses of stage one. Auxiliary losses at a middle layer of the
decoder:

- at every visual token: the index of its image in the sequence (the prompt does not contain it, and questions such as
  "which image" need it), and the item at the same place in the previous image (for change, motion and appearance);
- one attention head is guided from the name of a thing in a question to the visual tokens where the thing lies;
- after the layer, the name's position must predict what the thing is, where it lies, in which image, and how many there
  are.
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
from composed import Composer
from grouped_attention import GroupedAttention
from optimizers import make_optimizers, set_rate, step_all
from packing import IGNORE, Packed
from pool import DOUBT, EMPTY, GRID
from precision import DEVICE, autocast
from progress import Length, Progress
from stored_pictures import Pictures, Shown, joined
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
"""Number of images with an index loss; later images of longer sequences have none."""
CLASSES = (len(vocabulary.KINDS), len(vocabulary.COLOURS))
"""Numbers of kinds and of colours; one further class of each stands for nothing."""
# Extra weight of the tokens that state a count; the rest of such an answer repeats the question.
COUNTED = 4.0
NONE = 10**6
"""Larger than any class."""
# Below this share of the peak learning rate, training rounds the weights to 4 bits.
QUANTIZED_SHARE = 0.6
# Weight of the patches' loss, relative to the answers'.
PATCHES = 0.15
COMPOSED = 192
"""Composed pictures in each batch, if there is a composer."""


class Student(nn.Module):
    """The whole model in training, with its auxiliary heads: pictures and questions in, losses out."""

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
        """The result of `lean_decoder.forward` with MIDDLE as the middle layer.

        visual: the projector's output for the batch's images, (images, tokens, width).
        """
        if batch.stride > 1 and len(visual):
            grid = visual.float().permute(0, 2, 1).unflatten(2, (GRID, GRID))
            visual = F.avg_pool2d(grid, batch.stride).flatten(2).permute(0, 2, 1)
        rows = self.decoder.embed_tokens(batch.ids)
        flat = rows.flatten(0, 1).index_copy(0, batch.visual_at, visual.flatten(0, 1).to(rows.dtype))
        rows = flat.view_as(rows)
        return lean_decoder.forward(
            self.decoder, rows, batch.positions, batch.attend, batch.mask, MIDDLE, four_bits=self.four_bits
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary; the head is tied to the embeddings."""
        return hidden @ self.decoder.embed_tokens.weight.to(hidden.dtype).T

    def loss(self, batch: Batch, visual: Tensor, shown: Shown) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the answers' tokens, and the sum of the auxiliary losses.

        visual: (images, tokens, width), of the images in `shown`. No step reads a value back from the device, which
        would make it wait.
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
        """The loss of the visual tokens of a live window on the number that announces their frame.

        The sum of the mean cross entropies of its last two digits.
        """
        numbers = batch.ordinals + batch.first_numbers
        guesses = self.digits(at_visual).float().unflatten(-1, (2, 10))
        return mean_loss(guesses[:, 0], numbers // 10 % 10) + mean_loss(guesses[:, 1], numbers % 10)

    def names(self, batch: Batch, looks: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """The losses of the names in the questions. labels: (visual tokens, 3).

        The mean of -log(share of the guided head's attention from the name to the tokens where the thing lies), plus,
        if the name means one thing, the mean cross entropies of its shape, colour, place and image, predicted from the
        name's position after the layer.
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
        """The mean cross entropy of how many things of a name the picture shows, predicted at the name's position.

        items: (images, ITEMS, 2).
        """
        of_name = items[batch.named_image.clamp(min=0)]
        kind, colour = batch.named[:, 0, None], batch.named[:, 1, None]
        same = ((kind < 0) | (of_name[..., 0] == kind)) & ((colour < 0) | (of_name[..., 1] == colour))
        number = (same & (of_name[..., 0] >= 0)).sum(1).clamp(max=len(NUMBERS) - 1)
        told = torch.where(batch.named_image >= 0, number, IGNORE)
        return 2 * mean_loss(self.many(after.flatten(0, 1)[batch.named_at]).float(), told)


def labels_before(labels: Tensor, ordinals: Tensor) -> Tensor:
    """For each visual token, kind and colour at its place one image before: (tokens, 2); IGNORE in first images."""
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
    composer: Composer | None = None,
) -> None:
    """Train the whole model on batches; resumes from the state in `checkpoint` if it exists.

    batches: returns the next batch. saved: called after each saved state, once a minute and at the end. The tower's
    learning rate is `rate * tower_slowness`; 0 freezes the tower. A composer adds COMPOSED pictures to each batch for
    the patches' loss alone.
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
        every = shown if composer is None else joined(shown, composer.draw(COMPOSED))
        with autocast():
            features = tower_features(model, prepare(every.pixels, grain=True))
            visual = student.projector(noisy(features.float()))
            answers, asked = student.loss(batch, visual[: len(shown.pixels)], shown)
            seen, _ = teacher.loss(visual, every, student.decoder.embed_tokens.weight)
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
    """A `packing.Packed` batch as int64 tensors on the training device."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    """(n, t, t) bool: which positions each position attends to."""
    attend: GroupedAttention
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
        """Move a batch to the training device."""

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
            mask=mask,
            attend=GroupedAttention(packed.groups, frame.flatten(), since.flatten()),
            talk=talk,
            live=packed.live,
            stride=packed.stride,
            **{name: moved(getattr(packed, name)) for name in names},
        )


def noisy(features: Tensor) -> Tensor:
    """Features with a little noise, so that the decoder does not depend on digits that int8 lacks."""
    strength = (torch.rand((len(features), 1, 1), device=features.device) * 3).floor() * 0.03
    return features + strength * features.detach().std() * torch.randn_like(features)
