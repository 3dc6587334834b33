"""Runs in its own process: opens and asks an MLX bundle many times, each time with flipped bits in one file.

    python -m bad_input.mlx_flips BUNDLE FILE TIMES SEED

Prints a line for each: `sound`, the kind of the error and its text, or what should never be seen. MLX reads these files
in C++, so whoever starts this counts the lines: a process that ended early is what it looks for.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import EdgeInterleaveError
from support.bad_input.flips import flipped, other_digits


def main(folder: Path, name: str, times: int, seed: int) -> None:
    chance = random.Random(seed)
    path = folder / name
    sound = path.read_bytes()
    end = 8 + int.from_bytes(sound[:8], "little") if path.suffix == ".safetensors" else len(sound)
    for _ in range(times):
        header = chance.choice((flipped(sound[:end], chance, 0, end), other_digits(sound[:end], chance)))
        path.write_bytes(header + sound[end:])
        print(repr(outcome(folder)), flush=True)
    path.write_bytes(sound)


def outcome(folder: Path) -> str:
    try:
        decoder = find_backend("mlx").open(open_bundle(folder), DecoderOptions(context=32, threads=1))
        decoder.append_tokens([1, 2, 3])
        decoder.close()
    except EdgeInterleaveError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"unexpected {type(error).__name__}: {error}"
    return "sound"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
