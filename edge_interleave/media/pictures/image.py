"""Decodes untrusted image files, bytes and arrays to upright RGB pictures.

Only common raster formats are tried, and none that needs an interpreter, such as EPS or PDF. Sizes are checked before
pixels are decoded, and anything that Pillow raises becomes one MediaError that names the file.

Modes become RGB as in `convert_to_rgb` of transformers' image processors, so that a model gets the pixels that it was
trained on: transparency (alpha, or a transparent palette entry or colour) is composited over white, and Pillow converts
the rest. There are three exceptions: values that Pillow would clip or misread are scaled (`levels`, `tiff`), an ICC
profile is applied (`colour`), and GIF frames are composed as in browsers (`gif`).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from edge_interleave.errors import MediaError, one_line
from edge_interleave.media.files import open_media_file
from edge_interleave.media.pictures import tiff
from edge_interleave.media.pictures.colour import to_srgb
from edge_interleave.media.pictures.formats import FORMATS as FORMATS
from edge_interleave.media.pictures.formats import HEAD_BYTES, PictureError, picture_format, unreadable_format
from edge_interleave.media.pictures.formats import MAX_PIXELS as MAX_PIXELS
from edge_interleave.media.pictures.gif import GifFrames
from edge_interleave.media.pictures.levels import eight_bits
from edge_interleave.media.pictures.png_chunks import lean_png
from edge_interleave.util.regular_file import display_name

ImageSource = Path | str | bytes | Image.Image | npt.NDArray[np.uint8]

MAX_FILE_BYTES = 512 << 20

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WEBP_FLAGS, _WEBP_ANIMATED, _WEBP_ALPHA = 20, 0x02, 0x10
"""The position of a WebP's flags, and two of the flags (RFC 9649, 2.7)."""
_MAJOR_BRAND = 8
"""The position of an ISO media file's first brand (ISO 14496-12, 4.3)."""
_PILLOWS_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
"""Pillow recognises an AVIF by its first brand only, which must be one of these."""
_LEVELS_APART = {"L;2": 85, "L;4": 17}
"""The factors by which Pillow multiplies a PNG's grey values of 2 and 4 bits."""


def open_image(source: ImageSource) -> Image.Image:
    """Open and decode a picture: RGB, upright (EXIF orientation applied), without metadata.

    `source`: a file's path, a file's bytes, a Pillow image of any mode, or a uint8 array of shape (h, w), (h, w, 3) or
    (h, w, 4) with grey, RGB or RGBA values. An animation gives its first frame. An RGB image without metadata is
    returned as is. Raises MediaError, and nothing else, if the picture is unusable.
    """
    if type(source) is Image.Image and source.mode == "RGB" and not source.info and min(source.size) > 0:
        return source
    with opened(source) as image:
        return to_rgb(image)


@contextmanager
def opened(source: ImageSource) -> Iterator[Image.Image]:
    """Open a picture and check its size, without decoding its pixels.

    Failures inside the block become a MediaError, as in `decoding`.
    """
    name = describe(source)
    with decoding(name), _header(source, name) as image:
        check_size(image.size)
        yield image


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn any exception inside the block into a MediaError that starts with `name`, and drop Pillow's warnings.

    Threads decode in parallel, and blocks may be nested.
    """
    try:
        with _NO_WARNINGS:
            yield
    except MediaError:
        raise
    except PictureError as error:
        raise MediaError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise MediaError(
            f"{name}: not an image that can be read, or cut off; give one of {', '.join(FORMATS)}"
        ) from None
    except MemoryError as error:
        raise MediaError(f"{name}: too large for this machine's memory; scale it down") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels; scale it down") from error
    # Pillow's plugins raise many types for damaged files: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise MediaError(f"{name}: cannot be decoded ({one_line(error)}); the file is damaged or cut off") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode the current frame of a Pillow image: RGB, upright, without metadata. Call it inside `decoding`."""
    if image.format == "GIF" or isinstance(image, TiffImagePlugin.TiffImageFile):
        image = _corrected(image)
    shown = to_rgba(image)
    orientation = _orientation(image)
    if shown.mode == "RGBA":
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        shown = Image.alpha_composite(white, shown).convert("RGB")
    if orientation in _ORIENTATIONS:
        shown = shown.transpose(_ORIENTATIONS[orientation])
    # If the metadata stayed, a second conversion would rotate or composite again.
    shown.info = {}
    return shown


def to_rgba(image: Image.Image) -> Image.Image:
    """Decode the current frame of a Pillow image in sRGB: mode RGBA, or RGB if it has no transparency.

    The EXIF orientation is not applied. Call it inside `decoding`.
    """
    clear = _clear_pixels(image)
    image.load()
    colours, alpha = _without_alpha(image)
    rgb = to_srgb(colours, image.info.get("icc_profile")).convert("RGB")
    if clear is not None:
        alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb


