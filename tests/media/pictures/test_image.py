"""Pictures from files, bytes and arrays become upright RGB; anything else becomes a one-line error."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.pictures import alpha, in_every_mode, photograph, picture

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures import image as image_module
from edge_interleave.media.pictures.image import FORMATS, MAX_PIXELS, open_image, opened, to_rgb

SAVED_AS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "PPM": ("1", "L", "RGB"),
    "AVIF": ("RGB",),
}


NEARLY_LOSSLESS = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def grey_ramp_16() -> np.ndarray:
    return np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in SAVED_AS.items() for mode in modes])
def test_reads_every_format_and_mode_from_a_path_and_from_bytes(kind: str, mode: str, tmp_path: Path) -> None:
    source = Image.fromarray(grey_ramp_16()) if mode == "I;16" else in_every_mode().get(mode) or picture().convert(mode)
    content = encoded(source, kind, **NEARLY_LOSSLESS.get(kind, {}))
    path = tmp_path / "picture"
    path.write_bytes(content)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert opened.size == source.size
    assert opened.info == {}
    assert (pixels(opened) == pixels(open_image(content))).all()
    assert (pixels(opened) == pixels(open_image(str(path)))).all()
    difference = np.abs(pixels(opened) - pixels(open_image(source))).max()
    assert difference <= (8 if kind in ("JPEG", "AVIF") else 0)


@pytest.mark.parametrize(
    "name", ["astronaut.png", "hubble_deep_field.jpg", "no_time_for_that_tiny.gif", "multipage.tif"]
)
def test_reads_photographs(name: str) -> None:
    opened = open_image(photograph(name))
    assert opened.mode == "RGB"
    assert pixels(opened).std() > 5


def test_arrays_are_grey_rgb_or_rgba() -> None:
    rgb = np.asarray(picture())
    assert (pixels(open_image(rgb)) == rgb).all()
    assert (pixels(open_image(rgb[::2, ::-1])) == rgb[::2, ::-1]).all()
    grey = rgb[..., 0]
    assert (pixels(open_image(grey)) == grey[..., np.newaxis]).all()
    opaque = np.dstack([rgb, np.full_like(grey, 255)])
    assert (pixels(open_image(opaque)) == rgb).all()


def test_transparency_is_composited_over_white() -> None:
    rgba = picture()
    mask = alpha()
    rgba.putalpha(mask)
    weight = np.asarray(mask)[..., np.newaxis] / 255
    expected = np.asarray(picture()) * weight + 255 * (1 - weight)
    assert np.abs(pixels(open_image(rgba)) - expected).max() <= 1


def test_a_transparent_palette_entry_is_white() -> None:
    palette = picture().quantize(8, dither=Image.Dither.NONE)
    index = palette.getpixel((0, 0))
    content = encoded(palette, "PNG", transparency=index)
    shown = pixels(open_image(content))
    clear = np.asarray(palette) == index
    assert (shown[clear] == 255).all()
    assert (shown[~clear] == np.asarray(palette.convert("RGB"))[~clear]).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bit_grey_keeps_its_high_byte(mode: str) -> None:
    values = grey_ramp_16()
    raw = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    opened = pixels(open_image(Image.frombytes(mode, (16, 16), raw)))
    assert (opened == (values >> 8)[..., np.newaxis]).all()


def test_sixteen_bit_files_do_not_saturate() -> None:
    values = grey_ramp_16()
    png = encoded(Image.fromarray(values), "PNG")
    pgm = b"P5 16 16 65535\n" + values.astype(">u2").tobytes()
    for content in (png, pgm):
        shown = pixels(open_image(content))
        assert np.abs(shown[..., 0] - values / 257).max() <= 1
    # A dark picture stays dark, because the range is that of its format.
    dark = encoded(Image.fromarray((values >> 8).astype(np.uint16)), "PNG")
    assert pixels(open_image(dark)).max() == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-50, 0, 50]], np.int32), [0, 128, 255]),
        (np.array([[0, 1 << 30, 1 << 31]], np.int64).clip(max=2**31 - 1).astype(np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 200.0]], np.float32), [0, 0, 200]),
        (np.array([[0.0, 1e30, 2e30]], np.float32), [0, 128, 255]),
        (np.array([[-5.0, -5.0, -5.0]], np.float32), [0, 0, 0]),
    ],
)
def test_wide_values_are_scaled_to_their_likely_range(values: np.ndarray, expected: list[int]) -> None:
    assert pixels(open_image(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_a_lab_picture_shows_its_colours() -> None:
    red = pixels(open_image(Image.new("LAB", (2, 2), (136, 208, 195))))[0, 0]
    assert red[0] > 200
    assert red[1:].max() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_once(kind: str, orientation: int) -> None:
    corner = np.zeros((32, 64, 3), np.uint8)
    corner[:16, :32] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(Image.fromarray(corner), kind, exif=exif))
    assert opened.size == ((64, 32) if orientation < 5 else (32, 64))
    rows, columns = np.nonzero(pixels(opened)[..., 0] > 128)
    place = (
        "bottom" if rows.mean() > opened.height / 2 else "top",
        "right" if columns.mean() > opened.width / 2 else "left",
    )
    # Where the stored first corner is shown: https://exiftool.org/TagNames/EXIF.html, tag 0x0112.
    shown = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
    shown |= {5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left"}
    assert " ".join(place) == shown[orientation]
    assert (pixels(open_image(opened)) == pixels(opened)).all()


def test_a_picture_with_damaged_exif_is_still_read() -> None:
    opened = open_image(encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert opened.size == (64, 48)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(open_image(content))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert open_image(encoded(picture(*size), "PNG")).size == size


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def damaged() -> dict[str, bytes]:
    text_bomb = zlib.compress(bytes(64 << 20), 9)
    chunk = b"zTXt" + b"a\0\0" + text_bomb
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png = encoded(picture(), "PNG")
    return {
        "empty": b"",
        "text": b"hello, this is not a picture\n" * 10,
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "png header only": png[:20],
        "png of half": png[: len(png) // 2],
        "png without pixels": png_claiming(10, 0),
        "png bomb": png_claiming(60000, 60000),
        "png of a text bomb": png[:33] + text + png[33:],
        "png with a wrong checksum": png[:40] + bytes([png[40] ^ 255]) + png[41:],
        "bmp of huge size": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0),
        "gif of nothing": b"GIF89a\x08\0\x08\0\0\0\0;",
        "tiff of nothing": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        "ppm with words": b"P6 ten ten 255\n",
        "webp cut off": encoded(picture(), "WEBP")[:60],
        "jpeg cut off": encoded(picture(), "JPEG")[:300],
        "avif cut off": encoded(picture(), "AVIF")[:200],
        "null bytes": bytes(1000),
    }


@pytest.mark.parametrize("kind", damaged())
def test_unusable_pictures_give_one_line_with_the_file_s_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(damaged()[kind])
    with pytest.raises(MediaError) as caught:
        open_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match=r"^image bytes: "):
        open_image(damaged()[kind])


def test_a_picture_above_the_pixel_limit_is_refused_by_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 10
    with pytest.raises(MediaError, match="megapixels; scale it down"):
        open_image(png_claiming(side, side))


def test_a_file_above_the_size_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(image_module.MAX_FILE_BYTES + 1)
    with pytest.raises(MediaError, match="bytes, more than"):
        open_image(path)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 where uint8 is needed"),
        (np.zeros((4, 4), bool), "bool where uint8 is needed"),
        (np.zeros((4, 4), object), "object where uint8 is needed"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((3, 4, 4), np.uint8)[..., np.newaxis], "shape"),
        (np.zeros(4, np.uint8), "shape"),
    ],
)
def test_arrays_of_a_wrong_shape_or_type_are_refused(array: np.ndarray, complaint: str) -> None:
    with pytest.raises(MediaError, match=complaint):
        open_image(array)


def test_paths_that_are_no_regular_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, complaint in [
        (tmp_path / "nothing.png", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        ("https://example.org/a.png", "no such file"),
        ("a\0b", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        (tmp_path / "two\nlines.png", "no such file"),
        ("", "no such file"),
    ]:
        with pytest.raises(MediaError, match=complaint) as caught:
            open_image(place)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    with pytest.raises(MediaError, match="NoneType: not an image"):
        open_image(None)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="no pixels"):
        open_image(Image.new("RGB", (0, 7)))


def test_a_lazily_opened_picture_whose_file_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    content = encoded(picture(), "PNG")
    path.write_bytes(content[: len(content) // 2])
    with Image.open(path) as lazy, pytest.raises(MediaError, match="damaged or cut off"):
        open_image(lazy)


def test_odd_files_cause_no_warnings(recwarn: pytest.WarningsRecorder) -> None:
    big = encoded(Image.new("1", (9500, 9500)), "PNG")
    assert open_image(big).size == (9500, 9500)
    assert [str(warning.message) for warning in recwarn] == []


def test_threads_decode_at_the_same_time_and_nested_and_restore_the_warning_filters() -> None:
    content = encoded(picture(), "PNG")
    before = list(warnings.filters)
    # Each thread waits, with a picture open, until all threads have one open; then it opens a second one.
    together = threading.Barrier(4, timeout=10)

    def decode(_: int) -> tuple[tuple[int, int], tuple[int, int]]:
        with opened(content) as outer:
            together.wait()
            inner = open_image(content)
            together.wait()
            return to_rgb(outer).size, inner.size

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode, range(4))) == [((64, 48), (64, 48))] * 4
    assert list(warnings.filters) == before


def test_a_failure_in_one_thread_restores_the_warning_filters() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(_error_of, [encoded(picture(), "PNG")[:size] for size in (20, 60, 100, 200) * 10]))
    assert all("image bytes: " in outcome for outcome in outcomes)
    assert list(warnings.filters) == before


def _error_of(content: bytes) -> str:
    with pytest.raises(MediaError) as caught:
        open_image(content)
    return str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([kind for kind in FORMATS if kind != "TIFF"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.floats(0.05, 1),
)
def test_damaged_files_raise_only_media_error(kind: str, flips: list[tuple[float, int]], kept: float) -> None:
    content = bytearray(encoded(picture(20, 16), kind))
    for place, value in flips:
        content[int(place * len(content))] = value
    said = ""
    try:
        assert open_image(bytes(content[: max(1, int(kept * len(content)))])).mode == "RGB"
    except MediaError as error:
        said = str(error)
    assert "\n" not in said
