"""Writes vision_tower.npz: transformers' visual tokens for the towers of tiny_tower.py.

Needs the `oracle` extra: python tests/golden/make_vision_tower.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.tiny_tower import TOWERS, of_transformers, pixels, write_checkpoint


def main() -> None:
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, tower) in enumerate(TOWERS.items()):
            checkpoint = write_checkpoint(Path(folder) / str(number), tower)
            golden[name] = of_transformers(checkpoint, pixels(tower))
    np.savez_compressed(Path(__file__).with_name("vision_tower.npz"), **golden)


if __name__ == "__main__":
    main()
