"""`edge-interleave demo`: a short tour with the embedded model, on pictures that ship with the package.

`embedded/demo/tour.json` lists the stops: `{"title", "images": [file], "video": file or null, "question",
"follow_up": question or null}`, with files in the same folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_interleave import embedded
from edge_interleave.cli import output
from edge_interleave.cli.options import backend_option, json_option, threads_option
from edge_interleave.errors import InputError
from edge_interleave.prompt.messages import Image, Media, Video

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from edge_interleave.answer import Answer
    from edge_interleave.model import Model

_FRAMES = 8
_PURPOSE = (
    "This is the embedded model ({size:.1f} million parameters, {bytes} on disk). It lets you try edge-interleave "
    "without a download. It knows drawn shapes and things, their colours and places, signs, several images at a time "
    "and short videos. It does not understand photographs."
)
_NEXT = (
    "Ask it yourself:    edge-interleave ask 'Describe the image.' -i drawing.png\n"
    "Get the real model: edge-interleave pull llava-hf/llava-interleave-qwen-0.5b-hf"
)


@dataclass(frozen=True)
class Stop:
    """One stop of the tour."""

    title: str
    question: str
    images: tuple[str, ...] = ()
    video: str | None = None
    follow_up: str | None = None


@dataclass
class StopResult:
    """The questions and answers of a stop."""

    stop: Stop
    pictures: list[Picture] = field(repr=False)
    exchanges: list[tuple[str, Answer]] = field(default_factory=list)


def tour_folder() -> Path:
    """The folder of the tour that ships with the package."""
    return embedded.DEMO


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("edge-interleave-demo.png"),
    show_default=True,
    help="Save all pictures and answers as one picture: .png, .jpg or .webp.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save the tour's pictures and its video into this folder, for questions of your own.",
)
@backend_option
@threads_option
@json_option()
def demo(out: Path, pictures: Path | None, backend: str | None, threads: int | None, as_json: bool) -> None:
    """Take a short tour with the embedded model: several images, a video, follow-up questions."""
    from edge_interleave.cli.pictures import check_sheet
    from edge_interleave.model import load

    check_sheet(out)
    stops = read_tour(tour_folder())
    if pictures is not None:
        save_pictures(tour_folder(), stops, pictures)
    with load(backend=backend, threads=threads) as model:
        results = run_tour(model, tour_folder(), stops, out, quiet=as_json)
    if as_json:
        output.print_json(
            {"model": model.bundle.manifest.name, "sheet": str(out), "stops": [_json(result) for result in results]}
        )


def read_tour(folder: Path) -> list[Stop]:
    """The stops of a tour. Raises InputError if `tour.json` is missing or damaged."""
    path = folder / "tour.json"
    try:
        stops = [
            Stop(raw["title"], raw["question"], tuple(raw.get("images") or ()), raw.get("video"), raw.get("follow_up"))
            for raw in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged tour ({type(error).__name__}: {error}); reinstall edge-interleave"
        ) from error
    return stops


def save_pictures(folder: Path, stops: list[Stop], target: Path) -> None:
    """Copy the pictures and the video of all stops into `target`, creating the folder if it is missing.

    Raises InputError if `target` cannot be written, or, before anything is written, if it has a different file of the
    same name.
    """
    from edge_interleave.util.atomic_file import atomic_file

    names = [name for stop in stops for name in (*stop.images, stop.video) if name]
    for name in names:
        present = target / name
        if present.exists() and not (present.is_file() and present.read_bytes() == (folder / name).read_bytes()):
            raise InputError(f"{present}: a different file of this name exists; choose another folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be created ({error.strerror}); choose another folder") from error
    for name in names:
        with atomic_file(target / name, remedy="choose another folder") as temporary:
            temporary.write_bytes((folder / name).read_bytes())


def run_tour(model: Model, folder: Path, stops: list[Stop], out: Path, *, quiet: bool) -> list[StopResult]:
    """Ask the questions of all stops, print them unless `quiet`, and save the sheet to `out`."""
    from rich.padding import Padding
    from rich.text import Text

    from edge_interleave.cli.pictures import SheetPart, row, save_sheet, show

    console = output.out()
    manifest = model.bundle.manifest
    purpose = _PURPOSE.format(
        size=(manifest.decoder.parameters + manifest.vision.parameters) / 1e6,
        bytes=output.size(sum(file.bytes for file in manifest.files.values())),
    )
    if not quiet:
        console.print(purpose)
    results = []
    for number, stop in enumerate(stops, 1):
        media, pictures = _open(folder, stop)
        result = StopResult(stop, pictures)
        if not quiet:
            console.print(f"\n{number}. {stop.title}", style="bold")
            if not show(console, row(pictures)):
                console.print(f"[{_description(stop, len(pictures))}]", style="dim")
        with model.chat() as talk:
            parts: list[Any] = list(media)
            for question in filter(None, (stop.question, stop.follow_up)):
                if not quiet:
                    console.print(f"   > {question}", style="cyan")
                answer = talk.ask([*parts, question])
                result.exchanges.append((question, answer))
                parts = []
                if not quiet:
                    answer_text = Text.assemble(output.printable(answer.text), (f"   ({_cost(answer)})", "dim"))
                    console.print(Padding(answer_text, (0, 0, 0, 3), expand=False))
        results.append(result)
    heading = "edge-interleave demo"
    save_sheet(
        out, heading, [SheetPart(r.stop.title, r.pictures, [(q, a.text) for q, a in r.exchanges]) for r in results]
    )
    if not quiet:
        console.print(f"\nAll pictures and answers: {out}\n\n{_NEXT}")
    return results


def _open(folder: Path, stop: Stop) -> tuple[list[Media], list[Picture]]:
    from edge_interleave.media.clip import sample_clip
    from edge_interleave.media.pictures.image import open_image

    media: list[Media] = [Image(folder / name) for name in stop.images]
    pictures = [open_image(folder / name) for name in stop.images]
    if stop.video:
        media.append(Video(folder / stop.video, _FRAMES))
        pictures += [frame.image for frame in sample_clip(folder / stop.video, _FRAMES)]
    return media, pictures


def _description(stop: Stop, pictures: int) -> str:
    if stop.video:
        return f"{stop.video}: {pictures - len(stop.images)} frames" + (
            f", {len(stop.images)} images" * bool(stop.images)
        )
    return f"{pictures} image{'s' if pictures > 1 else ''}: {', '.join(stop.images)}"


def _cost(answer: Answer) -> str:
    stats = answer.stats
    new = stats.prompt_tokens - stats.cached_tokens
    reused = f"; {stats.cached_tokens} reused" if stats.cached_tokens else ""
    return f"first token after {stats.first_token_s:.2f} s; {new} new tokens{reused}"


def _json(result: StopResult) -> dict[str, Any]:
    exchanges = [
        {
            "question": question,
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "stats": asdict(answer.stats),
        }
        for question, answer in result.exchanges
    ]
    return {**asdict(result.stop), "exchanges": exchanges}
