"""Where the subject of a run is: in processes of its own, in this one, or on the workers of a cluster."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verify._backend import BackendOption, choose_backend
from verify._errors import UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._side_by_side import SideBySide, variables
from verify._subject import Subject, load_subject
from verify._variant import Variant
from verify.cli._scheduler import open_cluster

if TYPE_CHECKING:
    from verify._cluster import SubjectOnCluster

    OpenSubject = Subject | IsolatedSubject | SideBySide | SubjectOnCluster


BackendChoice = Annotated[BackendOption, typer.Option(help="Where Triton kernels run.")]
PythonOption = Annotated[
    Path | None,
    typer.Option(help="Another interpreter for the subject's process, with NumPy and what the subject imports."),
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for a case; not with --isolate none.")]
MemoryOption = Annotated[
    float | None,
    typer.Option(help="GiB for the subject's process; not with --isolate none. Default: 80 % of what is available."),
]


class IsolateOption(StrEnum):
    """Where the subject runs."""

    worker = "worker"
    case = "case"
    none = "none"


def given_limits(timeout: float, memory: float | None) -> Callable[[], Limits]:
    """Makes the limits of --timeout and --memory, in seconds and GiB, of the machine that it is called on.

    Raises:
        UsageError: at once, for a limit that is not positive, or a memory that is not finite.
    """
    if memory is not None and not math.isfinite(memory * 2**30):
        raise UsageError(f"--memory is {memory:g}; expected a number of GiB, more than 0.")
    limits = functools.partial(Limits, timeout, **({} if memory is None else {"memory": int(memory * 2**30)}))
    limits()
    return limits


# More processes than these gain little, and each holds a JAX of its own.
MOST_WORKERS = 4
# A process takes seconds to start.
_CASES_PER_WORKER = 8


def worker_count(workers: int | None, isolate: IsolateOption, cases: object, devices: Sequence[str]) -> int:
    """How many processes the subject of a run has: what was asked for; else one a GPU or, without one, a core.

    Raises:
        UsageError: for several with --isolate none.
    """
    if isolate is IsolateOption.none:
        if workers is not None and workers > 1:
            raise UsageError(f"--workers is {workers}, and --isolate none starts no process; expected worker or case.")
        return 1
    if workers is None:
        workers = len(devices) or min(os.cpu_count() or 1, MOST_WORKERS)
        if isinstance(cases, Sized):
            workers = min(workers, -(-len(cases) // _CASES_PER_WORKER))
    return max(1, min(workers, len(cases))) if isinstance(cases, Sized) else workers


@contextlib.contextmanager
def open_subject(
    name: str, backend: BackendOption, isolate: IsolateOption, limits: Callable[[], Limits], python: Path | None = None
) -> Iterator[Subject | IsolatedSubject]:
    """The subject on this machine; UsageError for --python where no process is started, and as its class raises."""
    if isolate is IsolateOption.none:
        if python is not None:
            raise UsageError(f"--python {python} is for a process of its own, which --isolate none does not start.")
        choose_backend(backend)
        yield load_subject(name)
        return
    with IsolatedSubject(name, backend, limits(), alone=isolate is IsolateOption.case, python=python) as isolated:
        yield isolated


@contextlib.contextmanager
def open_several(
    name: str,
    backend: BackendOption,
    isolate: IsolateOption,
    limits: Limits,
    python: Path | None,
    devices: Sequence[str],
    workers: int,
    jobs: int,
) -> Iterator[SideBySide]:
    """The subject on this machine in several processes, which share the GPUs; as its class raises."""

    def open_one(number: int) -> IsolatedSubject:
        variant = Variant(variables=variables(number, workers, devices))
        alone = isolate is IsolateOption.case
        return IsolatedSubject(name, backend, limits, alone=alone, python=python, variant=variant)

    with SideBySide(open_one, workers, jobs) as subject:
        yield subject


@contextlib.contextmanager
def open_on_cluster(
    scheduler: str,
    jobs: int | None,
    name: str,
    backend: BackendOption,
    isolate: IsolateOption,
    limits: Callable[[], Limits],
    python: Path | None = None,
) -> Iterator[SubjectOnCluster]:
    """The subject on a cluster; UsageError for --isolate none, and as ``open_cluster`` and its class raise."""
    if isolate is IsolateOption.none:
        raise UsageError(
            "--isolate none and --scheduler cannot both be given: a subject on a cluster has a process of its own; "
            "expected worker or case."
        )
    with open_cluster(scheduler, jobs) as cluster:
        from verify._cluster import SubjectOnCluster

        alone = isolate is IsolateOption.case
        with SubjectOnCluster(cluster, name, backend, limits, alone=alone, python=python) as subject:
            yield subject
