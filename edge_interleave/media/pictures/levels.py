"""Converts pixel values of any type and range to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Convert grey levels or colours of any numeric type to uint8, of the same shape.

    uint8 is returned as is; uint16 keeps the high byte, as Pillow does. The range of other types is guessed from the
    values, in this order: 0 to the type's maximum (integers, none negative, at least one in the upper half of it);
    0..1 (floats), 0..255 or 0..65535 (integers) if all values fit; otherwise minimum to maximum. NaN and infinity
    become 0.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    floats = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    least, greatest = float(floats.min()), float(floats.max())
    whole = float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else np.inf
    if least >= 0 and greatest > whole / 2:
        floats *= 255 / whole
    elif least < 0 or greatest > 65535 or (greatest > 255 and values.dtype.kind == "f"):
        floats = (floats - least) * 255 / ((greatest - least) or 1.0)
    elif greatest > 255:
        floats /= 257
    elif greatest <= 1 and values.dtype.kind == "f":
        floats *= 255
    return np.round(floats).astype(np.uint8)
