"""The table at the end of a run, worst first: the report in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._report import CHECKS, Report, first_line, worst_measurement
from verify._verdict import Finding

_STYLES = {"pass": "green", "unsupported": "yellow"}
_NONE = Finding("-", "-", 0.0)


def summary_table(report: Report, rows: int = 12) -> Table:
    """All cases that failed, and the worst others up to ``rows`` in all; 100 columns wide."""
    table = Table(box=None, width=100, pad_edge=False)
    for header in ("outcome", "worst", "check"):
        table.add_column(header, no_wrap=True)
    for header in ("/threshold", "normwise"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("case", overflow="fold")
    for result in report.worst(rows):
        outcome, worst = result.verdict.outcome.value, result.verdict.worst or _NONE
        measured = worst_measurement(result)
        table.add_row(
            Text(outcome, style=_STYLES.get(outcome, "bold red")),
            worst.output,
            CHECKS.get(worst.check, worst.check),
            f"{worst.excess:.2g}" if measured else "-",
            f"{measured.normwise:.1e}" if measured else "-",
            _folded(result.case.id),
        )
    return table


def _folded(case_id: str) -> str:
    # regime and shape on one line, the rest on the next
    regime, shape, rest = case_id.split(":", 2)
    return f"{regime}:{shape}:\n{rest}"


def print_summary(console: Console, report: Report, rows: int = 12) -> None:
    """The table, totals, and the line that repeats the worst case."""
    table = summary_table(report, rows)
    console.print(table)
    if len(report.results) > table.row_count:
        console.print(f"... and {len(report.results) - table.row_count} more, none worse", style="dim")
    console.print(f"\n{report.totals}")
    console.print(f"subject {report.subject}, {report.where}")
    rule = "pass: within the running error bound, and as near as correct kernels are (RMS and largest z)"
    console.print(f"{rule}; see mlstm-verify list thresholds", style="dim")
    for notice in report.notices:
        console.print(notice, style="dim")
    if report.results:
        worst = report.results[0]
        console.print(f"\nworst: {first_line(worst)}")
        # Never wrapped: these lines are there to be pasted.
        console.print(f"repeat it:\n{report.repeat(worst)}", soft_wrap=True)
