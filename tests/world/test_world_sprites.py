"""The pictures of things: complete in every style, of similar size, and clearly coloured when repainted."""

import colorsys
import struct
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.paths import ROOT

from edge_interleave.world import sprites
from edge_interleave.world.sprites import CELL, COLUMNS, sprite
from edge_interleave.world.vocabulary import HELD_OUT_STYLE, NATURAL, STYLES, THINGS, TINTED

FOLDER = Path(sprites.__file__).parent / "sprites"
TONES = {
    "red": ((255, 0, 0), (220, 20, 60), (231, 76, 60)),
    "orange": ((255, 165, 0), (243, 126, 18)),
    "yellow": ((255, 255, 0), (241, 220, 15)),
    "green": ((0, 128, 0), (46, 204, 80)),
    "blue": ((0, 0, 255), (52, 120, 235)),
    "purple": ((128, 0, 128), (110, 40, 170)),
    "pink": ((255, 105, 180), (255, 170, 200)),
}
BLACKS = ((0, 0, 0), (30, 30, 36))


def opaque(picture: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(picture)[..., 3] > 127


def mean_colour(picture: Image.Image) -> NDArray[np.float64]:
    """The mean of what is opaque, RGB from 0 to 1."""
    return np.asarray(picture)[..., :3][opaque(picture)].mean(axis=0) / 255


def test_things_and_styles_are_named_once() -> None:
    assert (len(NATURAL), len(TINTED), len(set(THINGS))) == (16, 8, 24)
    assert all(thing.isalpha() and thing.islower() for thing in THINGS)
    assert HELD_OUT_STYLE in STYLES


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_fills_its_cell_alike_in_every_style(thing: str, style: str) -> None:
    picture = sprite(thing, style, CELL)
    assert (picture.mode, picture.size) == ("RGBA", (CELL, CELL))
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert CELL - 8 <= max(right - left, bottom - top) <= CELL - 2
    assert min(left, top, CELL - right, CELL - bottom) >= 1
    assert abs(left - (CELL - right)) <= 5
    assert abs(top - (CELL - bottom)) <= 5
    assert 0.15 < opaque(picture).mean() < 0.9


def test_all_things_look_different() -> None:
    pictures = {
        (thing, style): np.asarray(Image.alpha_composite(Image.new("RGBA", (24, 24), "gray"), sprite(thing, style, 24)))
        for thing in THINGS
        for style in STYLES
    }
    names = list(pictures)
    for number, one in enumerate(names):
        for other in names[:number]:
            if one[0] != other[0]:
                assert np.abs(pictures[one].astype(int) - pictures[other]).mean() > 10, (one, other)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thing", TINTED)
def test_a_tone_gives_the_thing_its_hue_and_leaves_its_outline(thing: str, style: str) -> None:
    plain = sprite(thing, style, 32)
    for tone in (tone for tones in TONES.values() for tone in tones):
        picture = sprite(thing, style, 32, tone=tone)
        assert np.array_equal(np.asarray(picture)[..., 3], np.asarray(plain)[..., 3])
        wanted, *_ = colorsys.rgb_to_hsv(*(value / 255 for value in tone))
        hue, saturation, _ = colorsys.rgb_to_hsv(*mean_colour(picture))
        assert min(abs(hue - wanted), 1 - abs(hue - wanted)) < 6 / 360, tone
        assert saturation > 0.2, tone


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thing", TINTED)
def test_much_of_a_repainted_thing_is_the_tone_itself_and_some_is_shade(thing: str, style: str) -> None:
    picture = sprite(thing, style, CELL, tone=(30, 90, 220))
    pixels = np.asarray(picture)[..., :3][opaque(picture)].astype(int)
    near = np.abs(pixels - (30, 90, 220)).max(axis=1) < 40
    assert near.mean() > 0.3
    assert pixels.std(axis=0).max() > 4


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thing", TINTED)
def test_a_black_thing_is_dark_and_colourless(thing: str, style: str) -> None:
    for tone in BLACKS:
        colour = mean_colour(sprite(thing, style, 32, tone=tone))
        assert colour.max() < 0.3
        assert colour.max() - colour.min() < 0.03


@pytest.mark.parametrize("thing", THINGS)
def test_styles_differ(thing: str) -> None:
    pictures = [np.asarray(sprite(thing, style, 32)).astype(int) for style in STYLES]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[one] - pictures[other]).mean() > 4


