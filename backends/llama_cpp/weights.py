"""llama.cpp's weights, loaded once for all decoders of a file, and llama.cpp's log, kept for error messages."""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as low

from edge_interleave.backends.common.shared_weights import SharedWeights, file_key
from edge_interleave.backends.llama_cpp.gguf_check import check_gguf
from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError


@dataclass(eq=False)
class Weights:
    """An open model file."""

    key: tuple[str, int, int]
    pointer: Any
    """llama.cpp's `llama_model *`."""


_shared: SharedWeights[Weights] = SharedWeights(lambda weights: low.llama_model_free(weights.pointer))


def acquire(path: Path, info: DecoderInfo) -> Weights:
    """The weights of a GGUF file, loaded unless another decoder uses them. The caller must `release` them once.

    Raises BundleError if the file is damaged or not the decoder that `info` describes.
    """
    key = file_key(path)
    return _shared.acquire(key, lambda: Weights(key, _load_weights(path, info)))


def release(weights: Weights) -> None:
    """Free the weights if no other decoder uses them."""
    _shared.release(weights.key)


def model_params() -> Any:
    """llama.cpp's default `llama_model_params`, without Intel's matrix unit (AMX).

    Products in AMX crash in many builds (https://github.com/ggml-org/llama.cpp/issues/20824, fixed by the open pull
    request 26954). llama.cpp uses AMX for weights stored in its layout, so on machines with AMX that layout is off.
    """
    params = low.llama_model_default_params()
    params.use_extra_bufts = b"AMX_INT8 = 1" not in low.llama_print_system_info()
    return params


def _load_weights(path: Path, info: DecoderInfo) -> Any:
    check_gguf(path, info)
    LOG.install()
    low.llama_backend_init()
    LOG.clear()
    params = model_params()
    if not low.llama_supports_gpu_offload():
        # A mapped file would stay in memory beside the copies that llama.cpp makes in another layout for the CPU.
        params.load_mode = low.LLAMA_LOAD_MODE_NONE
    overrides = _without_tokenizer(info)
    params.kv_overrides = overrides
    pointer = low.llama_model_load_from_file(os.fsencode(path), params)
    if not pointer:
        raise BundleError(f"{path}: llama.cpp cannot load it{LOG.reason()}; convert or pull the model again")
    return pointer


def _without_tokenizer(info: DecoderInfo) -> Any:
    """Overrides that make llama.cpp skip the file's tokenizer, which is untrusted and not used."""
    overrides: Any = (low.llama_model_kv_override * 3)()  # the last one, whose key is empty, ends the list
    overrides[0].key, overrides[0].tag = b"tokenizer.ggml.model", low.LLAMA_KV_OVERRIDE_TYPE_STR
    overrides[0].value.val_str = b"none"
    overrides[1].key, overrides[1].tag = f"{info.type}.vocab_size".encode(), low.LLAMA_KV_OVERRIDE_TYPE_INT
    overrides[1].value.val_i64 = info.vocab_size
    return overrides


class Log:
    """Keeps llama.cpp's latest error lines."""

    ERROR_LEVEL = 4
    CONTINUE_LEVEL = 5

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._level = 0
        self._callback = low.llama_log_callback(self._take)  # kept here, since llama.cpp holds no reference

    def install(self) -> None:
        """Make llama.cpp log here instead of to the terminal."""
        low.llama_log_set(self._callback, ctypes.c_void_p(0))

    def clear(self) -> None:
        """Delete the kept lines."""
        self._lines.clear()

    def reason(self) -> str:
        """The first error line with text, in brackets; empty if there is none."""
        for line in self._lines:
            text = re.sub(r"^\w+:\s*", "", "".join(c if c.isprintable() else " " for c in line)).strip()
            if text:
                return f" ({text[:200]})"
        return ""

    def _take(self, level: int, text: bytes, _user: Any) -> None:
        if level != self.CONTINUE_LEVEL:
            self._level = level
        if self._level == self.ERROR_LEVEL:
            self._lines.append(text.decode("utf-8", "replace"))


LOG = Log()
