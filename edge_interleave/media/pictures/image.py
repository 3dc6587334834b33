"""An image from wherever it comes, safely, as an upright RGB picture.

Files come from strangers: only common raster formats are tried (nothing that runs an interpreter, such as EPS or PDF),
sizes are checked before pixels are decoded, and whatever Pillow raises comes out as one MediaError that names the file.
Knows nothing about models.

How modes become RGB: as `convert_to_rgb` of transformers does for its image processors, so that a model sees what it
saw there: transparency (alpha, or a transparent palette entry or colour) is laid over white, all else goes through
Pillow's own conversion. Where Pillow would clip or misread, the values are scaled instead (`levels`, `tiff`). Beyond
transformers, colours are brought to sRGB where the picture has an ICC profile (`colour`), and frames of a GIF are
composed as browsers do (`gif`).
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures import tiff
from edge_interleave.media.pictures.colour import to_srgb
from edge_interleave.media.pictures.formats import FORMATS as FORMATS
from edge_interleave.media.pictures.formats import HEAD_BYTES, Refused, picture_format, unreadable_format
from edge_interleave.media.pictures.formats import MAX_PIXELS as MAX_PIXELS
from edge_interleave.media.pictures.gif import GifFrames
from edge_interleave.media.pictures.levels import eight_bits
from edge_interleave.media.pictures.png_chunks import lean_png

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
"""Where a WebP's flags are, and two of them (RFC 9649, 2.7)."""
_MAJOR_BRAND = 8
"""Where an ISO media file's first brand is (ISO 14496-12, 4.3)."""
_PILLOWS_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
"""Pillow knows an AVIF by its first brand alone, and these."""
_LEVELS_APART = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies a PNG's grey values of 2 and 4 bits by."""


def open_image(source: ImageSource) -> Image.Image:
    """An upright RGB picture (EXIF rotation applied, metadata dropped) of any size of at least one pixel.

    `source` is a file's path, the bytes of such a file, a Pillow image of any mode, or a uint8 array of shape (h, w),
    (h, w, 3) or (h, w, 4) holding grey, RGB or RGBA. Of an animation it is the first frame.
    Raises MediaError, and nothing else, where there is no usable picture.
    """
    if type(source) is Image.Image and source.mode == "RGB" and not source.info and min(source.size) > 0:
        return source
    with opened(source) as image:
        return to_rgb(image)


@contextmanager
def opened(source: ImageSource) -> Iterator[Image.Image]:
    """A Pillow image whose header was read and checked and whose pixels may still be in the file.

    Any failure inside the block, decoding above all, comes out as a MediaError naming the source; Pillow's warnings
    about odd files are dropped.
    """
    name = describe(source)
    with decoding(name), _header(source, name) as image:
        check_size(image.size)
        yield image


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Any failure inside the block comes out as a MediaError naming the picture; Pillow's warnings are dropped."""
    try:
        with _WITHOUT_WARNINGS:
            yield
    except MediaError:
        raise
    except Refused as error:
        raise MediaError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise MediaError(
            f"{name}: not an image that can be read, or cut off; give one of {', '.join(FORMATS)}"
        ) from None
    except MemoryError as error:
        raise MediaError(f"{name}: too large for this machine's memory; scale it down") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels; scale it down") from error
    # Plugins that parse damaged files raise whatever their parsing ran into: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise MediaError(f"{name}: cannot be decoded ({_one_line(error)}); the file is damaged or cut off") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The current frame of a Pillow image, decoded, RGB, upright, without metadata. For use inside `opened`."""
    if image.format == "GIF" or isinstance(image, TiffImagePlugin.TiffImageFile):
        image = _as_meant(image)
    shown = to_rgba(image)
    orientation = _orientation(image)
    if shown.mode == "RGBA":
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        shown = Image.alpha_composite(white, shown).convert("RGB")
    if orientation in _ORIENTATIONS:
        shown = shown.transpose(_ORIENTATIONS[orientation])
    # Metadata must not travel on: a second reader would rotate or composite again.
    shown.info = {}
    return shown


def to_rgba(image: Image.Image) -> Image.Image:
    """The current frame of a Pillow image, decoded, in sRGB, mode RGBA or, where nothing is transparent, RGB.

    It is not turned upright. For use inside `opened`.
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


def identify(file: BinaryIO) -> Image.Image:
    """The picture in `file`, its pixels still there. For use inside `decoding`.

    Raises Refused, or whatever Pillow raises, where the file is no picture that can be read.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    unreadable = unreadable_format(head)
    if unreadable is not None:
        raise Refused(f"{unreadable} pictures are not supported; save it as JPEG or PNG")
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
        # It is transparent where its frames leave a rest, whatever its header says.
        return Image.open(_changed(file, _WEBP_FLAGS, bytes([head[_WEBP_FLAGS] | _WEBP_ALPHA])), formats=["WEBP"])
    if kind == "AVIF" and head[_MAJOR_BRAND : _MAJOR_BRAND + 4] not in _PILLOWS_BRANDS:
        brand = b"avis" if b"avis" in head else b"avif"
        return Image.open(_changed(file, _MAJOR_BRAND, brand), formats=["AVIF"])
    return Image.open(file, formats=formats)


