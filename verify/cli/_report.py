"""``mlstm-verify report``: a run as one file to be read, or for a CI system."""

from __future__ import annotations

import datetime
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from verify._baseline import DIRECTORY
from verify._drift import compare
from verify._errors import UsageError
from verify._regression import regressions
from verify._report import Report
from verify._report_drift import DriftSection, drift_section
from verify._run import read_results
from verify.cli._drift import known_drifts, two_records


class Format(StrEnum):
    """Of the file."""

    html = "html"
    markdown = "markdown"
    junit = "junit"


def report(
    run: Annotated[Path, typer.Argument(help="Run directory, of an interrupted or killed run too.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to be written; - is the standard output.")],
    base: Annotated[
        str | None, typer.Option(help="What it is compared with: a run, a baseline's file, or the word baseline.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="Of the file.")] = Format.html,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a report: the verdict, the worst cases with the lines that repeat them, heat map, curves, precision."""
    if str(out) != "-" and out.exists() and (out.is_dir() or not force):
        told = "a directory" if out.is_dir() else "there already, and is replaced with --force only"
        raise UsageError(f"--out {out} is {told}.")
    section = _drift(run, base) if base else None
    content = _render(Report.of(*read_results(run, unfinished=True), section), format)
    if str(out) == "-":
        sys.stdout.write(content)
        return
    partial = out.with_name(f"{out.name}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error}.") from error
    print(f"written to {out}: {len(content.encode()) / 1e3:.0f} kB")


def _drift(run: Path, base: str) -> DriftSection:
    current_base, current = two_records([run], base, DIRECTORY)
    today = datetime.datetime.now(datetime.UTC).date()
    compared = compare(current_base, current)
    return drift_section(compared, regressions(compared, known_drifts(None), today))


def _render(shown: Report, format: Format) -> str:
    if format is Format.html:
        from verify._report_html import render_html

        return render_html(shown)
    if format is Format.markdown:
        from verify._report_markdown import render_markdown

        return render_markdown(shown)
    from verify._report_junit import render_junit

    return render_junit(shown)
