"""mlx-lm's quantization recipes: the quantization of each matrix of a decoder.

`4bit` and similar recipes give every matrix the same bits, in groups of 64 values with a scale and an offset. Mixed
recipes give more bits to the most sensitive matrices, by mlx-lm's rule (`mixed_quant_predicate_builder` in its
`convert.py`), which equals that of llama.cpp's Q4_K_M. `mxfp4` is the Open Compute Project's format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_interleave.converters.precisions import MLX_MIXED, MLX_PLAIN


@dataclass(frozen=True)
class Quantization:
    """A matrix's quantization: the arguments of `mx.quantize`."""

    bits: int
    group_size: int = 64
    mode: str = "affine"

    @property
    def name(self) -> str:
        """A name for messages: `4bit`, `mxfp4`."""
        return f"{self.bits}bit" if self.mode == "affine" else self.mode

    def bytes_for(self, values: int) -> int:
        """Bytes of `values` values with their groups' scales and offsets of 16 bits (`mxfp4`: a scale of 8 bits)."""
        return values * self.bits // 8 + values // self.group_size * (1 if self.mode == "mxfp4" else 4)

    def described(self) -> dict[str, Any]:
        """The fields in mlx-lm's `config.json`."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


def usual(recipe: str) -> Quantization | None:
    """A recipe's quantization of most matrices; None for `f16`."""
    if recipe == "f16":
        return None
    if recipe == "mxfp4":
        return Quantization(4, 32, "mxfp4")
    return Quantization(MLX_MIXED[recipe][0] if recipe in MLX_MIXED else MLX_PLAIN[recipe])


def kinds(recipe: str) -> tuple[str, ...]:
    """Names of the quantizations that a recipe gives to matrices that fit; empty for `f16`."""
    most = usual(recipe)
    if most is None:
        return ()
    return (most.name, Quantization(MLX_MIXED[recipe][1]).name) if recipe in MLX_MIXED else (most.name,)


def choose(recipe: str, module: str, columns: int, layers: int) -> Quantization | None:
    """A recipe's quantization of the matrix of mlx-lm's `module`, in a decoder of `layers` layers; None: not quantized.

    `columns`: length of the matrix's rows. MLX cannot quantize a matrix if it is not a multiple of the group size.
    """
    how = usual(recipe)
    if how is None or columns % how.group_size:
        return None
    return Quantization(MLX_MIXED[recipe][1]) if recipe in MLX_MIXED and _gets_more(module, layers) else how


def _gets_more(module: str, layers: int) -> bool:
    parts = module.split(".")
    if parts[-1] not in ("v_proj", "down_proj"):
        return module == "lm_head"
    layer, eighth = int(parts[2]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
