"""Where training computes, and in which precision: bf16 on a GPU and on a processor that has it, else fp32.

On a processor with AVX2 alone PyTorch's bf16 takes five times as long as fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_FAST = DEVICE.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
HALF = torch.bfloat16 if _FAST else torch.float32
torch.set_float32_matmul_precision("high")


def autocast() -> AbstractContextManager[object]:
    """Products in HALF inside the block."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=HALF is torch.bfloat16)
