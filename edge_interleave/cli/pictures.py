"""Shows pictures in a terminal, and saves contact sheets.

In a terminal: kitty's graphics protocol, iTerm2's, or half blocks in colour.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from edge_interleave.errors import InputError, UsageError
from edge_interleave.util.atomic_file import atomic_file, check_writable

TILE = 112
"""Side of a picture in a row, in pixels."""
_GAP = 8
_SHEET_WIDTH = 8 * (TILE + _GAP) + 3 * _GAP
SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File suffix to Pillow's name of the format."""
_PAPER, _INK, _QUIET = (250, 250, 247), (33, 37, 41), (110, 117, 124)
_REMEDY = "give a name in another folder"
_KITTY_CHUNK = 4096


@dataclass(frozen=True)
class SheetPart:
    """One part of a contact sheet: a title, pictures, and lines of text."""

    title: str
    pictures: Sequence[Image.Image]
    lines: Sequence[tuple[str, str]]
    """Pairs of question and answer."""


def row(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures side by side, each fitted into a square of TILE pixels; RGB."""
    width = max(1, len(pictures)) * (TILE + _GAP) - _GAP
    joined = Image.new("RGB", (width, TILE), _PAPER)
    for number, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        left = number * (TILE + _GAP) + (TILE - small.width) // 2
        joined.paste(small, (left, (TILE - small.height) // 2))
    return joined


def check_sheet(path: Path) -> None:
    """Check that a sheet can be written to `path`.

    Raises UsageError for an ending that is not in SHEET_FORMATS, InputError if the folder cannot be written.
    """
    if path.suffix.lower() not in SHEET_FORMATS:
        raise UsageError(f"{path}: the sheet is a picture; give a name that ends in {', '.join(SHEET_FORMATS)}")
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: not a file that can be replaced; give another name")
    check_writable(path, _REMEDY)


def save_sheet(path: Path, heading: str, parts: Sequence[SheetPart]) -> None:
    """Write all parts to one picture, atomically, in the format of its suffix.

    Raises UsageError, InputError.
    """
    check_sheet(path)
    blocks = [_text(heading, 20, _INK), *(_part(part) for part in parts)]
    height = sum(block.height + 2 * _GAP for block in blocks) + 2 * _GAP
    sheet = Image.new("RGB", (_SHEET_WIDTH, height), _PAPER)
    top = 2 * _GAP
    for block in blocks:
        sheet.paste(block, (2 * _GAP, top))
        top += block.height + 2 * _GAP
    with atomic_file(path, remedy=_REMEDY) as temporary:
        sheet.save(temporary, SHEET_FORMATS[path.suffix.lower()], optimize=True, quality=90)


def show(console: Console, picture: Image.Image) -> bool:
    """Show a picture in the terminal; returns False and shows nothing if the terminal cannot."""
    if not console.is_terminal or console.is_dumb_terminal or not console.encoding.startswith("utf"):
        return False
    sequence = escape_sequence(picture, os.environ)
    if sequence is not None:
        console.file.write(f"{sequence}\n")
        console.file.flush()
        return True
    if console.color_system not in ("truecolor", "256") or console.no_color:
        return False
    console.print(half_blocks(picture, min(console.width, picture.width // 5)))
    return True


def escape_sequence(picture: Image.Image, environment: Mapping[str, str]) -> str | None:
    """The escape sequence that draws the picture in the terminal named by the environment; None if it has none."""
    program = environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or environment.get("TERM", "").startswith("screen"):
        return None
    file = io.BytesIO()
    picture.save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode("ascii")
    if "KITTY_WINDOW_ID" in environment or "kitty" in environment.get("TERM", "") or program == "ghostty":
        chunks = [content[i : i + _KITTY_CHUNK] for i in range(0, len(content), _KITTY_CHUNK)]
        pieces = []
        for number, chunk in enumerate(chunks):
            keys = "a=T,f=100," if number == 0 else ""
            pieces.append(f"\x1b_G{keys}m={int(number + 1 < len(chunks))};{chunk}\x1b\\")
        return "".join(pieces)
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())};width={picture.width}px:{content}\x07"
    return None


def half_blocks(picture: Image.Image, width: int) -> Text:
    """The picture as text, `width` characters in a row; a character shows two pixels, one above the other."""
    height = max(2, picture.height * width // picture.width // 2 * 2)
    pixels = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    text = Text(no_wrap=True, end="")
    for y in range(0, height, 2):
        for x in range(width):
            upper, lower = (_color(pixels, x, y + dy) for dy in (0, 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def _color(pixels: Image.Image, x: int, y: int) -> Color:
    value = pixels.getpixel((x, y))
    assert isinstance(value, tuple)
    return Color.from_rgb(*value[:3])


def _part(part: SheetPart) -> Image.Image:
    blocks = [_text(part.title, 16, _INK), row(part.pictures)]
    for question, answer in part.lines:
        blocks += [_text(question, 14, _QUIET), _text(answer, 14, _INK)]
    height = sum(block.height + _GAP for block in blocks)
    whole = Image.new("RGB", (max(block.width for block in blocks), height), _PAPER)
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height + _GAP
    return whole


def _text(text: str, points: int, colour: tuple[int, int, int]) -> Image.Image:
    """A picture of a text, wrapped to the sheet's width."""
    font = ImageFont.load_default(points)
    width = _SHEET_WIDTH - 4 * _GAP
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    pitch = points * 3 // 2
    image = Image.new("RGB", (width, pitch * len(lines)), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, written in enumerate(lines):
        draw.text((0, number * pitch), written, fill=colour, font=font)
    return image
