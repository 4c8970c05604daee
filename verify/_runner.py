"""Runs cases: references in worker processes, the subject in this one or in its own, one result a case."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from verify._cache import Found, ReferenceCache
from verify._case import Case
from verify._errors import SuiteError, UsageError
from verify._explanation import explain
from verify._isolation import IsolatedSubject
from verify._reference import Reference, compute_reference
from verify._relation_cases import RelationCase
from verify._subject import Subject
from verify._verdict import Outcome, Verdict, judge

# References that may wait for the subject: they can be large.
_AHEAD = 4

Computed = TypeVar("Computed")
Fetched = tuple[Reference, Found, str]


class _HasSignature(Protocol):
    def lacks(self, case: Case) -> str | None: ...


@dataclass(frozen=True)
class Result:
    """A finished case.

    Attributes:
        case: what was run.
        verdict: the outcome, its reason and its measurements.
        seconds: wall-clock time of the subject, compilation included; no part of any verdict.
    """

    case: Case
    verdict: Verdict
    seconds: float


def run_case(case: Case, subject: Subject | IsolatedSubject, reference: Reference | None = None) -> Result:
    """Run one case; its reference is computed here unless given. A ``Subject`` runs in this process.

    Raises:
        SuiteError: if the reference cannot be computed, or nothing runs on the device any more.
    """
    reason = subject.lacks(case)
    if reason is not None:
        return Result(case, Verdict(Outcome.UNSUPPORTED, reason), 0.0)
    execution = subject.execute(case)
    verdict = execution.failure or execution.found or _judge(case, execution.outputs, reference)
    if execution.note:
        # The first line is what the table shows; a traceback may follow.
        first, newline, rest = verdict.reason.partition("\n")
        verdict = replace(verdict, reason=f"{first}; {execution.note}{newline}{rest}")
    return Result(case, verdict, execution.seconds)


def _judge(case: Case, outputs: dict[str, np.ndarray], reference: Reference | None) -> Verdict:
    def compute(case: Case, **options: Any) -> Reference:
        return or_fail(case, lambda: compute_reference(case, **options))

    return explain(case, judge(case, outputs, reference or compute(case)), outputs, compute)


def or_fail(case: Case, compute: Callable[[], Computed]) -> Computed:
    """What ``compute`` returns; the reference of a case that cannot be computed is the suite's own failure.

    Raises:
        SuiteError: naming the case and the error.
    """
    try:
        return compute()
    except UsageError:
        raise
    except Exception as error:
        message = f"the reference of case {case.id} failed: {type(error).__name__}: {error}"
        raise SuiteError(message) from error


def run_cases(
    cases: Iterable[Case],
    subject: Subject | IsolatedSubject,
    jobs: int,
    cache: ReferenceCache,
    notice: Callable[[str], None],
) -> Iterator[tuple[Case, Result | None]]:
    """Run the cases in order: each is yielded before it starts, with None, and again with its result.

    Args:
        cases: what to run; an iterator may end when it sees fit.
        subject: what to run it on.
        jobs: worker processes for references; 0 computes them in this process.
        cache: where references are looked up, and kept.
        notice: told of every damaged file in the cache, after its reference was computed again.
    """
    if jobs == 0:
        for case in cases:
            yield case, None
            fetch = None if needs_none(case, subject) else functools.partial(cache.fetch, case)
            yield case, run_with(case, subject, fetch, notice)
        return
    with worker_pool(jobs) as pool:
        pending: list[Future[Fetched] | None] = []
        # What is asked of an iterator for the sake of its reference is run too.
        todo, ordered = itertools.tee(cases)
        for case in ordered:
            while len(pending) < jobs + _AHEAD and (ahead := next(todo, None)) is not None:
                pending.append(None if needs_none(ahead, subject) else pool.submit(cache.fetch, ahead))
            yield case, None
            future = pending.pop(0)
            yield case, run_with(case, subject, future.result if future else None, notice)


def needs_none(case: Case, subject: _HasSignature) -> bool:
    """Whether the verdict needs no reference."""
    return isinstance(case, RelationCase) or subject.lacks(case) is not None


def run_with(
    case: Case,
    subject: Subject | IsolatedSubject,
    fetch: Callable[[], Fetched] | None,
    notice: Callable[[str], None],
) -> Result:
    """Run one case, whose reference comes from ``fetch``, None if it needs none; as ``run_case`` raises."""
    if fetch is None:
        return run_case(case, subject)
    reference, _, damage = or_fail(case, fetch)
    if damage:
        notice(damage)
    return run_case(case, subject, reference)


@contextlib.contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that compute references, on one core each; left at once where an exception is raised."""
    # spawn: a fork of a process that holds a GPU context is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_worker) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_worker() -> None:
    import signal
    import threading

    import threadpoolctl

    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C is for the process that runs the subject; it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The workers share the cores with each other and with the subject.
    threadpoolctl.threadpool_limits(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
