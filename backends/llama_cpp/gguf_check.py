"""Checks a GGUF file before llama.cpp opens it, since some damaged files make llama.cpp end the process.

The header is read with every size checked against the file's size. Settings and tensors must be those of a decoder
of the type and sizes in the bundle's manifest, and each tensor must lie inside the file. The tokenizer is
skipped, since the runtime does not use it. No weights are read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError, shown

HEADER_BYTES_MAX = 256 << 20
LAYERS_MAX = 512
"""llama.cpp's own limit, LLAMA_MAX_LAYERS."""
ENTRIES_MAX = 1 << 16

Value = int | float | str | None
"""None stands for an array."""

_FIRST_READ = 16 << 20
_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
# Type to weights in a block and bytes of a block: F32, F16, BF16, Q*_0 and Q*_1, Q*_K, IQ4_NL, IQ4_XS.
_F32 = 0
_TYPES = {
    0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136),
}  # fmt: skip
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,2})\.([a-z_]+\.(?:weight|bias))")
# The settings that a bundle's decoder can have. llama.cpp knows more for these architectures (experts, for example),
# and crashes over some combinations.
_SETTINGS = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.factor", "rope.scaling.type", "vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    """In the file's order: the length of a row comes first."""
    type: int
    offset: int


@dataclass(frozen=True)
class GgufFacts:
    """Facts that the bundle's manifest lacks."""

    feed_forward: int
    """Width of the feed-forward layers."""
    weight_bytes: int


def check_gguf(path: Path, info: DecoderInfo) -> GgufFacts:
    """Raise BundleError, in one line, unless the file is complete and the decoder that `info` describes."""
    try:
        size = path.stat().st_size
        settings, tensors, start = _read_header(path, size)
        _check_settings(settings, info)
        feed_forward = _whole(settings, f"{info.type}.feed_forward_length", 1 << 20)
        shapes = _shapes(info, feed_forward)
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, shapes, size - start)
        return GgufFacts(feed_forward, size - start)
    except _UnsoundError as error:
        raise BundleError(f"{path}: {error}; convert or pull the model again") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check the disk") from error


class _UnsoundError(Exception):
    """What is wrong with the file."""


class _ShortError(Exception):
    """The header is longer than the bytes that were read."""


def _read_header(path: Path, size: int) -> tuple[dict[str, Value], dict[str, _Tensor], int]:
    with path.open("rb") as file:
        for most in (_FIRST_READ, HEADER_BYTES_MAX):
            file.seek(0)
            data = file.read(most)
            try:
                return _Header(data).parse()
            except _ShortError:
                if len(data) == size:
                    raise _UnsoundError(f"cut off in its header, at {size} bytes") from None
    raise _UnsoundError(f"its header is longer than {HEADER_BYTES_MAX >> 20} MiB")


class _Header:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def parse(self) -> tuple[dict[str, Value], dict[str, _Tensor], int]:
        """Settings by key, tensors by name, and where the tensors' data begins."""
        if self._data[:4] != b"GGUF":
            raise _UnsoundError("not a GGUF file (it lacks the magic 'GGUF')")
        self._skip(4)
        version = self._integer("<I")
        if version not in (2, 3):
            raise _UnsoundError(f"GGUF version {version} is not supported (3 is)")
        count, pairs = self._integer("<Q"), self._integer("<Q")
        if max(count, pairs) > ENTRIES_MAX:
            raise _UnsoundError(f"claims {count} tensors and {pairs} settings")
        settings: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._text()
            if key in settings:
                raise _UnsoundError(f"has the setting {shown(key)} twice")
            settings[key] = self._value(key, self._integer("<I"))
        tensors: dict[str, _Tensor] = {}
        for _ in range(count):
            name = self._text()
            if name in tensors:
                raise _UnsoundError(f"has the tensor {shown(name)} twice")
            axes = self._integer("<I")
            if not 1 <= axes <= 4:
                raise _UnsoundError(f"tensor {shown(name)} has {axes} axes")
            shape = tuple(self._integer("<Q") for _ in range(axes))
            tensors[name] = _Tensor(shape, self._integer("<I"), self._integer("<Q"))
        if settings.get("general.alignment", _ALIGNMENT) != _ALIGNMENT:
            raise _UnsoundError(f"general.alignment is not {_ALIGNMENT}")
        return settings, tensors, -(-self._at // _ALIGNMENT) * _ALIGNMENT

    def _value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            self._skip_array(key)
            return None
        if kind not in _SCALARS:
            raise _UnsoundError(f"setting {shown(key)} is of the unknown type {kind}")
        if _SCALARS[kind] == "<?":
            value = self._integer("<B")
            if value > 1:
                raise _UnsoundError(f"setting {shown(key)} is neither true nor false")
            return value
        found = self._scalar(_SCALARS[kind])
        return int(found) if kind in _INTEGERS else found

    def _skip_array(self, key: str) -> None:
        kind, count = self._integer("<I"), self._integer("<Q")
        if kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        elif kind != _STRING:
            raise _UnsoundError(f"setting {shown(key)} is an array of the unknown type {kind}")
        else:
            # Inlined, since a vocabulary has hundreds of thousands of strings.
            data, at, length = self._data, self._at, struct.Struct("<Q").unpack_from
            try:
                for _ in range(count):
                    at += 8 + length(data, at)[0]
            except (struct.error, OverflowError):
                raise _ShortError from None
            self._at = at
            self._skip(0)

    def _text(self) -> str:
        length = self._integer("<Q")
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8", "backslashreplace")

    def _integer(self, form: str) -> int:
        return int(self._scalar(form))

    def _scalar(self, form: str) -> float:
        start = self._at
        self._skip(struct.calcsize(form))
        value: float = struct.unpack_from(form, self._data, start)[0]
        return value

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise _ShortError


def _check_settings(settings: dict[str, Value], info: DecoderInfo) -> None:
    arch = info.type
    if settings.get("general.architecture") != arch:
        named = shown(settings.get("general.architecture"))
        raise _UnsoundError(f"general.architecture is {named} where bundle.json says {arch!r}")
    for key in settings:
        if key.startswith("split.") or (key.startswith(f"{arch}.") and key.removeprefix(f"{arch}.") not in _SETTINGS):
            raise _UnsoundError(f"has the setting {shown(key)}, which a bundle's decoder does not have")
    same = {
        "embedding_length": info.hidden_size,
        "block_count": info.layers,
        "attention.head_count": info.heads,
        "attention.head_count_kv": info.kv_heads,
        "vocab_size": info.vocab_size,
        **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), info.head_dim),
    }
    # llama.cpp's defaults for missing settings. The vocabulary's size is passed to it.
    width = info.hidden_size // info.heads
    absent = {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width}
    for key, said in same.items():
        found = settings.get(f"{arch}.{key}", {**absent, "vocab_size": said}.get(key))
        if type(found) is not int or found != said:
            raise _UnsoundError(f"{arch}.{key} is {shown(found)} where bundle.json says {said}")
    if info.layers > LAYERS_MAX or info.heads % info.kv_heads or info.head_dim % 2:
        raise _UnsoundError(
            f"llama.cpp runs no decoder of {info.layers} layers, {info.heads} heads of {info.head_dim} values and "
            f"{info.kv_heads} heads of keys"
        )
    _whole(settings, f"{arch}.context_length", 1 << 24)
    _number(settings, f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 1.0)
    if f"{arch}.rope.freq_base" in settings:
        _number(settings, f"{arch}.rope.freq_base", 1.0, 1e12)
    if settings.get(f"{arch}.rope.scaling.type", "none") not in ("none", "linear"):
        raise _UnsoundError(f"{arch}.rope.scaling.type is not 'linear'")
    if f"{arch}.rope.scaling.factor" in settings:
        _number(settings, f"{arch}.rope.scaling.factor", 1e-3, 1e6)


