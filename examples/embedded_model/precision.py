"""The training device and precision: bf16 on a GPU and on a CPU with AVX-512, else fp32.

On a CPU with AVX2 only, PyTorch's bf16 takes five times as long as fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_FAST = DEVICE.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
HALF = torch.bfloat16 if _FAST else torch.float32
torch.set_float32_matmul_precision("high")


def autocast() -> AbstractContextManager[object]:
    """Compute matrix products in HALF inside the block."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=HALF is torch.bfloat16)
