"""The process in which llama.cpp quantizes a file: `python -P quantize_worker.py SOURCE TARGET FILE_TYPE`.

A process of its own, because llama.cpp can neither be interrupted nor told to leave the log alone while it works, and
ends the process where an assertion of its own fails. Prints llama.cpp's log to stdout, one JSON array a line: level
and text. Ends when its standard input is closed, as it is where the process that began it was killed. Imports nothing
of this package, so that it runs by its path alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading

import llama_cpp

ROWS_BYTES_MAX = 256 << 20
"""What llama.cpp may hold of one tensor at a time."""


def main() -> int:
    """Quantize as the command line says; 0 where llama.cpp did."""
    source, target, file_type = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def heard(level: int, text: bytes, _: object) -> None:
        print(json.dumps([level, text.decode("utf-8", "replace")]), flush=True)

    callback = llama_cpp.llama_log_callback(heard)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.allow_requantize = False
    parameters.max_buf_size = ROWS_BYTES_MAX
    return int(llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)) != 0)


def _end_with_parent() -> None:
    # Not by sys.stdin: a thread that waits in its buffer's lock makes an interpreter that ends abort.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
