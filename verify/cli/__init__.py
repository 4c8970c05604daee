"""The command line ``mlstm-verify``.

Exit codes: 0 all passed; 1 a case failed; 2 bad usage or input; 3 the suite itself could not finish;
130 interrupted (finished cases are kept).
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from verify._errors import SuiteError, UsageError
from verify.cli._baseline import baseline_app
from verify.cli._bisect import bisect
from verify.cli._calibrate import calibrate_command
from verify.cli._diagnose import diagnose
from verify.cli._drift import drift
from verify.cli._export import export
from verify.cli._list import list_app
from verify.cli._merge import merge
from verify.cli._mutants import mutants
from verify.cli._references import references
from verify.cli._report import report
from verify.cli._run import run
from verify.cli._search import search
from verify.cli._shrink import shrink
from verify.cli._trace import trace

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(run)
app.command()(references)
app.command()(merge)
app.command()(export)
app.command()(report)
app.command()(drift)
app.command()(bisect)
app.command()(shrink)
app.command()(search)
app.command()(trace)
app.command()(diagnose)
app.command()(mutants)
app.command("calibrate")(calibrate_command)
app.add_typer(list_app, name="list")
app.add_typer(baseline_app, name="baseline")


def main() -> None:
    """The console script: the one place that turns errors into messages and exit codes."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except UsageError as error:
        stderr.print(f"error: {error}", style="bold red", markup=False)
        sys.exit(2)
    except SuiteError as error:
        stderr.print(f"the suite could not finish: {error}", style="bold red", markup=False)
        sys.exit(3)
    except Exception:
        # Exit code 1 would say that the subject failed.
        stderr.print_exception()
        stderr.print("the suite could not finish: the error above is its own", style="bold red")
        sys.exit(3)
