"""``mlstm-verify calibrate``: the thresholds of the verdict from runs of correct implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from verify._calibration import CALIBRATION, RATE, STATISTICS, calibrate
from verify._errors import UsageError
from verify._run import read_results


def calibrate_command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of implementations known to be correct.")],
    out: Annotated[Path, typer.Option(help="File to be written.")] = CALIBRATION,
) -> None:
    """Write the thresholds of RMS z and largest z, with the runs that they rest on."""
    content = calibrate([read_results(path) for path in runs])
    try:
        out.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error}.") from error
    console = Console(highlight=False, width=100)
    for name in STATISTICS:
        table = Table(
            "output", "threshold", "largest seen", "mean excess of the tail", "measurements", box=None, title=name
        )
        for output, tail in content["tails"][name].items():
            table.add_row(output, *(f"{tail[key]:g}" for key in ("threshold", "largest", "excess", "count")))
        console.print(table)
    measurements = sum(run["measurements"] for run in content["runs"])
    console.print(f"{measurements} measurements in {len(runs)} runs; a false alarm in 1 of {1 / RATE:.0e} measurements")
    console.print(f"written to {out}", soft_wrap=True)
