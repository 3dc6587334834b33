"""The process that quantizes a file with llama.cpp: `python -P quantize_worker.py SOURCE TARGET FILE_TYPE`.

It is a separate process since quantizing cannot be interrupted, and a failed assertion in llama.cpp ends the process.
It prints llama.cpp's log to stdout, a JSON array (level, text) on each line, and ends when its standard input closes,
for example because the parent was killed. It imports nothing of this package, so it runs by its path.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading

import llama_cpp

ROWS_BYTES_MAX = 256 << 20
"""Bytes of a tensor that llama.cpp may hold at a time."""


def main() -> int:
    """Quantize the command line's file. Returns 0 on success."""
    source, target, file_type = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def print_line(level: int, text: bytes, _: object) -> None:
        print(json.dumps([level, text.decode("utf-8", "replace")]), flush=True)

    callback = llama_cpp.llama_log_callback(print_line)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.allow_requantize = False
    parameters.max_buf_size = ROWS_BYTES_MAX
    return int(llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)) != 0)


def _end_with_parent() -> None:
    # os.read, not sys.stdin: the interpreter aborts at exit if a thread waits in sys.stdin's lock.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
