"""Writes vision.npz: the results of transformers and PyTorch for the pictures and grids of the tests.

Needs the `oracle` extra: python tests/golden/make_vision.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import vision_oracle as oracle
from support.pictures import SIZES, in_every_mode, picture


def main() -> None:
    golden = {}
    for resize in ("squash", "crop"):
        for mode, image in in_every_mode().items():
            golden[f"pixels/{resize}/{mode}"] = oracle.pixels(image, resize, 24)
        for size in SIZES:
            golden[f"pixels/{resize}/{size[0]}x{size[1]}"] = oracle.pixels(picture(*size), resize, 24)
    for mode in ("average", "bilinear", "max"):
        for stride in (1, 2, 3, 4):
            golden[f"pool/{mode}/{stride}"] = oracle.pooled(oracle.tokens(1, 27, 2), 27, stride, mode)
    sizes = np.array([(width, height) for width in oracle.TILED_SIDES for height in oracle.TILED_SIDES])
    golden["tiles/sizes"] = sizes.astype(np.int32)
    golden["tiles/grids"] = np.array([oracle.tile_grid(tuple(map(int, size)), 384) for size in sizes], np.uint8)
    np.savez_compressed(Path(__file__).with_name("vision.npz"), **golden)


if __name__ == "__main__":
    main()
