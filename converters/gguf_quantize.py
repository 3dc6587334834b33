"""Quantizes a GGUF file through llama.cpp itself, in little memory, and keeps llama.cpp quiet meanwhile.

Knows nothing about checkpoints.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_interleave.errors import BackendError

ROWS_BYTES_MAX = 256 << 20
"""What llama.cpp may hold of one tensor at a time, in versions that can be told."""

_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_FALLBACK_LINE = re.compile(r"falling back|fallback to|using fallback")
_ERROR_LEVEL = 4


def quantize(source: Path, target: Path, file_type: int, on_tensor: Callable[[int, int], None]) -> int:
    """Write `target`, of llama.cpp's `file_type`; the tensors whose rows fit no block of it and took another type.

    `on_tensor` is called with the tensors begun and all of them. Raises BackendError with llama.cpp's last error.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.allow_requantize = False
    if hasattr(parameters, "max_buf_size"):
        parameters.max_buf_size = ROWS_BYTES_MAX
    errors: list[str] = []
    fallbacks = 0

    def heard(level: int, text: str) -> None:
        nonlocal fallbacks
        if level == _ERROR_LEVEL and text.strip():
            errors.append(text.strip())
        if _FALLBACK_LINE.search(text):
            fallbacks += 1
        line = _TENSOR_LINE.match(text)
        if line is not None:
            _drop_mapped_pages(source)
            on_tensor(int(line[1]), int(line[2]))

    with listening(heard):
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if failed or not target.is_file():
        reason = errors[-1].splitlines()[-1] if errors else f"error {failed}"
        raise BackendError(f"{source}: llama.cpp did not quantize it ({reason})")
    return fallbacks


@contextlib.contextmanager
def listening(heard: Callable[[int, str], None]) -> Iterator[None]:
    """Send llama.cpp's log to a function (level, text) instead of stderr. The log is one for the whole process.

    What the function raises (ctrl-C, too, comes up there) cannot pass through llama.cpp, and is raised afterwards.
    """
    import llama_cpp

    raised: list[BaseException] = []

    def callback(level: int, text: bytes, _: object) -> None:
        try:
            heard(level, text.decode("utf-8", "replace"))
        except BaseException as error:
            raised.append(error)

    before, data = llama_cpp._logger.llama_log_callback, ctypes.c_void_p(0)
    if hasattr(llama_cpp, "llama_log_get"):
        before = llama_cpp.llama_log_callback()
        llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    hold = llama_cpp.llama_log_callback(callback)
    llama_cpp.llama_log_set(hold, ctypes.c_void_p(0))
    try:
        yield
    finally:
        llama_cpp.llama_log_set(before, data)
    if raised:
        raise raised[0]


def _drop_mapped_pages(path: Path) -> None:
    """Give back the pages of a file that llama.cpp has mapped and read, which would add up to the whole file.

    They are shared and unchanged: what is touched again is read again. Linux only; elsewhere llama.cpp maps none here.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = str(path.resolve())
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5] == wanted and fields[1].startswith("r--"):
                start, end = (int(part, 16) for part in fields[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
