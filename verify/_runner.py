"""Runs cases: references in worker processes, the subject in this one, one result a case."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

from oracles import NormalizerGrad
from verify._case import Case
from verify._errors import SuiteError
from verify._problem import make_problem
from verify._reference import Reference, compute_reference
from verify._subject import Subject, VJPError
from verify._verdict import Outcome, Verdict, explain_as_detached, judge, wrong_gradients

# References that may wait for the subject: they can be large.
_AHEAD = 4


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


def run_case(case: Case, subject: Subject, reference: Reference | None = None) -> Result:
    """Run one case; its reference is computed here unless given.

    Raises:
        SuiteError: if the reference cannot be computed.
    """
    reason = subject.lacks(case)
    if reason is not None:
        return Result(case, Verdict(Outcome.UNSUPPORTED, reason), 0.0)
    problem = make_problem(case)
    start = time.perf_counter()
    try:
        outputs = subject.call(case, problem)
    except Exception as error:
        # Compilers put megabytes into a message; the end of the traceback tells where.
        tail = traceback.format_exc()[-2000:]
        summary = (str(error) if isinstance(error, VJPError) else f"{type(error).__name__}: {error}")[:300]
        return Result(case, Verdict(Outcome.CRASH, f"{summary}\n{tail}"), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    verdict = judge(case, outputs, reference or _compute_or_fail(case))
    if verdict.outcome is Outcome.INACCURATE and wrong_gradients(verdict.measurements):
        verdict = explain_as_detached(verdict, outputs, _compute_or_fail(case, "detached"))
    return Result(case, verdict, seconds)


def _compute_or_fail(case: Case, normalizer_grad: NormalizerGrad = "exact") -> Reference:
    try:
        return compute_reference(case, normalizer_grad)
    except Exception as error:
        raise _reference_failed(case, error) from error


def _reference_failed(case: Case, error: Exception) -> SuiteError:
    return SuiteError(f"the reference of case {case.id} failed: {type(error).__name__}: {error}")


def run_cases(cases: Sequence[Case], subject: Subject, jobs: int) -> Iterator[tuple[Case, Result | None]]:
    """Run the cases in order: each is yielded before it starts, with None, and again with its result.

    Args:
        cases: what to run.
        subject: what to run it on.
        jobs: worker processes for references; 0 computes them in this process.
    """
    if jobs == 0:
        for case in cases:
            yield case, None
            yield case, run_case(case, subject)
        return
    # spawn: a fork of a process that holds a GPU context is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_worker) as pool:
        pending: list[Future[Reference] | None] = []
        todo = iter(cases)
        try:
            for case in cases:
                while len(pending) < jobs + _AHEAD and (ahead := next(todo, None)) is not None:
                    pending.append(None if subject.lacks(ahead) else pool.submit(compute_reference, ahead))
                yield case, None
                yield case, _run_with(case, subject, pending.pop(0))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_with(case: Case, subject: Subject, future: Future[Reference] | None) -> Result:
    if future is None:
        return run_case(case, subject)
    try:
        reference = future.result()
    except Exception as error:
        raise _reference_failed(case, error) from error
    return run_case(case, subject, reference)


def _prepare_worker() -> None:
    import signal

    import threadpoolctl

    # Ctrl-C is for the process that runs the subject; it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The workers share the cores with each other and with the subject.
    threadpoolctl.threadpool_limits(1)
