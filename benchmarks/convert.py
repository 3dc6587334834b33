"""Peak memory and time of a conversion, with random weights at the released models' dimensions.

    python benchmarks/convert.py [--size 0.5b|7b] [--backend onnx|llama-cpp|mlx ...] [--quantization q4_k_m]
                                 [--mlx-quantization 4bit] [--vision-precision int8] [--json]

Writes a checkpoint into a temporary folder (0.5b: 1.7 GB; 7b: 16 GB, in shards), converts it in another process, and
deletes both. `--backend` twice makes two decoders. Targets on two cores: 0.5b in at most 2.5 GiB and 120 s, 7b in at
most 6 GiB. On a busy machine, compare `cpu_seconds` instead of `seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_checkpoint import Options, model_config, write_random_checkpoint

from edge_interleave.converters.precisions import DECODERS, GGUF_QUANTIZATIONS, MLX_RECIPES

GIB = 1 << 30
TARGETS = {"0.5b": {"peak_gib": 2.5, "seconds": 120.0}, "7b": {"peak_gib": 6.0}}
# The process reports its own peak; the parent's count would include all of its children.
_CONVERT = """
import json, resource, sys, time
from pathlib import Path
started = time.perf_counter()
from edge_interleave.converters.convert import convert
stages = {}
def progress(stage, done, total):
    stages.setdefault(stage, [time.perf_counter(), 0.0])[1] = time.perf_counter()
bundle = convert(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3]), progress=progress)
usage = resource.getrusage(resource.RUSAGE_SELF)
peak = usage.ru_maxrss
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
    "stage_seconds": {stage: end - start for stage, (start, end) in stages.items()},
    "files": {name: info.bytes for name, info in bundle.manifest.files.items()},
}))
"""


def measure(size: str, options: dict[str, object], folder: Path) -> dict[str, object]:
    """Write a checkpoint into `folder`, convert it in another process, and return the cost.

    `options`: the arguments of `convert`.
    """
    started = time.perf_counter()
    checkpoint = write_random_checkpoint(folder / "checkpoint", model_config(size), Options(vocabulary="full"))
    made = time.perf_counter() - started
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    arguments = [str(checkpoint), str(folder / "bundle"), json.dumps(options)]
    result = subprocess.run([sys.executable, "-c", _CONVERT, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    cost = json.loads(result.stdout)
    return {
        "size": size,
        **options,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "checkpoint_bytes": weights,
        "checkpoint_seconds": made,
        "peak_gib": cost.pop("peak_bytes") / GIB,
        **cost,
    }


def main() -> None:
    """Measure and print; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Peak memory and seconds of a conversion.")
    parser.add_argument("--size", choices=tuple(TARGETS), default="0.5b")
    parser.add_argument(
        "--backend", action="append", choices=tuple(DECODERS), help="repeat for several decoders (default: llama-cpp)"
    )
    parser.add_argument("--quantization", choices=GGUF_QUANTIZATIONS, help="precision of the decoder for llama.cpp")
    parser.add_argument("--mlx-quantization", choices=MLX_RECIPES, help="precision of the decoder for MLX")
    parser.add_argument("--vision-precision", default="int8")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", type=Path, help="folder of the temporary files (default: the system's)")
    given = parser.parse_args()
    options = {
        "backends": given.backend or ["llama-cpp"],
        "quantization": given.quantization,
        "mlx_quantization": given.mlx_quantization,
        "vision_precision": given.vision_precision,
    }
    folder = Path(tempfile.mkdtemp(prefix="edge-interleave-convert-", dir=given.folder))
    try:
        cost = measure(given.size, options, folder)
    finally:
        shutil.rmtree(folder)
    missed = {name: most for name, most in TARGETS[given.size].items() if float(str(cost[name])) > most}
    if given.json:
        print(json.dumps({**cost, "targets": TARGETS[given.size], "met": not missed}))
    else:
        for name, value in cost.items():
            show(name, value)
        print("targets met" if not missed else f"targets missed: {missed}")
    sys.exit(1 if missed else 0)


def show(name: str, value: object) -> None:
    """Print one figure on each line, its parts below it."""
    if isinstance(value, dict):
        print(name)
        for part, figure in value.items():
            show(f"  {part}", figure)
    else:
        print(f"{name:32} {value:.2f}" if isinstance(value, float) else f"{name:32} {value}")


if __name__ == "__main__":
    main()
