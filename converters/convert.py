"""Checkpoint to bundle: has the files made, one by one, and describes them. Knows no weights and no file format."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from edge_interleave.bundle.manifest import (
    GGUF_NAME,
    MANIFEST_NAME,
    MLX_NAME,
    MMPROJ_NAME,
    ONNX_NAME,
    VISION_NAME,
    Bundle,
    DecoderInfo,
    Manifest,
    open_bundle,
    read_manifest,
)
from edge_interleave.bundle.writer import add_files, build_bundle, check_target
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.prompt import prompt_info
from edge_interleave.converters.checkpoint.reader import Checkpoint, open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles, read_tokenizer
from edge_interleave.converters.gguf.decoder import DEFAULT_QUANTIZATION, QUANTIZATIONS
from edge_interleave.converters.gguf.mmproj import PRECISIONS as MMPROJ_PRECISIONS
from edge_interleave.converters.gguf.mmproj import check_mmproj
from edge_interleave.converters.gguf.quantize import require_llama_cpp
from edge_interleave.converters.mlx.decoder import require_mlx
from edge_interleave.converters.mlx.recipes import DEFAULT_RECIPE, RECIPES
from edge_interleave.converters.onnx.decoder import DEFAULT_PRECISION
from edge_interleave.converters.onnx.decoder import PRECISIONS as ONNX_PRECISIONS
from edge_interleave.converters.onnx.vision import PRECISIONS
from edge_interleave.converters.parts import Part, bundle_parts
from edge_interleave.converters.progress import Progress
from edge_interleave.decoding.registry import best_backend
from edge_interleave.errors import BundleError, InputError, UsageError
from edge_interleave.util.disk_space import require_room
from edge_interleave.util.utf8_path import utf8_text

LOG = logging.getLogger(__name__)
BACKENDS = ("llama-cpp", "mlx", "onnx")
# Of smaller files the content counts, not only the time.
_SMALL_FILE_BYTES = 1 << 20


def convert(
    source: Path | str,
    out: Path,
    *,
    backends: Sequence[str] | None = None,
    quantization: str | None = None,
    mlx_quantization: str | None = None,
    onnx_precision: str | None = None,
    vision_precision: str = "int8",
    mmproj: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Make the bundle folder `out` of a checkpoint: a folder, or a Hub repository id, which is downloaded.

    `backends`, of BACKENDS: what shall run the decoder, which is written for each. Default: those whose quantization
    is given, else the best for this machine. `quantization` (default `q4_k_m`) is of the decoder for llama.cpp,
    `mlx_quantization` (default `4bit`; a recipe of mlx-lm) of that for MLX, `onnx_precision` (default `int8`) of that
    for ONNX Runtime. `mmproj`: `f16` or `q8_0` for an
    `mmproj.gguf` as well, which llama-server and Ollama open beside `decoder.gguf`.
    `name` is what the bundle calls itself (default: `out`'s name). Nobody sees the bundle before it is whole; an
    interrupted run is taken up by the next one with the same arguments. With `force` a bundle at `out` is replaced.
    Without, a bundle at `out` that was made from the same checkpoint at the same precisions gets what it lacks.
    `progress` hears of the download, then of each file.
    Raises UsageError, CheckpointError, InputError where `out` is taken, ResourceError where the disk is too full,
    BackendError where what makes a decoder is not installed or fails.
    """
    precisions = _precisions(backends, quantization, mlx_quantization, onnx_precision, vision_precision, mmproj)
    out = Path(out)
    held = None if force else _held(out)
    if held is None:
        check_target(out, force=force)
    elif not set(precisions) - set(held.precisions):
        have = ", ".join(precisions)
        raise InputError(f"{out}: holds {have} already; give another place, or --force to replace the bundle")
    if MLX_NAME in precisions:
        require_mlx()
    if precisions.get(GGUF_NAME, "f16") != "f16":
        require_llama_cpp()
    with open_checkpoint(source, revision=revision, progress=progress) as checkpoint:
        if mmproj is not None:
            check_mmproj(checkpoint)
        tokenizer = read_tokenizer(checkpoint)
        manifest = _manifest(checkpoint, tokenizer, utf8_text(name or out.resolve().name), precisions)
        if mmproj is not None and manifest.vision.image_newline:
            LOG.warning(
                "%s: lacks the row that follows each image (image_newline); llama-server and Ollama leave it out",
                MMPROJ_NAME,
            )
        parts = bundle_parts(checkpoint, tokenizer, manifest, progress)
        recipe = {
            "checkpoint": fingerprint(checkpoint.folder),
            "created_by": manifest.created_by,
            **{f"precision of {part}": precision for part, precision in precisions.items()},
        }
        if held is not None:
            return _add(out, manifest, parts, recipe)
        with build_bundle(out, recipe, force=force) as build:
            build.needed = _check_room(
                build.out.parent, [part for part in parts if not build.done.keys() >= part.files.keys()]
            )
            for part in parts:
                for file, make in part.files.items():
                    build.add(file, make)
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


