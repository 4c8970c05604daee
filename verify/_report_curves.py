"""The pictures of the error along the sequence: which are worth a look, and where their lines run.

Both axes are logarithmic. A picture is 364 wide and 250 high, so that its text can be read at the width of a phone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from verify._curve import BACKWARD, Curve
from verify._measurement import Measurement
from verify._report import Report
from verify._runner import Result
from verify._verdict import finding

WIDTH, HEIGHT = 364, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 352, 12, 176
# Fewer points show no course.
_FEWEST = 4
_OF_EACH = 4
_MOST_TICKS = 7
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Found = tuple[Result, Measurement, Curve]


@dataclass(frozen=True)
class Line:
    """One of the lines of a picture.

    Attributes:
        name: ``error``, ``noise`` or ``bound``.
        legend: what the legend says, with the exponent of growth where there is one.
        points: (x, y) in the picture.
    """

    name: str
    legend: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Picture:
    """The error of one output along one sequence.

    Attributes:
        chosen: why it is shown.
        output, case: of what.
        backwards: whether positions count from the last token.
        lines: bound, noise floor and error, the last one on top.
        x_ticks, y_ticks: (place in the picture, label).
        summary: the picture in a sentence, for who does not see it.
    """

    chosen: str
    output: str
    case: str
    backwards: bool
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    summary: str


def curve_pictures(report: Report) -> tuple[Picture, ...]:
    """Of the worst cases, of the longest sequences, and of what grows fastest beside the noise floor."""
    found = [
        (result, one, one.curve)
        for result in report.results
        for one in sorted(result.verdict.measurements, key=lambda one: -finding([one]).excess)
        if one.curve and len(_drawn(one.curve.position, one.curve.error)) >= _FEWEST
    ]
    # An error that never leaves the noise floor may grow as it likes.
    growing = [entry for entry in found if entry[2].error[-1] > entry[2].noise[-1]]
    growing = [entry for entry in growing if isfinite(entry[1].growth - entry[1].noise_growth)]
    growing.sort(key=lambda entry: entry[1].noise_growth - entry[1].growth)
    ways = {
        "among the worst": found,
        "of the longest sequences": sorted(found, key=lambda entry: -entry[0].case.length),
        "grows fast beside its noise floor": growing,
    }
    chosen: dict[tuple[str, str], Picture] = {}
    for why, entries in ways.items():
        cases: set[str] = set()
        for result, measured, curve in entries:
            key = (result.case.id, measured.output)
            # One of each case: others of it look alike.
            if result.case.id in cases or key in chosen:
                continue
            cases.add(result.case.id)
            chosen[key] = _picture(why, result, measured, curve)
            if len(cases) == _OF_EACH:
                break
    return tuple(chosen.values())


def _drawn(position: Iterable[float], values: Iterable[float]) -> list[tuple[float, float]]:
    # 0 and infinity have no place on a logarithmic axis.
    return [(x, y) for x, y in zip(position, values, strict=True) if isfinite(y) and y > 0.0]


def _picture(why: str, result: Result, measured: Measurement, curve: Curve) -> Picture:
    drawn = {name: _drawn(curve.position, getattr(curve, name)) for name in ("bound", "noise", "error")}
    across = LogAxis.of([x for points in drawn.values() for x, _ in points], LEFT, RIGHT)
    up = LogAxis.of([y for points in drawn.values() for _, y in points], BOTTOM, TOP)
    legends = {
        "error": _grown("observed error", measured.growth),
        "noise": _grown("noise floor", measured.noise_growth),
        "bound": "bound",
    }
    lines = tuple(
        Line(name, legends[name], tuple((across.place(x), up.place(y)) for x, y in points))
        for name, points in drawn.items()
        if points
    )
    (first, begin), (last, end) = drawn["error"][0], drawn["error"][-1]
    course = f"The error goes from {begin:g} at position {first:g} to {end:g} at position {last:g}"
    summary = f"{course}. {', '.join(line.legend for line in reversed(lines))}."
    backwards = measured.output in BACKWARD
    return Picture(why, measured.output, result.case.id, backwards, lines, across.ticks(), up.ticks(), summary)


def _grown(name: str, exponent: float) -> str:
    return f"{name}, p^{exponent:.2f}" if isfinite(exponent) else name


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis from ``low`` to ``high``, which lie at ``begin`` and ``end`` in the picture."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def of(cls, values: list[float], begin: float, end: float) -> LogAxis:
        """An axis that holds some positive values, with a little room on either side."""
        low, high = log10(min(values)), log10(max(values))
        room = 0.03 * (high - low) or 0.5
        return cls(low - room, high + room, begin, end)

    def place(self, value: float) -> float:
        """Where a value is."""
        share = (log10(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """(place, label) of powers of 10, a few; of the ends where there are not two."""
        first, last = ceil(self.low), floor(self.high)
        if last <= first:
            return tuple((self.place(value), f"{value:.2g}") for value in (10.0**self.low, 10.0**self.high))
        step = max(1, ceil((last - first + 1) / _MOST_TICKS))
        powers = range(first, last + 1, step)
        return tuple((self.place(10.0**power), "10" + str(power).translate(_SUPERSCRIPTS)) for power in powers)
