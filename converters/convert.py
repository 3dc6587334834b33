"""Converts a checkpoint into a bundle: makes its files one by one and writes its manifest."""

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
    SCHEMA_VERSION,
    VISION_NAME,
    Bundle,
    DecoderInfo,
    Manifest,
    open_bundle,
    read_manifest,
)
from edge_interleave.bundle.writer import add_files, build_bundle, check_target
from edge_interleave.converters.checkpoint.config import ModelConfig
from edge_interleave.converters.checkpoint.family import family_name
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.prompt import prompt_info
from edge_interleave.converters.checkpoint.reader import Checkpoint, open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import TokenizerFiles, read_tokenizer
from edge_interleave.converters.gguf.mmproj import check_mmproj
from edge_interleave.converters.gguf.quantize import require_llama_cpp
from edge_interleave.converters.mlx.decoder import require_mlx
from edge_interleave.converters.parts import Part, bundle_parts
from edge_interleave.converters.precisions import (
    DECODERS,
    DEFAULT_GGUF_QUANTIZATION,
    DEFAULT_MLX_RECIPE,
    DEFAULT_ONNX_PRECISION,
    DEFAULT_VISION_PRECISION,
    GGUF_QUANTIZATIONS,
    MLX_RECIPES,
    MMPROJ_PRECISIONS,
    ONNX_PRECISIONS,
    VISION_PRECISIONS,
)
from edge_interleave.converters.progress import Progress
from edge_interleave.decoding.registry import best_backend
from edge_interleave.errors import BundleError, InputError, UsageError
from edge_interleave.util.disk_space import require_room
from edge_interleave.util.utf8_path import utf8_text

LOG = logging.getLogger(__name__)
_SMALL_FILE_BYTES = 1 << 20
"""Files up to this size count in a fingerprint with their content, larger ones with their time of change."""


