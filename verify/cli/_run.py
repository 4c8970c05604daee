"""``mlstm-verify run``: cases against a subject."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from verify._backend import BackendOption, choose_backend
from verify._cache import ReferenceCache
from verify._case import Case
from verify._environment import describe_environment
from verify._errors import UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._run import RunWriter, check_directory, read_manifest, read_run
from verify._runner import Result, run_cases
from verify._self_test import self_test
from verify._subject import DEFAULT_SUBJECT, Subject, load_subject
from verify._table import print_summary
from verify._verdict import Outcome
from verify.cli._cache import CacheOption, open_cache
from verify.cli._progress import print_notice, progress_bar
from verify.cli._scheduler import SchedulerOption, open_cluster
from verify.cli._selection import choose_shard, select_cases

if TYPE_CHECKING:
    from verify._cluster import SubjectOnCluster


class IsolateOption(StrEnum):
    """Where the subject runs."""

    worker = "worker"
    case = "case"
    none = "none"


def run(
    tier: Annotated[str | None, typer.Option(help="Tier of cases: smoke (the default) or standard.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Case id, instead of a tier; may be repeated.")] = None,
    k: Annotated[str | None, typer.Option("-k", help="Only ids that match: words, and, or, not, ( ).")] = None,
    gradients: Annotated[bool, typer.Option(help="Gradients too, or the forward pass alone.")] = True,
    shard: Annotated[str | None, typer.Option(help="I/N: the I-th of N parts; see merge.")] = None,
    subject: Annotated[
        str | None, typer.Option(help=f"module:callable with the seed's signature. Default: {DEFAULT_SUBJECT}.")
    ] = None,
    backend: Annotated[BackendOption, typer.Option(help="Where Triton kernels run.")] = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each case, or in this one.")
    ] = IsolateOption.worker,
    timeout: Annotated[float, typer.Option(help="Seconds for a case; not with --isolate none.")] = 900.0,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for the subject's process; not with --isolate none. Default: 80 % of what is available."
        ),
    ] = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TIME-TIER.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the interrupted run in this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Processes for references. Default: one a core; not with --scheduler.")
    ] = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run cases against a subject and record them. Exit code 0: all passed; 1: a case failed."""
    if resume:
        directory = resume
        given = {
            "--tier": tier,
            "--case": case,
            "-k": k,
            "--shard": shard,
            "--out": out,
            "--no-gradients": not gradients,
        }
        cases, subject = _of_the_run(resume, subject, [name for name, value in given.items() if value])
    else:
        cases = select_cases(tier or "smoke", case or [], k, gradients=gradients)
        directory = out or _default_directory("cases" if case else tier or "smoke")
        check_directory(directory)
    store = open_cache(cache)
    limits = functools.partial(Limits, timeout, **({} if memory is None else {"memory": int(memory * 2**30)}))
    given_limits = limits()
    opened: contextlib.AbstractContextManager[Subject | IsolatedSubject | SubjectOnCluster]
    if scheduler:
        opened = _open_on_cluster(scheduler, jobs, subject or DEFAULT_SUBJECT, backend, isolate, limits)
    else:
        opened = _open_subject(subject or DEFAULT_SUBJECT, backend, isolate, given_limits)
    with _clean_stdout() if as_json else contextlib.nullcontext(), opened as loaded:
        # A worker starts meanwhile.
        left_out = self_test()
        environment = describe_environment() if isinstance(loaded, Subject) else loaded.started.environment
        for name in left_out:
            print(f"notice: the self-test leaves out {name}", file=sys.stderr)
        if resume:
            writer = RunWriter.resume(directory, environment)
        else:
            if not case:
                cases = list(dict.fromkeys(loaded.adapt(planned) for planned in cases))
            cases = choose_shard(cases, shard) if shard else cases
            command = ["mlstm-verify", *sys.argv[1:]]
            writer = RunWriter(
                directory, command=command, subject=loaded.name, cases=cases, shard=shard, environment=environment
            )
        _execute(writer, cases, loaded, os.cpu_count() or 1 if jobs is None else jobs, store)
    manifest, records = read_run(directory)
    if as_json:
        print(json.dumps({"directory": str(directory), **manifest, "results": records}, indent=2))
    else:
        # A pipe has no width of its own; the table is made for 100 columns.
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        print_summary(console, manifest, records)
        console.print(f"recorded in {directory}", soft_wrap=True)
    raise typer.Exit(_exit_code(records))


@contextlib.contextmanager
def _open_subject(
    name: str, backend: BackendOption, isolate: IsolateOption, limits: Limits
) -> Iterator[Subject | IsolatedSubject]:
    if isolate is IsolateOption.none:
        choose_backend(backend)
        yield load_subject(name)
        return
    with IsolatedSubject(name, backend, limits, alone=isolate is IsolateOption.case) as isolated:
        yield isolated


@contextlib.contextmanager
def _open_on_cluster(
    scheduler: str,
    jobs: int | None,
    name: str,
    backend: BackendOption,
    isolate: IsolateOption,
    limits: Callable[[], Limits],
) -> Iterator[SubjectOnCluster]:
    if isolate is IsolateOption.none:
        raise UsageError(
            "--isolate none and --scheduler cannot both be given: a subject on a cluster has a process of its own; "
            "expected worker or case."
        )
    with open_cluster(scheduler, jobs) as cluster:
        from verify._cluster import SubjectOnCluster

        with SubjectOnCluster(cluster, name, backend, limits, alone=isolate is IsolateOption.case) as subject:
            yield subject


def _default_directory(name: str) -> Path:
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"


def _of_the_run(directory: Path, subject: str | None, given: Sequence[str]) -> tuple[list[Case], str]:
    """The cases and the subject of an interrupted run, which no option may contradict."""
    if given:
        raise UsageError(
            f"--resume {directory} goes on with the cases of that run; {', '.join(given)} cannot be given."
        )
    manifest = read_manifest(directory)
    if subject not in (None, manifest["subject"]):
        raise UsageError(f"--resume {directory} is a run of {manifest['subject']}; --subject is {subject}.")
    return [Case.parse(name) for name in manifest["planned"]], manifest["subject"]


def _execute(
    writer: RunWriter,
    cases: Sequence[Case],
    subject: Subject | IsolatedSubject | SubjectOnCluster,
    jobs: int,
    cache: ReferenceCache,
) -> None:
    remaining = [case for case in cases if case.id not in writer.finished]
    with writer, progress_bar() as progress:
        task = progress.add_task("", total=len(cases), completed=len(writer.finished), case="")
        notice = functools.partial(print_notice, progress)
        steps: Iterator[tuple[Case, Result | None]]
        again = f"mlstm-verify run --resume {writer.directory}"
        if isinstance(subject, Subject | IsolatedSubject):
            steps = run_cases(remaining, subject, max(0, min(jobs, len(remaining) - 1)), cache, notice)
        else:
            steps = subject.run_cases(remaining, cache, notice)
            again += f" --scheduler {subject.cluster.address}"
        try:
            for case, result in steps:
                if result is None:
                    progress.update(task, case=case.id)
                    continue
                writer.append(result)
                progress.advance(task)
                if not progress.console.is_terminal:
                    told = f"[{len(writer.finished)}/{len(cases)}] {result.verdict.outcome.value}"
                    print(f"{told} {result.seconds:.1f}s {case.id}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            done = f"{len(writer.finished)} of {len(cases)} cases are recorded"
            print(f"interrupted: {done}; go on with: {again}", file=sys.stderr)
            raise
        writer.put_in_order()


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
