"""llama.cpp's weights, loaded once for all decoders of a file; its log, kept for error messages and shown nowhere."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as low

from edge_interleave.backends.llama_cpp.gguf_check import check_gguf
from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError


@dataclass(eq=False)
class Weights:
    """An open model file."""

    key: tuple[str, int, int]
    pointer: Any
    """llama.cpp's `llama_model *`."""
    users: int = 1


_shared: dict[tuple[str, int, int], Weights] = {}
_lock = threading.RLock()  # the garbage collector may release some while others are acquired


def acquire(path: Path, info: DecoderInfo) -> Weights:
    """The weights of a GGUF file, loaded where no decoder has them yet. `release` them once.

    Raises BundleError where the file is not sound, or not the decoder of `info`.
    """
    stat = path.stat()
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
    with _lock:
        if key in _shared:
            _shared[key].users += 1
            return _shared[key]
        weights = Weights(key, _load_weights(path, info))
        _shared[key] = weights
        return weights


def release(weights: Weights) -> None:
    """Free the weights where nobody else uses them."""
    with _lock:
        weights.users -= 1
        if weights.users == 0:
            del _shared[weights.key]
            low.llama_model_free(weights.pointer)


def model_params() -> Any:
    """llama.cpp's default `llama_model_params`, less what ends the process on some machines.

    Products in Intel's matrix unit (AMX) run into a segmentation fault in many builds
    (https://github.com/ggml-org/llama.cpp/issues/20824, mended by the open pull request 26954). llama.cpp uses AMX
    where it stores weights in that unit's layout, so weights keep their own layout where there is an AMX unit.
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
        # A file that is mapped stays in memory beside the copies that llama.cpp arranges anew for the CPU.
        params.load_mode = low.LLAMA_LOAD_MODE_NONE
    overrides = _without_tokenizer(info)
    params.kv_overrides = overrides
    pointer = low.llama_model_load_from_file(os.fsencode(path), params)
    if not pointer:
        raise BundleError(f"{path}: llama.cpp cannot load it{LOG.reason()}; convert or pull the model again")
    return pointer


def _without_tokenizer(info: DecoderInfo) -> Any:
    """Has llama.cpp leave the file's tokenizer alone, which the runtime does not use: nothing to trust, time saved."""
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
        self._callback = low.llama_log_callback(self._take)  # llama.cpp holds no reference to it: we must

    def install(self) -> None:
        """Have llama.cpp log here, and no longer to the terminal."""
        low.llama_log_set(self._callback, ctypes.c_void_p(0))

    def clear(self) -> None:
        """Forget what was logged."""
        self._lines.clear()

    def reason(self) -> str:
        """The first error line that says something, in brackets; empty where there was none."""
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
