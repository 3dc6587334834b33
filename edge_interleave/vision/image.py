"""An image from wherever it comes, safely, as an upright RGB picture.

Files come from strangers: only common raster formats are tried (nothing that runs an interpreter, such as EPS or PDF),
sizes are checked before pixels are decoded, and whatever Pillow raises comes out as one MediaError that names the file.
Knows nothing about models.

How modes become RGB: as `convert_to_rgb` of transformers does for its image processors, so that a model sees what it
saw there: transparency (alpha, or a transparent palette entry or colour) is laid over white, all else goes through
Pillow's own conversion. Where Pillow would clip, the values are scaled instead: 16-bit grey keeps its high byte (what
Pillow itself does for 16-bit colour); 32-bit integers and floats, which say nothing about their range, are taken as
0..1 (floats), 0..255 or 0..65535 (integers) if they fit, and are stretched from least to greatest if they do not.
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
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import MediaError

ImageSource = Path | str | bytes | Image.Image | npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 178_000_000
"""Just below the size at which Pillow itself refuses an image as a decompression bomb."""
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
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# `warnings.catch_warnings` changes the whole process; two threads that interleave would leave it changed for good.
_warnings_lock = threading.Lock()


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
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _header(source, name) as image:
                _check_size(image.size, name)
                yield image
    except MediaError:
        raise
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
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    rgb = image.convert("RGB")
    if orientation in _ORIENTATIONS:
        rgb = rgb.transpose(_ORIENTATIONS[orientation])
    # Metadata must not travel on: a second reader would rotate or composite again.
    rgb.info = {}
    return rgb


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
        with open_regular(source, MAX_FILE_BYTES) as file, _identify(file, name) as image:
            yield image
    elif isinstance(source, bytes):
        if not source:
            raise MediaError(f"{name}: empty; give the content of an image file")
        if len(source) > MAX_FILE_BYTES:
            raise MediaError(f"{name}: {len(source)} bytes, more than {MAX_FILE_BYTES}; scale it down")
        with _identify(io.BytesIO(source), name) as image:
            yield image
    else:
        raise MediaError(f"{type(source).__name__}: not an image; give a path, bytes, a Pillow image or a uint8 array")


def _identify(file: BinaryIO, name: str) -> Image.Image:
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        raise MediaError(f"{name}: HEIC pictures are not supported; save it as JPEG or PNG")
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _from_array(array: npt.NDArray[np.uint8], name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(f"{name}: values are {array.dtype} where uint8 is needed; scale them to 0..255")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise MediaError(f"{name}: shape {array.shape} where (h, w), (h, w, 3) or (h, w, 4) is needed")
    if 0 in array.shape:
        raise MediaError(f"{name}: shape {array.shape} holds no pixels; give at least one")
    return Image.fromarray(array)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{name}: {width} x {height} holds no pixels; give at least one")
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name}: {width} x {height} is more than {MAX_PIXELS // 10**6} megapixels; scale it down")


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation. Damaged metadata is no reason to refuse a picture that was decoded."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _eight_bits(values: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    floats = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    least, greatest = float(floats.min()), float(floats.max())
    if least < 0 or greatest > 65535 or (greatest > 255 and values.dtype.kind == "f"):
        floats = (floats - least) * 255 / ((greatest - least) or 1.0)
    elif greatest > 255:
        floats /= 257
    elif greatest <= 1 and values.dtype.kind == "f":
        floats *= 255
    return np.round(floats).astype(np.uint8)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if text.isprintable() and text else type(error).__name__
