"""Settings for all sessions of ONNX Runtime: no logging, exact int8 products, and safe forks."""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from typing import Any

import numpy as np

CPU_PROVIDER = "CPUExecutionProvider"
SILENT = 4
"""ONNX Runtime's log severity "fatal": errors come as exceptions, which become one line."""
PROBE = (
    b'\x08\x08:\\\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02'
    b"\x08\x04\n\x02\x08@Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n\x02\x08\x10b\x13\n\x01y\x12\x0e\n\x0c"
    b"\x08\x06\x12\x08\n\x02\x08\x04\n\x02\x08\x10B\x04\n\x00\x10\x11"
)
"""An ONNX graph of one node: y int32 (4, 16) = MatMulInteger(a uint8 (4, 64), b int8 (64, 16))."""
_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
"""ONNX Runtime's open sessions in this process."""


def session_options() -> Any:
    """Options of a session that logs nothing."""
    import onnxruntime as ort

    # Some parts of ONNX Runtime ignore a session's log level and use the default logger.
    ort.set_default_logger_severity(SILENT)
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    return options


def run_options() -> Any:
    """Options of a run that logs nothing."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = SILENT
    return options


def keep_at_fork(session: Any) -> None:
    """Keep a session alive in a forked child: freeing one waits for threads that exist only in the parent."""
    _sessions.add(session)


@cache
def int8_products_saturate() -> bool:
    """Whether sums of uint8 x int8 products overflow on this CPU: x86 without VNNI adds them pairwise in 16 bits.

    ONNX Runtime's remedy, an option that converts weights to uint8, is exact but slower. It does not detect VNNI
    reliably, so this computes a product with a known result.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(PROBE, session_options(), providers=[CPU_PROVIDER])
    (y,) = session.run(None, {"a": np.full((4, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)})
    return not bool((y == 64 * 255 * 127).all())


def _keep_sessions() -> None:
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)
