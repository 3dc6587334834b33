"""Values, transparency and colours of every depth and format are decoded correctly."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.media_files import (
    BGRA,
    DARK,
    GREY,
    LIGHT,
    RED,
    RGBA,
    WHITE,
    XRGB1555,
    bmp,
    circle,
    grey_profile,
    ink_profile,
    png,
    png_chunk,
    tiff,
)

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures.image import open_image

SHAPE = np.asarray(circle((1, 1, 1), (0, 0, 0)))[..., 0] == 1
"""Where the circle is, (32, 32)."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(content: bytes) -> np.ndarray:
    """Grey levels, (height, width), of a grey picture."""
    shown = np.asarray(open_image(content)).astype(int)
    assert (shown == shown[..., :1]).all()
    return shown[..., 0]


def in_and_out(content: bytes) -> tuple[object, object]:
    """The colours of the circle and of the background."""
    image = open_image(content)
    return image.getpixel((16, 16)), image.getpixel((1, 1))


# BMP


def rows(order: tuple[int, ...], fourth: int) -> bytes:
    """The circle in 32 bits for each pixel, bottom row first. `order`: of red, green, blue and the fourth byte."""
    pixels = np.dstack([np.asarray(circle()), np.full((32, 32), fourth, np.uint8)])
    return pixels[::-1, :, order].tobytes()


@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize(("masks", "order"), [(BGRA, (2, 1, 0, 3)), (RGBA, (0, 1, 2, 3))], ids=["BGRA", "RGBA"])
def test_a_bmp_whose_alpha_is_all_zero_is_not_invisible(
    header: int, masks: tuple[int, int, int, int], order: tuple[int, ...]
) -> None:
    assert in_and_out(bmp(header, 32, masks, rows(order, 0), (32, 32))) == (RED, GREY)


def test_transparent_parts_of_a_bmp_are_white() -> None:
    pixels = np.frombuffer(rows((2, 1, 0, 3), 255), np.uint8).reshape(32, 32, 4).copy()
    pixels[~SHAPE[::-1], 3] = 0
    assert in_and_out(bmp(124, 32, BGRA, pixels.tobytes(), (32, 32))) == (RED, WHITE)


@pytest.mark.parametrize("header", [40, 56, 124])
def test_a_bmp_of_fifteen_bits_ignores_the_sixteenth(header: int) -> None:
    values = np.where(SHAPE, 0x7C00, 0x03E0).astype("<u2")
    assert in_and_out(bmp(header, 16, XRGB1555, values[::-1].tobytes(), (32, 32))) == ((255, 0, 0), (0, 255, 0))


# PNG


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_any_depth_is_white_and_no_other_is(depth: int) -> None:
    values = np.arange(16) % 2**depth
    row = np.packbits((values[:, np.newaxis] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8)).tobytes()
    for key in range(min(2**depth, 4)):
        shown = levels(png(16, 1, depth, 0, [row], png_chunk(b"tRNS", struct.pack(">H", key))))[0]
        assert shown.tolist() == np.where(values == key, 255, values * 255 // (2**depth - 1)).tolist()


def test_a_transparent_grey_of_sixteen_bits_is_compared_in_all_bits() -> None:
    values = np.where(SHAPE, 0x1235, 0x1234)
    content = png(
        32, 32, 16, 0, [row.astype(">u2").tobytes() for row in values], png_chunk(b"tRNS", struct.pack(">H", 0x1234))
    )
    assert in_and_out(content) == ((0x12,) * 3, WHITE)


@pytest.mark.parametrize(
    ("ink", "clear"),
    [((0xDCDC, 0x1E1E, 0x1E1E), (0xFFFF, 0x1000, 0xFFFF)), ((0xDC00, 0x1E01, 0x1E00), (0xDC00, 0x1E00, 0x1E00))],
    ids=["another colour", "a colour that differs in a low byte"],
)
@pytest.mark.parametrize("more", [(), (png_chunk(b"tEXt", b"Title\0red"),)], ids=["", "with a text"])
def test_a_transparent_colour_of_sixteen_bits_is_compared_in_all_bits(
    ink: tuple[int, int, int], clear: tuple[int, int, int], more: tuple[bytes, ...]
) -> None:
    values = np.where(SHAPE[..., np.newaxis], ink, clear).astype(">u2")
    key = png_chunk(b"tRNS", struct.pack(">3H", *clear))
    content = png(32, 32, 16, 2, [row.tobytes() for row in values], key, *more)
    assert in_and_out(content) == (RED, WHITE)
    with Image.open(io.BytesIO(content)) as lazy:
        assert open_image(lazy).getpixel((16, 16)) == RED


def long_text(kind: bytes, size: int) -> bytes:
    packed = zlib.compress(b"x" * size, 9)
    return png_chunk(kind, b"workflow\0" + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + packed)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_megabytes_of_text_in_a_png_are_ignored(kind: bytes) -> None:
    plain = encoded(circle(), "PNG")
    text = long_text(kind, 20_000_000)
    for content in (plain[:33] + text + plain[33:], plain[:-12] + text + plain[-12:]):
        assert in_and_out(content) == (RED, GREY)
    stored = png_chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000)
    assert in_and_out(plain[:33] + stored * 3 + plain[33:]) == (RED, GREY)


