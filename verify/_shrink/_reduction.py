"""Smaller and smaller inputs, as long as the subject fails on them as it did.

First windows of a few tokens are tried, which cost little; then delta debugging over batch, heads, tokens and channels,
chunk size and constants; then values, which become 0, 1, whole numbers or few digits; and all of it again until nothing
changes. An input that the subject refuses, or that has no reference, is no failure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from verify._errors import SuiteError
from verify._isolation import IsolatedSubject
from verify._reference import Reference
from verify._shrink._ddmin import ddmin
from verify._shrink._failure import Failure
from verify._shrink._input import AXES, STATE, Input, place_of
from verify._subject import Subject
from verify._verdict import Outcome, Verdict, judge

_REFUSALS = (Outcome.CRASH, Outcome.COMPILE_ERROR, Outcome.OUT_OF_MEMORY, Outcome.UNSUPPORTED)
_POWERS = tuple(2**power for power in range(20))
# Of a window of more tokens, all batches and heads together cost too much to be tried beside the worst.
_FEW_TOKENS = 16
# What the other constants of the definition may become: the seed's defaults.
_CONSTANTS: tuple[dict[str, float], ...] = ({"norm_val": 1.0}, {"eps": 1e-6})


class OutOfEvaluationsError(Exception):
    """The subject was run as often as it may be."""


@dataclass(frozen=True)
class Found:
    """An input on which the subject fails.

    Attributes:
        input, verdict: see there.
        reference: that the verdict rests on; None where there was nothing to measure.
    """

    input: Input
    verdict: Verdict
    reference: Reference | None


class Reduction:
    """The search for the smallest input.

    Args:
        subject: that fails.
        found: the input to begin with, and the verdict on it.
        evaluations: how often the subject may be run.
        notice: told of every smaller input.

    Attributes:
        failure: what is kept.
        smallest: found so far.
        evaluations: how often the subject was run.
        refusals: what the subject said to a size that it does not take, by axis and size.
    """

    def __init__(
        self,
        subject: Subject | IsolatedSubject,
        found: Found,
        evaluations: int,
        notice: Callable[[Reduction], None] = lambda _: None,
    ) -> None:
        self.failure = Failure.of(found.verdict)
        self.smallest, self.evaluations, self.limit = found, 0, evaluations
        self.refusals: dict[tuple[str, int], str] = {}
        self._subject, self._notice = subject, notice
        self._tried: set[str] = {found.input.digest}
        # The last input that the subject took, though it did not fail as before.
        self._accepted = found.input

    def run(self) -> None:
        """Until nothing gets smaller, or the evaluations are used up."""
        try:
            self._windows()
            before = ""
            while before != self.smallest.input.digest:
                before = self.smallest.input.digest
                self._sizes()
                self._values()
        except OutOfEvaluationsError:
            pass

    def fails(self, candidate: Input) -> bool:
        """Whether the subject fails again; then the candidate is the smallest. None is asked for twice."""
        if candidate.digest in self._tried:
            return False
        self._tried.add(candidate.digest)
        if self.evaluations >= self.limit:
            raise OutOfEvaluationsError
        self.evaluations += 1
        verdict, reference = self._judge(candidate)
        if verdict is None or not self.failure.is_again(verdict):
            if verdict is not None and verdict.outcome in _REFUSALS:
                self._learn(candidate, verdict.reason.partition("\n")[0])
            else:
                self._accepted = candidate
            return False
        self.smallest = Found(candidate, verdict, reference)
        self._notice(self)
        return True

    def _judge(self, candidate: Input) -> tuple[Verdict | None, Reference | None]:
        lacking = self._subject.lacks(candidate.case)
        if lacking is not None:
            return Verdict(Outcome.UNSUPPORTED, lacking), None
        with np.errstate(all="ignore"):
            execution = self._subject.execute(candidate.case, candidate.problem)
            if execution.failure is not None:
                return execution.failure, None
            try:
                reference = candidate.reference(self.failure.replicates)
                return judge(candidate.case, execution.outputs, reference), reference
            except (ArithmeticError, ValueError, SuiteError):
                # 0 / 0 in the definition itself, for example.
                return None, None

    def _learn(self, candidate: Input, reason: str) -> None:
        # Where one size alone differs from what the subject took, it is this size that it does not take.
        for taken in (self.smallest.input, self._accepted):
            different = [
                name for name in (*AXES, "chunk_size") if getattr(taken.case, name) != getattr(candidate.case, name)
            ]
            if len(different) == 1 and self.failure.outcome not in _REFUSALS:
                self.refusals[different[0], getattr(candidate.case, different[0])] = reason

    def _windows(self) -> None:
        """The fewest consecutive tokens, of the worst batch and head or of all, in chunks as they are or smaller."""
        whole = self.smallest.input
        place = self._worst_place(whole)
        for tokens in (1, 2, 3, *_POWERS[2:]):
            if tokens >= whole.size("length"):
                return
            for start, lead in itertools.product(_starts(whole.size("length"), tokens, place), _leads(whole, place)):
                if tokens > _FEW_TOKENS and lead is whole:
                    continue
                window = lead.take("length", range(start, start + tokens))
                for chunk_size in _chunk_sizes(whole.case.chunk_size, tokens):
                    if ("chunk_size", chunk_size) not in self.refusals and self.fails(window.chunks(chunk_size)):
                        return

    def _worst_place(self, whole: Input) -> dict[str, int]:
        verdict = self.smallest.verdict
        if verdict.worst is None:
            return {}
        measured = next(each for each in verdict.measurements if each.output == verdict.worst.output)
        return dict(place_of(measured.output, measured.worst))

    def _sizes(self) -> None:
        for axes in (("dhqk", "dhhv"), *((axis,) for axis in AXES)):
            self._first(axes)
        for axis in AXES:
            size = self.smallest.input.size(axis)
            # Every subset is one of what there is now, not of what is kept meanwhile.
            now = self.smallest.input
            ddmin(range(size), lambda kept, axis=axis, now=now: self._takes(now, axis, kept))  # type: ignore[misc]
        for chunk_size in _below(self.smallest.input.case.chunk_size):
            if ("chunk_size", chunk_size) not in self.refusals and self.fails(self.smallest.input.chunks(chunk_size)):
                break
        for constants in _CONSTANTS:
            self.fails(self.smallest.input.constants(**constants))

    def _first(self, axes: Sequence[str]) -> None:
        """The fewest first elements of some axes, as many of each: powers of two, as many kernels take no others."""
        for size in _below(max(map(self.smallest.input.size, axes))):
            made = self.smallest.input
            for axis in axes:
                made = made.take(axis, range(min(size, made.size(axis))))
            if not any((axis, size) in self.refusals for axis in axes) and self.fails(made):
                return

    def _takes(self, whole: Input, axis: str, kept: Sequence[int]) -> bool:
        return (axis, len(kept)) not in self.refusals and self.fails(whole.take(axis, kept))

    def _values(self) -> None:
        given = self.smallest.input
        self.fails(given.without(*(name for name in given.names if name[0] == "d")))
        for name in [name for name in given.names if name[0] == "d"]:
            if name in self.smallest.input.names:
                self.fails(self.smallest.input.without(name))
        if "m_initial" in self.smallest.input.names:
            self.fails(self.smallest.input.without(*STATE))
        # Gates before what they weigh; all at once before one by one.
        names = sorted(self.smallest.input.names, key=lambda name: (name not in ("i", "f"), name))
        for elementwise in (False, True):
            for name, simple in itertools.product(names, _SIMPLER):
                self._simplify(name, simple, elementwise)

    def _simplify(self, name: str, simple: Callable[[np.ndarray], np.ndarray], elementwise: bool) -> None:
        """Make the elements of an array simpler, all or as many as may be."""
        given = self.smallest.input
        array = given.array(name)
        values = array.astype(np.float64)
        simpler = np.asarray(simple(values)).astype(array.dtype)
        changed = np.flatnonzero((simpler != array) & ((simpler == 0) | ~np.isin(values, (0.0, 1.0))))

        def fails(kept: Iterable[int]) -> bool:
            made = array.copy()
            chosen = np.setdiff1d(changed, list(kept))
            made.flat[chosen] = simpler.flat[chosen]
            return self.fails(given.but(**{name: made}))

        if elementwise:
            ddmin(changed.tolist(), fails, empty=True)
        elif changed.size:
            fails([])


def _starts(length: int, tokens: int, place: dict[str, int]) -> Iterator[int]:
    """Where windows begin: at the start, at the end, and so that they begin or end with the worst token."""
    last = length - tokens
    starts = [0, last]
    if "length" in place:
        starts += [max(0, place["length"] - tokens + 1), min(place["length"], last)]
    return iter(dict.fromkeys(starts))


def _leads(whole: Input, place: dict[str, int]) -> list[Input]:
    """The worst batch and head, and all of them."""
    if whole.size("batch") * whole.size("heads") == 1:
        return [whole]
    worst = whole
    for axis in ("batch", "heads"):
        worst = worst.take(axis, [place.get(axis, 0)])
    return [worst, whole]


def _chunk_sizes(given: int, tokens: int) -> list[int]:
    """As it is, and those that so few tokens fill: one token, the least, and the usual least of a kernel."""
    return [given, *(size for size in (1, 2, 16) if size < min(given, tokens))]


def _below(size: int) -> list[int]:
    return [power for power in _POWERS if power < size]


def _to_digits(digits: int) -> Callable[[np.ndarray], np.ndarray]:
    return np.vectorize(lambda value: float(f"{value:.{digits}g}"), otypes=[np.float64])


# From the simplest on.
_SIMPLER: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.zeros_like,
    np.ones_like,
    lambda values: np.round(values) + 0.0,  # no -0
    _to_digits(1),
    _to_digits(2),
    _to_digits(3),
)