def open_lazily(file: BinaryIO) -> Image.Image:
    """Open the picture in `file` without decoding its pixels. Call it inside `decoding`.

    Raises PictureError, or anything that Pillow raises, for an unusable file.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    unreadable = unreadable_format(head)
    if unreadable is not None:
        raise PictureError(f"{unreadable} pictures are not supported; save it as JPEG or PNG")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    kind = picture_format(head)
    if kind == "TIFF":
        return tiff.open_page(file, tiff.page_numbers(file)[0])
    if kind == "PNG":
        lean, profile = lean_png(file)
        image = Image.open(lean, formats=["PNG"])
        if profile is not None:
            image.info["icc_profile"] = profile
        return image
    if kind == "WEBP" and head[12:16] == b"VP8X" and head[_WEBP_FLAGS] & _WEBP_ANIMATED:
        # Pixels that no frame covers are transparent, even if the header says that there is no transparency.
        return Image.open(_patched(file, _WEBP_FLAGS, bytes([head[_WEBP_FLAGS] | _WEBP_ALPHA])), formats=["WEBP"])
    if kind == "AVIF" and head[_MAJOR_BRAND : _MAJOR_BRAND + 4] not in _PILLOWS_BRANDS:
        brand = b"avis" if b"avis" in head else b"avif"
        return Image.open(_patched(file, _MAJOR_BRAND, brand), formats=["AVIF"])
    return Image.open(file, formats=formats)


def check_size(size: tuple[int, int]) -> None:
    """Raise PictureError if a picture of (width, height) pixels is empty or larger than MAX_PIXELS."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{width} x {height} has no pixels; give at least one")
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} is more than {MAX_PIXELS // 10**6} megapixels; scale it down")


def describe(source: object) -> str:
    """The name of an image source for a message, on one line."""
    if isinstance(source, (str, Path)):
        return display_name(source)
    return {"ndarray": "image array", "bytes": "image bytes"}.get(type(source).__name__, "image")


@contextmanager
def _header(source: ImageSource, name: str) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source, name)
    elif isinstance(source, (str, Path)):
        with open_media_file(source, MAX_FILE_BYTES) as file, open_lazily(file) as image:
            yield image
    elif isinstance(source, bytes):
        if not source:
            raise MediaError(f"{name}: empty; give the content of an image file")
        if len(source) > MAX_FILE_BYTES:
            raise MediaError(f"{name}: {len(source)} bytes, more than {MAX_FILE_BYTES}; scale it down")
        with open_lazily(io.BytesIO(source)) as image:
            yield image
    else:
        raise MediaError(f"{type(source).__name__}: not an image; give a path, bytes, a Pillow image or a uint8 array")


def _from_array(array: npt.NDArray[np.uint8], name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(f"{name}: values are {array.dtype} where uint8 is needed; scale them to 0..255")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise MediaError(f"{name}: shape {array.shape} where (h, w), (h, w, 3) or (h, w, 4) is needed")
    if 0 in array.shape:
        raise MediaError(f"{name}: shape {array.shape} has no pixels; give at least one")
    return Image.fromarray(array)


def _corrected(image: Image.Image) -> Image.Image:
    """The current frame of a GIF or TIFF, corrected if Pillow would misread it; other images unchanged."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    # An image without tiles has been decoded already, and the caller may have edited it.
    if file is None or not getattr(image, "tile", None):
        return image
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return tiff.as_shown(image)
    if not isinstance(image, GifImagePlugin.GifImageFile):
        return image
    frames = GifFrames(file)
    check_size(frames.size)
    number = image.tell()
    return next(canvas for at, (canvas, _) in enumerate(frames) if at == number)


def _patched(file: BinaryIO, at: int, new: bytes) -> BinaryIO:
    """A copy of the file with the bytes at one position replaced."""
    content = bytearray(file.read())
    content[at : at + len(new)] = new
    return io.BytesIO(content)


def _clear_pixels(image: Image.Image) -> npt.NDArray[np.bool_] | None:
    """Which pixels have the picture's transparent colour, bool (height, width); None if it has no such colour.

    Decodes the pixels. A PNG's transparent colour may have 16 bits, but Pillow keeps only 8 bits of RGB pixels.
    """
    key: Any = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0].args) if tiles else ""
    clear: npt.NDArray[np.bool_] | None = None
    if isinstance(key, int) and image.mode in ("1", "L", "I;16"):
        values = np.asarray(image)
        clear = np.equal(values * 255 if image.mode == "1" else values, key * _LEVELS_APART.get(stored, 1))
    elif isinstance(key, tuple) and image.mode == "RGB":
        colour = np.array(key, np.uint16)
        if stored == "RGB;16B":
            clear = ((_low_bytes(image) == colour & 255) & (np.asarray(image) == colour >> 8)).all(-1)
        else:
            # If the caller has decoded a picture of 16 bits already, its low bytes are lost.
            clear = np.equal(np.asarray(image), colour >> 8 if colour.max() > 255 else colour).all(-1)
    return clear


def _low_bytes(image: Any) -> npt.NDArray[np.uint8]:
    """The low bytes of a PNG of 16-bit RGB, (height, width, 3), read by claiming the opposite byte order to Pillow."""
    place = image.fp.tell()
    image.fp.seek(0)
    again: Any = Image.open(image.fp, formats=["PNG"])
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
    low = np.asarray(again)
    image.fp.seek(place)
    return low


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture's colours in 8 bits, and its transparency (mode L) if it has one."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(eight_bits(np.asarray(image))), None
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        # Pillow scales a PPM's values to 16 bits.
        return Image.fromarray(eight_bits(values.astype(np.uint16) if image.format == "PPM" else values)), None
    if image.mode == "P":
        image = image.convert("RGBA" if image.info.get("transparency") is not None else "RGB")
    elif image.mode in ("La", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" not in image.getbands():
        return image, None
    alpha = image.getchannel("A")
    # Screen-capture programs leave the fourth byte of a BMP at zero, which does not mean an invisible picture.
    all_clear = image.format == "BMP" and alpha.getextrema() == (0, 0)
    return image.convert(image.mode.removesuffix("A")), None if all_clear else alpha


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation; None if it is missing or the metadata are damaged, because the pixels may still be good."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


class _NoWarnings:
    """Drops the process's warnings while any thread is inside, and restores the filters when the last one leaves.

    `warnings.catch_warnings` changes the state of the whole process: if two threads interleaved, it would stay changed.
    So the first thread in changes it and the last one out restores it. The lock guards only the count: it is not held
    while a picture is decoded, so threads decode in parallel and a thread may enter again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_NO_WARNINGS = _NoWarnings()
