"""Compares converted bundles with transformers, by precision, on the golden prompts of the embedded model.

    python benchmarks/parity.py                 # the table: every quantization, fp32 and int8 tower
    python benchmarks/parity.py --backend mlx   # the same for MLX
    python benchmarks/parity.py --quantizations f16 q4_k_m --json
    python benchmarks/parity.py --checkpoint FOLDER --golden FOLDER

What transformers said is stored (`golden_prompts`), so this needs the package alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from golden_prompts import CHECKPOINT, FOLDER, MAX_TOKENS, Golden, fingerprint, load
from rich.console import Console
from rich.progress import track
from rich.table import Table

import edge_interleave as ei
from edge_interleave.bundle.manifest import VISION_NAME, Bundle
from edge_interleave.converters.convert import convert
from edge_interleave.converters.precisions import GGUF_QUANTIZATIONS, MLX_RECIPES, ONNX_PRECISIONS
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.inputs import as_inputs
from edge_interleave.decoding.registry import backend_for, find_backend
from edge_interleave.decoding.session import Session
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.messages import as_messages, media_of
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.vision.media_encoder import MediaEncoder

VISION_PRECISIONS = ("fp32", "int8")
PRECISIONS = {"onnx": ONNX_PRECISIONS, "llama-cpp": GGUF_QUANTIZATIONS, "mlx": MLX_RECIPES}
OPTION = {"onnx": "onnx_precision", "llama-cpp": "quantization", "mlx": "mlx_quantization"}
"""The parameter of `convert` for each backend's precision."""
THREADS = 1
CONTEXT = 1024


@dataclass(frozen=True)
class Parity:
    """One bundle compared with transformers."""

    backend: str
    quantization: str
    vision_precision: str
    vision_cosine: float
    """Of a picture's visual tokens; the minimum over the pictures."""
    logits_cosine: float
    """Of the logits after the prompt; the minimum over the prompts."""
    same_answers: int
    answers: int


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--golden", type=Path, default=FOLDER)
    parser.add_argument("--backend", choices=PRECISIONS, default="llama-cpp")
    parser.add_argument("--quantizations", nargs="+", help="of the backend's (default: all)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    golden = load(arguments.golden)
    if golden.checkpoint != fingerprint(arguments.checkpoint):
        parser.error("the golden files are of another checkpoint; run examples/embedded_model/make_golden.py")
    known = PRECISIONS[arguments.backend]
    if odd := set(arguments.quantizations or ()) - set(known):
        parser.error(f"{arguments.backend} has no {', '.join(odd)}; it has {', '.join(known)}")
    jobs = [(name, precision) for name in arguments.quantizations or known for precision in VISION_PRECISIONS]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(
                convert(
                    arguments.checkpoint,
                    Path(folder) / f"{quantization}-{precision}",
                    backends=[arguments.backend],
                    vision_precision=precision,
                    **{OPTION[arguments.backend]: quantization},
                ),
                golden,
                arguments.backend,
            )
            for quantization, precision in track(jobs, "comparing", console=Console(stderr=True), transient=True)
        ]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("decoder", "vision", "vision cosine", "logits cosine", "same answers")
    for row in rows:
        same = f"{row.same_answers} of {row.answers}"
        table.add_row(
            row.quantization, row.vision_precision, f"{row.vision_cosine:.6f}", f"{row.logits_cosine:.6f}", same
        )
    Console().print(table)


def measure(bundle: Bundle, golden: Golden, backend: str) -> Parity:
    """All figures of a bundle."""
    precisions = bundle.manifest.precisions
    different = differing_answers(bundle, golden, backend)
    return Parity(
        backend,
        precisions[find_backend(backend).decoder_file],
        precisions[VISION_NAME],
        min(vision_cosines(bundle, golden)),
        min(logits_cosines(bundle, golden, backend)),
        len(golden.prompts) - len(different),
        len(golden.prompts),
    )


def vision_cosines(bundle: Bundle, golden: Golden) -> list[float]:
    """The cosine of our visual tokens and transformers', for each picture."""
    pictures = as_messages([*(golden.pictures[name] for name in golden.features), "?"])
    encoded = MediaEncoder(bundle, THREADS).encode(media_of(pictures), frames=1, stride=1, tiles=False)
    return [cosine(ours.rows, theirs) for ours, theirs in zip(encoded.images, golden.features.values(), strict=True)]


def logits_cosines(bundle: Bundle, golden: Golden, backend: str | None = None) -> list[float]:
    """The cosine of our logits after the prompt and transformers', for each prompt, starting from pixels."""
    tokenizer, media_encoder = TextTokenizer.open(bundle), MediaEncoder(bundle, THREADS)
    prompts = PromptBuilder(bundle, tokenizer)
    decoder = backend_for(bundle, backend).open(bundle, DecoderOptions(CONTEXT, THREADS))
    session = Session(decoder, tokenizer, bundle.manifest.prompt.eos_token_ids)
    cosines = []
    for number, theirs in golden.logits.items():
        prompt = golden.prompts[number]
        messages = as_messages([*golden.shown(prompt), prompt.question])
        encoded = media_encoder.encode(media_of(messages), frames=1, stride=prompt.stride, tiles=False)
        prefill = session.prefill(as_inputs(prompts.build(messages, encoded.counts), encoded.images))
        assert prefill is not None
        cosines.append(cosine(prefill.logits, theirs))
    session.close()
    return cosines


def differing_answers(bundle: Bundle, golden: Golden, backend: str | None = None) -> list[str]:
    """Ask all prompts; returns a line for each whose answer or prompt length differs from transformers'."""
    different = []
    with ei.load(bundle.folder, backend=backend, context=CONTEXT, threads=THREADS) as model:
        for prompt in golden.prompts:
            answer = model.ask([*golden.shown(prompt), prompt.question], pool=prompt.stride, max_tokens=MAX_TOKENS)
            if answer.text != prompt.answer:
                different.append(f"{prompt.task}: {prompt.question} -> {answer.text} (transformers: {prompt.answer})")
            elif answer.stats.prompt_tokens != prompt.prompt_tokens:
                tokens = f"{answer.stats.prompt_tokens} tokens (transformers: {prompt.prompt_tokens})"
                different.append(f"{prompt.task}: {prompt.question} is a prompt of {tokens}")
    return different


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cosine of two arrays as vectors. Raises ValueError if their shapes differ."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape} differ")
    return float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))


if __name__ == "__main__":
    main()
