"""Stage one: train tower and projector to predict, for each patch, what lies there and where the patch is.

Kinds and colours are classified by the decoder's word embeddings (the row of " star" classifies stars), which aligns
features and words from the start. A patch also predicts how many things of its kind, its colour and its name the
picture shows, so that the decoder finds a count where it finds the thing. Pooled tokens have the same losses. For the
whole picture, the tower predicts darkness, blur, noise, whether it is an unknown picture, and the number of things.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pool
import states
import torch
import torch.nn.functional as F
from composed import Composer
from optimizers import make_optimizers, set_rate, step_all
from packing import IGNORE
from pool import CENTRES, DOUBT, EFFECTS, EMPTY, FINE, GRID, ITEMS
from precision import DEVICE, autocast
from progress import Length, Progress
from stored_pictures import Pictures, Shown, joined
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from edge_interleave.world.vocabulary import COLOURS, KINDS, SHAPES, THINGS

SAVE_SECONDS = 60.0
"""Seconds between two saved states."""
POOL_LEAST = 20_000
"""Pictures of the pool below which a composer draws whole batches."""
SAME = 6
"""Most things alike that a patch counts."""


class Teacher(nn.Module):
    """The heads of stage one; the final model does not contain them."""

    def __init__(self, width: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(2, width))
        self.row = nn.Linear(width, GRID)
        self.column = nn.Linear(width, GRID)
        self.centres = nn.Linear(width, CENTRES)
        self.where = nn.Linear(width, 3)
        self.effects = nn.Linear(width, EFFECTS)
        self.all = nn.Linear(width, ITEMS + 1)
        self.alike = nn.ModuleList(nn.Linear(width, SAME) for _ in range(3))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        ids = [[word_id(tokenizer, word) for word in words] for words in (KINDS, COLOURS)]
        self.word_ids = [torch.tensor(each, device=DEVICE) for each in ids]
        self.weights = [_weights((*[1.0] * len(each), 0.3)) for each in ids]
        self.of_centres = _weights((0.3, *[1.0] * (CENTRES - 1)))
        self.of_alike = _weights((0.4, *[1.0] * (SAME - 1)))

    def loss(self, features: Tensor, shown: Shown, embeddings: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss, and three accuracies.

        They are of kind and colour together on occupied patches, not pooled and pooled, and of the number of things of
        the patch's kind where there are several.

        features: (n, tokens, width) of the projector for the n pictures `shown`; embeddings: the decoder's,
        (vocabulary, width).
        """
        features = features.unflatten(1, (GRID, GRID))
        words = [embeddings[ids] for ids in self.word_ids]
        labels, items = shown.labels, shown.items
        normed = self.norm(features)
        fine, fine_right, counted = self._patches(normed, labels, items, words)
        fine = fine + self._places(normed, labels)
        pooled = F.avg_pool2d(features.permute(0, 3, 1, 2).float(), 2).permute(0, 2, 3, 1)
        coarse, coarse_right, _ = self._patches(self.norm(pooled), pooled_labels(labels), items, words)
        whole = normed.mean((1, 2))
        seen = F.mse_loss(self.effects(whole).float(), shown.effects)
        total = F.cross_entropy(self.all(whole).float(), (items[..., 0] >= 0).sum(1))
        return fine + coarse + 4 * seen + 0.3 * total, [fine_right, coarse_right, counted]

    def _places(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of where the centre of the thing at a patch lies, and of the thing's size."""
        known = (labels[..., 5] > 0).float()
        guesses = self.where(features).float()
        missed = F.smooth_l1_loss(guesses, labels[..., 3:] / FINE, reduction="none", beta=0.2).sum(-1)
        return (missed * known).sum() / known.sum().clamp(min=1)

    def _patches(
        self, features: Tensor, labels: Tensor, items: Tensor, words: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        side = features.shape[1]
        total = features.new_zeros((), dtype=torch.float32)
        right = torch.ones(labels.shape[:3], dtype=torch.bool, device=labels.device)
        for kind in range(2):
            rows = torch.cat([words[kind], self.nothing[kind : kind + 1]])
            logits = (features @ rows.T.to(features.dtype)).float()
            target = torch.where(labels[..., kind] == EMPTY, len(words[kind]), labels[..., kind])
            target = torch.where(target == DOUBT, IGNORE, target)
            total = total + mean_loss(logits.flatten(0, 2), target.flatten(), self.weights[kind])
            right &= (logits.argmax(-1) == target) | (target == IGNORE)
        total = total + 2 * mean_loss(
            self.centres(features).float().flatten(0, 2), labels[..., 2].flatten(), self.of_centres
        )
        counted = features.new_zeros((), dtype=torch.float32)
        for number, (head, many) in enumerate(zip(self.alike, alike(labels, items), strict=True)):
            counts = head(features).float()
            target = torch.where(many > 0, many.clamp(max=SAME) - 1, IGNORE)
            total = total + mean_loss(counts.flatten(0, 2), target.flatten(), self.of_alike)
            if number == 0:
                several = target > 0
                counted = ((counts.argmax(-1) == target) & several).sum() / several.sum().clamp(min=1)
        lines = torch.arange(side, device=features.device) * (GRID // side)
        row_target = lines[None, :, None].expand(features.shape[:3]).flatten()
        column_target = lines[None, None, :].expand(features.shape[:3]).flatten()
        total = total + 0.5 * F.cross_entropy(self.row(features).float().flatten(0, 2), row_target)
        total = total + 0.5 * F.cross_entropy(self.column(features).float().flatten(0, 2), column_target)
        occupied = labels[..., 0] >= 0
        return total, (right & occupied).sum() / occupied.sum().clamp(min=1), counted


def mean_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross entropy of the targets other than IGNORE, weighted by class if `weight` is given; 0 for no targets.

    It never waits for the GPU.
    """
    total = F.cross_entropy(logits, targets, weight=weight, ignore_index=IGNORE, reduction="sum")
    valid = targets != IGNORE
    of = valid.float() if weight is None else weight[targets.clamp(min=0)] * valid
    return total / of.sum().clamp(min=1e-6)


def _weights(of_classes: Sequence[float]) -> Tensor:
    """Class weights as a tensor; they offset how common the class for nothing is."""
    return torch.tensor(of_classes, device=DEVICE)


def tower_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The tower's output for prepared pixels, before the projector: (n, tokens, width)."""
    hidden: Tensor = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    return hidden


def teach(
    model: LlavaForConditionalGeneration,
    teacher: Teacher,
    pictures: Pictures,
    length: Length,
    checkpoint: Path,
    *,
    batch: int = 128,
    rate: float = 2e-3,
    composer: Composer | None = None,
) -> None:
    """Train tower, projector and word embeddings; resumes from the state in `checkpoint` if it exists.

    A composer gives half of each batch, and whole batches until the pool has some pictures.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    embeddings = model.get_input_embeddings()
    modules = nn.ModuleDict({"tower": tower, "projector": projector, "teacher": teacher, "embeddings": embeddings})
    optimizers = make_optimizers(modules, rate)
    progress = Progress(length)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=DEVICE)
        modules.load_state_dict(state["modules"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        progress = Progress(length, state["step"], state["seconds"])
    first, saved_at = progress.step, time.monotonic()
    fresh = fresh_pictures()
    while progress.share < 1:
        set_rate(optimizers, min(1.0, (progress.step + 1) / 50) * min(1.0, (1 - progress.share) / 0.4))
        rng = np.random.default_rng(progress.step)
        if progress.step % 50 == 0 or progress.step == first:
            drawn = pictures.refresh()
            if drawn < batch and composer is None:
                time.sleep(0.2)
                continue
        if composer is None:
            shown = pictures.get(pictures.some(batch, rng))
        elif drawn < POOL_LEAST:
            shown = composer.draw(batch)
        else:
            shown = joined(pictures.get(pictures.some(batch // 2, rng)), composer.draw(batch - batch // 2))
        shown = mirrored(shown)
        with autocast():
            features = projector(tower_features(model, prepare(shown.pixels, grain=True)))
            loss, right = teacher.loss(features, shown, embeddings.weight)
        loss.backward()
        step_all(optimizers, modules.parameters())
        progress.step += 1
        if progress.step % 50 == 0:
            speed = (time.monotonic() - progress.began) / (progress.step - first)
            print(
                f"tower {progress.step} ({progress.share:.0%}) loss {loss.item():.3f} right {right[0].item():.3f} "
                f"{right[1].item():.3f} counted {right[2].item():.3f} of {drawn} pictures, {speed:.3f} s/step",
                flush=True,
            )
        if progress.step % 500 == 0 or progress.share >= 1:
            # Far below the accuracies above, the tower learns the pool by heart: draw more pictures.
            with torch.no_grad(), autocast():
                _, right = teacher.loss(
                    projector(tower_features(model, prepare(fresh.pixels))), fresh, embeddings.weight
                )
            print("fresh pictures: right {:.3f} {:.3f} counted {:.3f}".format(*(r.item() for r in right)), flush=True)
        if time.monotonic() - saved_at > SAVE_SECONDS or progress.share >= 1:
            saved_at = time.monotonic()
            state = {
                "modules": modules.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": progress.step,
                "seconds": progress.seconds,
            }
            states.save(state, checkpoint)


def fresh_pictures(count: int = 256) -> Shown:
    """Pictures with things anywhere that no pool of training holds."""
    scenes = [scene for group in pool.share_of({"free": count}, 2, 0, 1).groups for scene in group.scenes]
    arrays = [np.stack([of(scene) for scene in scenes]) for of in (pool.picture, pool.patch_labels, pool.listed_items)]
    pixels, labels, items = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    effects = torch.tensor([pool.effects_of(scene) for scene in scenes], device=DEVICE)
    return Shown(pixels, labels.long(), items.long(), effects)


def alike(labels: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each patch, how many things of the picture have its kind, its colour, and both: (n, g, g) each.

    0 where nothing is known to lie; for a thing in its own colours, only the kind counts. labels: as
    `pool.patch_labels`; items: (n, ITEMS, 2).
    """
    kind, colour = (labels[..., part, None] for part in range(2))
    same_kind = (items[:, None, None, :, 0] == kind) & (kind >= 0)
    same_colour = (items[:, None, None, :, 1] == colour) & (colour >= 0)
    both = same_kind & (same_colour | (colour < 0))
    return same_kind.sum(-1), same_colour.sum(-1), both.sum(-1)


def mirrored(shown: Shown) -> Shown:
    """The pictures, half of those without signs mirrored."""
    things = (shown.labels[..., 0] < len(SHAPES) + len(THINGS)).flatten(1).all(1)
    flip = things & (torch.rand(len(things), device=things.device) < 0.5)
    pixels = torch.where(flip[:, None, None, None], shown.pixels.flip(2), shown.pixels)
    other_way = shown.labels.flip(2) * torch.tensor([1, 1, 1, -1, 1, 1], device=things.device)
    labels = torch.where(flip[:, None, None, None], other_way, shown.labels)
    return replace(shown, pixels=pixels, labels=labels)


def word_id(tokenizer: Tokenizer, word: str) -> int:
    """The token of a word inside a sentence, or of a digit. Raises ValueError if it is not one token."""
    token = tokenizer.token_to_id(word if word.isdigit() else f"Ġ{word}")
    if token is None:
        raise ValueError(f"the tokenizer has no single token for {word!r}")
    return int(token)


def prepare(pixels: Tensor, *, grain: bool = False) -> Tensor:
    """(n, side, side, 3) uint8 to (n, 3, side, side) float32 in -1 ... 1; `grain` changes the light and adds noise."""
    values = pixels.permute(0, 3, 1, 2).float()
    if not grain:
        return values.div_(127.5).sub_(1)
    n, device = len(values), values.device
    gain = torch.empty((n, 1, 1, 1), device=device).uniform_(0.9, 1.08)
    lift = torch.empty((n, 1, 1, 1), device=device).uniform_(-0.06, 0.06)
    strength = (torch.rand((n, 1, 1, 1), device=device) * 3).floor() * 0.022
    noise = torch.randn((n // 8 + 1, *pixels.shape[1:]), device=device).permute(0, 3, 1, 2)
    values.mul_(gain / 127.5).add_(lift - 1)
    for first in range(0, n, len(noise)):
        part = values[first : first + len(noise)]
        part.addcmul_(noise[: len(part)], (strength * gain)[first : first + len(noise)])
    return values.clamp_(-1, 1)


def pooled_labels(labels: Tensor) -> Tensor:
    """Labels of 2 x 2 patches pooled: the item of most patches, DOUBT if some are in doubt and none is known.

    Numbers of centres are summed.
    """
    n, side = labels.shape[:2]
    middles = labels[..., 2].view(n, side // 2, 2, side // 2, 2).sum((2, 4)).clamp(max=CENTRES - 1)
    cells = (
        labels[..., :2]
        .reshape(n, side // 2, 2, side // 2, 2, 2)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(n, side // 2, side // 2, 4, 2)
    )
    code = torch.where(cells[..., 0] >= 0, cells[..., 0] * 16 + cells[..., 1] + 2, cells[..., 0])
    votes = (code[..., :, None] == code[..., None, :]).sum(-1) * (code >= 0) + 0.1 * (code == DOUBT)
    best = votes.argmax(-1, keepdim=True)
    of_most = torch.gather(cells, 3, best[..., None].expand(*best.shape, 2))[..., 0, :]
    return torch.cat([of_most, middles[..., None]], -1)


@torch.no_grad()
def extract(model: LlavaForConditionalGeneration, pixels: np.ndarray, batch: int = 256) -> Tensor:
    """The tower's features of many pictures, before the projector: (images, tokens, width) float16."""
    parts = []
    for first in range(0, len(pixels), batch):
        with autocast():
            some = torch.from_numpy(pixels[first : first + batch]).to(DEVICE)
            parts.append(tower_features(model, prepare(some)).to(torch.float16))
    return torch.cat(parts)
