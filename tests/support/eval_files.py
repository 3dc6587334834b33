"""A small benchmark in the published format, with pictures that the embedded model knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "blue", "green", "yellow")


def draw(folder: Path) -> None:
    """Draw `pictures/red.png` and so on: a circle of each colour at the top left."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        picture = Image.new("RGB", (112, 112), "white")
        ImageDraw.Draw(picture).ellipse((8, 8, 44, 44), fill=colour)
        picture.save(folder / "pictures" / f"{colour}.png")


def sample(
    number: int | str,
    *turns: tuple[str, str],
    images: tuple[str, ...] = (),
    dataset: str = "colours",
    question_type: str = "open-ended",
    **more: Any,
) -> dict[str, Any]:
    """One sample; `more` are further metadata fields."""
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    return {
        "sample_id": number,
        "conversations": said,
        "image": [f"pictures/{name}.png" for name in images],
        "metadata": {"dataset": dataset, "question_type": question_type, **more},
    }


def colour_samples(count: int) -> list[dict[str, Any]]:
    """Samples that ask for the circle's colour."""
    chosen = [COLOURS[number % len(COLOURS)] for number in range(count)]
    return [
        sample(number, ("<image>What colour is the circle?", f"The circle is {colour}."), images=(colour,))
        for number, colour in enumerate(chosen)
    ]


def write(folder: Path, samples: list[Any], name: str = "bench.json") -> Path:
    """Write samples and pictures: as JSON lines if the name ends in .jsonl, else as a JSON array."""
    draw(folder)
    path = folder / name
    lines = name.endswith(".jsonl")
    path.write_text("\n".join(map(json.dumps, samples)) if lines else json.dumps(samples), "utf-8")
    return path


def results(out: Path) -> list[dict[str, Any]]:
    """All lines of the result files in a folder."""
    files = sorted(out.glob("results*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
