"""Where the subject of a run is: in processes of its own, in this one, or on the workers of a cluster."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from verify._backend import BackendOption, choose_backend
from verify._errors import UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._subject import Subject, load_subject
from verify.cli._scheduler import open_cluster

if TYPE_CHECKING:
    from verify._cluster import SubjectOnCluster

    OpenSubject = Subject | IsolatedSubject | SubjectOnCluster


class IsolateOption(StrEnum):
    """Where the subject runs."""

    worker = "worker"
    case = "case"
    none = "none"


def given_limits(timeout: float, memory: float | None) -> Callable[[], Limits]:
    """Makes the limits of --timeout and --memory, in seconds and GiB, of the machine that it is called on.

    Raises:
        UsageError: at once, for a limit that is not positive.
    """
    limits = functools.partial(Limits, timeout, **({} if memory is None else {"memory": int(memory * 2**30)}))
    limits()
    return limits


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
