"""The search itself: Hypothesis draws cases, and then such as are like those with the largest error so far.

The error of a case is the largest of its checks over its threshold (``verify._verdict.Finding.excess``): error / bound,
RMS z and the largest z of any output. What is not finite, crashes or has the wrong shape is infinitely far off.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log10, sqrt

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity

from verify._case import Case
from verify._isolation import IsolatedSubject
from verify._reference import compute_reference
from verify._runner import or_fail
from verify._search._space import WAYS, Space, cases_of, simpler
from verify._shrink._failure import Failure
from verify._subject import Subject
from verify._verdict import Verdict, judge

# Hypothesis draws at random for one half of a round, and aims in the other.
_ROUND = 100
# After so many rounds without a new case the space has no more that the subject supports and Hypothesis would draw.
_FRUITLESS = 5
# It wants finite numbers.
_FURTHEST = 40.0


@dataclass(frozen=True)
class Probe:
    """A case that was run.

    Attributes:
        case, verdict: see there.
        excess: how many times over its threshold the worst check is; above 1 is a failure.
    """

    case: Case
    verdict: Verdict
    excess: float


class _EndedError(BaseException):
    """The budget is used up: no Exception, which Hypothesis would take for what it looks for."""


class Hunt:
    """A search for the worst case of a subject.

    Args:
        subject: what is searched.
        space: the cases.
        seed: of what is drawn.
        seconds: until no case is started any more.
        evaluations: how many cases at most; None: no limit.
        notice: told of every case that is worse than all before, and None of every other.

    Attributes:
        worst: so far; None if none could be judged.
        probes: all cases that were run.
    """

    def __init__(
        self,
        subject: Subject | IsolatedSubject,
        space: Space,
        *,
        seed: int,
        seconds: float,
        evaluations: int | None,
        notice: Callable[[Hunt, Probe | None], None] = lambda _hunt, _probe: None,
    ) -> None:
        self.worst: Probe | None = None
        self.probes: dict[Case, Probe] = {}
        self._subject, self._space, self._seed, self._notice = subject, space, seed, notice
        self._end, self._limit = time.monotonic() + seconds, evaluations

    def run(self) -> None:
        """Until the budget is used up, or something is infinitely far off: nothing is worse."""
        number = fruitless = 0
        while not self._is_over() and fruitless < _FRUITLESS:
            before = len(self.probes)
            self._round(self._seed * 1_000_003 + number)
            number += 1
            fruitless = fruitless + 1 if len(self.probes) == before else 0

    def _round(self, seed: int) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=_ROUND,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.target),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @hypothesis.given(cases_of(self._space))
        def probe(case: Case) -> None:
            if self._is_over():
                raise _EndedError
            found = self.probe(case)
            if found is not None:
                hypothesis.target(max(-_FURTHEST, min(_FURTHEST, log10(found.excess or 1e-40))))

        with contextlib.suppress(_EndedError):
            probe()

    def _is_over(self) -> bool:
        infinite = self.worst is not None and self.worst.excess == inf
        full = self._limit is not None and len(self.probes) >= self._limit
        return infinite or full or time.monotonic() >= self._end

    def probe(self, case: Case) -> Probe | None:
        """Run a case, once; None if the subject does not support it."""
        case = self._subject.adapt(case)
        if self._subject.lacks(case) is not None:
            return None
        if case not in self.probes:
            verdict = self._judge(case)
            self.probes[case] = found = Probe(case, verdict, _excess(verdict))
            worse = self.worst is None or found.excess > self.worst.excess
            self.worst = found if worse else self.worst
            self._notice(self, found if worse else None)
        return self.probes[case]

    def _judge(self, case: Case) -> Verdict:
        with np.errstate(all="ignore"):
            execution = self._subject.execute(case)
            if execution.failure is not None:
                return execution.failure
            reference = or_fail(case, lambda: compute_reference(case))
            return judge(case, execution.outputs, reference)

    def simplify(self, found: Probe) -> Probe:
        """The simplest case with the same failure, and at least half of the decades of its error.

        Of a case that passes: one whose error is no smaller.
        """
        failure = Failure.of(found.verdict)

        def will_do(probe: Probe) -> bool:
            if not found.verdict.outcome.failed:
                return probe.excess >= found.excess
            return failure.is_again(probe.verdict) and probe.excess >= sqrt(found.excess)

        simplest, before = found, None
        while before is not simplest:
            before = simplest
            for way in WAYS:
                probes = map(self.probe, simpler(simplest.case, way))
                simplest = next((probe for probe in probes if probe is not None and will_do(probe)), simplest)
        return simplest


def _excess(verdict: Verdict) -> float:
    if verdict.worst is not None:
        return verdict.worst.excess
    return inf if verdict.outcome.failed else 0.0
