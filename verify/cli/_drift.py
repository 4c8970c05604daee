"""``mlstm-verify drift``: what moved between two runs, or since which run of many."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from verify._axes import attribution, is_uncommitted
from verify._baseline import DIRECTORY, baseline_for, read_baseline
from verify._drift import Drift, Kind, compare
from verify._drift_text import print_drift, print_series
from verify._errors import UsageError
from verify._pattern import as_items, patterns
from verify._recorded import Recorded, recorded_run
from verify._regression import Acknowledgement, Regression, read_acknowledgements, regressions
from verify._run import plain
from verify._series import Series, find_steps, read_series

ACKNOWLEDGED = Path("reports/acknowledged.toml")


def drift(
    records: Annotated[
        list[Path] | None, typer.Argument(metavar="BASE CURRENT", help="Run directories, or files of baselines.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="BASE of the run CURRENT: a run, a file, or the word baseline, which looks for it."),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Directory of run directories: since which of them?")] = None,
    baselines: Annotated[Path, typer.Option(help="Directory of baselines.")] = DIRECTORY,
    acknowledged: Annotated[
        Path | None, typer.Option(help=f"File of known drifts. Default: {ACKNOWLEDGED}, if it is there.")
    ] = None,
    any_subject: Annotated[bool, typer.Option("--any-subject", help="Compare different subjects too.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a list.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
) -> None:
    """Compare two runs output by output. Exit code 0: no regression; 1: a regression; 2: not comparable."""
    known = known_drifts(acknowledged)
    series = None
    if runs is not None:
        if records or against:
            raise UsageError(f"--runs {runs} is a series of its own; BASE, CURRENT and --against are for two runs.")
        series = find_steps(read_series(runs), any_subject=any_subject)
        base, current = series.records[0], series.records[-1]
    else:
        base, current = two_records(records or [], against, baselines)
    compared = compare(base, current, any_subject=any_subject)
    found = regressions(compared, known, datetime.datetime.now(datetime.UTC).date())
    fails = any(one.fails for one in found)
    if as_json:
        print(json.dumps(plain(_document(compared, found, series)), indent=2, default=str))
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        if series is not None:
            print_series(console, series)
        print_drift(console, compared, found, rows)
    raise typer.Exit(1 if fails else 0)


def known_drifts(given: Path | None) -> Sequence[Acknowledgement]:
    """The acknowledgements of a file, or of the one that is always read, if it is there."""
    path = given or ACKNOWLEDGED
    return read_acknowledgements(path) if given or path.exists() else ()


def two_records(records: Sequence[Path], against: str | None, baselines: Path) -> tuple[Recorded, Recorded]:
    """(base, current) as the command line names them; as ``drift`` raises."""
    expected = 1 if against else 2
    if len(records) != expected:
        told = "CURRENT beside --against" if against else "BASE CURRENT, or CURRENT --against baseline, or --runs DIR"
        raise UsageError(f"{len(records)} runs are given; expected {told}.")
    current = _read(records[-1])
    if against == "baseline":
        return baseline_for(current, baselines).record, current
    base = _read(Path(against) if against else records[0])
    for one, other in ((base, current), (current, base)):
        if one.is_baseline and one.conditions.get("device") != other.conditions.get("device"):
            told = f"{one.conditions.get('device')}; {other.path} is of {other.conditions.get('device')}"
            raise UsageError(f"not comparable: {one.path} is a baseline of {told}. Two runs can be compared.")
    return base, current


def _read(path: Path) -> Recorded:
    return read_baseline(path).record if path.is_file() else recorded_run(path)


def _document(compared: Drift, found: Sequence[Regression], series: Series | None) -> dict[str, Any]:
    among = as_items(compared.pairs)
    changed = len(compared.of_kind(Kind.EQUAL)) < len(compared.pairs) or bool(compared.outcomes)
    uncommitted = is_uncommitted(compared.base, compared.current)
    document: dict[str, Any] = {
        "base": _described(compared.base),
        "current": _described(compared.current),
        "axes": [dataclasses.asdict(axis) for axis in compared.axes],
        "attribution": attribution(compared.axes, uncommitted=uncommitted, moved=changed),
        "counts": {kind.value: len(compared.of_kind(kind)) for kind in Kind},
        "only_base": compared.only_base,
        "only_current": compared.only_current,
        "patterns": {
            kind.value: [dataclasses.asdict(one) for one in patterns(as_items(compared.of_kind(kind)), among)]
            for kind in (Kind.MOVED, Kind.ROUNDING)
        },
        "outputs": [{**dataclasses.asdict(pair), "kind": pair.kind.value} for pair in compared.pairs],
        "outcomes": [_outcome(change) for change in compared.outcomes],
        "lost": compared.lost,
        "shifts": [dataclasses.asdict(shift) for shift in compared.shifts],
        "regressions": [{**dataclasses.asdict(one), "fails": one.fails} for one in found],
    }
    if series is not None:
        document["runs"] = [_described(record) for record in series.records]
        document["unrepeatable"] = [dataclasses.asdict(one) for one in series.unrepeatable]
        document["steps"] = [
            {
                "run": step.number,
                "path": str(step.record.path),
                "axes": [dataclasses.asdict(axis) for axis in step.axes],
                **{
                    name: [dataclasses.asdict(one) for one in getattr(step, name)]
                    for name in ("worse", "better", "bits")
                },
                "outcomes": [_outcome(change) for change in step.outcomes],
            }
            for step in series.steps
        ]
    return document


def _described(record: Recorded) -> dict[str, Any]:
    names = ("is_baseline", "started", "subject", "definition", "conditions")
    return {"path": str(record.path), **{name: getattr(record, name) for name in names}}


def _outcome(change: Any) -> dict[str, str]:
    return {"case": change.case, "before": change.before.value, "after": change.after.value}
