"""Quantizes a GGUF file with llama.cpp, in a separate process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edge_interleave.converters.progress import Progress
from edge_interleave.errors import BackendError
from edge_interleave.util.disk_space import check_still_room

_WORKER = Path(__file__).with_name("quantize_worker.py")
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_TENSOR_TYPE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- +\[[\d, ]+\], type = *(\w+), *(?:converting to (\w+))?")
_FALLBACK_LINE = re.compile(r"falling back|fallback to|using fallback")
_ERROR_LEVEL = 4


@dataclass(frozen=True)
class Quantized:
    """What llama.cpp logged."""

    fallbacks: int
    """Tensors whose rows do not fit the requested type's blocks, and which got another type."""
    types: Mapping[str, str]
    """Tensor to type in lower case, such as `q4_k`, for the tensors found in the log."""


def require_llama_cpp() -> None:
    """Raise BackendError, with the command to install it, if llama.cpp is not installed. Imports nothing."""
    try:
        found = find_spec("llama_cpp")
    except ValueError:
        found = None
    if found is None:
        raise BackendError(
            "llama.cpp quantizes its decoder, and is not installed; pip install 'edge-interleave[llama-cpp]'"
        )


def quantize(source: Path, target: Path, file_type: int, progress: Progress | None = None) -> Quantized:
    """Quantize the GGUF file `source` into `target`, as llama.cpp's `file_type`.

    `progress` gets the stage `quantize`: tensors begun, and tensors in all. An exception, Ctrl-C too, stops the work.
    Raises OSError if the disk is full, and BackendError with llama.cpp's last error line.
    """
    # -P keeps the worker's folder off its search path, which would hide the package `gguf`.
    command = [sys.executable, "-P", str(_WORKER), str(source), str(target), str(file_type)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # the worker ends when this pipe closes, with this process
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as worker:
        assert worker.stdout is not None
        try:
            quantized, errors = _follow(worker.stdout, progress)
        except BaseException:
            worker.kill()
            raise
    if worker.returncode or not target.is_file():
        check_still_room(target)
        reason = errors[-1] if errors else f"exit code {worker.returncode}"
        raise BackendError(f"llama.cpp did not quantize the decoder ({reason}); convert again")
    return quantized


def _follow(lines: Iterable[str], progress: Progress | None) -> tuple[Quantized, list[str]]:
    """The result and the error lines. Lines that are not in the log's format are a crash's output."""
    fallbacks = 0
    log: list[str] = []
    errors: list[str] = []
    for line in lines:
        try:
            level, text = json.loads(line)
        except ValueError:
            level, text = _ERROR_LEVEL, line
        if level == _ERROR_LEVEL and text.strip():
            errors.append(text.strip().splitlines()[-1][:300])
        if _FALLBACK_LINE.search(text):
            fallbacks += 1
        log.append(text)
        tensor = _TENSOR_LINE.match(text)
        if tensor is not None and progress is not None:
            progress("quantize", int(tensor[1]), int(tensor[2]))
    # llama.cpp logs a tensor's line in pieces.
    types = {name: (new or old).lower() for name, old, new in _TENSOR_TYPE.findall("".join(log))}
    return Quantized(fallbacks, types), errors
