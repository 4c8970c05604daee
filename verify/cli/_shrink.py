"""``mlstm-verify shrink``: the smallest input on which a subject fails as it does on a case."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from verify._backend import BackendOption
from verify._cache import ReferenceCache
from verify._case import Case
from verify._errors import SuiteError, UsageError
from verify._isolation import IsolatedSubject
from verify._reference import Reference
from verify._relation_cases import RelationCase, parse_case
from verify._runner import or_fail
from verify._self_test import self_test
from verify._shrink._input import AXES, Input
from verify._shrink._reduction import Found, Reduction
from verify._shrink._reproducer import ARRAYS, PROGRAM, TEST, Origin, describe, render
from verify._subject import DEFAULT_SUBJECT, Subject
from verify._verdict import Outcome, judge
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
from verify.cli._selection import GradientsOption

_CALLED = {"batch": "B", "heads": "NH", "length": "S", "dhqk": "DHQK", "dhhv": "DHHV", "chunk_size": "L"}


def shrink(
    case: Annotated[str, typer.Option("--case", help="Case id on which the subject fails.")],
    subject: Annotated[str, typer.Option(help="module:callable with the seed's signature.")] = DEFAULT_SUBJECT,
    out: Annotated[
        Path, typer.Option("--out", "-o", help=f"Directory of {PROGRAM}, {TEST} and, if need be, {ARRAYS}.")
    ] = Path("shrunk"),
    force: Annotated[bool, typer.Option("--force", help="Replace the files if they are there.")] = False,
    evaluations: Annotated[int, typer.Option(min=1, help="How often the subject may be run.")] = 1000,
    gradients: GradientsOption = True,
    backend: BackendChoice = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each input, or in this one.")
    ] = IsolateOption.worker,
    python: PythonOption = None,
    timeout: TimeoutOption = 900.0,
    memory: MemoryOption = None,
    cache: CacheOption = None,
) -> None:
    """Find the smallest input on which a subject fails as it does on a case; write a program that shows it.

    Exit code 0: written; 2: the case passes, or bad usage; 130: interrupted, the smallest input so far is written.
    """
    whole = _whole(case, gradients=gradients)
    _check_directory(out, force=force)
    store, limits = open_cache(cache), given_limits(timeout, memory)
    with open_subject(subject, backend, isolate, limits, python) as loaded:
        for name in self_test():
            print(f"notice: the self-test leaves out {name}", file=sys.stderr)
        start = _first(whole, loaded, store)
        interrupted, reduction = _reduce(loaded, start, evaluations)
        signature = loaded if isinstance(loaded, Subject) else loaded.started
        origin = Origin(subject, signature, start.input.case.id, _has_jax(loaded), _environment(backend), timeout)
    _write(out, render(reduction.smallest, reduction.failure, origin))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    _print(console, start, reduction)
    if interrupted:
        console.print(f"interrupted; the smallest input so far is in {out / PROGRAM}", soft_wrap=True)
        raise typer.Exit(130)
    _check_program(out / PROGRAM, python, timeout)
    console.print(f"written to {out}; it fails by itself: python {out / PROGRAM} ends with exit code 1", soft_wrap=True)


def _whole(case_id: str, *, gradients: bool) -> Case:
    case = parse_case(case_id)
    if isinstance(case, RelationCase):
        raise UsageError(
            f"--case {case_id} is a relation, which compares two results; shrink needs one with a reference, "
            f"such as {case.base.id}."
        )
    return case if gradients else replace(case, cotangents="none")


def _check_directory(out: Path, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a directory, which is made if it is not there.")
    there = [name for name in (PROGRAM, TEST, ARRAYS) if (out / name).exists()]
    if there and not force:
        raise UsageError(f"--out {out} has {', '.join(there)} already; replaced with --force only.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error}.") from error


def _first(case: Case, subject: Subject | IsolatedSubject, cache: ReferenceCache) -> Found:
    """The verdict on the case itself; UsageError unless it is a failure."""
    case = subject.adapt(case)
    lacking = subject.lacks(case)
    if lacking is not None:
        raise UsageError(f"--case {case.id} is not supported by {subject.name}: {lacking}.")
    given = Input.of(case)
    execution = subject.execute(case, given.problem)
    if execution.failure is not None:
        return Found(given, execution.failure, None)
    reference: Reference = or_fail(case, lambda: cache.fetch(case))[0]
    verdict = judge(case, execution.outputs, reference)
    if verdict.outcome is Outcome.PASS:
        raise UsageError(f"--case {case.id} passes for {subject.name}; there is nothing to shrink.")
    if not verdict.outcome.failed:
        raise UsageError(
            f"--case {case.id} is {verdict.outcome.value}, no failure of {subject.name}: {verdict.reason}."
        )
    return Found(given, verdict, reference)


def _reduce(subject: Subject | IsolatedSubject, start: Found, evaluations: int) -> tuple[bool, Reduction]:
    """The reduction at its end, and whether it was interrupted."""
    with progress_bar() as progress:
        task = progress.add_task("", total=evaluations, case=describe(start.input))

        told = ""

        def notice(reduction: Reduction) -> None:
            nonlocal told
            before, told = told, describe(reduction.smallest.input)
            progress.update(task, completed=reduction.evaluations, case=told)
            if told != before and not progress.console.is_terminal:
                print(f"[{reduction.evaluations}/{evaluations}] {told}", file=sys.stderr, flush=True)

        reduction = Reduction(subject, start, evaluations, notice)
        print_notice(progress, f"{start.verdict.outcome.value}: {start.verdict.reason.partition(chr(10))[0]}")
        try:
            reduction.run()
        except KeyboardInterrupt:
            return True, reduction
    return False, reduction


def _has_jax(subject: Subject | IsolatedSubject) -> bool:
    if isinstance(subject, Subject):
        return importlib.util.find_spec("jax") is not None
    return "jax" not in subject.started.missing


def _environment(backend: BackendOption) -> dict[str, str]:
    """What ``choose_backend`` sets for this project's kernels."""
    if backend is BackendOption.auto:
        return {}
    cpu = {"JAX_PLATFORMS": "cpu"} if backend is BackendOption.interpret else {}
    return {"MLSTM_KERNELS_BACKEND": backend.value, **cpu}


