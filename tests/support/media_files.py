"""Writes picture and video files of every kind, byte by byte where no library writes them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

RED, GREY, WHITE = (220, 30, 30), (128, 128, 128), (255, 255, 255)
DARK, LIGHT = 60, 200


def circle(ink: tuple[int, int, int] = RED, ground: tuple[int, int, int] = GREY, side: int = 32) -> Image.Image:
    """A disc in the middle: it covers (16, 16) and not (1, 1)."""
    image = Image.new("RGB", (side, side), ground)
    ImageDraw.Draw(image).ellipse((8, 8, side - 9, side - 9), fill=ink)
    return image


# PNG


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: Iterable[bytes], *before: bytes) -> bytes:
    """A PNG of these rows; `before` are chunks in front of the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = (png_chunk(b"IHDR", header), *before, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@dataclass(frozen=True)
class ApngFrame:
    pixels: np.ndarray
    """(height, width, 4), uint8."""
    left: int
    top: int
    disposal: int
    blend: int


def apng(width: int, height: int, frames: Sequence[ApngFrame], default: np.ndarray | None) -> bytes:
    """An APNG with frames of 0.1 s. `default`: the picture for programs without support for animations."""

    def data(pixels: np.ndarray) -> bytes:
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))

    body, number = b"" if default is None else png_chunk(b"IDAT", data(default)), 0
    for index, frame in enumerate(frames):
        high, wide = frame.pixels.shape[:2]
        place = struct.pack(">5IHHBB", number, wide, high, frame.left, frame.top, 1, 10, frame.disposal, frame.blend)
        body += png_chunk(b"fcTL", place)
        number += 1
        if index == 0 and default is None:
            body += png_chunk(b"IDAT", data(frame.pixels))
        else:
            body += png_chunk(b"fdAT", struct.pack(">I", number) + data(frame.pixels))
            number += 1
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    count = png_chunk(b"acTL", struct.pack(">II", len(frames), 0))
    return b"\x89PNG\r\n\x1a\n" + header + count + body + png_chunk(b"IEND", b"")


# BMP

BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RGBA = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
XRGB1555 = (0x7C00, 0x3E0, 0x1F, 0x8000)


def bmp(header: int, bits: int, masks: tuple[int, int, int, int], rows: bytes, size: tuple[int, int]) -> bytes:
    """A BMP with colour masks and a header of `header` bytes; rows from the bottom up."""
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, 3, len(rows), 2835, 2835, 0, 0)
    info = (
        (info + struct.pack("<4I", *masks)).ljust(header, b"\0")
        if header > 40
        else info + struct.pack("<3I", *masks[:3])
    )
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + rows


# TIFF


def tiff(
    values: np.ndarray,
    bits: int,
    *,
    photometric: int = 1,
    kind: int = 1,
    order: str = "<",
    more: dict[int, int] | None = None,
) -> bytes:
    """A TIFF of one uncompressed page. `values`: (height, width) or (height, width, 3), stored as given.

    `kind`: 1 unsigned, 2 signed, 3 float. `order`: "<" or ">".
    """
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    if bits in (8, 16, 32, 64):
        data = values.astype(f"{order}{' uif'[kind]}{bits // 8}").tobytes()
    else:
        ones = values.reshape(height, -1).astype(np.int64)[..., np.newaxis] >> np.arange(bits - 1, -1, -1) & 1
        data = np.packbits(ones.astype(np.uint8).reshape(height, -1), axis=1).tobytes()
    entries = {256: width, 257: height, 259: 1, 262: photometric, 277: samples, 278: height, 279: len(data)}
    entries |= {258: bits, 339: kind, 273: 0, **(more or {})}
    start = 8 + 2 + 12 * len(entries) + 4
    lists = b""
    for tag in (258, 339):
        if samples > 2:
            lists, entries[tag] = (
                lists + struct.pack(f"{order}{samples}H", *[entries[tag]] * samples),
                start + len(lists),
            )
    entries[273] = start + len(lists)
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, value in sorted(entries.items()):
        if tag in (258, 339) and samples > 2:
            out += struct.pack(f"{order}HHII", tag, 3, samples, value)
        elif tag in (273, 279):
            out += struct.pack(f"{order}HHII", tag, 4, 1, value)
        else:
            out += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    return out + bytes(4) + lists + data


# GIF