def test_text_that_is_a_decompression_bomb_is_refused() -> None:
    plain = encoded(circle(), "PNG")
    one = long_text(b"zTXt", 64_000_000)
    many = long_text(b"zTXt", 4_000_000) * 12
    for text in (one, many):
        with pytest.raises(MediaError, match="texts inflate to more than 32 MiB; save it without them"):
            open_image(plain[:33] + text + plain[33:])


def test_a_large_profile_of_a_png_is_read_and_a_decompression_bomb_refused() -> None:
    plain = encoded(circle(), "PNG")

    def with_profile(size: int) -> bytes:
        return plain[:33] + png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x" * size, 9)) + plain[33:]

    assert in_and_out(with_profile(3_000_000)) == (RED, GREY)
    with pytest.raises(MediaError, match="colour profile inflates to more than 16 MiB"):
        open_image(with_profile(40_000_000))
    broken = plain[:33] + png_chunk(b"iCCP", b"icc\0\0no deflated data") + plain[33:]
    assert in_and_out(broken) == (RED, GREY)


def test_a_png_s_orientation_is_applied_despite_long_texts() -> None:
    plain = encoded(Image.new("RGB", (6, 4)), "PNG")
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation='6' tiff:Orientation=\"6\"/>"
    content = plain[:33] + long_text(b"zTXt", 3_000_000) + png_chunk(b"iTXt", xmp) + plain[33:]
    assert open_image(content).size == (4, 6)


# TIFF

GREYS = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
@pytest.mark.parametrize(
    ("bits", "kind"), [(4, 1), (8, 1), (10, 1), (12, 1), (14, 1), (16, 1), (32, 1), (16, 2), (32, 2), (32, 3), (64, 3)]
)
def test_grey_tiffs_of_any_depth_are_read(bits: int, kind: int, photometric: int, order: str) -> None:
    whole = 1.0 if kind == 3 else 2 ** (bits - (kind == 2)) - 1
    wanted = GREYS if photometric else 1 - GREYS
    stored = wanted * whole if kind == 3 else np.round(wanted * whole).astype(np.int64)
    shown = levels(tiff(stored, bits, photometric=photometric, kind=kind, order=order))
    assert np.abs(shown - GREYS * 255).max() <= (9 if bits == 4 else 1.5)


@pytest.mark.parametrize(("bits", "kind"), [(12, 1), (16, 1), (32, 1), (32, 3)])
def test_colour_tiffs_of_any_depth_are_read(bits: int, kind: int) -> None:
    wanted = np.where(SHAPE[..., np.newaxis], RED, GREY) / 255
    stored = wanted if kind == 3 else np.round(wanted * (2**bits - 1)).astype(np.int64)
    shown = np.asarray(open_image(tiff(stored, bits, photometric=2, kind=kind))).astype(int)
    assert np.abs(shown - wanted * 255).max() <= 1


def test_small_values_of_a_32_bit_tiff_are_scaled_by_their_likely_range() -> None:
    for order in "<>":
        stored = np.where(SHAPE, DARK, LIGHT)
        assert in_and_out(tiff(stored, 32, order=order)) == ((DARK,) * 3, (LIGHT,) * 3)
        assert in_and_out(tiff(stored * 257, 32, order=order)) == ((DARK,) * 3, (LIGHT,) * 3)


def test_negative_values_of_a_tiff_are_darker_than_others() -> None:
    for bits in (8, 16, 32):
        assert in_and_out(tiff(np.where(SHAPE, -100, 100), bits, kind=2)) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_twelve_bits_has_its_orientation_applied(orientation: int) -> None:
    stored = np.arange(24).reshape(4, 6)
    eight = levels(tiff(stored * 10, 8, more={274: orientation}))
    assert (levels(tiff(stored * 160, 12, more={274: orientation})) == eight).all()
    assert (levels(tiff(stored * 160, 12, order=">", more={274: orientation})) == eight).all()


