"""`edge-interleave info`: the parts of a bundle, or the installed libraries and backends."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import (
    GGUF_NAME,
    MLX_NAME,
    ONNX_NAME,
    VISION_NAME,
    Bundle,
    Manifest,
    open_bundle,
    verify,
)
from edge_interleave.cli import output
from edge_interleave.cli.options import complete_model, json_option
from edge_interleave.errors import BackendError

_LIBRARIES = (
    "llama-cpp-python",
    "mlx",
    "mlx-lm",
    "onnxruntime",
    "av",
    "opencv-python",
    "pillow",
    "numpy",
    "tokenizers",
    "huggingface_hub",
)


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--verify", "check", is_flag=True, help="Check every file against its SHA-256 in bundle.json.")
@json_option()
def info(model: str | None, check: bool, as_json: bool) -> None:
    """Show what MODEL consists of: its decoder, vision tower, files and precisions.

    MODEL is a stored model's name, a bundle's folder, or `embedded`. Without MODEL, show the installed libraries and
    backends.
    """
    if model is None:
        if check:
            raise click.UsageError("--verify needs a MODEL")
        facts = _installation()
    else:
        bundle = open_bundle(store.resolve(model))
        if check:
            verify(bundle)
        facts = _bundle(bundle)
        if check:
            facts["verified"] = True
    if as_json:
        output.print_json(facts)
        return
    files = facts.pop("files", {})
    out = output.out()
    out.print(output.table(("", ""), _rows(facts)))
    if files:
        rows = [(name, output.size(file["bytes"]), file["precision"] or "") for name, file in files.items()]
        out.print()
        out.print(output.table(("file", "size", "precision"), rows, right=("size",)))
    if check:
        output.note("every file matches its SHA-256")


def _bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    decoder, vision = manifest.decoder, manifest.vision
    return {
        "name": manifest.name,
        "folder": str(bundle.folder),
        "source": manifest.source,
        **({"family": manifest.family} if manifest.family else {}),
        "created_by": manifest.created_by,
        "schema_version": manifest.schema_version,
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "decoder": {
            "type": decoder.type,
            "parameters": decoder.parameters,
            "layers": decoder.layers,
            "hidden_size": decoder.hidden_size,
            "heads": decoder.heads,
            "kv_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
            "vocab_size": decoder.vocab_size,
            "context_length": decoder.context_length,
            "precisions": {
                name: manifest.precisions.get(name, "?")
                for name in (GGUF_NAME, MLX_NAME, ONNX_NAME)
                if bundle.has(name)
            },
        },
        "vision": {
            "type": vision.type,
            "parameters": vision.parameters,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "tokens_per_image": vision.tokens + vision.image_newline,
            "image_newline": vision.image_newline,
            "pooling_mode": manifest.pooling_mode,
            **_trained_for(manifest),
        },
        "files": {
            name: {"bytes": file.bytes, "precision": manifest.precision(name), "sha256": file.sha256}
            for name, file in manifest.files.items()
        },
        "parts": {
            name: {"precision": manifest.precisions.get(name), **asdict(part)} for name, part in manifest.parts.items()
        },
        "runs_here_with": _engines(bundle),
    }


def _trained_for(manifest: Manifest) -> dict[str, Any]:
    """How a model of the wider LLaVA family sees tiles and video; empty for other models."""
    from edge_interleave.vision.merge import most_merged_tokens
    from edge_interleave.vision.pooling import tokens_of_frame

    vision = manifest.vision
    facts: dict[str, Any] = {}
    if vision.tiling is not None:
        facts["tiles"] = "each image" if vision.tiling.several else "an image that is alone"
        facts["tokens_per_image_in_tiles_at_most"] = most_merged_tokens(
            vision.grid, vision.tiling, newline=vision.image_newline
        )
    if vision.video is not None:
        facts["tokens_per_video_frame"] = tokens_of_frame(vision, vision.video.stride, manifest.pooling_mode)
        facts["video_pooling_stride"] = vision.video.stride
        if vision.image_newline:
            facts["image_newline_in_video"] = vision.video.newline
        facts["time_instruction"] = vision.video.times
    return facts


def _engines(bundle: Bundle) -> dict[str, str]:
    """The backend and the execution providers that would run the bundle on this machine."""
    from edge_interleave.decoding.registry import backend_for
    from edge_interleave.util.providers import decoder_provider, tower_provider

    try:
        backend = backend_for(bundle, None).name
    except BackendError as error:
        backend = str(error)
    precisions = bundle.manifest.precisions
    engines = {"backend": backend, "vision_provider": tower_provider(precisions.get(VISION_NAME)).name}
    if backend == "onnx":
        engines["decoder_provider"] = decoder_provider(precisions.get(ONNX_NAME)).name
    return engines


def _installation() -> dict[str, Any]:
    from edge_interleave.decoding.registry import backend_names, choose_backend

    best = choose_backend()
    return {
        "edge-interleave": _version("edge-interleave"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "models_folder": str(store.known_models_folder() or f"none: set {store.HOME_VARIABLE}"),
        "backends": {name: _backend_problem(name) or "ready" for name in backend_names()},
        "default_backend": f"{best.name}: {best.reason}",
        "execution_providers": _providers(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _rows(facts: dict[str, Any], indent: str = "") -> list[tuple[str, str]]:
    """Rows of names and values; nested values are indented."""
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if name == "parts":
            rows += [(name, ""), *_part_rows(value)] if value else []
        elif isinstance(value, dict):
            rows += [(indent + name.replace("_", " "), ""), *_rows(value, indent + "  ")]
        elif isinstance(value, list):
            rows.append((indent + name.replace("_", " "), ", ".join(value)))
        elif name == "bytes":
            rows.append((indent + "size", output.size(value)))
        elif name == "parameters":
            rows.append((indent + name, f"{value / 1e6:,.1f} M"))
        else:
            rows.append((indent + name.replace("_", " "), str(value)))
    return rows


def _part_rows(parts: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of what the conversion measured: bits per weight, cosine, and the number of matrices of each type."""
    rows = []
    for name, part in parts.items():
        rows.append((f"  {name}", f"{part['bits_per_weight']:.2f} bits per weight"))
        if part["cosine"] is not None:
            rows.append(("    lowest cosine to fp32", f"{part['cosine']:.4f}"))
        total = sum(stored["count"] for stored in part["matrices"].values())
        for kind, stored in part["matrices"].items():
            names = ", ".join(stored["names"])
            why = "" if stored["as_named"] else f", since {part['precision']} does not fit them: {names}"
            rows.append((f"    {kind}", f"{stored['count']} of {total} matrices{why}"))
    return rows


def _backend_problem(name: str) -> str | None:
    from edge_interleave.decoding.registry import find_backend

    try:
        find_backend(name)
    except BackendError as error:
        return str(error)
    return None


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return [str(name) for name in onnxruntime.get_available_providers()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