def _write(out: Path, files: dict[str, bytes]) -> None:
    for name in (PROGRAM, TEST, ARRAYS):
        try:
            if name in files:
                (out / name).write_bytes(files[name])
            else:
                (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"--out {out / name} cannot be written: {error}.") from error


def _print(console: Console, start: Found, reduction: Reduction) -> None:
    told = ("the subject does not take",) if reduction.refusals else ()
    table = Table("", "of the case", "smallest", *told, box=None, pad_edge=False)
    was, now = start.input.case, reduction.smallest.input.case
    for axis in (*AXES, "chunk_size"):
        refused = [size for name, size in reduction.refusals if name == axis and size < getattr(now, axis)]
        why = [f"{max(refused)}: {reduction.refusals[axis, max(refused)]}"] if refused else []
        table.add_row(_CALLED[axis], str(getattr(was, axis)), str(getattr(now, axis)), *why)
    table.add_row("numbers", str(start.input.elements), str(reduction.smallest.input.elements))
    console.print(table)
    for name, verdict in (("of the case", start.verdict), ("smallest", reduction.smallest.verdict)):
        console.print(f"{name}: {verdict.outcome.value}: {verdict.reason.partition(chr(10))[0]}")
    used = f"{reduction.evaluations} runs of the subject"
    console.print(f"{used}: all that --evaluations allows" if reduction.evaluations >= reduction.limit else used)


def _check_program(program: Path, python: Path | None, seconds: float) -> None:
    """Run the program as its reader will; SuiteError unless it ends with exit code 1."""
    command = [str(python or sys.executable), str(program)]
    environment = dict(os.environ)
    if python is None:
        # What this process imports, the reader's does.
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds, check=False)
        if done.returncode == 1:
            return
        told = (done.stdout + done.stderr)[-2000:]
        raise SuiteError(f"{program} should fail as the input did, and ends with exit code {done.returncode}:\n{told}")
    raise SuiteError(f"{program} should fail as the input did, and is not done in {seconds:g} seconds")
