"""The table at the end of a run, worst first, from the records of the run and nothing else."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._subject import DEFAULT_SUBJECT
from verify._verdict import Outcome

_SEVERITY = {outcome.value: place for place, outcome in enumerate(Outcome)}
_STYLES = {"pass": "green", "unsupported": "yellow"}


def worst_first(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records by severity of the outcome, then by how far the worst statistic is from its threshold."""

    def severity(record: dict[str, Any]) -> tuple[int, float]:
        worst: dict[str, Any] = record["worst"] or _NONE
        return _SEVERITY[record["outcome"]], -float(worst["excess"])

    return sorted(records, key=severity)


_NONE: dict[str, Any] = {"output": "-", "check": "-", "excess": 0.0}
_CHECKS = {"ratio": "bound", "rms_z": "RMS z", "largest_z": "largest z"}


def summary_table(records: list[dict[str, Any]], rows: int = 12) -> Table:
    """All cases that failed, and the worst others up to ``rows`` in all; 100 columns wide."""
    ordered = worst_first(records)
    failed = sum(Outcome(record["outcome"]).failed for record in records)
    table = Table(box=None, width=100, pad_edge=False)
    for header in ("outcome", "worst", "check"):
        table.add_column(header, no_wrap=True)
    for header in ("/threshold", "normwise"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("case", overflow="fold")
    for record in ordered[: max(rows, failed)]:
        worst: dict[str, Any] = record["worst"] or _NONE
        normwise = [one["normwise"] for one in record["measurements"] if one["output"] == worst["output"]]
        table.add_row(
            Text(record["outcome"], style=_STYLES.get(record["outcome"], "bold red")),
            worst["output"],
            _CHECKS.get(worst["check"], worst["check"]),
            f"{float(worst['excess']):.2g}" if normwise else "-",
            f"{float(normwise[0]):.1e}" if normwise else "-",
            _folded(record["case"]),
        )
    return table


def _folded(case_id: str) -> str:
    # regime and shape on one line, the rest on the next
    regime, shape, rest = case_id.split(":", 2)
    return f"{regime}:{shape}:\n{rest}"


def print_summary(console: Console, manifest: dict[str, Any], records: list[dict[str, Any]], rows: int = 12) -> None:
    """The table, totals, and the line that repeats the worst case."""
    ordered = worst_first(records)
    table = summary_table(records, rows)
    console.print(table)
    if len(ordered) > table.row_count:
        console.print(f"... and {len(ordered) - table.row_count} more, none worse", style="dim")
    counts = {outcome.value: sum(record["outcome"] == outcome.value for record in records) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    environment = manifest["environment"]
    console.print(f"\n{len(manifest['planned'])} planned, {len(records)} executed: {told or 'none'}")
    backend = f"backend {environment['backend']} on {environment['device']}" if environment["backend"] else "no JAX"
    console.print(f"subject {manifest['subject']}, {backend}")
    rule = "pass: within the running error bound, and as near as correct kernels are (RMS and largest z)"
    console.print(f"{rule}; see mlstm-verify list thresholds", style="dim")
    measurements = [measurement for record in records for measurement in record["measurements"]]
    vague = sum(float(measurement["undecided"]) >= 0.5 for measurement in measurements)
    if vague:
        told = f"{vague} of {len(measurements)} outputs are mostly below what rounding or underflow may do: undecided"
        console.print(told, style="dim")
    if ordered:
        _print_worst(console, manifest, ordered[0])


def _print_worst(console: Console, manifest: dict[str, Any], record: dict[str, Any]) -> None:
    subject = manifest["subject"]
    option = "" if subject == DEFAULT_SUBJECT else f" --subject {subject}"
    interpreter = manifest["environment"].get("interpreter")
    option += f" --python {interpreter}" if interpreter else ""
    console.print(f"\nworst: {record['reason'].splitlines()[0]}")
    # Never wrapped: these lines are there to be pasted.
    console.print(f"repeat it:\nmlstm-verify run --case {record['case']}{option}", soft_wrap=True)
