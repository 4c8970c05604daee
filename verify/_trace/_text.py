"""A trace in the terminal, and as a JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._report import CHECKS
from verify._run import plain
from verify._trace._parts import Parts
from verify._trace._place import Judged, Place
from verify._trace._stages import BY_NAME
from verify._trace._tracing import Trace
from verify._verdict import Outcome


def print_trace(console: Console, trace: Trace, subject: str) -> None:
    """All of it."""
    console.print(f"case {trace.case.id}", soft_wrap=True)
    console.print(f"subject {subject}", soft_wrap=True)
    outcome = trace.verdict.outcome
    if outcome is Outcome.PASS:
        console.print(f"passes: nothing to trace ({trace.verdict.reason})", style="green")
        return
    console.print(f"{outcome.value}: {trace.verdict.reason}", style="bold red" if outcome.failed else "yellow")
    if outcome is Outcome.REFERENCE_UNCERTAIN:
        console.print("nothing to trace: the oracle itself cannot tell right from wrong here")
        return
    for note in trace.notes:
        console.print(f"notice: {note}", style="yellow")
    if trace.first is not None:
        _print_place(console, trace, trace.first)
    console.print(f"\n{'stages' if trace.by == 'stages' else 'outputs'} in the order of the dataflow", style="bold")
    console.print(_stages_table(trace))


def _print_place(console: Console, trace: Trace, first: Place) -> None:
    console.print(f"\ngoes wrong first: {first.stage} ({BY_NAME[first.stage].means})", style="bold")
    console.print(f"  at {where(first)}")
    console.print(f"  is {first.got:.9g}, wanted {first.wanted:.9g}: {_scales(first)}")
    if trace.program is not None:
        console.print(f"  {_program(trace.program)}")
    if trace.parts is not None:
        console.print(f"  {_parts(trace.parts)}")
    console.print(f"  out there: {_spread(trace.spread)}")
    for probe in trace.probes:
        console.print(f"  probe: {probe}")
    console.print()
    console.print(_near_table(trace.near, first))


def where(place: Place) -> str:
    """batch, head, chunk, step and channels of a place."""
    index = dict(place.index)
    told = [f"batch {index.pop('batch')}", f"head {index.pop('head')}", f"chunk {place.chunk}", f"step {place.step}"]
    told += [f"{name} {value}" for name, value in index.items() if name not in ("chunk", "step", "block")]
    return ", ".join(told)


def _scales(place: Place) -> str:
    told = f"{place.ratio:.3g} times the bound"
    return f"{told}, z {place.z:.3g}" if place.z else told


def _program(program: dict[str, Any]) -> str:
    if "pid" not in program:
        return str(program["kernel"])
    axes = ", ".join(f"{name} {'any' if index is None else index}" for name, index in program["axes"].items())
    return f"kernel {program['kernel']}, program {program['pid']} of {program['programs']}: {axes}"


def _parts(parts: Parts) -> str:
    terms = [f"{factor:.3g} x {name}" for name, factor in parts.factors.items()]
    return f"error = {' + '.join(terms)}: {100 * parts.explained:.3g} % of it"


def _spread(told: dict[str, Any]) -> str:
    along = [f"{name} {_ranges(indices)}" for name, indices in told.items() if isinstance(indices, list)]
    return f"{told['elements']} of {told['of']} elements; {'; '.join(along)}"


def _ranges(indices: list[int]) -> str:
    """0-3,7 for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ",".join(told if len(told) <= 6 else [*told[:5], "..."])


def _near_table(near: list[Place], first: Place) -> Table:
    table = Table(box=None, pad_edge=False)
    along = _along(near)
    for header in ("", along, "is", "wanted", "/bound", "z"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for place in near:
        here = place.index == first.index
        style = "bold red" if here else ""
        numbers = (
            f"{place.got:.7g}",
            f"{place.wanted:.7g}",
            f"{place.ratio:.2g}",
            f"{place.z:.2g}" if place.z else "-",
        )
        table.add_row("  >" if here else "", str(place.index[along]), *numbers, style=style)
    return table


def _along(near: list[Place]) -> str:
    # What differs between them.
    names = list(near[0].index)
    return next((name for name in names if len({place.index[name] for place in near}) > 1), names[-1])


def _stages_table(trace: Trace) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("/threshold", justify="right", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("out")
    for judged in trace.judged:
        style = "bold red" if judged.is_out else ""
        check = CHECKS.get(judged.found.check, judged.found.check)
        table.add_row(judged.stage.name, f"{judged.found.excess:.2g}", check, Text(_out(judged)), style=style)
    return table


def _out(judged: Judged) -> str:
    if not judged.is_out:
        return ""
    out = judged.out()
    return f"{int(out.sum())} of {out.size}"


def as_document(trace: Trace, subject: str) -> dict[str, Any]:
    """For --json; infinities and NaN as text."""
    first = trace.first and asdict(trace.first)
    stages = [
        {
            "stage": judged.stage.name,
            "means": judged.stage.means,
            "out": judged.is_out,
            "check": judged.found.check,
            "excess": judged.found.excess,
            "ratio": judged.measured.ratio,
            "rms_z": judged.measured.rms_z,
            "largest_z": judged.measured.largest_z,
        }
        for judged in trace.judged
    ]
    return plain(
        {
            "case": trace.case.id,
            "subject": subject,
            "outcome": trace.verdict.outcome.value,
            "reason": trace.verdict.reason,
            "by": trace.by,
            "first": first,
            "near": [asdict(place) for place in trace.near],
            "spread": trace.spread,
            "parts": trace.parts and asdict(trace.parts),
            "program": trace.program,
            "probes": list(trace.probes),
            "notes": list(trace.notes),
            "stages": stages,
        }
    )
