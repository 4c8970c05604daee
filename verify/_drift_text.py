"""A comparison, or a series, as a reader at a terminal sees it: 100 columns, and lines to be pasted never wrapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from verify._axes import Axis, attribution, is_uncommitted
from verify._drift import RATCHET, Drift, Kind, Pair, log2_growth
from verify._pattern import Pattern, as_items, patterns
from verify._recorded import Recorded
from verify._regression import Acknowledgement, Regression
from verify._series import Series

_ROWS = 12
# The measure, its name here, and whether its log2 is told.
_SHOWN = (
    ("ratio", "error/bound", True),
    ("rms_z", "RMS z", True),
    ("largest_z", "largest z", False),
    ("ulp", "ulp", False),
)
_MEANING = {
    Kind.MOVED: "further than rounding moves it",
    Kind.ROUNDING: "moved, other bits, but no further off or nearer than rounding makes it",
    Kind.EQUAL: "",
}


def print_drift(console: Console, drift: Drift, found: Sequence[Regression], rows: int = _ROWS) -> None:
    """What changed, what moved and where, and what of it fails."""
    for name, record in (("base", drift.base), ("current", drift.current)):
        console.print(f"{name:8}{_named(record)}", soft_wrap=True)
    changed = len(drift.pairs) - len(drift.of_kind(Kind.EQUAL))
    _print_axes(console, drift.axes)
    uncommitted = is_uncommitted(drift.base, drift.current)
    told = attribution(drift.axes, uncommitted=uncommitted, moved=bool(changed or drift.outcomes))
    console.print(f"        {told}", soft_wrap=True)
    console.print(f"\n{_counted(len(drift.common), 'case')} in common, {_counted(len(drift.pairs), 'output')}:")
    for kind in (Kind.MOVED, Kind.ROUNDING, Kind.EQUAL):
        count = len(drift.of_kind(kind))
        console.print(f"{count:>7} {kind.value}" + (f": {_MEANING[kind]}" if count and _MEANING[kind] else ""))
    for count, name in ((drift.only_base, "base"), (drift.only_current, "current")):
        if count:
            console.print(f"{_counted(count, 'case')} in the {name} alone", style="yellow")
    for record in (drift.base, drift.current):
        if len(record.cases) < record.planned:
            told = f"{record.path} is unfinished: {len(record.cases)} of {record.planned} cases are recorded"
            console.print(told, style="yellow", soft_wrap=True)
    among = as_items(drift.pairs)
    _print_outcomes(console, drift)
    _print_patterns(console, "moved, worse", patterns(as_items(_moved(drift, worse=True)), among))
    _print_patterns(console, "moved, better", patterns(as_items(_moved(drift, worse=False)), among))
    _print_patterns(console, "moved, but equal to rounding", patterns(as_items(drift.of_kind(Kind.ROUNDING)), among))
    _print_moved(console, drift, rows)
    _print_shifts(console, drift)
    _print_regressions(console, found)


def _print_outcomes(console: Console, drift: Drift) -> None:
    told = [(f"{change.after.value}, was {change.before.value},", change.case) for change in drift.outcomes]
    among = [(outcome, case) for outcome in dict(told) for case in drift.common]
    _print_patterns(console, "changed outcome", patterns(told, among))


def _moved(drift: Drift, *, worse: bool) -> list[Pair]:
    return [pair for pair in drift.of_kind(Kind.MOVED) if (pair.growth > 0.0) is worse]


def _named(record: Recorded) -> str:
    kind = "baseline, run" if record.is_baseline else "run"
    device = record.conditions.get("device", "no JAX")
    return f"{record.path}\n        {record.subject} on {device}, {kind} of {record.started}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _print_axes(console: Console, axes: Iterable[Axis]) -> None:
    for axis in axes:
        console.print(f"        {axis.belongs_to}: {axis.name} {axis.before} -> {axis.after}", soft_wrap=True)


def _print_patterns(console: Console, title: str, found: Iterable[Pattern], indent: str = "") -> None:
    found = list(found)
    if found:
        console.print(f"\n{indent}{title}:" if not indent else f"{indent}{title}:", style="bold")
    for pattern in found:
        told = f"{', '.join(pattern.outputs)} in {pattern.happened} of {_counted(pattern.among, 'case')}"
        aside = f" ({pattern.excepted} there excepted)" if pattern.excepted else ""
        console.print(f"{indent}  {told}: {pattern.where}{aside}", soft_wrap=True)


def _print_moved(console: Console, drift: Drift, rows: int) -> None:
    moved = sorted(drift.of_kind(Kind.MOVED), key=lambda pair: -pair.growth)
    if moved:
        console.print("\nthe worst of what moved:", style="bold")
    for pair in moved[:rows]:
        console.print(f"  {pair.output:7}{pair.case}", soft_wrap=True)
        told = [
            f"{title} {getattr(pair.before, name):.3g} -> {getattr(pair.after, name):.3g}"
            + (f" (log2 {_signed(log2_growth(getattr(pair.before, name), getattr(pair.after, name)))})" if log2 else "")
            for name, title, log2 in _SHOWN
        ]
        console.print(f"         {', '.join(told)}", style="" if pair.growth > 0.0 else "green", soft_wrap=True)
    if len(moved) > rows:
        console.print(f"  ... and {len(moved) - rows} more, none worse; --rows shows them", style="dim")


def _signed(growth: float) -> str:
    return f"{growth:+.1f}" if math.isfinite(growth) else ("+inf" if growth > 0.0 else "-inf")


def _print_shifts(console: Console, drift: Drift) -> None:
    if drift.shifts:
        console.print("\nmoved in many cases together, however little in each:", style="bold")
    for shift in sorted(drift.shifts, key=lambda shift: -shift.growth):
        worse = shift.grew > shift.shrank
        votes = f"{'grew' if worse else 'shrank'} in {max(shift.grew, shift.shrank)} of {shift.grew + shift.shrank}"
        told = f"RMS z {votes} sets of arrays, log2 {_signed(shift.growth)} in the middle"
        console.print(
            f"  {shift.output}, {shift.dtype}: {told} (chance of {shift.chance:.0e} by rounding alone)", soft_wrap=True
        )


def _print_regressions(console: Console, found: Sequence[Regression]) -> None:
    console.print()
    for title, fails, style in (("acknowledged", False, "yellow"), ("regressions", True, "bold red")):
        ones = [one for one in found if one.fails is fails]
        by_output = {output: [one for one in ones if one.output == output] for output in (one.output for one in ones)}
        if ones:
            console.print(f"{title}:", style=style)
        for output, of_output in by_output.items():
            _print_regression(console, output, of_output)
    failing = sum(one.fails for one in found)
    rule = f"worse beyond rounding and by more than a factor of {RATCHET:g}, or a worse outcome"
    told = _counted(failing, "regression") if failing else "no regression"
    console.print(Text(f"{told} ({rule})", style="bold red" if failing else "green"))


def _print_regression(console: Console, output: str, ones: Sequence[Regression]) -> None:
    first = ones[0]
    where = first.cases[0] if len(first.cases) == 1 else _counted(len(first.cases), "case")
    more = f" (and {len(ones) - 1} more, none worse)" if len(ones) > 1 else ""
    console.print(f"  {output}: {first.told}: {where}{more}", soft_wrap=True)
    known = [by for one in ones for by in (one.expired if one.fails else one.acknowledged or ())]
    for by in dict.fromkeys(known):
        console.print(f"    {_acknowledged(by, fails=first.fails)}", soft_wrap=True)


def _acknowledged(known: Acknowledgement, *, fails: bool) -> str:
    return f"{'acknowledged until' if not fails else 'the acknowledgement expired on'} {known.expires}: {known.reason}"


def print_series(console: Console, series: Series) -> None:
    """The steps of a series, each with what changed there."""
    first, last = series.records[0], series.records[-1]
    console.print(f"{len(series.records)} runs from {first.started} to {last.started}", soft_wrap=True)
    _print_patterns(console, "other bits in every run", series.unrepeatable)
    for step in series.steps:
        told = f"step at run {step.number} of {len(series.records)}: {step.record.path}, {step.record.started}"
        console.print(f"\n{told}", style="bold", soft_wrap=True)
        _print_axes(console, step.axes)
        before = series.records[step.number - 2]
        uncommitted = is_uncommitted(before, step.record)
        console.print(f"        {attribution(step.axes, uncommitted=uncommitted, moved=True)}", soft_wrap=True)
        for title, found in (("moved, worse", step.worse), ("moved, better", step.better), ("bits alone", step.bits)):
            _print_patterns(console, title, found, indent="  ")
        for change in step.outcomes:
            console.print(f"  {change.case} is {change.after.value}, was {change.before.value}", soft_wrap=True)
    if not series.steps:
        console.print("no step: every output stayed where it was")
    console.print("\nthe first run and the last:\n", style="bold")