def _whole(settings: dict[str, Value], key: str, most: int) -> int:
    value = settings.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise _UnsoundError(f"{key} is {shown(value)} where a whole number from 1 to {most} is needed")
    return value


def _number(settings: dict[str, Value], key: str, least: float, most: float) -> None:
    value = settings.get(key)
    if type(value) is not float or not least <= value <= most:  # not a number is in no range
        raise _UnsoundError(f"{key} is {shown(value)} where a number from {least:g} to {most:g} is needed")


def _shapes(info: DecoderInfo, feed_forward: int) -> dict[str, tuple[int, ...]]:
    """Name, without the block's number, to shape. llama.cpp checks that none is missing."""
    hidden, queries, keys = info.hidden_size, info.heads * info.head_dim, info.kv_heads * info.head_dim
    norms = dict.fromkeys(("attn_q_norm.weight", "attn_k_norm.weight"), (info.head_dim,))
    return {
        **(norms if info.type == "qwen3" else {}),
        "token_embd.weight": (hidden, info.vocab_size),
        "output.weight": (hidden, info.vocab_size),
        "output_norm.weight": (hidden,),
        "rope_freqs.weight": (info.head_dim // 2,),
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        "attn_q.weight": (hidden, queries),
        "attn_k.weight": (hidden, keys),
        "attn_v.weight": (hidden, keys),
        "attn_output.weight": (queries, hidden),
        "attn_q.bias": (queries,),
        "attn_k.bias": (keys,),
        "attn_v.bias": (keys,),
        "attn_output.bias": (hidden,),
        "ffn_gate.weight": (hidden, feed_forward),
        "ffn_up.weight": (hidden, feed_forward),
        "ffn_down.weight": (feed_forward, hidden),
        "ffn_gate.bias": (feed_forward,),
        "ffn_up.bias": (feed_forward,),
        "ffn_down.bias": (hidden,),
    }


def _check_tensor(name: str, tensor: _Tensor, shapes: dict[str, tuple[int, ...]], room: int) -> None:
    block = _BLOCK.fullmatch(name)
    kind = block[2] if block else name
    if (block is None) == kind.startswith(("attn_", "ffn_")) or kind not in shapes:
        raise _UnsoundError(f"has the tensor {shown(name)}, which a bundle's decoder does not have")
    if tensor.shape != shapes[kind]:
        raise _UnsoundError(f"tensor {name} has shape {tensor.shape} where bundle.json calls for {shapes[kind]}")
    if tensor.type not in (_TYPES if len(tensor.shape) > 1 else (_F32,)):
        raise _UnsoundError(f"tensor {name} is of type {tensor.type}, which a bundle's decoder does not have")
    weights, size = _TYPES[tensor.type]
    if tensor.shape[0] % weights:
        raise _UnsoundError(f"tensor {name} has rows of {tensor.shape[0]}, which its type {tensor.type} cannot have")
    if tensor.offset % _ALIGNMENT or tensor.offset + math.prod(tensor.shape) // weights * size > room:
        raise _UnsoundError(f"tensor {name} does not lie inside the file, which is cut off or was changed")
