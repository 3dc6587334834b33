"""What a part of a bundle became: bits a weight, and which matrices are of which type. Knows no file format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edge_interleave.bundle.manifest import PartInfo, StoredMatrices

_BLOCK = re.compile(r"^(?:.*\.)?(?:blk|layers)\.\d+\.")


@dataclass(frozen=True)
class Matrix:
    """A matrix as it was stored."""

    name: str
    """The tensor's or the module's."""
    type: str
    weights: int
    bytes: int
    """With the scales that belong to it."""


def part_info(matrices: Iterable[Matrix], named: Collection[str]) -> PartInfo:
    """The summary; `named` has the types that the part's precision stands for."""
    types: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        types.setdefault(matrix.type, []).append(matrix)
    every = [matrix for group in types.values() for matrix in group]
    return PartInfo(
        bits_per_weight=round(8 * sum(matrix.bytes for matrix in every) / sum(matrix.weights for matrix in every), 3),
        matrices={
            kind: StoredMatrices(len(group), tuple(sorted({_short(matrix.name) for matrix in group})), kind in named)
            for kind, group in sorted(types.items())
        },
    )


def _short(name: str) -> str:
    return _BLOCK.sub("", name).removesuffix(".weight")
