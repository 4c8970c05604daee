"""``mlstm-verify baseline``: what a subject reached, kept to be held against."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from verify._baseline import DIRECTORY, Baseline, accept, baselines, read_baseline
from verify._errors import UsageError
from verify._recorded import recorded_run

baseline_app = typer.Typer(no_args_is_help=True, help="Accept, list and show baselines.")
DirectoryOption = Annotated[Path, typer.Option("--baselines", help="Directory of baselines.")]


@baseline_app.command("accept")
def accept_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of one subject, device and toolchain.")],
    reason: Annotated[str, typer.Option(help="Why it is accepted, in one line.")],
    directory: DirectoryOption = DIRECTORY,
    force: Annotated[bool, typer.Option("--force", help="Replace the baseline that is there.")] = False,
) -> None:
    """Record finished runs as the baseline of their subject, device and toolchain."""
    path = accept([recorded_run(run) for run in runs], reason, directory, force=force)
    print(f"{path}: {_told(read_baseline(path))}, {path.stat().st_size / 1000:.0f} kB")


@baseline_app.command("list")
def list_command(directory: DirectoryOption = DIRECTORY) -> None:
    """The baselines that there are."""
    if directory != DIRECTORY and not directory.is_dir():
        raise UsageError(f"--baselines: there is no directory {directory}.")
    there = baselines(directory)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for one in there:
        console.print(one.record.path)
        console.print(f"  {_told(one)}; accepted {one.accepted}: {one.reason}")
    if not there:
        console.print(f"no baseline in {directory}; mlstm-verify baseline accept RUN --reason TEXT makes one")


@baseline_app.command("show")
def show_command(path: Annotated[Path, typer.Argument(help="File of a baseline.")]) -> None:
    """What a baseline is of, and by output the largest and the median of the measures."""
    from statistics import median

    one = read_baseline(path)
    console = Console(highlight=False, markup=False, width=100)
    facts = {"subject": one.record.subject, "accepted": one.accepted, "reason": one.reason}
    for name, value in {**facts, "run of": one.record.started, **one.record.conditions}.items():
        console.print(f"{name:14}{value}", soft_wrap=True)
    console.print(f"{'cases':14}{_told(one)}\n", soft_wrap=True)
    table = Table("output", box=None, pad_edge=False)
    for header in ("cases", "error/bound, largest", "median", "RMS z, largest", "median", "largest z"):
        table.add_column(header, justify="right")
    levels = [level for case in one.record.cases.values() for level in case.levels.values()]
    for output in dict.fromkeys(level.output for level in levels):
        of_output = [level for level in levels if level.output == output]
        ratios, z = [level.ratio for level in of_output], [level.rms_z for level in of_output]
        numbers = (max(ratios), median(ratios), max(z), median(z), max(level.largest_z for level in of_output))
        table.add_row(output, str(len(of_output)), *(f"{number:.3g}" for number in numbers))
    console.print(table)


def _told(one: Baseline) -> str:
    counts = Counter(case.outcome.value for case in one.record.cases.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
