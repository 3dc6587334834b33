"""Draws scenes: their pixels, and which item covers each pixel."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from edge_interleave.world import unknown_pictures
from edge_interleave.world.outlines import OUTLINES
from edge_interleave.world.scene import Item, Look, Scene, Sign
from edge_interleave.world.sprites import sprite
from edge_interleave.world.vocabulary import SHAPES

_FONTS = {
    "plain": (cv2.FONT_HERSHEY_SIMPLEX, 0.09),
    "duplex": (cv2.FONT_HERSHEY_DUPLEX, 0.06),
    "serif": (cv2.FONT_HERSHEY_COMPLEX, 0.07),
    "heavy": (cv2.FONT_HERSHEY_TRIPLEX, 0.14),
}
"""OpenCV's stroke fonts, and the stroke's width as a share of the letters' height."""
_LETTER_PIXELS = 96
HORIZON = 0.38
"""Where the horizon of a `ground` lies, as a fraction of the height from the top."""


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture; without a crop its shorter side is `look.side` pixels."""
    look, side = scene.look, scene.look.side
    if scene.unknown:
        return _jpeg(unknown_pictures.paint(scene.unknown, look.grain_seed, _canvas(look, side)), look.jpeg)
    scale = {"smooth": 2 if side <= 160 else 1, "hard": 1, "soft": 3 if side <= 256 else 2}[look.edges]
    size = _canvas(look, side * scale)
    image = _background(look, size)
    for sign in scene.signs:
        _draw_sign(image, sign)
    pen = ImageDraw.Draw(image)
    for item in scene.items:
        if item.shape in SHAPES:
            _draw_shape(pen, item, size, background=look.colour)
        else:
            picture, corner = _placed(item, size)
            image.paste(picture, corner, picture)
    if scale > 1:
        smooth = look.edges == "smooth"
        image = image.resize(_canvas(look, side), Image.Resampling.LANCZOS if smooth else Image.Resampling.BOX)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * side / 128))
    return _jpeg(_cropped(_with_effect(image, scene), scene), look.jpeg)


def item_map(scene: Scene, side: int) -> NDArray[np.uint8]:
    """What covers each pixel of the picture, squashed to a square: (side, side) uint8.

    0: background; i + 1: items[i]; from len(items) + 1 on: the parts of the signs (`sign_parts`), in order.
    """
    across = scene.crop[2] - scene.crop[0]
    size = _canvas(scene.look, round(side / across))
    image = Image.new("L", size, 0)
    pen = ImageDraw.Draw(image)
    code = len(scene.items)
    for sign in scene.signs:
        left, top, right, bottom = _text_box(sign, size)
        parts = sign_parts(sign)
        for number in range(len(parts)):
            code += 1
            ends = (left + (right - left) * number / len(parts), left + (right - left) * (number + 1) / len(parts))
            pen.rectangle((round(ends[0]), round(top), round(ends[1]) - 1, round(bottom) - 1), fill=code)
    for index, item in enumerate(scene.items):
        if item.shape in SHAPES:
            pen.polygon([tuple(p) for p in outline(item, size)], fill=index + 1)
        else:
            picture, corner = _placed(item, size)
            image.paste(index + 1, corner, picture.getchannel("A").point(lambda value: 255 if value > 96 else 0))
    return np.asarray(_cropped(image, scene).resize((side, side), Image.Resampling.NEAREST))


def sign_parts(sign: Sign) -> tuple[str, ...]:
    """The labels of a sign's patches: each digit of a number, or the one word."""
    return tuple(sign.text) if sign.text.isdigit() else (sign.text,)


def outline(item: Item, size: tuple[int, int]) -> list[tuple[float, float]]:
    """A shape's polygon in pixels, in a picture of `size` (width, height)."""
    angle = math.radians(item.angle)
    cos, sin = math.cos(angle), math.sin(angle)
    half, cx, cy = item.size * min(size) / 2, item.x * size[0], item.y * size[1]
    return [(cx + half * (x * cos - y * sin), cy + half * (x * sin + y * cos)) for x, y in OUTLINES[item.shape]]


def _canvas(look: Look, side: int) -> tuple[int, int]:
    """Width and height in pixels of a picture whose shorter side is `side`."""
    return round(side * max(look.aspect, 1.0)), round(side / min(look.aspect, 1.0))


