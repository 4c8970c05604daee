"""A diagnosis in the terminal: one sentence a dtype, then the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._case import Case
from verify._diagnosis._diagnosis import Diagnosis, Failure

_PRECISIONS = {
    "float32": "float32 (IEEE dots)",
    "tf32x3": "float32, dots as three TF32 ones (tf32x3)",
    "tf32": "float32 with dots in TF32 (or of as many bits)",
    "bfloat16 dots": "float32 with dots in bfloat16",
    "float16": "float16 (dots and storage)",
    "bfloat16": "bfloat16 (dots and storage)",
}


def precision_words(name: str) -> str:
    """A precision as a reader sees it."""
    return _PRECISIONS[name]


def sentence(diagnosis: Diagnosis) -> str:
    """What is found, in one sentence."""
    fit = diagnosis.fit
    if fit is None:
        failure = diagnosis.failures[0] if diagnosis.failures else None
        return outcome_words(failure) if failure else "unsupported: its signature has no words for any probe"
    found = [] if fit.precision.name == diagnosis.base else [f"the precision is {precision_words(fit.precision.name)}"]
    found += [departure.name for departure in fit.departures]
    if not found and not fit.unexplained:
        return f"follows the contract, within the noise floor of {precision_words(fit.precision.name)}"
    if fit.unexplained:
        outputs = ", ".join(dict.fromkeys(output for _, output in fit.unexplained))
        if not found:
            return f"departs from the contract, and no known departure explains it: {outputs}"
        return f"departs: {'; '.join(found)}; this does not explain {outputs}"
    gradients = {departure.axis for departure in fit.departures if departure.backward}
    exact = "exact, but " if gradients and len(found) == len(gradients) else "departs: "
    return f"{exact}{'; '.join(found)}; everything else within the noise floor"


def outcome_words(failure: Failure) -> str:
    """A failure without its case."""
    part = {"both": "", "forward": "", "gradients": " of the gradients"}[failure.passes]
    return f"{failure.outcome.value}{part}: {failure.reason}"


def print_diagnoses(console: Console, subject: str, where: str, diagnoses: Sequence[Diagnosis]) -> None:
    """All of it."""
    for diagnosis in diagnoses:
        style = "green" if diagnosis.follows else "bold red"
        console.print(Text.assemble((f"{diagnosis.dtype}: ", "bold"), (sentence(diagnosis), style)))
        _print_failures(console, diagnosis)
        if diagnosis.fit is not None:
            console.print(_topics_table(diagnosis))
        if diagnosis.departs:
            console.print()
            console.print(_rows_table(diagnosis))
        console.print()
    for case_id, reason in diagnoses[0].unsupported if diagnoses else ():
        console.print(f"not asked: {_short(case_id)}: {reason}", style="dim")
    console.print(f"subject {subject}, {where}")


def _print_failures(console: Console, diagnosis: Diagnosis) -> None:
    if diagnosis.fit is None:
        return
    cases: dict[str, list[str]] = {}
    for failure in diagnosis.failures:
        cases.setdefault(outcome_words(failure), []).append(_short(failure.case))
    for words, failed in cases.items():
        told = failed[0] if len(failed) == 1 else f"{len(failed)} cases"
        console.print(f"  {told}: {words}", style="bold red")


def _topics_table(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("point of the contract", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("nearest other reading", overflow="fold")
    table.add_column("/threshold", justify="right", no_wrap=True)
    fit = diagnosis.fit
    assert fit is not None
    name = fit.precision.name
    departs = name != diagnosis.base
    table.add_row("precision", Text(precision_words(name), style="bold red" if departs else ""), "", "")
    for topic in diagnosis.topics:
        found = Text(topic.does, style="bold red" if topic.departs else "")
        off = _times(topic.off) if topic.off > 1.0 else "not told apart"
        table.add_row(topic.name, found, topic.other or "-", off if topic.other else "-")
    return table


def _rows_table(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("output", no_wrap=True)
    for header in ("error", "/threshold", "error left", "/threshold"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("furthest off in", overflow="fold")
    for row in diagnosis.rows:
        style = "bold red" if row.left_excess > 1.0 else "yellow" if row.contract_excess > 1.0 else ""
        table.add_row(
            Text(row.output, style=style),
            f"{row.contract:.1e}",
            _times(row.contract_excess),
            f"{row.left:.1e}",
            _times(row.left_excess),
            _short(row.case),
        )
    return table


def _times(factor: float) -> str:
    return "inf" if isinf(factor) else f"{factor:.2g}"


def _short(case_id: str) -> str:
    """What tells a probe from the others."""
    case = Case.parse(case_id)
    cotangents = {"none": "forward", "h": "dh", "last": "dC, dn, dm of the last", "all": "all cotangents"}
    parts = [case.regime, case.mode, f"nv{case.norm_val:g}", f"eps{case.eps:g}", case.initial]
    return f"{' '.join(parts)} S{case.length} HV{case.dhhv} {cotangents[case.cotangents]}"


def document(diagnosis: Diagnosis) -> dict[str, object]:
    """The JSON of a diagnosis."""
    fit = diagnosis.fit
    document: dict[str, object] = {
        "dtype": diagnosis.dtype,
        "follows": diagnosis.follows,
        "sentence": sentence(diagnosis),
        "precision": fit.precision.name if fit else None,
        "departures": [departure.name for departure in fit.departures] if fit else [],
        "unexplained": [{"case": case, "output": output} for case, output in fit.unexplained] if fit else [],
        "failures": [
            {
                "case": failure.case,
                "outcome": failure.outcome.value,
                "passes": failure.passes,
                "reason": failure.reason,
            }
            for failure in diagnosis.failures
        ],
        "unsupported": [{"case": case, "reason": reason} for case, reason in diagnosis.unsupported],
        "outputs": [vars(row) for row in diagnosis.rows],
        "contract": [vars(topic) for topic in diagnosis.topics],
    }
    return document