@dataclass(frozen=True)
class GifFrame:
    indices: np.ndarray
    """(height, width), palette entries from 0 to 3."""
    left: int = 0
    top: int = 0
    disposal: int = 0
    clear: int | None = None
    hundredths: int = 10


def gif(width: int, height: int, palette: bytes, background: int, frames: Sequence[GifFrame]) -> bytes:
    """A GIF of four colours, in which frames need not fill the canvas."""
    out = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF1, background, 0) + palette
    for frame in frames:
        flags = frame.disposal << 2 | (frame.clear is not None)
        out += b"\x21\xf9\x04" + struct.pack("<BHBB", flags, frame.hundredths, frame.clear or 0, 0)
        high, wide = frame.indices.shape
        out += b"\x2c" + struct.pack("<4HB", frame.left, frame.top, wide, high, 0) + _lzw(frame.indices)
    return out + b"\x3b"


def _lzw(indices: np.ndarray) -> bytes:
    """Codes of three bits; a clear code before every second one keeps them from growing."""
    codes = [
        code for at, index in enumerate(indices.ravel()) for code in ((4, int(index)) if at % 2 == 0 else (int(index),))
    ]
    bits = "".join(f"{code:03b}"[::-1] for code in [*codes, 5])
    data = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"\x02" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


# WebP


def animated_webp(width: int, height: int, frames: Sequence[tuple[Image.Image, int, int]]) -> bytes:
    """An animation of frames at (left, top); the header wrongly says that nothing is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)

    def three(value: int) -> bytes:
        return value.to_bytes(3, "little")

    body = chunk(b"VP8X", bytes([2, 0, 0, 0]) + three(width - 1) + three(height - 1))
    body += chunk(b"ANIM", struct.pack("<IH", 0, 0))
    for image, left, top in frames:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", lossless=True)
        place = three(left // 2) + three(top // 2) + three(image.width - 1) + three(image.height - 1) + three(100)
        body += chunk(b"ANMF", place + b"\1" + buffer.getvalue()[12:])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


# ICC profiles (ICC.1)


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of a monitor, or of a printer for CMYK, with these tags."""
    start, table, data = 128 + 4 + 12 * (len(tags) + 2), b"", b""
    texts = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"t\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"t\0",
    }
    for name, content in (texts | tags).items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags) + 2) + table + data


def grey_profile(gamma: float) -> bytes:
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(gamma * 256))
    return profile(b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": curve})


def ink_profile(lightness: dict[tuple[int, int, int, int], int]) -> bytes:
    """A CMYK profile that maps combinations of full inks to greys of this lightness, 0 to 255."""
    straight = bytes(range(256))
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes([lightness.get(corner, 0), 128, 128]) for corner in corners)
    one = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + one + straight * 4 + grid + straight * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    return profile(b"CMYK", b"Lab ", {b"wtpt": white, b"A2B0": table})


# Videos


def bars(number: int) -> np.ndarray:
    """A frame of 128 x 32 that shows its number as eight bars, one for each bit, which survive lossy codecs."""
    bits = [(number >> bit & 1) * 195 + 30 for bit in range(8)]
    return np.broadcast_to(np.repeat(np.array(bits, np.uint8), 16)[:, np.newaxis], (32, 128, 3)).copy()


def number_of(image: Image.Image) -> int:
    shown = np.asarray(image)[8:24].reshape(16, 8, 16, 3)[:, :, 4:12].mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(8) if shown[bit] > 128)


@dataclass(frozen=True)
class Track:
    """A video track of numbered frames."""

    numbers: Sequence[int]
    codec: str = "mpeg4"
    times_ms: Sequence[int] | None = None
    """When each frame is shown; None: ten frames a second."""
    b_frames: int = 0
    default: bool = True
    cover: bool = False


def write_video(path: Path, *tracks: Track, format: str | None = None) -> Path:
    packets = []
    with av.open(str(path), "w", format=format) as out:
        for track in tracks:
            stream = out.add_stream(track.codec, rate=10)
            stream.height, stream.width = bars(0).shape[:2]
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, track.b_frames
            stream.disposition = av.stream.Disposition(track.default | 1024 * track.cover)
            if track.times_ms is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index, number in enumerate(track.numbers):
                frame = av.VideoFrame.from_ndarray(bars(number), format="rgb24")
                frame.pts = index if track.times_ms is None else track.times_ms[index]
                if track.times_ms is not None:
                    frame.time_base = Fraction(1, 1000)
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            out.mux(packet)
    return path
