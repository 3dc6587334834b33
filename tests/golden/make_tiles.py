"""Writes tiles.npz: how transformers packs the visual tokens of images of a thousand random sizes.

Needs the `oracle` extra: python tests/golden/make_tiles.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import tiles_oracle as oracle

from edge_interleave.vision.tiles import tile_grid


def main() -> None:
    golden = {}
    for name, family in oracle.FAMILIES.items():
        theirs = oracle.Packed(family)
        counts, lengths, sums = [], [], []
        for size in oracle.sizes():
            grid = tile_grid(size, family.pixels, family.tiling)
            assert grid is not None
            counts.append(theirs.parts(size))
            packed = theirs.tokens(oracle.parts(family, grid), size)
            lengths.append(len(packed))
            sums.append(oracle.checksum(packed))
        golden[f"{name}/parts"] = np.array(counts, np.int32)
        golden[f"{name}/tokens"] = np.array(lengths, np.int32)
        golden[f"{name}/checksums"] = np.array(sums)
    np.savez_compressed(Path(__file__).with_name("tiles.npz"), **golden)


if __name__ == "__main__":
    main()
