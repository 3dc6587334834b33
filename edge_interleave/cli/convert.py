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
from edge_interleave.errors import BundleError

DECODERS = {"llama-cpp": GGUF_NAME, "mlx": MLX_NAME, "onnx": ONNX_NAME}
"""Backend to the file or folder that is its decoder in a bundle."""
QUANTIZATIONS = ("q4_k_m", "q4_0", "q5_k_m", "q6_k", "q8_0", "f16")
MLX_QUANTIZATIONS = (
    "4bit", "8bit", "6bit", "3bit", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6", "mxfp4", "f16"
)  # fmt: skip
ONNX_PRECISIONS = ("int8", "int4", "f16", "f32")
PRECISIONS = ("int8", "fp16", "fp32")
VISION_PRECISION = "int8"
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
        onnx_precision: str | None,
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
    """`--backend`, one option for the precision of each decoder, and `--vision-precision`."""
    backend = click.option(
        "--backend",
        "backends",
        type=click.Choice(tuple(DECODERS), case_sensitive=False),
        multiple=True,
        help="What shall run the decoder; repeat for a bundle with several decoders.  [default: the one whose "
        "precision is given, else the best for this machine: see 'edge-interleave info']",
    )
    gguf = click.option(
        "-q",
        "--quantization",
        type=click.Choice(QUANTIZATIONS, case_sensitive=False),
        help="Of the decoder for llama.cpp.  [default: q4_k_m]",
    )
    mlx = click.option(
        "--mlx-quantization",
        type=click.Choice(MLX_QUANTIZATIONS, case_sensitive=False),
        metavar="RECIPE",
        help=f"Of the decoder for MLX, one of mlx-lm's recipes: {', '.join(MLX_QUANTIZATIONS)} (which quantizes "
        "nothing); in groups of 64 (mxfp4: 32).  [default: 4bit]",
    )
    onnx = click.option(
        "--onnx-precision",
        type=click.Choice(ONNX_PRECISIONS, case_sensitive=False),
        help="Of the decoder for ONNX Runtime; int4 takes less memory and more time.  [default: int8]",
    )
    vision = click.option(
        "--vision-precision",
        type=click.Choice(PRECISIONS, case_sensitive=False),
        help=f"Of the vision tower; int8 is the fastest on CPUs.  [default: {VISION_PRECISION}]",
    )
    return backend(gguf(mlx(onnx(vision(command)))))


class ConvertCommand(click.Command):
    """A command whose `--mmproj` takes the next word only where that is a precision, so that it may stand first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does, which would take any word behind the option as its value."""
        following = [*args[1:], ""]
        args = [
            f"--mmproj={MMPROJ_PRECISIONS[0]}"
            if (arg, after.lower() in MMPROJ_PRECISIONS) == ("--mmproj", False)
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
    flag_value="f16",
    help="Write mmproj.gguf too, for llama-server and Ollama; f16 where no precision is given.",
)
@click.option("--name", help="What the bundle calls itself (default: OUT's name).")
@click.option("--revision", help="Branch, tag or commit, where SOURCE is a Hub repository.")
@click.option("--force", is_flag=True, help="Replace the bundle that lies at OUT; it stays until the new one is whole.")
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

    An interrupted conversion is taken up by the next one with the same arguments. A bundle that lies at OUT already,
    of the same checkpoint, gets what it lacks: the other backend's decoder, mmproj.gguf. Precisions that are not given
    are then those of that bundle.
    """
    held = {} if force else _held(out)
    if quantization is None and (mmproj is not None or "llama-cpp" in backends):
        quantization = held.get(GGUF_NAME)
    if mlx_quantization is None and "mlx" in backends:
        mlx_quantization = held.get(MLX_NAME)
    if onnx_precision is None and "onnx" in backends:
        onnx_precision = held.get(ONNX_NAME)
    with output.progress() as progress:
        bundle = converter()(
            source,
            out,
            backends=backends or None,
            quantization=quantization,
            mlx_quantization=mlx_quantization,
            onnx_precision=onnx_precision,
            vision_precision=vision_precision or held.get(VISION_NAME, VISION_PRECISION),
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


def _held(out: Path) -> dict[str, str]:
    """Precisions of the bundle at `out`; none where there is no bundle."""
    try:
        return read_manifest(out / MANIFEST_NAME).precisions
    except BundleError:
        return {}


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
