"""The matrix in the tests of another project, in this process: one assertion for all of it, or a test for every case.

    from verify.testing import assert_verified

    def test_mlstm():
        assert_verified(my_kernel)

``matrix`` and ``check`` make a test of every case, which pytest -k, pytest-xdist and JUnit XML then know by its id:

    @pytest.mark.parametrize("case", matrix("smoke"), ids=lambda case: case.id)
    def test_mlstm(case):
        check(my_kernel, case)

A kernel is a callable with the seed's signature (see the README), or its name, ``module:callable``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from verify._backend import BackendOption
from verify._cache import ReferenceCache, default_directory
from verify._case import Case
from verify._errors import UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._relation_cases import parse_case
from verify._report import first_line, worst_first
from verify._runner import Result, run_cases
from verify._self_test import self_test
from verify._subject import Subject, load_subject, make_subject
from verify._verdict import Outcome
from verify.cli._selection import select_cases

__all__ = ["assert_verified", "check", "matrix"]

Kernel = Callable[..., Any] | str
_SHOWN = 10
# What a process need not ask twice.
_self_test = functools.cache(self_test)


def matrix(tier: str = "smoke", *, k: str | None = None, gradients: bool = True, seed: int | None = None) -> list[Case]:
    """The cases of a tier, to be handed to ``check`` one by one.

    Args:
        tier: as of ``mlstm-verify list cases``.
        k: words of the ids joined by and, or, not and parentheses; None keeps all.
        gradients: False makes the forward pass alone of every case.
        seed: draws other arrays than the tier's own.

    Returns:
        At least one case.

    Raises:
        UsageError: for an unknown tier, a bad expression, or one that selects nothing.
    """
    return select_cases(tier, [], k, gradients=gradients, seed=seed)


def check(kernel: Kernel, case: Case | str, *, cache: Path | str | None = None) -> Result:
    """Run one case in this process, and assert that it passes.

    Args:
        kernel: the callable, or ``module:callable``.
        case: a case or its id. Without a last state in the kernel's signature, its gradients are those of h alone.
        cache: the directory that references are kept in; None is the user's own, as of ``mlstm-verify run``.

    Returns:
        The result, with all measurements.

    Raises:
        AssertionError: with outcome, reason, and what repeats it.
        unittest.SkipTest: if the kernel's signature lacks what the case needs; pytest reports a skip.
        UsageError: for a kernel or a case that cannot be.
    """
    with _open_subject(kernel, isolate=False) as subject:
        (result,) = _run(subject, _given([case]), 0, cache)
    if result.verdict.outcome is Outcome.UNSUPPORTED:
        raise unittest.SkipTest(result.verdict.reason)
    if result.verdict.outcome.failed:
        raise AssertionError(_message(kernel, subject.name, [result]))
    return result


def assert_verified(
    kernel: Kernel,
    tier: str = "smoke",
    *,
    cases: Sequence[Case | str] | None = None,
    k: str | None = None,
    gradients: bool = True,
    seed: int | None = None,
    jobs: int = 0,
    cache: Path | str | None = None,
    isolate: bool = False,
) -> list[Result]:
    """Run a tier and assert that every case passes, or is unsupported while another passes.

        assert_verified(my_kernel, k="bfloat16 and not forget")

    Args:
        kernel: the callable, or ``module:callable``.
        tier, k, gradients, seed: which cases, as of ``matrix``.
        cases: cases or their ids, in place of the tier.
        jobs: processes that compute references ahead of the kernel; 0 computes them in this one. Others are spawned:
            a script that asks for them needs ``if __name__ == "__main__":``.
        cache: as of ``check``.
        isolate: run the kernel in a worker process, where a crash or a hang ends one case only. It must be a name.

    Returns:
        A result for every case.

    Raises:
        AssertionError: how many failed, the worst first, each with id, outcome and reason, and what repeats the worst.
        UsageError: for a kernel, a tier or a case that cannot be, or no case at all.
    """
    if jobs < 0:
        raise UsageError(f"jobs is {jobs}; expected at least 0.")
    chosen = matrix(tier, k=k, gradients=gradients, seed=seed) if cases is None else _given(cases)
    with _open_subject(kernel, isolate=isolate) as subject:
        results = _run(subject, chosen, jobs, cache)
    outcomes = [result.verdict.outcome for result in results]
    if any(outcome.failed for outcome in outcomes):
        raise AssertionError(_message(kernel, subject.name, results))
    if Outcome.PASS not in outcomes:
        raise AssertionError(
            f"nothing was verified: {subject.name} supports none of {len(results)} cases: {results[0].verdict.reason}"
        )
    return results


def _given(cases: Sequence[Case | str]) -> list[Case]:
    if isinstance(cases, str | Case):
        raise UsageError(f"cases is {cases!r}; expected a list of cases or ids.")
    if not cases:
        raise UsageError("cases is empty; expected at least one case or id.")
    if wrong := [case for case in cases if not isinstance(case, str | Case)]:
        raise UsageError(f"a case is {wrong[0]!r}; expected a Case or its id.")
    return [parse_case(case) if isinstance(case, str) else case for case in cases]


@contextlib.contextmanager
def _open_subject(kernel: Kernel, *, isolate: bool) -> Iterator[Subject | IsolatedSubject]:
    if not isolate:
        yield load_subject(kernel) if isinstance(kernel, str) else make_subject(_name(kernel), kernel)
        return
    if not isinstance(kernel, str):
        raise UsageError(f"isolate needs a kernel by its name, module:callable; got a {type(kernel).__name__}.")
    with IsolatedSubject(kernel, BackendOption.auto, Limits()) as isolated:
        yield isolated


def _name(kernel: Callable[..., Any]) -> str:
    module, name = getattr(kernel, "__module__", None), getattr(kernel, "__qualname__", None)
    return f"{module}:{name}" if module and name else repr(kernel)


def _run(
    subject: Subject | IsolatedSubject, cases: Sequence[Case], jobs: int, cache: Path | str | None
) -> list[Result]:
    _self_test()
    store = ReferenceCache(default_directory() if cache is None else Path(cache))
    adapted = list(dict.fromkeys(subject.adapt(case) for case in cases))
    finished = run_cases(adapted, subject, jobs, store, functools.partial(print, "notice:", file=sys.stderr))
    return [result for _, result in finished if result is not None]


def _message(kernel: Kernel, name: str, results: Sequence[Result]) -> str:
    failed = [result for result in worst_first(results) if result.verdict.outcome.failed]
    lines = [f"{len(failed)} of {len(results)} cases failed for {name}, the worst first:"]
    for result in failed[:_SHOWN]:
        lines += [f"{result.verdict.outcome.value} {result.case.id}", f"    {first_line(result)}"]
    if len(failed) > _SHOWN:
        lines.append(f"... and {len(failed) - _SHOWN} more, none worse")
    worst = failed[0]
    # Of an error that was raised: where.
    lines += worst.verdict.reason.splitlines()[1:]
    repeat = f"verify.testing.check(kernel, {worst.case.id!r})"
    if isinstance(kernel, str):
        repeat = f"mlstm-verify run --case {worst.case.id} --subject {kernel}"
    return "\n".join([*lines, f"repeat the worst: {repeat}"])
