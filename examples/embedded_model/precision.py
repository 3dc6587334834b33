"""In which precision products are computed here: bf16 where the processor has it, fp32 where it would be imitated.

On a processor with AVX2 alone PyTorch's bf16 takes five times as long as fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

HALF = torch.bfloat16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else torch.float32


def autocast() -> AbstractContextManager[object]:
    """Products in HALF inside the block."""
    return torch.autocast("cpu", torch.bfloat16, enabled=HALF is torch.bfloat16)
