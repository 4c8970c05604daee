"""The progress bar of commands that work through cases."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bar() -> Progress:
    """A bar on stderr, none where that is no terminal; every task has the field ``case``."""
    stderr = Console(stderr=True, highlight=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[case]}"))
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def print_notice(progress: Progress, text: str) -> None:
    """A line above the bar, to be read as it is."""
    progress.console.print(f"notice: {text}", markup=False, soft_wrap=True)
