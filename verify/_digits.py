"""Numbers with as many digits as a reader, or a file of thousands of them, has use for."""

from __future__ import annotations


def three_digits(value: float) -> float:
    """The nearest number of three significant digits."""
    return float(f"{value:.3g}")
