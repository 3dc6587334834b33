"""The parts of a bundle: the functions that write their files, and the disk space they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_interleave.bundle.manifest import (
    GGUF_NAME,
    MLX_NAME,
    MMPROJ_NAME,
    NEWLINE_NAME,
    ONNX_NAME,
    QUESTIONS_NAME,
    TOKENIZER_NAME,
    VISION_NAME,
    Manifest,
    PartInfo,
)
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles
from edge_interleave.converters.checkpoint.weight_names import NEWLINE
from edge_interleave.converters.gguf.decoder import check_gguf, write_gguf
from edge_interleave.converters.gguf.mmproj import write_mmproj
from edge_interleave.converters.mlx.decoder import mlx_bytes, mlx_files, mlx_part
from edge_interleave.converters.onnx.decoder import Smoothing, decoder_bytes, decoder_files
from edge_interleave.converters.onnx.probe import VisionProbe
from edge_interleave.converters.onnx.smoothing import TEXT_TOKENS, calibration_text, find_smoothings
from edge_interleave.converters.onnx.vision import write_vision_onnx
from edge_interleave.converters.progress import Progress
from edge_interleave.prompt.familiarity import dump_question_model, load_question_model

# Bytes of a weight, rounded up generously.
_GGUF_BYTES = {"q4_0": 0.7, "q4_k_m": 0.75, "q5_k_m": 0.85, "q6_k": 0.95, "q8_0": 1.1, "f16": 2.0}
_VISION_BYTES = {"int8": 1.2, "fp16": 2.05, "fp32": 4.05}
_MMPROJ_BYTES = {"f16": 2.05, "q8_0": 1.6}
_TOKENIZER_BYTES = 16 << 20

Make = Callable[[Path], object]
"""Writes a file to a path. For one file of a part, it may return the part's PartInfo."""


@dataclass(frozen=True)
class Part:
    """A file of a bundle, or a folder of files."""

    name: str
    """The file or folder, as in the manifest's `precisions`."""
    bytes: int
    """Disk space needed to make it, rounded up generously."""
    files: Mapping[str, Make]
    """Name in the bundle to the function that writes the file."""


def bundle_parts(
    checkpoint: Checkpoint, tokenizer: TokenizerFiles, manifest: Manifest, progress: Progress | None = None
) -> list[Part]:
    """The tokenizer and the parts that `manifest.precisions` names, in the order to make them."""
    probe = VisionProbe(checkpoint, progress)

    def tokenizer_file() -> Part:
        text = tokenizer.tokenizer.to_str()
        return Part(TOKENIZER_NAME, _TOKENIZER_BYTES, {TOKENIZER_NAME: lambda path: path.write_text(text, "utf-8")})

    def newline_file() -> Part:
        return Part(NEWLINE_NAME, _TOKENIZER_BYTES, {NEWLINE_NAME: lambda path: _write_newline(checkpoint, path)})

    def questions_file() -> Part:
        text = dump_question_model(load_question_model(checkpoint.folder / QUESTIONS_NAME))
        return Part(QUESTIONS_NAME, len(text), {QUESTIONS_NAME: lambda path: path.write_text(text, "utf-8")})

    def vision(precision: str) -> Part:
        room = int(manifest.vision.parameters * _VISION_BYTES[precision])

        def make(path: Path) -> PartInfo:
            if precision == "fp32":
                return write_vision_onnx(checkpoint, path, precision, progress)
            found = probe.accepted(precision)
            info = write_vision_onnx(checkpoint, path, precision, progress, found.balances)
            return replace(info, cosine=round(found.cosine, 6))

        return Part(VISION_NAME, room, {VISION_NAME: make})

    def gguf(precision: str) -> Part:
        check_gguf(checkpoint)
        # Quantization starts from an f16 file, which is deleted afterwards.
        weight = _GGUF_BYTES[precision] + (0.0 if precision == "f16" else 2.0)
        room = int(manifest.decoder.parameters * weight)
        return Part(GGUF_NAME, room, {GGUF_NAME: lambda path: write_gguf(checkpoint, path, precision, progress).part})

    def mlx(recipe: str) -> Part:
        files = mlx_files(checkpoint, tokenizer, recipe, progress)
        room = _TOKENIZER_BYTES + mlx_bytes(checkpoint, recipe)
        config = files["config.json"]

        def make_config(path: Path) -> PartInfo:
            config(path)
            return mlx_part(checkpoint, recipe)

        files["config.json"] = make_config
        return Part(MLX_NAME, room, {f"{MLX_NAME}/{name}": make for name, make in files.items()})

    def onnx(precision: str) -> Part:
        def smoothings() -> list[Smoothing]:
            ids = tokenizer.tokenizer.encode(calibration_text()).ids[:TEXT_TOKENS]
            return find_smoothings(checkpoint, ids, probe.visual_tokens(), progress)

        files = decoder_files(checkpoint, precision, smoothings, progress)
        room = decoder_bytes(checkpoint, precision)
        return Part(ONNX_NAME, room, {f"{ONNX_NAME}/{name}": make for name, make in files.items()})

    def mmproj(precision: str) -> Part:
        room = int(manifest.vision.parameters * _MMPROJ_BYTES[precision])
        return Part(
            MMPROJ_NAME, room, {MMPROJ_NAME: lambda path: write_mmproj(checkpoint, path, precision, progress, probe)}
        )

    # The tower comes first, so that a refusal comes before the long work on the decoder.
    makers = {VISION_NAME: vision, MMPROJ_NAME: mmproj, GGUF_NAME: gguf, MLX_NAME: mlx, ONNX_NAME: onnx}
    chosen = manifest.precisions
    always = [tokenizer_file()]
    if manifest.vision.image_newline:
        always.append(newline_file())
    if (checkpoint.folder / QUESTIONS_NAME).is_file():
        always.append(questions_file())
    return [*always, *(make(chosen[name]) for name, make in makers.items() if name in chosen)]


def _write_newline(checkpoint: Checkpoint, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, checkpoint.tensor(NEWLINE), allow_pickle=False)
