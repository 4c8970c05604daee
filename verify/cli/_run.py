"""``mlstm-verify run``: cases against a subject."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from verify._backend import BackendOption
from verify._cache import ReferenceCache
from verify._case import Case
from verify._environment import describe_environment
from verify._errors import UsageError
from verify._isolation import IsolatedSubject
from verify._relation_cases import parse_case
from verify._report import Report
from verify._run import MANIFEST, STARTED, RunWriter, check_directory, read_manifest, read_results, result_record
from verify._runner import Result, run_cases
from verify._self_test import self_test
from verify._side_by_side import SideBySide, gpus
from verify._subject import DEFAULT_SUBJECT, Subject
from verify._table import print_summary
from verify._tiers import each_once
from verify._verdict import Outcome
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import (
    MOST_WORKERS,
    BackendChoice,
    IsolateOption,
    MemoryOption,
    PythonOption,
    TimeoutOption,
    given_limits,
    open_on_cluster,
    open_several,
    open_subject,
    worker_count,
)
from verify.cli._progress import print_notice, progress_bar
from verify.cli._scheduler import SchedulerOption
from verify.cli._selection import (
    CaseOption,
    ExpressionOption,
    GradientsOption,
    SeedOption,
    TierOption,
    choose_shard,
    draw_cases,
    is_endless,
    select_cases,
)

if TYPE_CHECKING:
    from verify.cli._opening import OpenSubject

# How long a tier without an end runs.
_MINUTES = 10.0


def run(
    tier: TierOption = None,
    case: CaseOption = None,
    seed: SeedOption = None,
    minutes: Annotated[
        float | None,
        typer.Option(help=f"Time until a tier without an end starts no more cases. Default: {_MINUTES:g}."),
    ] = None,
    k: ExpressionOption = None,
    gradients: GradientsOption = True,
    shard: Annotated[str | None, typer.Option(help="I/N: the I-th of N parts; see merge.")] = None,
    subject: Annotated[
        str | None, typer.Option(help=f"module:callable with the seed's signature. Default: {DEFAULT_SUBJECT}.")
    ] = None,
    backend: BackendChoice = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each case, or in this one.")
    ] = IsolateOption.worker,
    python: PythonOption = None,
    timeout: TimeoutOption = 900.0,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TIME-TIER.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the interrupted run in this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Processes for references. Default: one a core; not with --scheduler.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Processes for the subject. Default: one a GPU; without one, one a core, at most {MOST_WORKERS}.",
        ),
    ] = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run cases against a subject and record them. Exit code 0: all passed; 1: a case failed."""
    if resume:
        directory = resume
        given = {
            "--tier": tier,
            "--case": case,
            "--seed": seed is not None,
            "--minutes": minutes is not None,
            "-k": k,
            "--shard": shard,
            "--out": out,
            "--no-gradients": not gradients,
        }
        cases: Iterable[Case]
        cases, subject, python = _of_the_run(resume, subject, python, [name for name, value in given.items() if value])
    else:
        cases = _choose(tier or "smoke", case or [], k, shard, minutes, gradients=gradients, seed=seed)
        directory = out or _default_directory("cases" if case else tier or "smoke")
        check_directory(directory)
    store = open_cache(cache)
    limits = given_limits(timeout, memory)
    opened: contextlib.AbstractContextManager[OpenSubject]
    subject = subject or DEFAULT_SUBJECT
    jobs_here = os.cpu_count() or 1 if jobs is None else jobs
    if scheduler:
        if workers is not None:
            raise UsageError(f"--workers {workers} is of this machine; --scheduler has the workers of a cluster.")
        opened = open_on_cluster(scheduler, jobs, subject, backend, isolate, limits, python)
    elif (count := worker_count(workers, isolate, cases, devices := gpus(backend))) > 1:
        each = limits()
        each = each if memory is not None else replace(each, memory=each.memory // count)
        opened = open_several(subject, backend, isolate, each, python, devices, count, jobs_here)
    else:
        opened = open_subject(subject, backend, isolate, limits, python)
    with clean_stdout() if as_json else contextlib.nullcontext(), opened as loaded:
        # A worker starts meanwhile.
        for name in self_test():
            print(f"notice: the self-test leaves out {name}", file=sys.stderr)
        environment = describe_environment() if isinstance(loaded, Subject) else loaded.started.environment
        if resume:
            writer = RunWriter.resume(directory, environment)
        else:
            if not case:
                cases = _adapt(cases, loaded)
            if shard and isinstance(cases, list):
                cases = choose_shard(cases, shard)
            planned = cases if isinstance(cases, list) else None
            command = ["mlstm-verify", *sys.argv[1:]]
            writer = RunWriter(
                directory, command=command, subject=loaded.name, cases=planned, shard=shard, environment=environment
            )
        _execute(writer, cases, loaded, jobs_here, store)
    raise typer.Exit(_report(directory, as_json))


def _choose(
    tier: str, ids: Sequence[str], expression: str | None, shard: str | None, minutes: float | None, **options: Any
) -> Iterable[Case]:
    """The list of cases; of a tier without an end, an iterator that stops when the time is up."""
    if ids or not is_endless(tier):
        if minutes is not None:
            raise UsageError(f"--minutes {minutes:g} is for a tier without an end; these cases have one.")
        return select_cases(tier, ids, expression, **options)
    if shard is not None:
        raise UsageError(f"--shard {shard} is a part of all cases; --tier {tier} has no end: run other seeds instead.")
    if minutes is not None and not minutes > 0.0:
        raise UsageError(f"--minutes is {minutes:g}; expected more than 0.")
    return _until(60.0 * (_MINUTES if minutes is None else minutes), draw_cases(tier, expression, **options))


def _until(seconds: float, cases: Iterable[Case]) -> Iterator[Case]:
    # The time of the first is the start.
    end = None
    for case in cases:
        end = end or time.monotonic() + seconds
        if time.monotonic() >= end:
            return
        yield case


def _adapt(cases: Iterable[Case], subject: OpenSubject) -> Iterable[Case]:
    """As the subject can run them, each once; a list stays one."""
    adapted = each_once(map(subject.adapt, cases))
    return list(adapted) if isinstance(cases, list) else adapted


def _default_directory(name: str) -> Path:
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"


def _of_the_run(
    directory: Path, subject: str | None, python: Path | None, given: Sequence[str]
) -> tuple[list[Case], str, Path | None]:
    """The cases, the subject and the interpreter of an interrupted run.

    No option may contradict them; but what is installed for the interpreter may lie elsewhere now.
    """
    if given:
        raise UsageError(
            f"--resume {directory} goes on with the cases of that run; {', '.join(given)} cannot be given."
        )
    if (directory / STARTED).exists():
        raise UsageError(
            f"--resume {directory} is a run whose cases were drawn until a time was up; run another --seed."
        )
    manifest = read_manifest(directory)
    if subject not in (None, manifest["subject"]):
        raise UsageError(f"--resume {directory} is a run of {manifest['subject']}; --subject is {subject}.")
    recorded = manifest["environment"].get("interpreter")
    python = Path(recorded) if python is None and recorded else python
    try:
        return [parse_case(name) for name in manifest["planned"]], manifest["subject"], python
    except UsageError as error:
        raise UsageError(f"{directory / MANIFEST} plans what is no case: {error}") from error


def _execute(writer: RunWriter, cases: Iterable[Case], subject: OpenSubject, jobs: int, cache: ReferenceCache) -> None:
    total = len(cases) if isinstance(cases, list) else None
    if isinstance(cases, list):
        cases = [case for case in cases if case.id not in writer.finished]
    with writer, progress_bar() as progress:
        task = progress.add_task("", total=total, completed=len(writer.finished), case="")
        try:
            for case, result in _steps(cases, subject, jobs, cache, functools.partial(print_notice, progress)):
                if result is None:
                    writer.start(case)
                    progress.update(task, case=case.id)
                    continue
                writer.append(result)
                progress.advance(task)
                if not progress.console.is_terminal:
                    told = f"[{len(writer.finished)}/{total or '?'}] {result.verdict.outcome.value}"
                    print(f"{told} {result.seconds:.1f}s {case.id}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            done = f"interrupted: {len(writer.finished)} of {total or 'endless'} cases are recorded"
            resume = f"mlstm-verify run --resume {shlex.quote(str(writer.directory))}{_where(subject)}"
            again = f"; go on with: {resume}" if total else ""
            print(done + again, file=sys.stderr)
            raise
        writer.put_in_order()


def _steps(
    cases: Iterable[Case],
    subject: OpenSubject,
    jobs: int,
    cache: ReferenceCache,
    notice: Callable[[str], None],
) -> Iterator[tuple[Case, Result | None]]:
    if not isinstance(subject, Subject | IsolatedSubject):
        return subject.run_cases(cases, cache, notice)
    if isinstance(cases, list):
        jobs = max(0, min(jobs, len(cases) - 1))
    return run_cases(cases, subject, jobs, cache, notice)


def _where(subject: OpenSubject) -> str:
    if isinstance(subject, Subject | IsolatedSubject | SideBySide):
        return ""
    return f" --scheduler {subject.cluster.address}"


def _report(directory: Path, as_json: bool) -> int:
    """Write the tables of a finished run and print it; its exit code."""
    from verify._export import write_tables

    manifest, results = read_results(directory)
    write_tables(directory, manifest, results)
    if as_json:
        records = list(map(result_record, results))
        print(json.dumps({"directory": str(directory), **manifest, "results": records}, indent=2))
    else:
        # A pipe has no width of its own; the table is made for 100 columns.
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        print_summary(console, Report.of(manifest, results))
        console.print(f"recorded in {directory}", soft_wrap=True)
    return _exit_code([result.verdict.outcome for result in results])


def _exit_code(outcomes: list[Outcome]) -> int:
    if any(outcome.failed for outcome in outcomes):
        return 1
    if Outcome.PASS not in outcomes:
        Console(stderr=True).print("nothing was verified: every case is unsupported by the subject", style="bold red")
        return 3
    return 0


@contextlib.contextmanager
def clean_stdout() -> Iterator[None]:
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
