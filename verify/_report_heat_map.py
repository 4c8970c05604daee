"""The heat map of a report: regimes by outputs, in each place the largest excess over all cases there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from verify._measurement import Measurement
from verify._report import GRADIENTS, OUTPUTS, Report, is_vague, told
from verify._runner import Result
from verify._verdict import finding

# Upper ends of the shades; beyond the last is a failure.
EDGES = (0.05, 0.1, 0.25, 0.5, 1.0)
FAILED, NONFINITE = len(EDGES), len(EDGES) + 1
# Of random cases each has parameters of its own: then one row serves all parameters of a regime.
_MOST_ROWS = 60


@dataclass(frozen=True)
class Place:
    """One place of the map.

    Attributes:
        excess: the largest of all measurements there.
        shade: 0 and up along ``EDGES``, ``FAILED`` or ``NONFINITE``.
        vague: whether nothing can be said about most elements of all measurements there.
        note: the finding and its case.
    """

    excess: float
    shade: int
    vague: bool
    note: str

    @property
    def text(self) -> str:
        """The excess in at most four characters."""
        return short(self.excess)

    @classmethod
    def of(cls, measured: list[tuple[Result, Measurement]]) -> Place:
        """The place of some measurements."""
        result, worst = max(measured, key=lambda pair: finding([pair[1]]).excess)
        found = finding([worst])
        shade = NONFINITE if found.excess == float("inf") else sum(found.excess > edge for edge in EDGES)
        vague = all(is_vague(one) for _, one in measured)
        return cls(found.excess, shade, vague, f"{told(found)} in {result.case.id}")


@dataclass(frozen=True)
class HeatMap:
    """Regimes by outputs.

    Attributes:
        title: what its outputs are.
        outputs: the columns.
        rows: (regime, places), worst first; None where nothing was measured.
    """

    title: str
    outputs: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Place | None, ...]], ...]

    @property
    def summary(self) -> str:
        """The map in a sentence, for who does not see it."""
        places = [place for _, row in self.rows for place in row if place]
        worst = max(places, key=lambda place: place.excess)
        failed = sum(place.shade >= FAILED for place in places)
        size = f"{len(self.rows)} gate regimes by {len(self.outputs)} outputs"
        return f"{size}; {failed} of {len(places)} places are beyond their threshold. The worst: {worst.note}."


def heat_maps(report: Report) -> tuple[HeatMap, ...]:
    """One of the forward pass and one of gradients, with the same rows; none of what was not measured."""
    places = _places(report)
    worst: dict[str, float] = {}
    for (regime, _), place in places.items():
        worst[regime] = max(worst.get(regime, 0.0), place.excess)
    regimes = sorted(worst, key=lambda regime: -worst[regime])
    maps = []
    for title, group in (
        ("Forward pass", [name for name in OUTPUTS if name not in GRADIENTS]),
        ("Gradients", GRADIENTS),
    ):
        if outputs := tuple(name for name in group if any(output == name for _, output in places)):
            rows = tuple((regime, tuple(places.get((regime, name)) for name in outputs)) for regime in regimes)
            maps.append(HeatMap(title, outputs, rows))
    return tuple(maps)


def _places(report: Report) -> dict[tuple[str, str], Place]:
    measured = [(result, one) for result in report.results for one in result.verdict.measurements]
    whole = len({result.case.regime for result, _ in measured}) <= _MOST_ROWS

    def place(pair: tuple[Result, Measurement]) -> tuple[str, str]:
        regime = pair[0].case.regime
        return regime if whole else regime.partition("@")[0], pair[1].output

    return {where: Place.of(list(pairs)) for where, pairs in groupby(sorted(measured, key=place), key=place)}


def short(excess: float) -> str:
    """An excess in at most four characters."""
    if excess == float("inf"):
        return "\N{INFINITY}"
    if excess >= 999.5:
        return f"{excess:.0e}".replace("e+0", "e").replace("e+", "e")
    if excess >= 9.95:
        return f"{excess:.0f}"
    if 0.0 < excess < 0.005:
        return "<.01"
    return f"{excess:.1f}" if excess >= 0.995 else f"{excess:.2f}"
