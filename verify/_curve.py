"""How the error of an output grows along the sequence, beside the noise floor and the bound.

    error(p)   the root mean square error over batch, heads, channels and the positions of a bin around p
    growth     the exponent b of error(p) ~ p^b, by least squares in log p and log error

Positions count in the direction in which the recurrence runs that the output comes from: from the first token for
h, n, m and dq, from the last token for dk, dv, di and df.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan

import numpy as np

from verify._digits import three_digits

# Of outputs whose recurrence runs from the last token.
BACKWARD = ("dk", "dv", "di", "df")
_BINS = 16
# Fewer points have no slope worth the name.
_FITTED = 6


@dataclass(frozen=True)
class Curve:
    """The error along a sequence, in bins that are equally wide in log p.

    Attributes:
        position: the geometric middle of the positions of each bin, from 1.
        error, noise, bound: root mean squares in the bin, in units of the output; noise is NaN without a noise floor.
    """

    position: tuple[float, ...]
    error: tuple[float, ...]
    noise: tuple[float, ...]
    bound: tuple[float, ...]

    def growth(self) -> tuple[float, float]:
        """(exponent of the error, exponent of the noise floor) over the same bins; NaN where there are too few."""
        position, error, noise = (np.array(part) for part in (self.position, self.error, self.noise))
        fitted = (error > 0.0) & np.isfinite(error) & (noise > 0.0) & np.isfinite(noise)
        if fitted.sum() < _FITTED:
            return nan, nan
        x = np.log(position[fitted])
        exponents = (np.polyfit(x, np.log(part[fitted]), 1)[0] for part in (error, noise))
        of_error, of_noise = (round(float(exponent), 3) for exponent in exponents)
        return of_error, of_noise


def curve_of(
    name: str, length: int, tokens: np.ndarray, squares: Iterable[np.ndarray], counts: np.ndarray
) -> Curve | None:
    """The curve of an output.

    Args:
        name: of the output; it tells the direction.
        length: S.
        tokens: the tokens that were measured, from 0.
        squares: of error, noise and bound, for every token the sum of squares over what counts there.
        counts: for every token the number of elements in that sum.

    Returns:
        None if nothing counts.
    """
    if not counts.any():
        return None
    position = (length - tokens if name in BACKWARD else tokens + 1).astype(float)
    # The last edge is beyond the last position.
    edges = np.geomspace(1.0, length + 1.0, _BINS + 1)
    bins = np.searchsorted(edges, position, side="right")
    parts: list[list[float]] = [[], [], [], []]
    columns = [np.log(position) * counts, *squares]
    for number in np.unique(bins[counts > 0]):
        here = bins == number
        mean, *means = (float(np.sum(column[here]) / np.sum(counts[here])) for column in columns)
        for part, value in zip(parts, (np.exp(mean), *np.sqrt(means)), strict=True):
            # A record holds thousands of these.
            part.append(three_digits(value))
    return Curve(*(tuple(part) for part in parts))
