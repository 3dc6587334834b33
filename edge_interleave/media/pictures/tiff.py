"""Reads TIFF pages, including those that Pillow refuses or misreads.

Pillow shows white-is-zero pages of more than 8 bits as negatives, confuses signed and unsigned values of 8 and 32 bits,
does not read packed values of 10 and 14 bits, and does not scale those of 12. OpenCV returns the stored values of all
of these; this module turns them into 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from edge_interleave.media.opencv import opencv
from edge_interleave.media.pictures.formats import MAX_PIXELS, PictureError
from edge_interleave.media.pictures.levels import eight_bits

MAX_PAGES = 1 << 17
MAX_DECODED_BYTES = 2 << 30
"""The limit for the decoded values of a page that OpenCV reads."""
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 256, 257, 258, 262
_SUBFILE_TYPE, _SUB_IFDS, _SAMPLE_FORMAT, _ICC_PROFILE, _DNG_VERSION = 254, 330, 339, 34675, 50706
"""Tag numbers (TIFF 6.0, appendix A; DNG 1.7)."""
_REDUCED, _MASK = 1, 4
"""Bits of the subfile type: the page is a smaller copy of another one, or a mask for it."""
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_PILLOW_READS = {(32, _SIGNED), (32, _FLOAT)} | {(bits, _UNSIGNED) for bits in (1, 2, 4, 8, 16)}
"""Bits and format of the samples that Pillow reads correctly."""

Tags = TiffImagePlugin.ImageFileDirectory_v2


def directories(file: IO[bytes]) -> Iterator[Tags]:
    """The tags of each page, in the file's order. Raises what Pillow raises for a damaged file."""
    file.seek(0)
    head = file.read(8)
    if head[2:4] in (b"+\0", b"\0+"):
        head += file.read(8)
    tags = Tags(head)
    seen: set[int] = set()
    while tags.next and tags.next not in seen:
        if len(seen) >= MAX_PAGES:
            raise PictureError(f"a TIFF of more than {MAX_PAGES} pages; the file is damaged")
        seen.add(tags.next)
        following = Tags(head)
        file.seek(tags.next)
        following.load(file)
        yield following
        tags = following


def page_numbers(file: IO[bytes]) -> list[int]:
    """The numbers of the pages that are neither smaller copies of other pages nor masks; at least [0]."""
    kinds = [int(tags.get(_SUBFILE_TYPE, 0)) for tags in directories(file)]
    return [number for number, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)] or [0]


def open_page(file: IO[bytes], number: int) -> Image.Image:
    """Page `number` of the file: Pillow's image if Pillow can open it, otherwise OpenCV's, of mode L or RGB.

    Raises PictureError, or what Pillow raises, if there is no such page or neither can read it.
    """
    tags = next((tags for at, tags in enumerate(directories(file)) if at == number), None)
    if tags is None:
        raise PictureError("a TIFF without pages; the file is damaged or cut off")
    if _DNG_VERSION in tags or (_SUB_IFDS in tags and int(tags.get(_SUBFILE_TYPE, 0)) & _REDUCED):
        raise PictureError("a raw photograph, of which only the preview can be read; save it as JPEG or PNG")
    try:
        file.seek(0)
        image = Image.open(file, formats=["TIFF"])
        image.seek(number)
        return image
    # Pillow raises the same errors for an unknown sample format and for a damaged file.
    except (OSError, SyntaxError, EOFError):
        shown = _by_opencv(file, number, tags)
        if shown is None:
            raise
        return shown


def as_shown(image: TiffImagePlugin.TiffImageFile) -> Image.Image:
    """The page in 8 bits if Pillow would misread its values, otherwise `image` itself. Call it before `load`."""
    tags, file = image.tag_v2, image.fp
    if file is None:
        return image
    if not set(_samples(tags)) <= _PILLOW_READS:
        shown = _by_opencv(file, image.tell(), tags)
        return image if shown is None else shown
    if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO or image.mode in ("1", "L", "P"):
        return image
    image.load()
    inverted = Image.fromarray(255 - eight_bits(np.asarray(image)))
    inverted.info = dict(image.info)
    return inverted


def _by_opencv(file: IO[bytes], number: int, tags: Tags) -> Image.Image | None:
    """The page read by OpenCV, mode L or RGB, upright; None if OpenCV cannot read it.

    OpenCV returns packed values of 10, 12 and 14 bits as the upper bits of 16.
    """
    samples = _samples(tags)
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    decoded_bytes = width * height * len(samples) * (max(bits for bits, _ in samples) + 7) // 8
    if width * height > MAX_PIXELS or decoded_bytes > MAX_DECODED_BYTES:
        raise PictureError(f"{width} x {height} values of {samples[0][0]} bits are too large; scale it down")
    cv2 = opencv()
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    try:
        decoded, pages = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(number, number + 1))
    except cv2.error:
        return None
    if not decoded or not pages or not (pages[0].ndim == 2 or pages[0].shape[2] == 3):
        return None
    values: npt.NDArray[Any] = pages[0] if pages[0].ndim == 2 else pages[0][..., ::-1]
    levels = eight_bits(values)
    # OpenCV inverts values of 8 bits itself.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and samples[0][0] > 8:
        levels = 255 - levels
    shown = Image.fromarray(np.ascontiguousarray(levels))
    if _ICC_PROFILE in tags:
        shown.info["icc_profile"] = tags[_ICC_PROFILE]
    return shown


def _samples(tags: Tags) -> list[tuple[int, int]]:
    """Bits and sample format of each channel."""
    bits = tuple(tags.get(_BITS, (1,)))
    formats = tuple(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    return [(int(b), int(formats[min(at, len(formats) - 1)])) for at, b in enumerate(bits)]
