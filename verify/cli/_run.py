"""``mlstm-verify run``: cases against a subject."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from verify._cache import ReferenceCache
from verify._case import Case
from verify._run import RunWriter, check_directory, read_run
from verify._runner import run_cases
from verify._self_test import self_test
from verify._subject import DEFAULT_SUBJECT, Subject, load_subject
from verify._table import print_summary
from verify._verdict import Outcome
from verify.cli._backend import BackendOption, choose_backend
from verify.cli._cache import CacheOption, open_cache
from verify.cli._progress import progress_bar
from verify.cli._selection import select_cases


def run(
    tier: Annotated[str, typer.Option(help="Tier of cases: smoke or standard.")] = "smoke",
    case: Annotated[list[str] | None, typer.Option(help="Case id, instead of a tier; may be repeated.")] = None,
    k: Annotated[str | None, typer.Option("-k", help="Only ids that match: words, and, or, not, ( ).")] = None,
    gradients: Annotated[bool, typer.Option(help="Gradients too, or the forward pass alone.")] = True,
    subject: Annotated[str, typer.Option(help="module:callable with the seed's signature.")] = DEFAULT_SUBJECT,
    backend: Annotated[BackendOption, typer.Option(help="Where Triton kernels run.")] = BackendOption.auto,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TIME-TIER.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes for references.")] = os.cpu_count() or 1,
) -> None:
    """Run cases against a subject and record them. Exit code 0: all passed; 1: a case failed."""
    cases = select_cases(tier, case or [], k, gradients=gradients)
    directory = out or _default_directory(tier if not case else "cases")
    check_directory(directory)
    store = open_cache(cache)
    with _clean_stdout() if as_json else contextlib.nullcontext():
        choose_backend(backend)
        for left_out in self_test():
            print(f"notice: the self-test leaves out {left_out}", file=sys.stderr)
        loaded = load_subject(subject)
        if not case:
            cases = list(dict.fromkeys(loaded.adapt(planned) for planned in cases))
        _execute(cases, loaded, directory, jobs, store)
    manifest, records = read_run(directory)
    if as_json:
        print(json.dumps({"directory": str(directory), **manifest, "results": records}, indent=2))
    else:
        # A pipe has no width of its own; the table is made for 100 columns.
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        print_summary(console, manifest, records)
        console.print(f"recorded in {directory}", soft_wrap=True)
    raise typer.Exit(_exit_code(records))


def _default_directory(name: str) -> Path:
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"


def _execute(cases: Sequence[Case], subject: Subject, directory: Path, jobs: int, cache: ReferenceCache) -> None:
    finished = 0
    command = ["mlstm-verify", *sys.argv[1:]]
    with RunWriter(directory, command=command, subject=subject.name, cases=cases) as writer, progress_bar() as progress:
        task = progress.add_task("", total=len(cases), case="")

        def notice(text: str) -> None:
            progress.console.print(f"notice: {text}", soft_wrap=True)

        try:
            for case, result in run_cases(cases, subject, min(jobs, len(cases) - 1), cache, notice):
                if result is None:
                    progress.update(task, case=case.id)
                    continue
                writer.append(result)
                finished += 1
                progress.advance(task)
                if not progress.console.is_terminal:
                    told = f"[{finished}/{len(cases)}] {result.verdict.outcome.value} {result.seconds:.1f}s {case.id}"
                    print(told, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"interrupted: {finished} of {len(cases)} cases are recorded in {directory}", file=sys.stderr)
            raise


def _exit_code(records: list[dict[str, Any]]) -> int:
    outcomes = [Outcome(record["outcome"]) for record in records]
    if any(outcome.failed for outcome in outcomes):
        return 1
    if Outcome.PASS not in outcomes:
        Console(stderr=True).print("nothing was verified: every case is unsupported by the subject", style="bold red")
        return 3
    return 0


@contextlib.contextmanager
def _clean_stdout() -> Iterator[None]:
    """Send what anybody else prints, C code included, to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
