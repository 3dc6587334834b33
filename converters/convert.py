"""Checkpoint to bundle: has the files made, one by one, and describes them. Knows no weights and no file format."""

from __future__ import annotations

import hashlib
import math
import shutil
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from edge_interleave.bundle import (
    GGUF_NAME,
    MANIFEST_NAME,
    MMPROJ_NAME,
    TOKENIZER_NAME,
    VISION_NAME,
    Bundle,
    DecoderInfo,
    Manifest,
    open_bundle,
)
from edge_interleave.bundle_writer import BundleWriter, add_file, build_bundle, check_target
from edge_interleave.errors import InputError, ResourceError, UsageError

from .checkpoint import Checkpoint, open_checkpoint
from .gguf import QUANTIZATIONS, write_gguf
from .mmproj import PRECISIONS as MMPROJ_PRECISIONS
from .mmproj import check_mmproj, write_mmproj
from .onnx_vision import PRECISIONS, write_vision_onnx
from .preprocess_info import read_vision_info
from .progress import Progress
from .prompt_info import prompt_info
from .tokenizer_files import read_tokenizer

# Bytes a weight takes, generously: to know beforehand whether the disk has room.
_DECODER_BYTES = {"q4_0": 0.7, "q4_k_m": 0.75, "q5_k_m": 0.85, "q6_k": 0.95, "q8_0": 1.1, "f16": 2.0}
_VISION_BYTES = {"int8": 1.2, "fp16": 2.05, "fp32": 4.05}
_MMPROJ_BYTES = {"f16": 2.05, "q8_0": 1.6}
_MARGIN_BYTES = 64 << 20
# Of smaller files the content counts, not only the time.
_SMALL_FILE_BYTES = 1 << 20


