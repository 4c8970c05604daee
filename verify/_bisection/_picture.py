"""The picture of a search: the measure over the commits, from the good one to the bad one, as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

from jinja2 import Environment, PackageLoader, StrictUndefined

from verify._bisection._log import Judged
from verify._bisection._predicate import Shown
from verify._report_curves import LogAxis

WIDTH, HEIGHT = 720, 336
LEFT, RIGHT, TOP, BOTTOM = 60, 700, 46, 236
# Rows for what a logarithmic axis has no place for.
INFINITE, NOTHING = 27, 254
_TICKS = 6


@dataclass(frozen=True)
class Mark:
    """A commit that was visited.

    Attributes:
        x, y: place in the picture.
        status: good, bad or skip, which is its shape.
        note: what a pointer on it shows.
    """

    x: float
    y: float
    status: str
    note: str


def draw(title: str, commits: Sequence[str], judged: Mapping[str, Judged], shown: Shown, left: Sequence[str]) -> str:
    """The file.

    Args:
        title: of the picture.
        commits: hashes of all commits of the search, in order.
        judged: those that were visited, by hash.
        shown: the measure.
        left: the hashes that the first bad commit is among.
    """
    values = {name: _value(one, shown) for name, one in judged.items()}
    limit = shown.threshold or 0.0
    drawn = [value for value in (*values.values(), limit) if isfinite(value) and value > 0.0]
    up = LogAxis.of(drawn or [1.0], BOTTOM, TOP)
    places = {name: _across(number, len(commits)) for number, name in enumerate(commits)}
    marks = [
        Mark(places[name], _height(values[name], up), one.status, _note(one, shown, values[name]))
        for name, one in judged.items()
        if name in places
    ]
    templates = Environment(loader=PackageLoader("verify"), autoescape=True, undefined=StrictUndefined)
    return (
        templates.get_template("bisection.svg.j2").render(
            title=title,
            measure=shown.name,
            marks=marks,
            frame={
                "left": LEFT,
                "right": RIGHT,
                "top": TOP,
                "bottom": BOTTOM,
                "infinite": INFINITE,
                "nothing": NOTHING,
            },
            width=WIDTH,
            height=HEIGHT,
            threshold=up.place(limit) if isfinite(limit) and limit > 0.0 else None,
            found=sorted(places[name] for name in left if name in places),
            label=left[0][:10] if len(left) == 1 else f"one of {len(left)}",
            y_ticks=up.ticks(),
            x_ticks=[(_across(number, len(commits)), number) for number in _numbers(len(commits))],
        )
        + "\n"
    )


def _value(judged: Judged, shown: Shown) -> float:
    return float("nan") if judged.facts is None else shown.value(judged.facts)


def _across(number: int, total: int) -> float:
    return round(LEFT + 12 + (RIGHT - LEFT - 24) * number / max(1, total - 1), 1)


def _height(value: float, up: LogAxis) -> float:
    if isnan(value) or value <= 0.0:
        return NOTHING
    return up.place(value) if isfinite(value) else INFINITE


def _numbers(total: int) -> list[int]:
    """A few numbers of commits, the first and the last with them."""
    step = max(1, (total - 1) // _TICKS)
    return sorted({*range(0, total - step // 2, step), total - 1})


def _note(judged: Judged, shown: Shown, value: float) -> str:
    measured = "" if isnan(value) else f", {shown.name} {value:.3g}"
    return f"{judged.key[:10]} {judged.record['subject']}: {judged.status}{measured}"
