"""``mlstm-verify export``: the tables of a run, made again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from verify._run import read_results


def export(run: Annotated[Path, typer.Argument(help="Run directory, of an interrupted or killed run too.")]) -> None:
    """Write the Parquet tables of a run from its records, as every run does at its end."""
    from verify._export import write_tables

    manifest, results = read_results(run, unfinished=True)
    for path, rows in write_tables(run, manifest, results).items():
        print(f"{path}: {rows} rows")
    missing = len(manifest["planned"]) - len(results)
    if missing:
        again = f"run --resume {shlex.quote(str(run))}"
        print(f"notice: {missing} planned cases are not recorded; go on with {again}", file=sys.stderr)