def convert(
    source: Path | str,
    out: Path,
    *,
    quantization: str = "q4_k_m",
    vision_precision: str = "int8",
    mmproj: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Make the bundle folder `out` of a checkpoint: a folder, or a Hub repository id, which is downloaded.

    `name` is what the bundle calls itself (default: `out`'s name). Nobody sees the bundle before it is whole; an
    interrupted run is taken up by the next one with the same arguments. With `force` a bundle at `out` is replaced.
    `mmproj`: `f16` or `q8_0` for an `mmproj.gguf` as well, which llama-server and Ollama open beside `decoder.gguf`;
    where the bundle lies at `out` already, made from the same checkpoint with the same arguments, it is added to it.
    `progress` hears of the download, then of each file.
    Raises UsageError, CheckpointError, InputError where `out` is taken, ResourceError where the disk is too full.
    """
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"quantization {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}")
    if vision_precision not in PRECISIONS:
        raise UsageError(f"vision precision {vision_precision!r}: choose one of {', '.join(PRECISIONS)}")
    if mmproj is not None and mmproj not in MMPROJ_PRECISIONS:
        raise UsageError(f"mmproj precision {mmproj!r}: choose one of {', '.join(MMPROJ_PRECISIONS)}")
    out = Path(out)
    adding = mmproj is not None and not force and (out / MANIFEST_NAME).is_file()
    if not adding:
        check_target(out, force=force)
    with open_checkpoint(source, revision=revision, progress=progress) as checkpoint:
        config = checkpoint.config
        if mmproj is not None:
            check_mmproj(checkpoint)
        tokenizer = read_tokenizer(checkpoint)
        manifest = Manifest(
            name=name or out.resolve().name,
            source=checkpoint.source,
            decoder=_decoder_info(checkpoint),
            vision=read_vision_info(checkpoint.folder, config.vision, _parameters(checkpoint, "vision.", "projector.")),
            prompt=prompt_info(checkpoint, tokenizer),
            pooling_mode=config.pooling_mode,
            precisions={GGUF_NAME: quantization, VISION_NAME: vision_precision},
            files={},
            created_by=f"edge-interleave {version('edge-interleave')}",
        )
        if adding:
            assert mmproj is not None
            return _add_mmproj(checkpoint, out, manifest, mmproj, progress)
        if mmproj is not None:
            manifest.precisions[MMPROJ_NAME] = mmproj
        recipe = {
            "checkpoint": fingerprint(checkpoint.folder),
            "quantization": quantization,
            "vision_precision": vision_precision,
            "mmproj": mmproj or "none",
            "created_by": manifest.created_by,
        }
        with build_bundle(out, recipe, force=force) as build:
            _check_disk(build, manifest)
            _add_files(build, checkpoint, tokenizer.tokenizer, manifest, progress)
            return build.publish(manifest)


def fingerprint(folder: Path) -> str:
    """Tells whether a checkpoint is still the one it was, without reading its weights: names, sizes, times."""
    state = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".safetensors", ".jinja", ".txt") or not path.is_file():
            continue
        about = path.stat()
        state.update(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        if about.st_size <= _SMALL_FILE_BYTES:
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _add_files(
    build: BundleWriter, checkpoint: Checkpoint, tokenizer: Tokenizer, manifest: Manifest, progress: Progress | None
) -> None:
    quantization, precision = (manifest.precisions[name] for name in (GGUF_NAME, VISION_NAME))
    build.add(TOKENIZER_NAME, lambda path: path.write_text(tokenizer.to_str(), "utf-8"))
    build.add(VISION_NAME, lambda path: write_vision_onnx(checkpoint, path, precision, progress))
    build.add(GGUF_NAME, lambda path: write_gguf(checkpoint, path, quantization, progress))
    if MMPROJ_NAME in manifest.precisions:
        mmproj = manifest.precisions[MMPROJ_NAME]
        build.add(MMPROJ_NAME, lambda path: write_mmproj(checkpoint, path, mmproj, progress))


def _add_mmproj(
    checkpoint: Checkpoint, out: Path, wanted: Manifest, precision: str, progress: Progress | None
) -> Bundle:
    """Add the file to the bundle at `out`, where that is what this conversion would make. Raises InputError."""
    bundle = open_bundle(out)
    held = bundle.manifest
    if (held.source, held.decoder, held.vision) != (wanted.source, wanted.decoder, wanted.vision):
        raise InputError(f"{out}: was not made from {wanted.source}; give another place, or --force to replace it")
    precisions = [" and ".join(m.precisions.get(n, "none") for n in (GGUF_NAME, VISION_NAME)) for m in (held, wanted)]
    if precisions[0] != precisions[1]:
        raise InputError(
            f"{out}: is of {precisions[0]}, not {precisions[1]}; name its own precisions to add to it, or --force to "
            "replace it"
        )
    _check_room(out.parent, _MARGIN_BYTES + int(held.vision.parameters * _MMPROJ_BYTES[precision]))
    return add_file(bundle, MMPROJ_NAME, precision, lambda path: write_mmproj(checkpoint, path, precision, progress))


def _decoder_info(checkpoint: Checkpoint) -> DecoderInfo:
    decoder = checkpoint.config.decoder
    return DecoderInfo(
        type=decoder.type,
        hidden_size=decoder.hidden_size,
        layers=decoder.layers,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocab_size,
        context_length=decoder.context_length,
        parameters=_parameters(checkpoint, "decoder."),
    )


def _parameters(checkpoint: Checkpoint, *prefixes: str) -> int:
    return sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names() if name.startswith(prefixes))


def _check_disk(build: BundleWriter, manifest: Manifest) -> None:
    """Refuse before the work where the disk has no room for what is still to be written. Raises ResourceError."""
    quantization, precision = (manifest.precisions[name] for name in (GGUF_NAME, VISION_NAME))
    need = _MARGIN_BYTES
    if VISION_NAME not in build.done:
        need += int(manifest.vision.parameters * _VISION_BYTES[precision])
    if GGUF_NAME not in build.done:
        # Quantizing starts from an f16 file, which is deleted afterwards.
        weights = _DECODER_BYTES[quantization] + (0.0 if quantization == "f16" else 2.0)
        need += int(manifest.decoder.parameters * weights)
    if MMPROJ_NAME in manifest.precisions and MMPROJ_NAME not in build.done:
        need += int(manifest.vision.parameters * _MMPROJ_BYTES[manifest.precisions[MMPROJ_NAME]])
    _check_room(build.out.parent, need)


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ResourceError(
            f"{folder}: {free / 1e9:.1f} GB free where converting needs about {need / 1e9:.1f} GB; "
            "free some, or give a place on another disk"
        )
