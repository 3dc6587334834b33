"""Saved conversations: messages, the visual tokens of their images, and the decoder's KV cache, in one file.

    magic | header's length (8 bytes) | header's SHA-256 | header (JSON) | visual tokens (float32) | KV cache

Integers and floats are little-endian. The KV cache is in the format of `Decoder.save`. The visual tokens are needed if
the KV cache has to be computed again, for example to grow. Images themselves are not saved.
A file may come from a stranger: every size and value is checked before use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from edge_interleave.decoding.decoder import DecoderFacts
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.errors import InputError, UsageError
from edge_interleave.prompt.messages import ROLES, Image, Message, Part, Video
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.disk_space import writing
from edge_interleave.util.regular_file import open_regular_file

MAGIC = b"EDGE-INTERLEAVE-CHAT-1\n"
HEADER_BYTES_MAX = 16 << 20
_FLOAT_BYTES = 4
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Origin:
    """The model and backend of a conversation. A saved one can only be resumed with the same."""

    model: str
    tokenizer: str
    """SHA-256 of `tokenizer.json`."""
    backend: str
    kv_precision: str


@dataclass(frozen=True)
class Conversation:
    """A conversation up to its last answer."""

    messages: tuple[Message, ...]
    opening: int
    """How many of the first messages remain after a reset."""
    images: tuple[VisualInput, ...]
    """One for each image and each frame of a video, in order."""
    counts: tuple[int, ...]
    """How many of `images` belong to each image (1) and video."""
    inputs: tuple[Input, ...]
    """The conversation as given to the decoder, with the images of `images`."""


def write_conversation(
    path: Path, conversation: Conversation, origin: Origin, save_cache: Callable[[Path], None]
) -> None:
    """Write a file, atomically and readable by the owner only. `save_cache` writes the KV cache to a path.

    Raises InputError if the file cannot be written, ResourceError for a full disk.
    """
    with (
        atomic_file(path, private=True, remedy="choose another place") as temporary,
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder,
    ):
        cache = Path(folder) / "cache"
        save_cache(cache)
        header = json.dumps(_header(conversation, origin, cache.stat().st_size)).encode()
        with temporary.open("wb") as file, cache.open("rb") as cache_file:
            file.write(MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header)
            for image in conversation.images:
                file.write(np.ascontiguousarray(image.embeddings, "<f4").data)
            shutil.copyfileobj(cache_file, file)


def read_conversation(
    path: Path, origin: Origin, facts: DecoderFacts, load_cache: Callable[[Path, Conversation], None]
) -> Conversation:
    """Read a file that `write_conversation` wrote. `load_cache` reads the KV cache from a path.

    Raises InputError if the file is missing, damaged, or saved with another model, backend or KV precision;
    ContextFullError if the conversation does not fit into the context.
    """
    try:
        with open_regular_file(path) as file, tempfile.TemporaryDirectory(prefix="edge-interleave-") as folder:
            conversation = _read(path, file, origin, facts)
            cache = Path(folder) / "cache"
            with writing(cache), cache.open("wb") as cache_file:
                shutil.copyfileobj(file, cache_file)
            try:
                load_cache(cache, conversation)
            except InputError as error:
                reason = str(error).removeprefix(f"{cache}: ").removesuffix("; prefill again")
                raise InputError(
                    f"{path}: its KV cache is {reason}; resume with the bundle that saved it, or begin another chat"
                ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    return conversation


def _header(conversation: Conversation, origin: Origin, cache_bytes: int) -> dict[str, Any]:
    # If an image occurs twice, its first index is written.
    index = {image.key: number for number, image in reversed(list(enumerate(conversation.images)))}
    return {
        **asdict(origin),
        "messages": [
            {"role": message.role, "parts": [_part_as_json(part) for part in message.parts]}
            for message in conversation.messages
        ],
        "opening": conversation.opening,
        "images": [
            {"rows": len(image.rows), "newline": image.newline is not None, "digest": image.key.hex()}
            for image in conversation.images
        ],
        "counts": conversation.counts,
        "inputs": [list(part.ids) if isinstance(part, TextInput) else index[part.key] for part in conversation.inputs],
        "cache_bytes": cache_bytes,
    }


def _read(path: Path, file: BinaryIO, origin: Origin, facts: DecoderFacts) -> Conversation:
    try:
        header = _read_header(path, file)
        _check_origin(path, header, origin)
        return _read_body(path, file, header, facts)
    # Python raises these for values of the wrong type, and `Video` raises UsageError for a wrong number of frames.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, UsageError):
        _damaged(path)


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    if file.read(len(MAGIC)) != MAGIC:
        raise InputError(f"{path}: not a saved conversation; give a file that `chat --save` or `Chat.save` wrote")
    size = int.from_bytes(file.read(8), "little")
    digest = file.read(_DIGEST_BYTES)
    if size > HEADER_BYTES_MAX:
        _damaged(path)
    content = file.read(size)
    if hashlib.sha256(content).digest() != digest:
        _damaged(path)
    return cast("dict[str, Any]", json.loads(content))


def _check_origin(path: Path, header: dict[str, Any], origin: Origin) -> None:
    for field in fields(Origin):
        theirs, ours = header[field.name], getattr(origin, field.name)
        if theirs != ours:
            shown = f" {theirs!r:.60}, not {ours!r}" if field.name != "tokenizer" else ""
            name = field.name.replace("_", " ")
            raise InputError(f"{path}: saved with another {name}{shown}; resume with the same, or begin another chat")


def _read_body(path: Path, file: BinaryIO, header: dict[str, Any], facts: DecoderFacts) -> Conversation:
    messages = tuple(_read_message(raw) for raw in header["messages"])
    counts = tuple(_number(raw, 1) for raw in header["counts"])
    sizes = [(_number(raw["rows"], 1), bool(raw["newline"])) for raw in header["images"]]
    opening = _number(header["opening"], 0)
    media = sum(not isinstance(part, str) for message in messages for part in message.parts)
    rows = sum(count + newline for count, newline in sizes)
    # A decoder never holds more, so a larger file is refused before its contents are read.
    if rows > facts.trained_context or opening > len(messages):
        _damaged(path)
    if media != len(counts) or sum(counts) != len(sizes):
        _damaged(path)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left != rows * facts.hidden_size * _FLOAT_BYTES + _number(header["cache_bytes"], 0):
        raise InputError(f"{path}: cut off, or saved with another model; begin another chat")
    images = tuple(_read_image(file, count, newline, facts.hidden_size) for count, newline in sizes)
    if [image.key.hex() for image in images] != [raw["digest"] for raw in header["images"]]:
        _damaged(path)
    inputs = tuple(_read_input(raw, images, facts) for raw in header["inputs"])
    return Conversation(messages, opening, images, counts, inputs)


def _read_image(file: BinaryIO, rows: int, newline: bool, hidden: int) -> VisualInput:
    content = file.read((rows + newline) * hidden * _FLOAT_BYTES)
    values: FloatArray = np.frombuffer(content, "<f4").astype(np.float32).reshape(rows + newline, hidden)
    if not np.isfinite(values).all():
        raise ValueError("not all visual tokens are finite")
    return VisualInput(values[:-1], values[-1]) if newline else VisualInput(values)


def _read_input(raw: Any, images: Sequence[VisualInput], facts: DecoderFacts) -> Input:
    if isinstance(raw, list):
        if not all(_number(token, 0) < facts.vocab_size for token in raw):
            raise ValueError("a token is not in the vocabulary")
        return TextInput(tuple(raw))
    return images[_number(raw, 0)]


def _part_as_json(part: Part) -> str | dict[str, Any]:
    if isinstance(part, str):
        return part
    if isinstance(part, Video):
        return {"video": str(part.path), "frames": part.frames}
    return {"image": str(part.source) if isinstance(part.source, (str, Path)) else None}


def _read_message(raw: Any) -> Message:
    if raw["role"] not in ROLES:
        raise ValueError("an unknown role")
    return Message(raw["role"], tuple(map(_read_part, raw["parts"])))


def _read_part(raw: Any) -> Part:
    if isinstance(raw, str):
        return raw
    if "video" in raw:
        frames = raw["frames"]
        return Video(_text(raw["video"]), None if frames is None else _number(frames, 1))
    # The pixels of an image that was not a file are not saved.
    return Image(b"" if raw["image"] is None else Path(_text(raw["image"])))


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("not a text")
    return raw


def _number(raw: Any, least: int) -> int:
    if type(raw) is not int or raw < least:
        raise ValueError("not a number in range")
    return raw


def _damaged(path: Path) -> NoReturn:
    raise InputError(f"{path}: the saved conversation is damaged; begin another chat")