def _precisions(
    backends: Sequence[str] | None,
    quantization: str | None,
    mlx_quantization: str | None,
    onnx_precision: str | None,
    vision_precision: str,
    mmproj: str | None,
) -> dict[str, str]:
    """What the call asks for: files or folders of the bundle, with their precisions. Raises UsageError."""
    for what, given, known in (
        ("backend", backends or (), BACKENDS),
        ("quantization", [quantization], QUANTIZATIONS),
        ("MLX quantization", [mlx_quantization], RECIPES),
        ("ONNX precision", [onnx_precision], ONNX_PRECISIONS),
        ("vision precision", [vision_precision], PRECISIONS),
        ("mmproj precision", [mmproj], MMPROJ_PRECISIONS),
    ):
        for value in given:
            if value is not None and value not in known:
                raise UsageError(f"{what} {value!r}: choose one of {', '.join(known)}")
    # mmproj.gguf is of no use without decoder.gguf.
    named = {
        "llama-cpp": ("quantization and mmproj are", quantization is not None or mmproj is not None),
        "mlx": ("MLX quantization is", mlx_quantization is not None),
        "onnx": ("ONNX precision is", onnx_precision is not None),
    }
    chosen = list(backends or ()) or [name for name, (_, given) in named.items() if given] or [best_backend()]
    for backend, (options, is_given) in named.items():
        if is_given and backend not in chosen:
            raise UsageError(f"{options} for the decoder of {backend}; add that backend (--backend {backend})")
    precisions = {}
    if "llama-cpp" in chosen:
        precisions[GGUF_NAME] = quantization or DEFAULT_QUANTIZATION
    if "mlx" in chosen:
        precisions[MLX_NAME] = mlx_quantization or DEFAULT_RECIPE
    if "onnx" in chosen:
        precisions[ONNX_NAME] = onnx_precision or DEFAULT_PRECISION
    precisions[VISION_NAME] = vision_precision
    if mmproj is not None:
        precisions[MMPROJ_NAME] = mmproj
    return precisions


def _held(out: Path) -> Manifest | None:
    """The manifest of the bundle at `out`; None where there is none."""
    try:
        return read_manifest(out / MANIFEST_NAME)
    except BundleError:
        return None


def _manifest(checkpoint: Checkpoint, tokenizer: TokenizerFiles, name: str, precisions: dict[str, str]) -> Manifest:
    config = checkpoint.config
    return Manifest(
        name=name,
        source=checkpoint.source,
        decoder=_decoder_info(checkpoint),
        vision=read_vision_info(
            checkpoint.folder,
            config.vision,
            _parameters(checkpoint, "vision.", "projector."),
            resize=config.resize,
            image_newline=config.image_newline,
        ),
        prompt=prompt_info(checkpoint, tokenizer),
        pooling_mode=config.pooling_mode,
        precisions=precisions,
        files={},
        created_by=f"edge-interleave {version('edge-interleave')}",
    )


def _add(out: Path, wanted: Manifest, parts: Sequence[Part], recipe: dict[str, str]) -> Bundle:
    """Add what the bundle at `out` lacks, where that is what this conversion would make. Raises InputError."""
    bundle = open_bundle(out)
    held = bundle.manifest
    if (held.source, held.decoder, held.vision) != (wanted.source, wanted.decoder, wanted.vision):
        raise InputError(f"{out}: was not made from {wanted.source}; give another place, or --force to replace it")
    both = [name for name in wanted.precisions if name in held.precisions]
    precisions = [" and ".join(manifest.precisions[name] for name in both) for manifest in (held, wanted)]
    if precisions[0] != precisions[1]:
        raise InputError(
            f"{out}: is of {precisions[0]}, not {precisions[1]}; name its own precisions to add to it, or --force to "
            "replace it"
        )
    lacking = [part for part in parts if part.name in wanted.precisions and part.name not in held.precisions]
    needed = _check_room(out.parent, lacking)
    files = {name: make for part in lacking for name, make in part.files.items()}
    return add_files(bundle, files, {part.name: wanted.precisions[part.name] for part in lacking}, recipe, needed)


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


def _check_room(folder: Path, parts: Sequence[Part]) -> int:
    """Refuse before the work where the disk has no room for what is still to be written; the bytes that it takes."""
    return require_room(folder, sum(part.bytes for part in parts))
