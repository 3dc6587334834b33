"""Unusable images and videos: IMAGES and VIDEOS hold functions that write one to a path, and the expected error."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_interleave.embedded import DEMO_CLIP
from support import pictures
from support.bad_input.damage import HTML, PICKLE

Lay = Callable[[Path], object]


def data(content: bytes) -> Lay:
    return lambda path: path.write_bytes(content)


def saved(kind: str, share: float, **options: object) -> Lay:
    """A picture in a format, cut off after this share of its bytes."""
    file = io.BytesIO()
    pictures.picture().save(file, kind, **options)
    return data(file.getvalue()[: int(len(file.getvalue()) * share)])


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> Lay:
    """A PNG that claims a size. `more`: chunks behind the header."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return data(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in ((b"IHDR", head), *more, (b"IEND", b""))))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(width: int, height: int, strip: int) -> Lay:
    """An uncompressed grey TIFF whose only strip lies at `strip`."""
    tags = (
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, strip), (278, 4, height),
        (279, 4, 0x7FFFFFFF),
    )  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return data(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))


def gif(width: int, height: int) -> Lay:
    return data(
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    )


def bitmap(width: int, height: int) -> Lay:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return data(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def cut_clip(share: float) -> Lay:
    return lambda path: path.write_bytes(DEMO_CLIP.read_bytes()[: int(DEMO_CLIP.stat().st_size * share)])


def clip_without(box: bytes) -> Lay:
    """The demo's clip with one kind of boxes renamed."""
    return lambda path: path.write_bytes(DEMO_CLIP.read_bytes().replace(box, b"zzzz"))


def clip_claiming(width: int, height: int) -> Lay:
    """A clip that claims a size and cannot be decoded."""

    def lay(path: Path) -> None:
        raw = bytearray(DEMO_CLIP.read_bytes())
        box = raw.index(b"avc1") if b"avc1" in raw else raw.index(b"mp4v")
        raw[box + 28 : box + 32] = struct.pack(">HH", width, height)
        tracks = raw.index(b"tkhd")
        raw[tracks + 80 : tracks + 88] = struct.pack(">II", width << 16, height << 16)
        start = raw.index(b"mdat") + 4
        raw[start : start + 20000] = np.random.default_rng(0).bytes(len(raw[start : start + 20000]))
        path.write_bytes(raw)

    return lay


def avi(width: int, height: int) -> Lay:
    """An uncompressed AVI without frames."""
    header = struct.pack("<14I", 40000, 0, 0, 0x10, 1 << 31, 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = b"vidsDIB " + struct.pack("<10IHHHH", 0, 0, 0, 1, 25, 0, 1 << 31, 0, 0, 0, 0, 0, 0, 0)
    kind = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    inner = riff(b"strh", stream) + riff(b"strf", kind)
    lists = riff(b"LIST", b"hdrl" + riff(b"avih", header) + riff(b"LIST", b"strl" + inner))
    return data(riff(b"RIFF", b"AVI " + lists + riff(b"LIST", b"movi")))


def riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def folder(**files: bytes) -> Lay:
    def lay(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("_", ".")).write_bytes(content)

    return lay


NOTHING_BUT_BYTES = bytes(range(256)) * 40

IMAGES: dict[str, tuple[Lay, str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (data(b""), "empty"),
    "one byte": (data(b"\x89"), "not an image"),
    "bytes of no meaning": (data(NOTHING_BUT_BYTES), "not an image"),
    "a page that says 404": (data(HTML), "not an image"),
    "a pickle": (data(PICKLE), "not an image"),
    "a PDF": (data(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), "not an image"),
    "a PostScript program": (
        data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
        "not an image",
    ),
    "an SVG that reads a file": (data(b'<svg><image href="file:///etc/passwd"/></svg>'), "not an image"),
    "a HEIC": (data(b"\0\0\0\x18ftypheic" + bytes(40)), "HEIC"),
    "a video": (cut_clip(1.0), "not an image"),
    "a folder": (folder(), "folder"),
    "a pipe that nobody writes to": (a_fifo, "not a regular file"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a link to nowhere": (lambda path: path.symlink_to("/nowhere/at/all"), "no such file"),
    "a link to itself": (a_loop, "cannot be opened"),
    "PNG cut off in its header": (saved("PNG", 0.01), "not an image"),
    "PNG cut off in its pixels": (saved("PNG", 0.6), "cannot be decoded"),
    "PNG of no pixels": (png(0, 0), ""),
    "PNG of 60,000 x 60,000": (png(60_000, 60_000), "megapixels"),
    "PNG of 2^31 x 2^31": (png((1 << 31) - 1, (1 << 31) - 1), "megapixels"),
    "PNG without pixels": (png(64, 64), "cannot be decoded"),
    "PNG of damaged pixels": (png(64, 64, (b"IDAT", b"\x78\x9cgarbage")), "cannot be decoded"),
    "PNG with a text of 200 MB": (
        png(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
        "cannot be decoded",
    ),
    "JPEG cut off in its header": (saved("JPEG", 0.05), ""),
    "JPEG cut off in its pixels": (saved("JPEG", 0.7), "cannot be decoded"),
    "WebP cut off": (saved("WEBP", 0.5), ""),
    "AVIF cut off": (saved("AVIF", 0.7), ""),
    "GIF cut off": (saved("GIF", 0.5), "cannot be decoded"),
    "GIF of 65,535 x 65,535": (gif(65_535, 65_535), "megapixels"),
    "BMP cut off": (saved("BMP", 0.5), "cannot be decoded"),
    "BMP of 2^31 x 2^31": (bitmap((1 << 31) - 1, (1 << 31) - 1), "megapixels"),
    "TIFF cut off": (saved("TIFF", 0.5), ""),
    "TIFF, deflated, cut off": (saved("TIFF", 0.5, compression="tiff_deflate"), ""),
    "TIFF of 2^31 x 2^31": (tiff((1 << 31) - 1, (1 << 31) - 1, 8), "megapixels"),
    "TIFF whose pixels lie past its end": (tiff(64, 64, 0x7FFFFFF0), ""),
    "PPM of 99,999 x 99,999": (data(b"P6\n99999 99999\n255\nabc"), "megapixels"),
    "PPM of a size of letters": (data(b"P6\nlarge huge\n255\nabc"), ""),
}

VIDEOS: dict[str, tuple[Lay, str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (data(b""), "empty"),
    "bytes of no meaning": (data(NOTHING_BUT_BYTES), "not a video"),
    "a page that says 404": (data(HTML), "not a video"),
    "a pickle": (data(PICKLE), "not a video"),
    "a pipe that nobody writes to": (a_fifo, "not a regular file"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a link to itself": (a_loop, "cannot be opened"),
    "an empty folder": (folder(), "no pictures"),
    "a folder of texts": (folder(a_txt=b"hello"), "no pictures"),
    "a folder with a broken picture": (folder(a_png=b"\x89PNG\r\n\x1a\n"), "a.png"),
    "a playlist": (data(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), "not a video"),
    "a list of files to join": (data(b"ffconcat version 1.0\nfile '/etc/passwd'\n"), "not a video"),
    "a session description": (data(b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"), "not a video"),
    "MP4 cut off after 10 bytes": (cut_clip(0.0004), "not a video"),
    "MP4 cut off after 2 %": (cut_clip(0.02), "not a video"),
    "MP4 without its table of contents": (clip_without(b"moov"), "not a video"),
    "MP4 without its track": (clip_without(b"trak"), ""),
    "MP4 without its frames' places": (clip_without(b"stbl"), ""),
    "MP4 of 65,535 x 65,535": (clip_claiming(65_535, 65_535), ""),
    "AVI of 2^31 x 2^31": (avi((1 << 31) - 1, (1 << 31) - 1), ""),
    "AVI without frames": (avi(64, 64), ""),
    "Matroska that ends after its header": (
        data(b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webm"),
        "",
    ),
    "GIF cut off": (saved("GIF", 0.1), ""),
    "GIF of 65,535 x 65,535": (gif(65_535, 65_535), "megapixels"),
    "animated PNG of 60,000 x 60,000": (
        png(60_000, 60_000, (b"acTL", struct.pack(">II", 1 << 30, 0))),
        "megapixels",
    ),
}