def convert(
    source: Path | str,
    out: Path | str,
    *,
    backends: Sequence[str] | None = None,
    quantization: str | None = None,
    mlx_quantization: str | None = None,
    onnx_precision: str | None = None,
    vision_precision: str = DEFAULT_VISION_PRECISION,
    mmproj: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a LLaVA-NeXT-Interleave checkpoint into a bundle: the folder that `edge_interleave.load` opens.

        bundle = convert("llava-hf/llava-interleave-qwen-0.5b-hf", "interleave-0.5b", mlx_quantization="8bit")
        model = edge_interleave.load(bundle.folder)

    The bundle appears at `out` when it is complete. An interrupted conversion resumes when the call is repeated. If
    `out` holds a bundle of the same checkpoint at the same precisions, only the files it lacks are made, such as the
    decoder of another backend. Weights are streamed: memory holds some rows of a matrix, and up to 1 GiB for MLX.

    Args:
        source: A checkpoint's folder, or a repository of the Hugging Face Hub (`owner/name`), which is downloaded.
        out: The bundle's folder.
        backends: The decoders to make: `llama-cpp` (`decoder.gguf`), `mlx` (`decoder-mlx/`), `onnx`
            (`decoder-onnx/`). Default: those whose precision is given; otherwise the fastest on this machine
            (`edge_interleave.decoding.registry.best_backend`).
        quantization: Of `decoder.gguf`: `q4_k_m` (the default), `q4_0`, `q5_k_m`, `q6_k`, `q8_0` or `f16`.
        mlx_quantization: Of `decoder-mlx/`, a recipe of mlx-lm: `4bit` (the default), `8bit`, `6bit`, `3bit`,
            `mixed_2_6`, `mixed_3_4`, `mixed_3_6`, `mixed_4_6`, `mxfp4` or `f16`.
        onnx_precision: Of `decoder-onnx/`: `int8` (the default), `int4`, `f16` or `f32`.
        vision_precision: Of the vision tower and projector, `vision.onnx`: `int8`, `fp16` or `fp32`.
        mmproj: `f16` or `q8_0` to make `mmproj.gguf` too, which llama-server and Ollama open with `decoder.gguf`.
        name: The bundle's name. Default: the name of the folder `out`.
        revision: Branch, tag or commit of a Hub repository.
        force: Replace the bundle at `out`. It stays until the new one is complete.
        progress: Called with a stage, the work done and the work in all: first `download`, then a stage for each file.

    Returns:
        The bundle at `out`.

    Raises:
        UsageError: An unknown backend or precision, or a precision for a decoder that is not made.
        CheckpointError: The checkpoint is incomplete, damaged or of another architecture.
        InputError: `out` is taken, or another process is building it.
        ResourceError: The disk has too little room.
        BackendError: The library that makes a decoder is not installed, or failed.
    """
    precisions = _precisions(backends, quantization, mlx_quantization, onnx_precision, vision_precision, mmproj)
    out = Path(out)
    held = None if force else _existing_manifest(out)
    if held is None:
        check_target(out, force=force)
    elif not set(precisions) - set(held.precisions):
        have = ", ".join(precisions)
        raise InputError(f"{out}: already has {have}; give another folder, or --force to replace the bundle")
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
                "%s: llama-server and Ollama leave out the row that this model puts after each image (image_newline)",
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
    """A digest of a checkpoint's names, sizes and times of change, and of the content of its small files."""
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
    """The precision of each file or folder to make. Raises UsageError."""
    for what, given, known in (
        ("backend", backends or (), tuple(DECODERS)),
        ("quantization", [quantization], GGUF_QUANTIZATIONS),
        ("MLX quantization", [mlx_quantization], MLX_RECIPES),
        ("ONNX precision", [onnx_precision], ONNX_PRECISIONS),
        ("vision precision", [vision_precision], VISION_PRECISIONS),
        ("mmproj precision", [mmproj], MMPROJ_PRECISIONS),
    ):
        for value in given:
            if value is not None and value not in known:
                raise UsageError(f"{what} {value!r}: choose one of {', '.join(known)}")
    # mmproj.gguf is useless without decoder.gguf.
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
        precisions[GGUF_NAME] = quantization or DEFAULT_GGUF_QUANTIZATION
    if "mlx" in chosen:
        precisions[MLX_NAME] = mlx_quantization or DEFAULT_MLX_RECIPE
    if "onnx" in chosen:
        precisions[ONNX_NAME] = onnx_precision or DEFAULT_ONNX_PRECISION
    precisions[VISION_NAME] = vision_precision
    if mmproj is not None:
        precisions[MMPROJ_NAME] = mmproj
    return precisions


def _existing_manifest(out: Path) -> Manifest | None:
    """The manifest of the bundle at `out`; None if there is no bundle."""
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
        vision=read_vision_info(checkpoint.folder, config, _parameters(checkpoint, "vision.", "projector.")),
        prompt=prompt_info(checkpoint, tokenizer),
        pooling_mode=config.pooling_mode,
        precisions=precisions,
        files={},
        schema_version=_schema_version(config),
        created_by=f"edge-interleave {version('edge-interleave')}",
        family=family_name(config),
    )


def _schema_version(config: ModelConfig) -> int:
    """The lowest version whose programs understand the bundle."""
    newer = config.tiling is not None or config.video is not None or config.vision.first_patch_dropped
    return SCHEMA_VERSION if newer or config.decoder.type == "qwen3" else 1


def _add(out: Path, wanted: Manifest, parts: Sequence[Part], recipe: dict[str, str]) -> Bundle:
    """Add the files that the bundle at `out` lacks. Raises InputError if this conversion would make another bundle."""
    bundle = open_bundle(out)
    held = bundle.manifest
    if (held.source, held.decoder, held.vision) != (wanted.source, wanted.decoder, wanted.vision):
        raise InputError(f"{out}: not a bundle of {wanted.source}; give another folder, or --force to replace it")
    both = [name for name in wanted.precisions if name in held.precisions]
    precisions = [" and ".join(manifest.precisions[name] for name in both) for manifest in (held, wanted)]
    if precisions[0] != precisions[1]:
        raise InputError(
            f"{out}: its precision is {precisions[0]}, not {precisions[1]}; give its own to add files, or --force to "
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
    """Bytes that the parts need on the disk. Raises ResourceError if they do not fit."""
    return require_room(folder, sum(part.bytes for part in parts))
