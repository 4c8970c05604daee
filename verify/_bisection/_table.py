"""What a search found, for a terminal: the first bad commit, or what is left, and everything that was judged."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._bisection._commits import Question
from verify._bisection._log import Judged
from verify._bisection._points import Axis
from verify._bisection._predicate import Shown
from verify._bisection._repository import Commit

_STYLES = {"good": "green", "bad": "bold red", "skip": "yellow"}
# Of skipped commits so many are named.
_MOST = 20


def measured(judged: Judged, shown: Shown) -> str:
    """The outcome and the measure, as far as there are any."""
    if judged.facts is None:
        return "-"
    value = shown.value(judged.facts)
    return judged.facts.outcome.value + ("" if isnan(value) else f" {shown.name} {value:.3g}")


def print_commits(
    console: Console, visited: Sequence[Judged], left: Sequence[Commit], total: int, question: Question
) -> None:
    """The answer of a search in a repository.

    Args:
        console: where.
        visited: what was judged, in the order of history.
        left: the commits that the first bad one is among.
        total: commits after the good one.
        question: that was asked.
    """
    shown = question.predicate.shown
    table = _table(shown, "commit", "date")
    table.add_column("subject", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in visited:
        told = one.reason if one.status == "skip" else one.record["subject"]
        table.add_row(*_row(one, shown), one.key[:10], one.record["date"][:10], told)
    console.print(table)
    counts = ", ".join(f"{sum(one.status == status for one in visited)} {status}" for status in _STYLES)
    console.print(f"\n{len(visited)} of {total + 1} commits judged by {question.predicate.text!r}: {counts}")
    console.print(f"subject {question.subject}, case {question.case.id}", soft_wrap=True)
    if len(left) == 1:
        _print_found(console, left[0], visited, shown)
    else:
        _print_left(console, left)


def _print_found(console: Console, commit: Commit, visited: Sequence[Judged], shown: Shown) -> None:
    place = next(number for number, one in enumerate(visited) if one.key == commit.hash)
    before = next(one for one in reversed(visited[:place]) if one.status == "good")
    found = visited[place]
    console.print(f"\nfirst bad commit: {commit.hash}", style="bold", soft_wrap=True)
    imported = found.record["imported"]
    blob = (imported["blob"] or "of the build")[:12]
    lines = {
        "subject": commit.subject,
        "author": f"{commit.author}, {commit.date}",
        "before": f"{before.key[:10]} {measured(before, shown)}",
        "here": f"{measured(found, shown)}: {found.reason}",
        "code": f"{imported['file']}, blob {blob}; {imported['modules']} modules were the commit's",
    }
    for name, text in lines.items():
        console.print(f"  {name:8} {text}", soft_wrap=True)


def _print_left(console: Console, left: Sequence[Commit]) -> None:
    console.print(f"\nonly skipped commits are left: the first bad one is one of {len(left)}", style="bold")
    for commit in left[:_MOST]:
        console.print(f"  {commit.hash} {commit.date[:10]} {commit.subject}", soft_wrap=True)
    if len(left) > _MOST:
        console.print(f"  ... and {len(left) - _MOST} more")


def print_points(console: Console, axes: Sequence[Axis], judged: Sequence[Judged], question: Question) -> None:
    """The answer of a search over axes, in the order of their values."""
    table = _table(question.predicate.shown, *(axis.name for axis in axes))
    table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in judged:
        point = one.record["point"]
        table.add_row(*_row(one, question.predicate.shown), *(point[axis.name] for axis in axes), one.reason)
    console.print(table)
    counts = ", ".join(f"{sum(one.status == status for one in judged)} {status}" for status in _STYLES)
    console.print(f"\n{len(judged)} points judged by {question.predicate.text!r}: {counts}")
    console.print("every point was judged: nothing orders them as time orders commits", style="dim")
    console.print(f"subject {question.subject}, case {question.case.id}", soft_wrap=True)


def _table(shown: Shown, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for header in ("status", "outcome", shown.name, *names):
        table.add_column(header, no_wrap=True, justify="right" if header == shown.name else "left")
    return table


def _row(judged: Judged, shown: Shown) -> tuple[Text, str, str]:
    status = Text(judged.status, style=_STYLES[judged.status])
    value = float("nan") if judged.facts is None else shown.value(judged.facts)
    outcome = judged.facts.outcome.value if judged.facts else "-"
    return status, outcome, "-" if isnan(value) else f"{value:.3g}"