def open_regular(path: Path | str, max_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading. Raises MediaError where it is missing, a folder, a device, empty or too large."""
    name = describe(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{name}: is a folder; give a file")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{name}: not a regular file; give a file on disk")
        if status.st_size == 0:
            raise MediaError(f"{name}: the file is empty; save or download it again")
        if max_bytes is not None and status.st_size > max_bytes:
            raise MediaError(f"{name}: {status.st_size} bytes, more than {max_bytes}; scale it down")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: cannot be opened ({_one_line(error)}); check the path") from error


def describe(source: object) -> str:
    """How messages name a source: on one line, whatever its name holds."""
    if isinstance(source, (str, Path)):
        name = str(source)
        name = name if name.isprintable() and name else repr(name)
        return name if len(name) <= 300 else f"{name[:140]} ... {name[-140:]}"
    return {"ndarray": "image array", "bytes": "image bytes"}.get(type(source).__name__, "image")


@contextmanager
def _header(source: ImageSource, name: str) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source, name)
    elif isinstance(source, (str, Path)):
        with open_regular(source, MAX_FILE_BYTES) as file, identify(file) as image:
            yield image
    elif isinstance(source, bytes):
        if not source:
            raise MediaError(f"{name}: empty; give the content of an image file")
        if len(source) > MAX_FILE_BYTES:
            raise MediaError(f"{name}: {len(source)} bytes, more than {MAX_FILE_BYTES}; scale it down")
        with identify(io.BytesIO(source)) as image:
            yield image
    else:
        raise MediaError(f"{type(source).__name__}: not an image; give a path, bytes, a Pillow image or a uint8 array")


def _from_array(array: npt.NDArray[np.uint8], name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(f"{name}: values are {array.dtype} where uint8 is needed; scale them to 0..255")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise MediaError(f"{name}: shape {array.shape} where (h, w), (h, w, 3) or (h, w, 4) is needed")
    if 0 in array.shape:
        raise MediaError(f"{name}: shape {array.shape} holds no pixels; give at least one")
    return Image.fromarray(array)


def check_size(size: tuple[int, int]) -> None:
    """Raises Refused where a picture of so many pixels, (width, height), is empty or too large."""
    width, height = size
    if width < 1 or height < 1:
        raise Refused(f"{width} x {height} holds no pixels; give at least one")
    if width * height > MAX_PIXELS:
        raise Refused(f"{width} x {height} is more than {MAX_PIXELS // 10**6} megapixels; scale it down")


def _as_meant(image: Image.Image) -> Image.Image:
    """The current frame of a GIF or TIFF that Pillow would show wrongly; others, and edited ones, as they are."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    # Without tiles the pixels have been read, and the caller may have drawn on them.
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


def _changed(file: BinaryIO, at: int, new: bytes) -> BinaryIO:
    """The file with other bytes at one place."""
    content = bytearray(file.read())
    content[at : at + len(new)] = new
    return io.BytesIO(content)


def _clear_pixels(image: Image.Image) -> npt.NDArray[np.bool_] | None:
    """Which pixels have the one colour that is transparent, (height, width); None where there is no such colour.

    Reads the pixels. A PNG's colour may have 16 bits, of which Pillow keeps 8 of RGB.
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
            # Of a picture of 16 bits that the caller has read already the low bytes are gone.
            clear = np.equal(np.asarray(image), colour >> 8 if colour.max() > 255 else colour).all(-1)
    return clear


def _low_bytes(image: Any) -> npt.NDArray[np.uint8]:
    """The low bytes of a PNG of 16 bits, (height, width, 3): Pillow reads them where it believes them the high ones."""
    place = image.fp.tell()
    image.fp.seek(0)
    again: Any = Image.open(image.fp, formats=["PNG"])
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
    low = np.asarray(again)
    image.fp.seek(place)
    return low


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours of a picture in 8 bits, with their transparency if they have one, mode L."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(eight_bits(np.asarray(image))), None
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        # A PPM's values are scaled to 16 bits by Pillow.
        return Image.fromarray(eight_bits(values.astype(np.uint16) if image.format == "PPM" else values)), None
    if image.mode == "P":
        image = image.convert("RGBA" if image.info.get("transparency") is not None else "RGB")
    elif image.mode in ("La", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" not in image.getbands():
        return image, None
    alpha = image.getchannel("A")
    # Programs that grab screens leave the fourth byte of a BMP at zero; such a picture is not invisible.
    nothing_seen = image.format == "BMP" and alpha.getextrema() == (0, 0)
    return image.convert(image.mode.removesuffix("A")), None if nothing_seen else alpha


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation. Damaged metadata is no reason to refuse a picture that was decoded."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if text.isprintable() and text else type(error).__name__


class _WithoutWarnings:
    """Drops the process's warnings while any thread is inside; they are as before when the last has left.

    `warnings.catch_warnings` changes the whole process: two threads that interleave would leave it changed for good.
    Nothing is locked while a picture is decoded, so a thread may enter again.
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


_WITHOUT_WARNINGS = _WithoutWarnings()
