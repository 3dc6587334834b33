"""`edge-interleave convert`: converts a checkpoint into a bundle folder. `pull` shares its options and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from edge_interleave.bundle.manifest import (
    GGUF_NAME,
    MANIFEST_NAME,
    MLX_NAME,
    MMPROJ_NAME,
    ONNX_NAME,
    VISION_NAME,
    Bundle,
    PartInfo,
    read_manifest,
)
from edge_interleave.cli import output
from edge_interleave.cli.options import complete_path, json_option
from edge_interleave.converters.precisions import (
    DECODERS,
    DEFAULT_GGUF_QUANTIZATION,
    DEFAULT_MLX_RECIPE,
    DEFAULT_MMPROJ_PRECISION,
    DEFAULT_ONNX_PRECISION,
    DEFAULT_VISION_PRECISION,
    GGUF_QUANTIZATIONS,
    MLX_RECIPES,
    MMPROJ_PRECISIONS,
    ONNX_PRECISIONS,
    VISION_PRECISIONS,
)
from edge_interleave.errors import BundleError

_F = TypeVar("_F", bound=Callable[..., Any])


def precision_options(command: _F) -> _F:
    """Add `--backend`, the option of each decoder's precision and `--vision-precision` to a command."""
    backend = click.option(
        "--backend",
        "backends",
        type=click.Choice(tuple(DECODERS), case_sensitive=False),
        multiple=True,
        help="Make the decoder for this backend; repeat for several decoders.  [default: the backend whose precision "
        "you name, otherwise the fastest on this machine, which 'edge-interleave info' names]",
    )
    gguf = click.option(
        "-q",
        "--quantization",
        type=click.Choice(GGUF_QUANTIZATIONS, case_sensitive=False),
        help=f"Precision of the decoder for llama.cpp.  [default: {DEFAULT_GGUF_QUANTIZATION}]",
    )
    mlx = click.option(
        "--mlx-quantization",
        type=click.Choice(MLX_RECIPES, case_sensitive=False),
        metavar="RECIPE",
        help=f"Precision of the decoder for MLX, a recipe of mlx-lm: {', '.join(MLX_RECIPES)}. Groups have 64 values "
        f"(mxfp4: 32); f16 quantizes nothing.  [default: {DEFAULT_MLX_RECIPE}]",
    )
    onnx = click.option(
        "--onnx-precision",
        type=click.Choice(ONNX_PRECISIONS, case_sensitive=False),
        help="Precision of the decoder for ONNX Runtime; int4 takes less memory and more time, f16 is for GPUs.  "
        f"[default: {DEFAULT_ONNX_PRECISION}]",
    )
    vision = click.option(
        "--vision-precision",
        type=click.Choice(VISION_PRECISIONS, case_sensitive=False),
        help=f"Precision of the vision tower; int8 is the fastest on CPUs.  [default: {DEFAULT_VISION_PRECISION}]",
    )
    return backend(gguf(mlx(onnx(vision(command)))))


class ConvertCommand(click.Command):
    """A command whose `--mmproj` takes the next word only if it is a precision, so the option can stand anywhere."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give `--mmproj` its default precision if none follows; Click would take any next word as its value."""
        following = [*args[1:], ""]
        args = [
            f"--mmproj={DEFAULT_MMPROJ_PRECISION}"
            if arg == "--mmproj" and after.lower() not in MMPROJ_PRECISIONS
            else arg
            for arg, after in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, args)


@click.command(cls=ConvertCommand)
@click.argument("source", shell_complete=complete_path)
@click.argument("out", type=click.Path(path_type=Path))
@precision_options
@click.option(
    "--mmproj",
    type=click.Choice(MMPROJ_PRECISIONS, case_sensitive=False),
    is_flag=False,
    flag_value=DEFAULT_MMPROJ_PRECISION,
    help=f"Make mmproj.gguf too, for llama-server and Ollama; {DEFAULT_MMPROJ_PRECISION} unless you name a precision.",
)
@click.option("--name", help="The bundle's name.  [default: the name of OUT]")
@click.option("--revision", help="Branch, tag or commit, if SOURCE is a Hub repository.")
@click.option("--force", is_flag=True, help="Replace the bundle at OUT. It stays until the new one is complete.")
@json_option()
def convert(
    source: str,
    out: Path,
    backends: tuple[str, ...],
    quantization: str | None,
    mlx_quantization: str | None,
    onnx_precision: str | None,
    vision_precision: str | None,
    mmproj: str | None,
    name: str | None,
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SOURCE, a folder or a Hub repository, into the bundle folder OUT.

    An interrupted conversion resumes when you run the same command again. If OUT already holds a bundle of the same
    checkpoint, the files it lacks are added: another backend's decoder, mmproj.gguf. Precisions you do not name
    are then those of that bundle.
    """
    from edge_interleave.converters.convert import convert as make_bundle

    existing = {} if force else _existing_precisions(out)
    if quantization is None and (mmproj is not None or "llama-cpp" in backends):
        quantization = existing.get(GGUF_NAME)
    if mlx_quantization is None and "mlx" in backends:
        mlx_quantization = existing.get(MLX_NAME)
    if onnx_precision is None and "onnx" in backends:
        onnx_precision = existing.get(ONNX_NAME)
    with output.progress() as progress:
        bundle = make_bundle(
            source,
            out,
            backends=backends or None,
            quantization=quantization,
            mlx_quantization=mlx_quantization,
            onnx_precision=onnx_precision,
            vision_precision=vision_precision or existing.get(VISION_NAME, DEFAULT_VISION_PRECISION),
            mmproj=mmproj,
            name=name,
            revision=revision,
            force=force,
            progress=progress,
        )
    report(bundle, str(out), as_json)


def part_lines(part: PartInfo, precision: str) -> list[str]:
    """Lines about one file of a bundle: bits per weight, accuracy, and matrices of a fallback type."""
    lines = [f"{part.bits_per_weight:.2f} bits per weight"]
    if part.cosine is not None:
        lines.append(f"lowest cosine to fp32 {part.cosine:.4f}")
    for kind, stored in part.matrices.items():
        if not stored.as_named:
            share = f"{stored.count} of {part.total} matrices are {kind}"
            lines.append(f"{share}, since {precision} does not fit them: {', '.join(stored.names)}")
    return lines


def report(bundle: Bundle, model: str, as_json: bool) -> None:
    """Print what was made and how to use it. `model`: what to give as `--model`."""
    size = sum(file.bytes for file in bundle.manifest.files.values())
    if as_json:
        facts = {"name": bundle.manifest.name, "folder": str(bundle.folder), "bytes": size, "model": model}
        output.print_json({**facts, "parts": {name: asdict(part) for name, part in bundle.manifest.parts.items()}})
        return
    output.note(f"{bundle.folder}: {output.size(size)}")
    for name, part in bundle.manifest.parts.items():
        output.note(f"{name}: {'; '.join(part_lines(part, bundle.manifest.precisions.get(name, '')))}")
    output.note(f"try: edge-interleave ask 'What changed?' --image a.png --image b.png --model {model}")
    if bundle.has(MMPROJ_NAME):
        decoder, mmproj = (bundle.folder / name for name in (GGUF_NAME, MMPROJ_NAME))
        output.note(f"or: llama-server --model {decoder} --mmproj {mmproj}")


def _existing_precisions(out: Path) -> dict[str, str]:
    """Precisions of the bundle at `out`; empty if there is no bundle."""
    try:
        return read_manifest(out / MANIFEST_NAME).precisions
    except BundleError:
        return {}