def _background(look: Look, size: tuple[int, int]) -> Image.Image:
    width, height = size
    if look.kind == "plain":
        return Image.new("RGB", size, look.colour)
    if look.kind == "ground":
        image = Image.new("RGB", size, look.colour)
        image.paste(look.other, (0, round(height * HORIZON), width, height))
        return image
    if look.kind == "gradient":
        ends = np.array([look.colour, look.other], np.float32)
        down = look.grain_seed % 2 == 1
        ramp = np.linspace(0, 1, height if down else width, dtype=np.float32)[:, None]
        line = ends[0] * (1 - ramp) + ends[1] * ramp
        pixels = np.broadcast_to(line[:, None] if down else line[None, :], (height, width, 3))
        return Image.fromarray(pixels.astype(np.uint8))
    grain = np.random.default_rng(look.grain_seed).normal(0, 7, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.array(look.colour, np.float32) + grain, 0, 255).astype(np.uint8))


def _draw_shape(pen: ImageDraw.ImageDraw, item: Item, size: tuple[int, int], background: tuple[int, int, int]) -> None:
    points, side, tone = outline(item, size), min(size), item.tone
    share = {"outline": 0.16, "line": 0.07}.get(item.style, 0.06)
    width = max(2, round(item.size * side * share))
    if item.style in ("outline", "line"):
        pen.polygon(points, fill=tone)
        inner = outline(replace(item, size=max(item.size - 2.2 * width / side, 0.01)), size)
        pen.polygon(inner, fill=background)
        return
    pen.polygon(points, fill=tone)
    if item.style in ("edged", "inked"):
        edge = tuple(int(c * 0.55) for c in tone) if item.style == "edged" else (0, 0, 0)
        pen.line([*points, points[0], points[1]], fill=edge, width=width, joint="curve")


def _placed(item: Item, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """A thing's picture (RGBA), and its top left corner in pixels."""
    pixels = max(4, round(item.size * min(size)))
    tone = item.tone if item.colour else None
    picture = sprite(
        item.shape,
        item.style,
        pixels,
        tone=tone,
        mirrored=item.mirrored,
        angle=item.angle,
        variant=item.variant,
    )
    return picture, (round(item.x * size[0] - picture.width / 2), round(item.y * size[1] - picture.height / 2))


def _draw_sign(image: Image.Image, sign: Sign) -> None:
    left, top, right, bottom = _text_box(sign, image.size)
    margin = (bottom - top) * 0.35
    pen = ImageDraw.Draw(image)
    pen.rectangle((left - margin, top - margin, right + margin, bottom + margin), fill=sign.plate)
    size = max(1, round(right - left)), max(1, round(bottom - top))
    letters = _letters(sign.text, sign.lettering).resize(size, Image.Resampling.LANCZOS)
    image.paste(sign.ink, (round(left), round(top)), letters)


def _text_box(sign: Sign, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the letters in pixels."""
    letters = _letters(sign.text, sign.lettering)
    width = sign.width * min(size)
    height = width * letters.height / letters.width
    left, top = sign.x * size[0] - width / 2, sign.y * size[1] - height / 2
    return left, top, left + width, top + height


@lru_cache(maxsize=1024)
def _letters(text: str, lettering: str) -> Image.Image:
    """The text in capitals, white on black, cropped to its ink."""
    font, thickness = _FONTS[lettering]
    stroke = max(1, round(thickness * _LETTER_PIXELS))
    scale = cv2.getFontScaleFromHeight(font, _LETTER_PIXELS, stroke)
    (width, height), base = cv2.getTextSize(text.upper(), font, scale, stroke)
    canvas = np.zeros((height + base + 4 * stroke, width + 4 * stroke), np.uint8)
    cv2.putText(canvas, text.upper(), (2 * stroke, height + stroke), font, scale, 255, stroke, cv2.LINE_AA)
    rows, columns = np.flatnonzero(canvas.any(1)), np.flatnonzero(canvas.any(0))
    return Image.fromarray(canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _with_effect(image: Image.Image, scene: Scene) -> Image.Image:
    effect = scene.effect
    if effect.blur:
        image = image.filter(ImageFilter.GaussianBlur(effect.blur * min(image.size)))
    if effect.darkness:
        image = image.point(lambda value: value * (1 - effect.darkness))
    if effect.noise:
        rng = np.random.default_rng(scene.look.grain_seed)
        grain = rng.normal(0, effect.noise, (96, 96, 3)).astype(np.float32)
        spread = np.asarray(cv2.resize(grain, image.size, interpolation=cv2.INTER_NEAREST))
        image = Image.fromarray(np.clip(np.asarray(image, np.float32) + spread, 0, 255).astype(np.uint8))
    return image


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture saved as JPEG of that quality and reopened; quality 0 returns it unchanged."""
    if not quality:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _cropped(image: Image.Image, scene: Scene) -> Image.Image:
    if scene.crop == (0.0, 0.0, 1.0, 1.0):
        return image
    left, right = (round(edge * image.width) for edge in scene.crop[::2])
    top, bottom = (round(edge * image.height) for edge in scene.crop[1::2])
    return image.crop((left, top, right, bottom))
