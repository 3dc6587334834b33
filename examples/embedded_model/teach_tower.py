"""Stage one: the tower and the projector learn, patch by patch, what lies there and where the patch is.

The classifiers of kinds and colours are the decoder's own word embeddings (the row of " star" classifies stars), so
that features and words speak one language from the start. The same is asked of the pooled tokens. Of the whole picture
is asked how dark, blurry and noisy it was made.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import states
import torch
import torch.nn.functional as F
from optimizers import make_optimizers, set_rate, step_all
from pool import DOUBT, EMPTY, GRID, Pool
from precision import autocast
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from edge_interleave.world.cast import COLOURS, KINDS


class Teacher(nn.Module):
    """The heads of stage one; thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(2, width))
        self.row = nn.Linear(width, GRID)
        self.column = nn.Linear(width, GRID)
        self.effects = nn.Linear(width, 3)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def loss(self, features: Tensor, labels: Tensor, words: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss and the share of occupied tokens whose shape and colour are both right.

        features (n, g, g, width); labels (n, g, g, 2) int64 as `pool.patch_labels`; words: the kinds' rows and the
        colours', each (words, width).
        """
        features = self.norm(features)
        side = features.shape[1]
        total = features.new_zeros(())
        right = torch.ones(labels.shape[:3], dtype=torch.bool)
        for kind in range(2):
            rows = torch.cat([words[kind], self.nothing[kind : kind + 1]])
            logits = (features @ rows.T).float()
            target = labels[..., kind].clone()
            target[target == EMPTY] = len(words[kind])
            target[target == DOUBT] = -100
            weight = torch.ones(len(rows))
            weight[-1] = 0.3
            total = total + F.cross_entropy(logits.flatten(0, 2), target.flatten(), weight=weight)
            right &= (logits.argmax(-1) == target) | (target == -100)
        lines = torch.arange(side) * (GRID // side)
        row_target = lines[None, :, None].expand(features.shape[:3]).flatten()
        column_target = lines[None, None, :].expand(features.shape[:3]).flatten()
        total = total + 0.5 * F.cross_entropy(self.row(features).float().flatten(0, 2), row_target)
        total = total + 0.5 * F.cross_entropy(self.column(features).float().flatten(0, 2), column_target)
        occupied = labels[..., 0] >= 0
        return total, right[occupied].float().mean()

    def effects_loss(self, features: Tensor, effects: Tensor) -> Tensor:
        """Mean squared error of what befell each picture; features (n, g, g, width), effects (n, 3)."""
        return F.mse_loss(self.effects(self.norm(features).mean((1, 2))).float(), effects)


def teach(
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    pool: Pool,
    steps: int,
    checkpoint: Path,
    batch: int = 128,
    rate: float = 2e-3,
) -> None:
    """Train tower, projector and the words' embeddings for `steps` steps; goes on from `checkpoint` where it exists."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    teacher = Teacher(model.config.text_config.hidden_size)
    embeddings = model.get_input_embeddings()
    word_ids = [[word_id(tokenizer, word) for word in words] for words in (KINDS, COLOURS)]
    modules = nn.ModuleDict({"tower": tower, "projector": projector, "teacher": teacher, "embeddings": embeddings})
    optimizers = make_optimizers(modules, rate)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        modules.load_state_dict(state["modules"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    began = time.monotonic()
    for step in range(start, steps):
        set_rate(optimizers, min(1.0, (step + 1) / 50) * min(1.0, (steps - step) / (0.4 * steps)))
        rng = np.random.default_rng(step)
        rows = np.sort(rng.choice(len(pool.pixels), batch, replace=False))
        pixels = prepare(pool.pixels[rows], rng)
        labels = torch.from_numpy(pool.labels[rows].astype(np.int64))
        with autocast():
            features = projector(tower(pixels, output_hidden_states=True).hidden_states[-1])
            features = features.unflatten(1, (GRID, GRID))
            words = [embeddings.weight[ids] for ids in word_ids]
            fine, fine_right = teacher.loss(features, labels, words)
            pooled = F.avg_pool2d(features.permute(0, 3, 1, 2).float(), 2).permute(0, 2, 3, 1)
            coarse, coarse_right = teacher.loss(pooled, pooled_labels(labels), words)
            seen = teacher.effects_loss(features, torch.from_numpy(pool.effects[rows]))
        (fine + coarse + 4 * seen).backward()
        step_all(optimizers, modules.parameters())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            speed = (time.monotonic() - began) / (step + 1 - start)
            print(
                f"tower {step + 1}/{steps} loss {fine.item():.3f} {coarse.item():.3f} effects {seen.item():.4f} "
                f"right {fine_right.item():.3f} {coarse_right.item():.3f} {speed:.2f} s/step",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state = {
                "modules": modules.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
            }
            states.save(state, checkpoint)


def stored_features(model: LlavaForConditionalGeneration, pixels: np.ndarray, path: Path) -> Tensor:
    """What `extract` gives of a pool, computed where the file does not hold it yet."""
    if not path.exists():
        states.save(extract(model, pixels), path)
    features: Tensor = torch.load(path, weights_only=True)
    return features


def word_id(tokenizer: Tokenizer, word: str) -> int:
    """The one token of a word inside a sentence, or of a digit."""
    token = tokenizer.token_to_id(word if word.isdigit() else f"Ġ{word}")
    if token is None:
        raise ValueError(f"the tokenizer has no token of its own for {word!r}")
    return int(token)


def prepare(pixels: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """(n, side, side, 3) uint8 to (n, 3, side, side) float32 in -1 ... 1; with `rng`, changed light and grain."""
    values = torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 127.5 - 1
    if rng is None:
        return values
    gain = torch.from_numpy(rng.uniform(0.9, 1.08, (len(values), 1, 1, 1)).astype(np.float32))
    lift = torch.from_numpy(rng.uniform(-0.06, 0.06, (len(values), 1, 1, 1)).astype(np.float32))
    strength = float(rng.choice((0.0, 0.02, 0.05)))
    if strength:
        grain = torch.from_numpy(rng.standard_normal((len(values) // 8 + 1, *values.shape[1:]), np.float32))
        values = values + strength * grain.repeat(8, 1, 1, 1)[: len(values)]
    return ((values + 1) * gain - 1 + lift).clamp(-1, 1)


def pooled_labels(labels: Tensor) -> Tensor:
    """Labels of 2 x 2 patches as one: the item of most of them; in doubt where some are in doubt and none is sure."""
    n, side = labels.shape[:2]
    cells = (
        labels.view(n, side // 2, 2, side // 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, side // 2, side // 2, 4, 2)
    )
    code = torch.where(cells[..., 0] >= 0, cells[..., 0] * 16 + cells[..., 1] + 2, cells[..., 0])
    votes = (code[..., :, None] == code[..., None, :]).sum(-1) * (code >= 0) + 0.1 * (code == DOUBT)
    best = votes.argmax(-1, keepdim=True)
    return torch.gather(cells, 3, best[..., None].expand(*best.shape, 2))[..., 0, :]


@torch.no_grad()
def extract(model: LlavaForConditionalGeneration, pixels: np.ndarray, batch: int = 256) -> Tensor:
    """Features of the tower, before the projector: (images, tokens, width) float16."""
    tower = model.model.vision_tower
    parts = []
    for first in range(0, len(pixels), batch):
        with autocast():
            hidden = tower(prepare(pixels[first : first + batch]), output_hidden_states=True).hidden_states[-1]
        parts.append(hidden.to(torch.float16))
    return torch.cat(parts)
