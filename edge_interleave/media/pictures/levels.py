"""Values of any depth as the 256 levels that they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey levels or colours of any numeric type as uint8, of the same shape.

    8 bits stay; 16 unsigned bits keep their high byte, as Pillow keeps it of 16-bit colours. Wider integers and floats
    do not say their range: they are taken as 0..the type's greatest value (integers, none negative) if one is in the
    upper half of that, as 0..1 (floats), 0..255 or 0..65535 (integers) if they fit, and are stretched from least to
    greatest otherwise. NaN and infinity become 0.
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
