"""``mlstm-verify diagnose``: which contract a subject follows."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from verify._backend import BackendOption
from verify._cache import ReferenceCache
from verify._case import DTYPES, Case
from verify._environment import describe_environment
from verify._errors import UsageError
from verify._reference import Reference
from verify._run import plain
from verify._runner import or_fail, worker_pool
from verify._self_test import self_test
from verify._subject import DEFAULT_SUBJECT, Subject
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import (
    BackendChoice,
    IsolateOption,
    MemoryOption,
    PythonOption,
    TimeoutOption,
    given_limits,
    open_subject,
)
from verify.cli._progress import print_notice, progress_bar
from verify.cli._run import clean_stdout
from verify.cli._selection import GradientsOption

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from verify._diagnosis._diagnosis import Diagnosis
    from verify._isolation import IsolatedSubject

# Kernels may not run in smaller chunks or heads than a dot of the GPU takes.
_CHUNK_SIZE, _DIM = 32, 32


def diagnose(
    subject: Annotated[
        str | None, typer.Option(help=f"module:callable with the seed's signature. Default: {DEFAULT_SUBJECT}.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(DTYPES)}; may be repeated. Default: all of them.")
    ] = None,
    chunk_size: Annotated[int, typer.Option(help="Of the probes, which have two chunks.")] = _CHUNK_SIZE,
    dim: Annotated[int, typer.Option(help="DHQK and DHHV of the probes.")] = _DIM,
    seed: Annotated[int, typer.Option(min=0, help="Of the probes.")] = 0,
    gradients: GradientsOption = True,
    backend: BackendChoice = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each case, or in this one.")
    ] = IsolateOption.worker,
    python: PythonOption = None,
    timeout: TimeoutOption = 900.0,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    jobs: Annotated[int | None, typer.Option(min=0, help="Processes for references. Default: one a core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
) -> None:
    """Say which contract a subject follows. Exit code 0: the definition's; 1: it departs, or gives no numbers."""
    dtypes = _dtypes(dtype or [])
    # A CaseError says what is wrong with a size.
    Case(chunk_size=chunk_size, dhqk=dim)
    store, limits = open_cache(cache), given_limits(timeout, memory)
    opened = open_subject(subject or DEFAULT_SUBJECT, backend, isolate, limits, python)
    with clean_stdout() if as_json else contextlib.nullcontext(), opened as loaded, progress_bar() as progress:
        # A worker starts meanwhile.
        for name in self_test():
            print(f"notice: the self-test leaves out {name}", file=sys.stderr)
        environment = describe_environment() if isinstance(loaded, Subject) else loaded.started.environment
        task = progress.add_task("", total=None, case="")
        made = [
            _one_dtype(loaded, name, (chunk_size, dim, seed), gradients, store, jobs, progress, task) for name in dtypes
        ]
    raise typer.Exit(_report(loaded.name, environment, made, as_json))


def _dtypes(given: Sequence[str]) -> list[str]:
    unknown = [name for name in given if name not in DTYPES]
    if unknown:
        raise UsageError(f"--dtype is {unknown[0]!r}; expected one of {', '.join(DTYPES)}.")
    return list(dict.fromkeys(given)) or list(DTYPES)


def _one_dtype(
    subject: Subject | IsolatedSubject,
    dtype: str,
    sizes: tuple[int, int, int],
    gradients: bool,
    cache: ReferenceCache,
    jobs: int | None,
    progress: Progress,
    task: TaskID,
) -> Diagnosis:
    from verify._diagnosis._diagnosis import diagnose as diagnose_dtype
    from verify._diagnosis._diagnosis import execute, plan

    def step(told: str, total: int | None = None, **fields: Any) -> None:
        progress.update(task, case=told, total=total, **fields)
        if not progress.console.is_terminal:
            print(told, file=sys.stderr, flush=True)

    able, unable = plan(subject, dtype, *sizes, gradients=gradients)
    progress.reset(task, total=len(able))
    returned, failures = execute(subject, able, lambda case: step(f"run {case.id}", len(able), advance=1))
    step(f"{dtype}: {len(returned)} references", None)
    notice = functools.partial(print_notice, progress)
    references = dict(_references(list(returned), cache, os.cpu_count() or 1 if jobs is None else jobs, notice))
    step(f"{dtype}: the departures that explain what was returned", None)
    return diagnose_dtype(dtype, returned, references, failures, unable)


def _references(
    cases: Sequence[Case], cache: ReferenceCache, jobs: int, notice: Any
) -> Iterator[tuple[Case, Reference]]:
    missing = [case for case in cases if not cache.path(case).exists()]
    # Processes take a second to start.
    if jobs > 1 and len(missing) > 2:
        with worker_pool(min(jobs, len(missing))) as pool:
            fetched = [pool.submit(cache.fetch, case) for case in cases]
            found = [or_fail(case, future.result) for case, future in zip(cases, fetched, strict=True)]
    else:
        found = [or_fail(case, functools.partial(cache.fetch, case)) for case in cases]
    for case, (reference, _, damage) in zip(cases, found, strict=True):
        if damage:
            notice(damage)
        yield case, reference


def _report(subject: str, environment: dict[str, Any], made: Sequence[Diagnosis], as_json: bool) -> int:
    from verify._diagnosis._text import document, print_diagnoses

    if as_json:
        dtypes = [document(diagnosis) for diagnosis in made]
        print(json.dumps(plain({"subject": subject, "environment": environment, "dtypes": dtypes}), indent=2))
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        where = f"{environment['backend']} on {environment['device']}"
        print_diagnoses(console, subject, where, made)
    if all(diagnosis.fit is None and not diagnosis.failures for diagnosis in made):
        Console(stderr=True).print("nothing was diagnosed: every probe is unsupported by the subject", style="bold red")
        return 3
    asked = [diagnosis for diagnosis in made if diagnosis.fit is not None or diagnosis.failures]
    return 0 if all(diagnosis.follows for diagnosis in asked) else 1
