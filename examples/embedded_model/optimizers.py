"""The optimizers of both stages: Muon for matrices, AdamW for all other parameters.

PyTorch's Muon orthogonalises in bf16, which takes most of a training step on a CPU that emulates bf16; there it is
replaced by the same iteration in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.optim._muon as torch_muon
from precision import HALF
from torch import Tensor, nn


def make_optimizers(
    module: nn.Module, rate: float, slow: nn.Module | None = None, slowness: float = 1.0
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024, as PyTorch ships it) for the weights of linear layers, AdamW for all other parameters.

    Parameters of the module `slow` have the learning rate `rate * slowness`.
    """
    matrices = [p for m in module.modules() if isinstance(m, nn.Linear) for p in (m.weight,) if p.requires_grad]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen and p.requires_grad]
    slowly = set() if slow is None else {id(p) for p in slow.parameters()}

    def parts(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
        both: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for parameter in parameters:
            both[id(parameter) in slowly].append(parameter)
        return [{"params": p, "peak": rate * r} for p, r in zip(both, (1.0, slowness), strict=True) if p]

    return [
        torch.optim.Muon(parts(matrices), lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(parts(others), lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def set_rate(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """Set all learning rates to a share of their peaks."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def step_all(optimizers: Sequence[torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Clip the gradients' norm at 1, step, and clear the gradients."""
    nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _orthogonal(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float) -> Tensor:
    """The quintic Newton-Schulz iteration of Muon (Jordan 2024) in the gradient's own precision."""
    a, b, c = coefficients
    wide = gradient.T if gradient.size(0) > gradient.size(1) else gradient
    x = wide / wide.norm().clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if gradient.size(0) > gradient.size(1) else x


if HALF is torch.float32:
    torch_muon._zeropower_via_newtonschulz = _orthogonal
