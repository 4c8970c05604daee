"""What moved since another run, as every format of the report shows it: a sentence, remarks and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verify._axes import attribution, is_uncommitted
from verify._drift import Drift, Kind, Pair
from verify._pattern import as_items, patterns
from verify._regression import Regression

# The terminal's `drift --rows` shows more.
_MOST = 12


@dataclass(frozen=True)
class DriftTable:
    """A table of what moved.

    Attributes:
        title: what is in it.
        columns: headers.
        rows: worst first; each as long as the headers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DriftSection:
    """A comparison with a base, ready to be shown.

    Attributes:
        base: what it is compared with.
        sentence: what it comes to.
        notes: remarks, each a line: what of the conditions changed, what could not be compared.
        tables: see there.
    """

    base: str
    sentence: str
    notes: tuple[str, ...]
    tables: tuple[DriftTable, ...]


def drift_section(drift: Drift, found: Sequence[Regression]) -> DriftSection:
    """A comparison as a section of a report.

    Args:
        drift: the run against its base.
        found: what of it is worse.
    """
    base = drift.base
    counts = [f"{len(drift.of_kind(kind))} {kind.value}" for kind in (Kind.MOVED, Kind.ROUNDING, Kind.EQUAL)]
    failing = sum(one.fails for one in found)
    told = f"{failing} regression{'' if failing == 1 else 's'}" if failing else "no regression"
    tables = (_patterns(drift), _outcomes(drift), _regressions(found), _shifts(drift), _worst(drift))
    return DriftSection(
        f"{base.path} ({'baseline, ' if base.is_baseline else ''}run of {base.started})",
        f"{told}. Of {len(drift.pairs)} outputs of {len(drift.common)} cases: {', '.join(counts)}.",
        _notes(drift),
        tuple(table for table in tables if table.rows),
    )


def _notes(drift: Drift) -> tuple[str, ...]:
    changed = bool(drift.outcomes) or len(drift.of_kind(Kind.EQUAL)) < len(drift.pairs)
    uncommitted = is_uncommitted(drift.base, drift.current)
    axes = [f"{axis.belongs_to}: {axis.name} {axis.before} -> {axis.after}" for axis in drift.axes]
    alone = [
        f"{count} cases are in the {name} alone"
        for name, count in (("base", drift.only_base), ("run", drift.only_current))
        if count
    ]
    return (*axes, attribution(drift.axes, uncommitted=uncommitted, moved=changed), *alone)


def _regressions(found: Sequence[Regression]) -> DriftTable:
    rows = []
    for one in sorted(found, key=lambda one: not one.fails):
        known = "; ".join(f"until {of.expires}: {of.reason}" for of in one.acknowledged or ())
        where = one.cases[0] if len(one.cases) == 1 else f"{len(one.cases)} cases"
        rows.append((one.output, one.told, known or "no", where))
    title = f"Regressions, the worst {_MOST} of {len(found)}" if len(found) > _MOST else "Regressions"
    return DriftTable(title, ("output", "what", "acknowledged", "where"), tuple(rows[:_MOST]))


def _outcomes(drift: Drift) -> DriftTable:
    rows = tuple((change.before.value, change.after.value, change.case) for change in drift.outcomes[:_MOST])
    return DriftTable("Changed outcomes", ("was", "is", "case"), rows)


def _patterns(drift: Drift) -> DriftTable:
    moved, among = drift.of_kind(Kind.MOVED), as_items(drift.pairs)
    groups = {
        "moved, worse": [pair for pair in moved if pair.growth > 0.0],
        "moved, better": [pair for pair in moved if not pair.growth > 0.0],
        "moved, but equal to rounding": drift.of_kind(Kind.ROUNDING),
    }
    rows = tuple(
        (title, ", ".join(one.outputs), f"{one.happened} of {one.among}", one.where)
        for title, pairs in groups.items()
        for one in patterns(as_items(pairs), among)
    )
    return DriftTable("Where", ("what", "outputs", "cases", "where"), rows)


def _shifts(drift: Drift) -> DriftTable:
    rows = tuple(
        (shift.output, shift.dtype, f"{shift.grew} grew, {shift.shrank} shrank", f"{shift.growth:+.2f}")
        for shift in sorted(drift.shifts, key=lambda shift: -shift.growth)
    )
    return DriftTable("Moved in many cases together", ("output", "dtype", "sets of arrays", "log2 of RMS z"), rows)


def _worst(drift: Drift) -> DriftTable:
    moved = sorted(drift.of_kind(Kind.MOVED), key=lambda pair: -pair.growth)[:_MOST]
    rows = tuple(
        (pair.output, *(_change(pair, name) for name in ("ratio", "rms_z", "ulp")), f"{pair.growth:+.1f}", pair.case)
        for pair in moved
    )
    columns = ("output", "error/bound", "RMS z", "ulp", "log2", "case")
    return DriftTable("The worst of what moved", columns, rows)


def _change(pair: Pair, name: str) -> str:
    return f"{getattr(pair.before, name):.2g} to {getattr(pair.after, name):.2g}"
