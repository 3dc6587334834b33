"""95 % confidence intervals of a share and of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054
"""The normal distribution's quantile for a two-sided 95 % interval."""


def wilson_interval(right: int, count: int) -> tuple[float, float] | None:
    """Wilson's score interval of `right` of `count`; reliable for small counts and for shares near 0 or 1.

    None for a count below two. Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927).
    """
    if count < 2:
        return None
    share, z = right / count, Z95
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def normal_half_width(values: Sequence[float]) -> float | None:
    """Half the width of the normal interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return Z95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
