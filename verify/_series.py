"""Since which run of a series an output is another.

Bits change where two runs one after the other have other digests; an output that no two runs have in common does
not repeat itself, and has no such step. A level changes where the medians of a measure before and after are further
apart than rounding moves it (``verify._drift``): at first every run is a level of its own, and the two neighbours that
are nearest to each other become one, until none are so near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from verify._axes import Axis
from verify._case import Case
from verify._drift import OutcomeChange, compare, distance, reaches
from verify._errors import UsageError
from verify._pattern import Pattern, patterns
from verify._recorded import Level, Recorded, recorded_run
from verify._run import MANIFEST


@dataclass(frozen=True)
class Step:
    """A run at which something changed.

    Attributes:
        number: which run of the series, from 1.
        record: it.
        axes: what changed since the run before.
        worse, better: where the error moved.
        bits: where bits changed and the error did not move.
        outcomes: cases with another verdict than in the run before.
    """

    number: int
    record: Recorded
    axes: tuple[Axis, ...]
    worse: tuple[Pattern, ...]
    better: tuple[Pattern, ...]
    bits: tuple[Pattern, ...]
    outcomes: tuple[OutcomeChange, ...]


@dataclass(frozen=True)
class Series:
    """Runs in the order of their start.

    Attributes:
        records: them.
        steps: where something changed.
        unrepeatable: which outputs are other bits in every run.
    """

    records: tuple[Recorded, ...]
    steps: tuple[Step, ...]
    unrepeatable: tuple[Pattern, ...]


def read_series(directory: Path) -> list[Recorded]:
    """The runs in a directory, in the order of their start.

    Raises:
        UsageError: if there are fewer than two, or one is damaged.
    """
    try:
        places = sorted(path for path in directory.iterdir() if (path / MANIFEST).is_file())
    except OSError as error:
        raise UsageError(f"--runs {directory} cannot be read: {error}.") from error
    if len(places) < 2:
        raise UsageError(f"--runs {directory} has {len(places)} run directories; a series needs at least 2.")
    return sorted((recorded_run(path) for path in places), key=lambda record: (record.started, record.path.name))


def find_steps(records: Sequence[Recorded], *, any_subject: bool = False) -> Series:
    """Where in a series what changed; raises as ``compare`` does, on the runs one after the other."""
    drifts = [compare(before, after, any_subject=any_subject) for before, after in pairwise(records)]
    there = _occurrences(records)
    found: dict[tuple[int, str], list[tuple[str, str]]] = defaultdict(list)
    for (output, case), places in there.items():
        of_case = [records[place].cases[case] for place in places]
        for index, what in _changes(of_case[0].case, [one.levels[output] for one in of_case]):
            found[places[index] if index else 0, what].append((output, case))
    steps = []
    for place, drift in enumerate(drifts, 1):
        worse, better, bits = (patterns(found[place, what], there) for what in ("worse", "better", "bits"))
        if worse or better or bits or drift.outcomes:
            steps.append(Step(place + 1, records[place], drift.axes, worse, better, bits, drift.outcomes))
    return Series(tuple(records), tuple(steps), patterns(found[0, "unrepeatable"], there))


def _changes(case: Case, levels: Sequence[Level]) -> list[tuple[int, str]]:
    """Of one output: (index, ``worse``, ``better`` or ``bits``), and at the first one whether it is unrepeatable."""
    moved: dict[int, float] = {}
    for name, reach in reaches(case, levels[0].output).items():
        moved = moved or dict(_steps([float(getattr(level, name)) for level in levels], reach))
    changes = [(index, "worse" if change > 0.0 else "better") for index, change in moved.items()]
    if len(levels) > 2 and len({level.digest for level in levels}) == len(levels):
        return [*changes, (0, "unrepeatable")]
    bits = [index for index, (one, other) in enumerate(pairwise(levels), 1) if one.digest != other.digest]
    return [*changes, *((index, "bits") for index in bits if index not in moved)]


def _occurrences(records: Sequence[Recorded]) -> dict[tuple[str, str], list[int]]:
    """(output, case id) to the places of the records that have it."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        for case, one in record.cases.items():
            for output in one.levels:
                places[output, case].append(place)
    return dict(places)


def _steps(values: Sequence[float], reach: float) -> list[tuple[int, float]]:
    """(index of the first value behind a step, by how much it changes), in order."""
    if abs(distance(min(values), max(values))) <= reach:
        return []
    starts = list(range(len(values)))
    while True:
        ends = [*starts[1:], len(values)]
        levels = [median(values[start:end]) for start, end in zip(starts, ends, strict=True)]
        changes = [distance(one, other) for one, other in pairwise(levels)]
        if not changes or min(map(abs, changes)) > reach:
            return list(zip(starts[1:], changes, strict=True))
        del starts[1 + min(range(len(changes)), key=lambda place: abs(changes[place]))]
