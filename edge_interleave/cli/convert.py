"""`edge-interleave convert`: a checkpoint to a bundle's folder; and what `pull` shares with it.

The converters are found by name, like backends: nothing here is imported from them before they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import click

from ..bundle import GGUF_NAME, MLX_NAME, MMPROJ_NAME, Bundle, PartInfo
from . import output

DECODERS = {"llama-cpp": GGUF_NAME, "mlx": MLX_NAME}
"""Backend to the file or folder that is its decoder in a bundle."""
QUANTIZATIONS = ("q4_k_m", "q4_0", "q5_k_m", "q6_k", "q8_0", "f16")
MLX_QUANTIZATIONS = (
    "4bit", "8bit", "6bit", "3bit", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6", "mxfp4", "f16"
)  # fmt: skip
PRECISIONS = ("int8", "fp16", "fp32")
MMPROJ_PRECISIONS = ("f16", "q8_0")
_F = TypeVar("_F", bound=Callable[..., Any])


class ConvertCall(Protocol):
    """`edge_interleave.converters.convert.convert`."""

    def __call__(
        self,
        source: Path | str,
        out: Path,
        *,
        backends: Sequence[str] | None,
        quantization: str | None,
        mlx_quantization: str | None,
        vision_precision: str,
        mmproj: str | None = None,
        name: str | None,
        revision: str | None,
        force: bool,
        progress: output.ProgressCall | None,
    ) -> Bundle:
        """Make the bundle."""
        ...


def converter() -> ConvertCall:
    """The converters' entry, imported now."""
    return cast(ConvertCall, import_module("edge_interleave.converters.convert").convert)


def precision_options(command: _F) -> _F:
    """`--backend`, `--quantization`, `--mlx-quantization` and `--vision-precision`."""
    backend = click.option(
        "--backend",
        "backends",
        type=click.Choice(tuple(DECODERS), case_sensitive=False),
        multiple=True,
        help="What shall run the decoder; twice for a bundle with both decoders.  [default: the one whose quantization "
        "is given, else mlx on Apple Silicon and llama-cpp elsewhere]",
    )
    gguf = click.option(
        "--quantization",
        type=click.Choice(QUANTIZATIONS, case_sensitive=False),
        help="Of the decoder for llama.cpp.  [default: q4_k_m]",
    )
    mlx = click.option(
        "--mlx-quantization",
        type=click.Choice(MLX_QUANTIZATIONS, case_sensitive=False),
        help="Of the decoder for MLX: mlx-lm's recipes, in groups of 64 (mxfp4: 32); f16 quantizes nothing.  "
        "[default: 4bit]",
    )
    vision = click.option(
        "--vision-precision",
        type=click.Choice(PRECISIONS, case_sensitive=False),
        default="int8",
        show_default=True,
        help="Of the vision tower; int8 is the fastest on CPUs.",
    )
    return backend(gguf(mlx(vision(command))))


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@precision_options
@click.option(
    "--mmproj",
    type=click.Choice(MMPROJ_PRECISIONS, case_sensitive=False),
    is_flag=False,
    flag_value="f16",
    help="Write mmproj.gguf too, for llama-server and Ollama: --mmproj (at the end) or --mmproj=q8_0.",
)
@click.option("--name", help="What the bundle calls itself (default: OUT's name).")
@click.option("--revision", help="Branch, tag or commit, where SOURCE is a Hub repository.")
@click.option("--force", is_flag=True, help="Replace the bundle that lies at OUT; it stays until the new one is whole.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def convert(
    source: str,
    out: Path,
    backends: tuple[str, ...],
    quantization: str | None,
    mlx_quantization: str | None,
    vision_precision: str,
    mmproj: str | None,
    name: str | None,
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SOURCE, a folder or a Hub repository, into the bundle folder OUT.

    An interrupted conversion is taken up by the next one with the same arguments. A bundle that lies at OUT already,
    of the same checkpoint and precisions, gets what it lacks: the other backend's decoder, mmproj.gguf.
    """
    with output.progress() as progress:
        bundle = converter()(
            source,
            out,
            backends=backends or None,
            quantization=quantization,
            mlx_quantization=mlx_quantization,
            vision_precision=vision_precision,
            mmproj=mmproj,
            name=name,
            revision=revision,
            force=force,
            progress=progress,
        )
    tell(bundle, str(out), as_json)


def part_lines(part: PartInfo, precision: str) -> list[str]:
    """What a conversion found out about a part, for people: bits a weight, and the matrices that differ."""
    lines = [f"{part.bits_per_weight:.2f} bits a weight"]
    if part.cosine is not None:
        lines.append(f"least cosine to fp32 {part.cosine:.4f}")
    for kind, stored in part.matrices.items():
        if not stored.as_named:
            share = f"{stored.count} of {part.total} matrices fall back to {kind}"
            lines.append(f"{share}, as {precision} does not fit: {', '.join(stored.names)}")
    return lines


def tell(bundle: Bundle, model: str, as_json: bool) -> None:
    """Say what was made, and what to do with it."""
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
