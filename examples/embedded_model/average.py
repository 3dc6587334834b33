"""Averages the weights of two checkpoints of one training, which is often better than either (Wortsman 2022).

    python examples/embedded_model/average.py runs/one/checkpoint runs/two/checkpoint --out runs/mean

Both must be checkpoints of one model, one trained on from the other, or both from a third.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def main() -> None:
    """Write a copy of the first checkpoint with the mean weights of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="a checkpoint's folder")
    parser.add_argument("other", type=Path, help="another checkpoint's folder, trained on from the first or beside it")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint's folder")
    arguments = parser.parse_args()
    one, other = (load_file(folder / WEIGHTS) for folder in (arguments.one, arguments.other))
    shapes, others = ({name: weight.shape for name, weight in each.items()} for each in (one, other))
    if shapes != others:
        parser.error(f"{arguments.other} has other weights than {arguments.one}: average checkpoints of one model")
    mean = {name: ((weight.float() + other[name].float()) / 2).to(torch.float16) for name, weight in one.items()}
    shutil.copytree(arguments.one, arguments.out)
    save_file(mean, arguments.out / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