def test_a_dark_pgm_of_sixteen_bits_stays_dark() -> None:
    for most in (4095, 65535):
        values = np.where(SHAPE, most // 2, most // 256).astype(">u2")
        inside, outside = in_and_out(b"P5 32 32 %d\n" % most + values.tobytes())
        assert inside == (127,) * 3
        assert outside in ((0,) * 3, (1,) * 3)


def test_a_tiff_that_neither_pillow_nor_opencv_reads_is_refused_in_one_line() -> None:
    with pytest.raises(MediaError, match="not an image that can be read"):
        open_image(tiff(np.zeros((4, 4)), 24))


def test_a_raw_photograph_is_refused_rather_than_read_as_its_preview() -> None:
    dng = tiff(np.zeros((4, 4)), 8, more={254: 1, 50706: 1})
    canon = b"II*\0\x10\0\0\0CR\x02\0" + bytes(100)
    for content in (dng, canon):
        with pytest.raises(MediaError, match="raw"):
            open_image(content)


# AVIF


@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"miaf"])
def test_an_avif_is_recognised_by_any_of_its_brands(brand: bytes) -> None:
    content = encoded(circle(), "AVIF", quality=95)
    inside, outside = in_and_out(content[:8] + brand + content[12:])
    assert np.abs(np.subtract(inside, RED)).max() <= 12
    assert np.abs(np.subtract(outside, GREY)).max() <= 12


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ],
)
def test_unsupported_formats_are_refused_by_name(head: bytes, name: str) -> None:
    with pytest.raises(MediaError, match=f"{name} pictures are not supported; save it as JPEG or PNG"):
        open_image(head + bytes(200))


# Colours


def swapped() -> bytes:
    """An sRGB profile with red and blue swapped."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for number in range(struct.unpack_from(">I", content, 128)[0]):
        tag, start, size = struct.unpack_from(">4sII", content, 132 + 12 * number)
        places[tag] = slice(start, start + size)
    red, blue = bytes(content[places[b"rXYZ"]]), bytes(content[places[b"bXYZ"]])
    content[places[b"rXYZ"]], content[places[b"bXYZ"]] = blue, red
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_an_icc_profile_is_applied(kind: str) -> None:
    inside, outside = in_and_out(encoded(circle(), kind, icc_profile=swapped(), quality=95))
    assert np.abs(np.subtract(inside, (30, 30, 220))).max() <= 14
    assert np.abs(np.subtract(outside, GREY)).max() <= 14


def test_a_profile_is_applied_to_palettes_and_transparent_pictures() -> None:
    palette = circle().quantize(2)
    assert in_and_out(encoded(palette, "PNG", icc_profile=swapped())) == ((30, 30, 220), GREY)
    clear = circle()
    clear.putalpha(Image.fromarray(np.where(SHAPE, 255, 0).astype(np.uint8)))
    assert in_and_out(encoded(clear, "PNG", icc_profile=swapped())) == ((30, 30, 220), WHITE)


def test_a_profile_is_applied_to_greys_of_every_depth() -> None:
    # A linear 55 of 255 is 128 in sRGB (IEC 61966-2-1).
    eight = Image.new("L", (4, 4), 55)
    sixteen = Image.fromarray(np.full((4, 4), 55 * 257, np.uint16))
    for image, kind in (
        (eight, "PNG"),
        (eight, "TIFF"),
        (eight.convert("LA"), "PNG"),
        (sixteen, "PNG"),
        (sixteen, "TIFF"),
    ):
        assert levels(encoded(image, kind, icc_profile=grey_profile(1.0))).tolist() == [[128] * 4] * 4


def test_a_profile_is_applied_to_cmyk() -> None:
    lightness = {(0, 0, 0, 0): 255, (1, 0, 0, 0): 128}
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    plain = open_image(encoded(cyan, "TIFF")).getpixel((0, 0))
    red, green, blue = open_image(encoded(cyan, "TIFF", icc_profile=ink_profile(lightness))).getpixel((0, 0))
    assert plain == (0, 255, 255)
    # CIE L* = 50 is 119 in sRGB.
    assert max(abs(value - 119) for value in (red, green, blue)) <= 3


def test_a_profile_that_does_not_apply_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, grey_profile(1.0), swapped()[:300], b"no profile at all", bytes(500)):
        assert in_and_out(encoded(circle(), "PNG", icc_profile=profile)) == (RED, GREY)
    assert levels(encoded(Image.new("L", (4, 4), 55), "PNG", icc_profile=swapped()))[0, 0] == 55
