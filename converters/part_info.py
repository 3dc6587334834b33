"""Summarises a converted part of a bundle: bits per weight, and which matrices have which type."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edge_interleave.bundle.manifest import PartInfo, StoredMatrices

_BLOCK = re.compile(r"^(?:.*\.)?(?:blk|layers)\.\d+\.")


@dataclass(frozen=True)
class Matrix:
    """A stored matrix."""

    name: str
    """The name of the tensor or module."""
    type: str
    weights: int
    bytes: int
    """Including its scales."""


def part_info(matrices: Iterable[Matrix], named: Collection[str]) -> PartInfo:
    """The summary of the matrices. `named`: the types that belong to the part's precision."""
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
