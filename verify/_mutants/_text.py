"""What a run of mutants prints: the table, what is to be said of those that were not killed, and the control."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._mutants._catalogue import CATALOGUE, in_reach
from verify._mutants._mutant import Mutant
from verify._mutants._record import Record
from verify._mutants._trial import Fate, Status

_STYLES = {Status.KILLED: "green", Status.EQUIVALENT: "yellow"}


def print_mutants(console: Console, record: Record, chosen: Sequence[Mutant], tier: str) -> None:
    """What became of each, in the order of the catalogue, and what it comes to."""
    fates, by_name = record.of(chosen), {mutant.name: mutant for mutant in chosen}
    if fates:
        console.print(_table(fates))
    counts = Counter(fate.status for fate in fates)
    told = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    console.print(f"\n{len(chosen)} mutants, {len(fates)} run on the tier {tier}: {told or 'none'}")
    for fate in fates:
        if fate.status is not Status.KILLED:
            console.print(_remark(fate, by_name[fate.name], tier), style=None if fate.status.good else "bold red")
    _print_control(console, record.control)


def print_out_of_reach(console: Console, tier: str) -> None:
    """The mutants that no case of the tier can see, and what can."""
    for mutant in CATALOGUE:
        if not in_reach(mutant, tier):
            needs = mutant.beyond or f"the tier {mutant.tier}"
            console.print(f"not run: {mutant.name} ({mutant.place}) needs {needs}", style="dim")


def _table(fates: Sequence[Fate]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("mutant", overflow="fold")
    table.add_column("fate", overflow="fold")
    table.add_column("check", overflow="fold")
    table.add_column("/threshold", justify="right", no_wrap=True)
    table.add_column("case begins", overflow="fold")
    for fate in fates:
        status = Text(fate.status.value, style=_STYLES.get(fate.status, "bold red"))
        excess = "-" if math.isnan(fate.excess) else f"{fate.excess:.2g}"
        # The whole id would make every row four lines of a narrow terminal; it is in the file, and on stderr.
        begins = ":".join(fate.case.split(":", 2)[:2])
        table.add_row(fate.name, status, fate.check or "-", excess, begins or "-")
    return table


def _remark(fate: Fate, mutant: Mutant, tier: str) -> str:
    place = f"{mutant.name} ({mutant.place}): {mutant.does}"
    if fate.status is Status.SURVIVED:
        likely = ", or ".join(repr(words) for words in mutant.seen) or "any"
        return f"survived: {place} None of {fate.cases} cases of the tier {tier} sees it; expected to: {likely}."
    if fate.status is Status.EQUIVALENT:
        return f"equivalent: {place} {mutant.equivalent} ({fate.cases} cases pass.)"
    if fate.status is Status.NOT_EQUIVALENT:
        return f"a defect of the catalogue: {place} It says: {mutant.equivalent} But {fate.case} fails: {fate.reason}"
    return f"a defect of the catalogue: {place} It does not run: {fate.reason}"


def _print_control(console: Console, control: dict[str, Any]) -> None:
    if not control:
        console.print("the control, kernels without a mutant, was not run: no kill is certain yet", style="yellow")
    elif control["failed"]:
        console.print(
            "the control FAILS: without a mutant, too, these cases do, so that they kill none:", style="bold red"
        )
        for case, reason in control["failed"].items():
            console.print(f"{case}: {reason}", soft_wrap=True)
    else:
        console.print(f"control: without a mutant the {control['cases']} cases that killed pass")
