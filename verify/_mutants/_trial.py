"""Mutants on trial: each in a worker of its own that imports its copy of the kernels, until the first case fails."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from verify._backend import BackendOption
from verify._cache import Found, ReferenceCache
from verify._case import Case
from verify._errors import SuiteError, UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._mutants._copy import check_imported, copied
from verify._mutants._mutant import Mutant
from verify._reference import Reference
from verify._relation_cases import RelationCase
from verify._report import CHECKS
from verify._runner import or_fail
from verify._subject import DEFAULT_SUBJECT
from verify._tiers import each_once
from verify._variant import Variant
from verify._verdict import Outcome, Verdict, judge

# An equivalent mutant is run on the first cases of those that would see it if the argument were wrong.
OF_EQUIVALENT = 6
# What the interpreter raises where a compiler would refuse the source.
_MISTAKE = re.compile(r"\b(NameError|UnboundLocalError|AttributeError|TypeError|IncompatibleTypeErrorImpl)\b")


class Status(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"
    NOT_EQUIVALENT = "not equivalent"
    BROKEN = "does not run"

    @property
    def good(self) -> bool:
        """Whether the suite and the catalogue are as they should be."""
        return self in (Status.KILLED, Status.EQUIVALENT)


@dataclass(frozen=True)
class Fate:
    """What became of a mutant, or of the kernels without one.

    Attributes:
        name: of the mutant.
        status: see there.
        case: the id of the case that failed; empty if none did.
        outcome: of that case.
        check: of which output, and which; the outcome, where no measurement decided.
        excess: the statistic over its threshold; NaN where no measurement decided.
        reason: of the verdict, its first line.
        cases: how many were run.
        seconds: wall-clock time, the start of the worker included.
    """

    name: str
    status: Status
    case: str
    outcome: str
    check: str
    excess: float
    reason: str
    cases: int
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A case that failed, and the verdict on it."""

    case: Case
    verdict: Verdict


class References:
    """The references of cases: from the cache, or computed in other processes and kept there, each once."""

    def __init__(self, cache: ReferenceCache, pool: ProcessPoolExecutor) -> None:
        self._cache, self._pool = cache, pool
        self._lock = threading.Lock()
        self._pending: dict[Case, Future[tuple[Reference, Found, str]]] = {}

    def ahead(self, case: Case) -> None:
        """Have it computed, if it is not there."""
        if not isinstance(case, RelationCase) and not self._cache.path(case).exists():
            self._computed(case)

    def get(self, case: Case) -> Reference:
        """The reference of a case; SuiteError if it cannot be computed."""
        reference, _, _ = self._cache.load(case)
        if reference is not None:
            return reference
        return or_fail(case, self._computed(case).result)[0]

    def _computed(self, case: Case) -> Future[tuple[Reference, Found, str]]:
        with self._lock:
            if case not in self._pending:
                self._pending[case] = self._pool.submit(self._cache.fetch, case)
            return self._pending[case]


class Trial:
    """Runs mutants on cases; threads may share it.

    Args:
        cases: of the tier, in order.
        backend: where the kernels run.
        limits: what a case may take.
        references: of the cases.
    """

    def __init__(self, cases: Sequence[Case], backend: BackendOption, limits: Limits, references: References) -> None:
        self.cases = cases
        self._backend, self._limits, self._references = backend, limits, references
        self._open: set[IsolatedSubject] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.environment: dict[str, object] = {}

    def stop(self) -> None:
        """From another thread: what runs fails, and no more is started."""
        with self._lock:
            self._stopped = True
            for subject in self._open:
                subject.stop()

    def fate(self, mutant: Mutant) -> Fate:
        """What becomes of a mutant; SuiteError if it cannot be planted, or the suite fails."""
        start = time.monotonic()
        cases = order(mutant, self.cases)
        try:
            failure, count = self._first_failure(mutant, cases)
        except UsageError as error:
            told = str(error).partition("\n")[0]
            return Fate(mutant.name, Status.BROKEN, "", "", "", float("nan"), told, 0, time.monotonic() - start)
        seconds = time.monotonic() - start
        if failure is None:
            status = Status.EQUIVALENT if mutant.equivalent else Status.SURVIVED
            return Fate(mutant.name, status, "", "", "", float("nan"), "", count, seconds)
        status = Status.NOT_EQUIVALENT if mutant.equivalent else Status.KILLED
        verdict = failure.verdict
        reason = verdict.reason.partition("\n")[0]
        if verdict.outcome is Outcome.COMPILE_ERROR or (verdict.outcome is Outcome.CRASH and _MISTAKE.search(reason)):
            status = Status.BROKEN
        check, excess = verdict.outcome.value, float("nan")
        if verdict.worst is not None:
            check = f"{verdict.worst.output} {CHECKS.get(verdict.worst.check, verdict.worst.check)}"
            excess = verdict.worst.excess
        return Fate(mutant.name, status, failure.case.id, verdict.outcome.value, check, excess, reason, count, seconds)

    def control(self, cases: Sequence[Case]) -> Failure | None:
        """The first case in which a copy of the kernels without a mutant fails, or None."""
        return self._first_failure(None, cases)[0]

    def _first_failure(self, mutant: Mutant | None, cases: Sequence[Case]) -> tuple[Failure | None, int]:
        """The first case that fails, and how many were run."""
        for case in cases[:1]:
            self._references.ahead(case)
        with copied(mutant) as directory, self._subject(directory) as subject:
            self.environment = subject.started.environment
            check_imported(subject.imported(), directory, mutant)
            for count, case in enumerate(cases, start=1):
                for following in cases[count : count + 1]:
                    self._references.ahead(following)
                verdict = self._judge(subject, case)
                if verdict.outcome.failed:
                    return Failure(case, verdict), count
        return None, len(cases)

    def _judge(self, subject: IsolatedSubject, case: Case) -> Verdict:
        execution = subject.execute(case)
        return execution.failure or execution.found or judge(case, execution.outputs, self._references.get(case))

    @contextlib.contextmanager
    def _subject(self, directory: Path) -> Iterator[IsolatedSubject]:
        variant = Variant(places=(str(directory),))
        with IsolatedSubject(DEFAULT_SUBJECT, self._backend, self._limits, variant=variant) as subject:
            with self._lock:
                if self._stopped:
                    raise SuiteError("stopped")
                self._open.add(subject)
            try:
                yield subject
            finally:
                with self._lock:
                    self._open.discard(subject)


def order(mutant: Mutant, cases: Sequence[Case]) -> list[Case]:
    """The cases that a mutant is run on: first those likely to see it, then, unless it is equivalent, all others."""
    likely = [case for words in mutant.seen for case in cases if all(word in case.id for word in words.split())]
    if mutant.equivalent:
        return list(each_once(likely))[:OF_EQUIVALENT]
    return list(each_once([*likely, *cases]))