def test_a_mirrored_thing_is_the_other_way_round() -> None:
    plain, mirrored = (np.asarray(sprite("car", "noto", CELL, mirrored=flag)) for flag in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert not np.array_equal(mirrored, plain)


def test_a_positive_angle_turns_clockwise() -> None:
    turned = np.asarray(sprite("key", "noto", CELL, angle=90.0)).astype(int)
    assert np.abs(turned - np.rot90(np.asarray(sprite("key", "noto", CELL)), k=-1)).mean() < 2


@pytest.mark.parametrize("angle", [-12.0, 7.5, 45.0])
def test_a_turned_thing_is_whole(angle: float) -> None:
    picture = sprite("book", "noto", 64, angle=angle)
    alpha = np.asarray(picture)[..., 3]
    assert picture.size == (64, 64)
    # Ink at an edge of the picture would be a straight cut; a corner may touch it.
    assert max((edge > 127).sum() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])) <= 6
    upright = opaque(sprite("book", "noto", 64)).mean()
    assert 0.4 * upright < opaque(picture).mean() < 1.1 * upright


@pytest.mark.parametrize("side", [1, 24, 240])
def test_sprites_have_any_size(side: int) -> None:
    assert sprite("dog", "twemoji", side, tone=(255, 0, 0), mirrored=True, angle=3.0).size == (side, side)


def test_a_returned_sprite_is_a_copy() -> None:
    picture = sprite("dog", "noto", CELL)
    before = picture.tobytes()
    picture.paste((0, 0, 0, 0), (0, 0, CELL, CELL))
    assert sprite("dog", "noto", CELL).tobytes() == before


@pytest.mark.parametrize(
    ("thing", "style", "side", "message"),
    [
        ("wolf", "noto", 32, r"no picture of 'wolf'; choose one of dog, cat"),
        ("dog", "../noto", 32, r"no style '\.\./noto'; choose one of noto, twemoji, fluent"),
        ("dog", "noto", 0, r"at least 1 pixel, not 0"),
    ],
)
def test_an_unknown_thing_or_style_is_named(thing: str, style: str, side: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sprite(thing, style, side)


@pytest.mark.parametrize("style", STYLES)
def test_a_sheet_holds_pixels_and_nothing_else(style: str) -> None:
    data = (FOLDER / f"{style}.png").read_bytes()
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append(data[at + 4 : at + 8])
        at += 12 + length
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open(FOLDER / f"{style}.png") as sheet:
        assert (sheet.mode, sheet.size) == ("RGBA", (COLUMNS * CELL, len(THINGS) // COLUMNS * CELL))


def test_the_wheel_takes_the_sheets_and_their_licences_along() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "edge_interleave.world" in settings["tool"]["setuptools"]["packages"]
    pattern, *others = settings["tool"]["setuptools"]["package-data"]["edge_interleave.world"]
    assert {"unknown/*", "*.txt"} == set(others)
    taken = {path.name: path for path in FOLDER.parent.glob(pattern)}
    assert set(taken) == {f"{style}.png" for style in STYLES} | {"LICENSES.md"}
    assert sum(path.stat().st_size for path in taken.values()) < 350_000
    notice = taken["LICENSES.md"].read_text()
    assert all(f"`{style}.png`" in notice for style in STYLES)
    assert "edge_interleave/world/sprites/LICENSES.md" in settings["project"]["license-files"]


@pytest.mark.parametrize("style", STYLES[:2])
@pytest.mark.parametrize("thing", THINGS)
def test_a_variant_is_another_drawing_of_the_same_thing(thing: str, style: str) -> None:
    plain = sprite(thing, style, CELL)
    for variant in (1, 2, 3):
        other = sprite(thing, style, CELL, variant=variant)
        assert other == sprite(thing, style, CELL, variant=variant)
        assert other != plain
        assert (other.mode, other.size) == (plain.mode, plain.size)
        shared = (opaque(plain) & opaque(other)).sum() / (opaque(plain) | opaque(other)).sum()
        assert shared > 0.25
    assert sprite(thing, style, CELL, variant=1) != sprite(thing, style, CELL, variant=2)


@pytest.mark.parametrize("thing", TINTED)
def test_a_variant_keeps_the_hue_of_a_repainted_thing(thing: str) -> None:
    for variant in range(1, 9):
        red, green, blue = mean_colour(sprite(thing, "noto", CELL, tone=(30, 90, 220), variant=variant))
        assert blue > green > red - 0.05
