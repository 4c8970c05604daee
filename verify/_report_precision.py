"""The precision that a run reached beside the precision that its dtypes claim.

bits    -log2 of the normwise error of an output, at least 0: how many leading bits of it are right, the conditioning
        of the case included; not of what is undecided
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite, isinf, log2
from statistics import median

from verify._case import DTYPES
from verify._report import OUTPUTS, Report, is_vague

# Significant bits of the significand, the hidden one included.
CLAIMED = {"float32": 24, "float16": 11, "bfloat16": 8}


@dataclass(frozen=True)
class Reached:
    """Of the cases of one dtype.

    Attributes:
        dtype: what they claim.
        fits: (precision, number of cases), by the tightest precision that the errors fit; ``none known`` is one.
        right: output to (median, fewest) bits over all cases; infinite if all are exact.
    """

    dtype: str
    fits: tuple[tuple[str, int], ...]
    right: dict[str, tuple[float, float]]


def precision_reached(report: Report) -> tuple[Reached, ...]:
    """For every dtype that was measured."""
    found = []
    for dtype in DTYPES:
        verdicts = [result.verdict for result in report.results if result.case.dtype == dtype]
        verdicts = [verdict for verdict in verdicts if verdict.measurements]
        if not verdicts:
            continue
        fits = Counter(verdict.precision or "none known" for verdict in verdicts)
        right: dict[str, list[float]] = {}
        for measured in (one for verdict in verdicts for one in verdict.measurements):
            # Of what should be 0 there is no relative error, and of what is undecided it says nothing.
            if isfinite(measured.normwise) and not is_vague(measured):
                right.setdefault(measured.output, []).append(_bits(measured.normwise))
        told = {name: (median(right[name]), min(right[name])) for name in OUTPUTS if name in right}
        ordered = sorted(fits.items(), key=lambda fit: (-fit[1], fit[0]))
        found.append(Reached(dtype, tuple(ordered), told))
    return tuple(found)


def _bits(error: float) -> float:
    return max(0.0, -log2(error)) if error else float("inf")


def bits(value: float) -> str:
    """How many bits are right."""
    return "exact" if isinf(value) else f"{value:.1f}"
