"""Files with a few flipped bits, identical on every machine. The program must answer or print one error line."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from support import pictures

Made = Callable[[Path, random.Random, Path, Path], list[object]]
"""Takes a folder, a random source, a valid checkpoint and a valid bundle; writes a damaged file, returns a command."""

GGUF_HEADER_END = 20_000


def flipped(content: bytes, chance: random.Random, start: int, end: int) -> bytes:
    """Flip one to four bits between the bytes `start` and `end`, or copy a byte to another place."""
    raw = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(start, min(end, len(raw)))
        raw[place] = chance.randrange(256) if chance.random() < 0.3 else raw[place] ^ 1 << chance.randrange(8)
    return bytes(raw)


def other_digits(content: bytes, chance: random.Random) -> bytes:
    """Replace one to four digits of a text."""
    raw = bytearray(content)
    digits = [place for place, byte in enumerate(raw) if chr(byte).isdigit()]
    for place in chance.choices(digits, k=chance.choice((1, 1, 2, 4))):
        raw[place] = ord(chance.choice("0123456789"))
    return bytes(raw)


def manifest(place: Path, chance: random.Random, checkpoint: Path, bundle: Path) -> list[object]:
    shutil.copytree(bundle, place)
    path = place / "bundle.json"
    raw = path.read_bytes()
    # Most turned bits make it no JSON; other digits leave it one.
    path.write_bytes(chance.choice((flipped(raw, chance, 0, len(raw)), other_digits(raw, chance))))
    return asked(place)


def gguf_header(place: Path, chance: random.Random, checkpoint: Path, bundle: Path) -> list[object]:
    shutil.copytree(bundle, place)
    path = place / "decoder.gguf"
    raw = path.read_bytes()
    # Half of them where the settings of the model lie, the others anywhere before the weights.
    start, end = chance.choice(((0, 900), (0, GGUF_HEADER_END)))
    path.write_bytes(flipped(raw, chance, start, end))
    return asked(place)


def safetensors_header(place: Path, chance: random.Random, checkpoint: Path, bundle: Path) -> list[object]:
    shutil.copytree(checkpoint, place)
    path = place / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(flipped(raw, chance, 0, 8 + int.from_bytes(raw[:8], "little")))
    fast = ("--quantization", "f16", "--vision-precision", "fp32")
    return ["convert", place, place.with_name(f"{place.name}-bundle"), *fast]


def image(place: Path, chance: random.Random, checkpoint: Path, bundle: Path) -> list[object]:
    file = io.BytesIO()
    pictures.picture().save(file, chance.choice(("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")))
    place.write_bytes(flipped(file.getvalue(), chance, 0, 1 << 30))
    return [*asked(bundle), "--image", place]


def asked(bundle: Path) -> list[object]:
    return ["ask", "Hi", "--model", bundle, "--context", "256", "--max-tokens", "2", "--threads", "1", "--json"]


FLIPS: dict[str, Made] = {
    "manifest": manifest,
    "GGUF header": gguf_header,
    "safetensors header": safetensors_header,
    "image": image,
}
