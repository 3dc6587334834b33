"""The optimizers of both stages: Muon for matrices, AdamW for all other parameters.

PyTorch's Muon takes the matrices one by one, which costs a small model more than its forward pass; here, those of one
shape go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from precision import DEVICE, HALF
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration (Jordan 2024)."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) with Nesterov momentum and AdamW's update size: lr * 0.2 * sqrt(longer side) (Liu 2025).

    Gives what `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` gives.
    """

    def __init__(self, parameters: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                grads = [parameter.grad for parameter in parameters]
                for parameter in parameters:
                    if parameter not in self.state:
                        self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                moved = [self.state[parameter]["momentum"] for parameter in parameters]
                torch._foreach_lerp_(moved, grads, 1 - MOMENTUM)
                updates = orthogonal(torch.stack(torch._foreach_lerp(grads, moved, MOMENTUM)))
                rate = group["lr"]
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate * 0.2 * max(shape) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices in the direction of each of (n, rows, columns); the iteration computes in HALF."""
    a, b, c = COEFFICIENTS
    x = matrices.to(HALF)
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


def make_optimizers(
    module: nn.Module, rate: float, slow: nn.Module | None = None, slowness: float = 1.0
) -> list[torch.optim.Optimizer]:
    """Muon for the weights of linear layers, AdamW for all other parameters.

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
        Muon(parts(matrices), lr=rate, weight_decay=0.02),
        torch.optim.AdamW(parts(others), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=DEVICE.type == "cuda"),
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
