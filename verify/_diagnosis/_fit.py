"""The smallest set of departures that explains what a subject returned.

A set explains an output of a case if the output passes the verdict's checks against the reference of that reading:
bound and noise floor of a precision, calibrated thresholds. So there is nothing to tune. What is looked at is told by a
screen, which compares normwise errors with the contract's own bounds; it decides on no acceptance.

The order is by size, in which a precision looser than the dtype counts as one; of equal sizes the tighter precision is
first, and exact departures come before those that round. Sets of up to two are all looked at. Larger ones are built one
departure at a time, each the one that brings all outputs nearest, and then lose what they can do without.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isinf, log

import numpy as np

from oracles import Precision
from verify._case import Case
from verify._diagnosis._departures import DEPARTURES, Departure
from verify._diagnosis._reading import Reading
from verify._measurement import Measurement, brought_to, measure
from verify._problem import GRADIENT_OF
from verify._reference import OUTPUTS, Reference
from verify._verdict import finding

# The screen lets pass what is this many times further off than the contract's bound: a bound may grow with a departure.
_SCREEN = 8.0
# Where sets grow: what is nearer to its bound, or further off, than this counts no more; and what counts as progress.
_NEAR, _FAR, _PROGRESS = 2.0**-6, 2.0**40, 4.0
Departures = tuple[Departure, ...]


@dataclass(frozen=True)
class Observed:
    """What a subject returned of a case, and the contract's reference.

    Attributes:
        case, outputs, reference: see there.
    """

    case: Case
    outputs: dict[str, np.ndarray]
    reference: Reference


@dataclass(frozen=True)
class Fit:
    """A set of departures, and what it leaves unexplained.

    Attributes:
        departures, precision: the set.
        unexplained: (case id, output) that fail against it.
    """

    departures: Departures
    precision: Precision
    unexplained: tuple[tuple[str, str], ...] = ()

    @property
    def explains(self) -> bool:
        """Whether nothing is left."""
        return not self.unexplained


def excess_of(measured: Measurement) -> float:
    """How far beyond its threshold the worst check of an output is; above 1 is a failure."""
    return finding([measured]).excess


@dataclass
class Evidence:
    """All that was observed in one dtype, with everything that was computed for it.

    Attributes:
        observed: by case id.
        base: the precision of the dtype.
        contract: the references that were there before, of no departure in that precision.
    """

    observed: Mapping[str, Observed]
    base: Precision
    _readings: dict[tuple[str, Departures], Reading] = field(default_factory=dict)
    _forward: dict[Reading, Reading] = field(default_factory=dict)
    _apart: dict[Reading, dict[str, float]] = field(default_factory=dict)
    _references: dict[tuple[Reading, str, bool], Reference] = field(default_factory=dict)

    def reading(self, case_id: str, departures: Departures) -> Reading:
        """What a subject with these departures computes of a case; the same one with others that change nothing."""
        key = case_id, departures
        if key not in self._readings:
            if not departures:
                self._readings[key] = Reading.of(self.observed[case_id].case)
            else:
                before = self.reading(case_id, departures[:-1])
                self._readings[key] = departures[-1].apply(before) or before
        return self._readings[key]

    def apart(self, case_id: str, departures: Departures, *, gradients: bool = True) -> dict[str, float]:
        """By output, the normwise distance from the values of a reading over what the contract's bound allows."""
        reading = self.reading(case_id, departures)
        if not gradients:
            reading = self._forward.setdefault(reading, reading.forward())
        if reading not in self._apart:
            self._apart[reading] = _distances(reading, self.observed[case_id], self.base)
        return self._apart[reading]

    def looseness(self, case_id: str, output: str, precision: Precision, *, gradients: bool = True) -> float:
        """How many times the contract's bound in a precision is that in the precision of the dtype."""
        if precision == self.base:
            return 1.0
        contract = self.reference(case_id, (), precision, noise=False, gradients=gradients)
        loose, tight = (each.bounds[output] for each in (contract, self.observed[case_id].reference))
        sizes = [_norm(bound.astype(np.float64)) for bound in (loose, tight)]
        return _quotient(*sizes)

    def measured(
        self, case_id: str, departures: Departures, precision: Precision, *, noise: bool = True, gradients: bool = True
    ) -> list[Measurement]:
        """The outputs of a case against a reading."""
        reference = self.reference(case_id, departures, precision, noise=noise, gradients=gradients)
        outputs = self.observed[case_id].outputs
        return measure({name: array for name, array in outputs.items() if name in reference.values}, reference)

    def reference(
        self, case_id: str, departures: Departures, precision: Precision, *, noise: bool, gradients: bool = True
    ) -> Reference:
        """The reference of a reading; that of the contract, in the precision of the dtype, was there before."""
        reading = self.reading(case_id, departures)
        if precision == self.base and reading is self.reading(case_id, ()):
            return self.observed[case_id].reference
        if not gradients:
            reading = self._forward.setdefault(reading, reading.forward())
        key = reading, precision.name, noise
        if key not in self._references:
            options = {} if noise else {"replicates": 0}
            self._references[key] = reading.reference(precision, **options)
        return self._references[key]


def _distances(reading: Reading, seen: Observed, base: Precision) -> dict[str, float]:
    values, distances = reading.values(), {}
    outputs = {name: array.astype(np.float64) for name, array in seen.outputs.items() if name in values}
    if "m_last" in outputs:
        outputs = brought_to(outputs, values["m_last"])
    for name, array in outputs.items():
        bound, wanted = seen.reference.bounds[name].astype(np.float64), seen.reference.values[name]
        kept = np.isfinite(bound) & np.isfinite(wanted)
        allowed = _norm(bound[kept]) / _norm(wanted[kept]) if kept.any() and _norm(wanted[kept]) else inf
        allowed = allowed * (1.0 + reading.coarseness / base.accumulation) + reading.slack.get(name, 0.0)
        with np.errstate(all="ignore"):
            error, size = _norm(array - values[name]), _norm(values[name])
        distances[name] = 0.0 if error == 0.0 or isinf(allowed) else _quotient(error, allowed * size)
    return distances


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.ravel()))


def _quotient(error: float, allowed: float) -> float:
    return error / allowed if allowed > 0.0 and np.isfinite(error) else inf


def is_gradient(output: str) -> bool:
    """Whether it is one."""
    return output in GRADIENT_OF.values()


_PLACES = {departure: place for place, departure in enumerate(DEPARTURES)}


def in_order(departures: Iterable[Departure]) -> Departures:
    """The departures in the order in which they are applied."""
    return tuple(sorted(departures, key=_PLACES.__getitem__))


class Search:
    """The search for one part of the outputs: what is returned, or the gradients.

    Args:
        evidence: what was observed.
        candidates: the departures to choose from.
        start: departures that are settled.
        gradients: whether they are what is to be explained, or what is returned.
        precisions: from tight to loose; the first is settled.
    """

    def __init__(
        self,
        evidence: Evidence,
        candidates: Sequence[Departure],
        start: Departures,
        gradients: bool,
        precisions: Sequence[Precision],
    ) -> None:
        self.evidence, self.start, self.precisions = evidence, start, precisions
        self.gradients = gradients
        axes = {departure.axis for departure in start}
        self.candidates = [one for one in candidates if one.axis not in axes and self._acts(one)]
        self.cases = [case_id for case_id, seen in evidence.observed.items() if any(map(self._concerned, seen.outputs))]

    def _concerned(self, output: str) -> bool:
        return is_gradient(output) is self.gradients

    def _acts(self, departure: Departure) -> bool:
        evidence = self.evidence
        return any(
            evidence.reading(case_id, (*self.start, departure)) is not evidence.reading(case_id, self.start)
            for case_id in evidence.observed
        )

    def best(self) -> Fit:
        """The smallest set that explains, or of those that do not the one that leaves least."""
        for size, precision in self._by_size(2):
            for departures in self._sets(size):
                if self._screened(departures, precision) and self._accepts(departures, precision):
                    return Fit((*self.start, *departures), precision)
        partial = []
        for place, precision in enumerate(self.precisions):
            grown = self._refined(self._grown(precision), precision)
            partial.append((self._left(grown, precision), grown, precision))
            # It may be what a tighter one lacked.
            for tightest in self.precisions[: place + 1]:
                if self._accepts(grown, tightest):
                    return Fit((*self.start, *self._shrunk(grown, tightest, explains=True)), tightest)
        # A loose precision leaves little, and says nothing of what it hides: the tightest of those that leave least.
        _, grown, precision = partial[0] if self.gradients else min(partial, key=lambda each: each[0])
        kept = self._shrunk(grown, precision, explains=False)
        return Fit((*self.start, *kept), precision, tuple(self._failing(kept, precision)))

    def _by_size(self, largest: int) -> Iterator[tuple[int, Precision]]:
        for total in range(largest + 1):
            yield total, self.precisions[0]
            if total:
                yield from ((total - 1, precision) for precision in self.precisions[1:])

    def _sets(self, size: int) -> Iterable[Departures]:
        """Sets of one size, of one departure an axis, exact ones first."""
        if size == 2:
            pairs = itertools.combinations(self._ordered, 2)
            return (in_order(pair) for pair in pairs if pair[0].axis != pair[1].axis)
        return itertools.combinations(self._ordered, size)

    @functools.cached_property
    def _ordered(self) -> list[Departure]:
        return sorted(self.candidates, key=self._rounds)

    def _rounds(self, departure: Departure) -> bool:
        """Whether it does more rounding than its precision has."""
        readings = (self.evidence.reading(case_id, (*self.start, departure)) for case_id in self.cases)
        known = (self.evidence.reading(case_id, self.start) for case_id in self.cases)
        return any(
            made.slack != before.slack or made.coarseness != before.coarseness
            for made, before in zip(readings, known, strict=True)
        )

    def _apart(self, case_id: str, departures: Departures) -> dict[str, float]:
        return self.evidence.apart(case_id, (*self.start, *departures), gradients=self.gradients)

    def _passes(self, departures: Departures, precision: Precision, case_id: str) -> set[str]:
        """The outputs of a case that pass the screen."""
        apart = self._apart(case_id, departures)
        return {
            name
            for name, distance in apart.items()
            if self._concerned(name)
            and distance <= _SCREEN * self.evidence.looseness(case_id, name, precision, gradients=self.gradients)
        }

    def _screened(self, departures: Departures, precision: Precision) -> bool:
        return all(
            len(self._passes(departures, precision, case_id))
            == sum(map(self._concerned, self._apart(case_id, departures)))
            for case_id in self.cases
        )

    def _explains(self, departures: Departures, precision: Precision) -> bool:
        """First by the bound, which is cheap, in all cases; then by the noise floor too."""
        return all(
            not self._failing_of(case_id, departures, precision, noise)
            for noise in (False, True)
            for case_id in self.cases
        )

    def _accepts(self, departures: Departures, precision: Precision) -> bool:
        return self._explains(departures, precision) and self._is_due_to(precision, departures)

    def _is_due_to(self, precision: Precision, departures: Departures) -> bool:
        """Whether it loosens what fails in the next tighter one: each draws its noise anew, and m depends on none.

        Where nothing fails there, that one was looked at before, and was not due to what fails in a tighter one still.
        """
        place = self.precisions.index(precision)
        if place == 0:
            return True
        tighter = self.precisions[place - 1]
        loose = functools.partial(self.evidence.looseness, gradients=self.gradients)
        failing = list(self._failing(departures, tighter))
        return bool(failing) and all(
            loose(case_id, output, precision) > loose(case_id, output, tighter) for case_id, output in failing
        )

    def _failing(
        self, departures: Departures, precision: Precision, cases: Sequence[str] = ()
    ) -> Iterator[tuple[str, str]]:
        for case_id in cases or self.cases:
            for output in self._failing_of(case_id, departures, precision, True):
                yield case_id, output

    def _failing_of(self, case_id: str, departures: Departures, precision: Precision, noise: bool) -> list[str]:
        chosen = (*self.start, *departures)
        measured = self.evidence.measured(case_id, chosen, precision, noise=noise, gradients=self.gradients)
        return [one.output for one in measured if self._concerned(one.output) and excess_of(one) > 1.0]

    def _grown(self, precision: Precision) -> Departures:
        """One departure after the other: exact ones by how near they bring the outputs, then those that round."""
        chosen: Departures = ()
        cost = self._cost(chosen, precision)
        while True:
            more = [departures for departures in self._one_more(chosen) if not self._rounds(departures[-1])]
            costs = [self._cost(in_order(departures), precision) for departures in more]
            if not costs or min(costs) > cost - log(_PROGRESS):
                break
            cost = min(costs)
            chosen = more[costs.index(cost)]
        left = self._beyond_bounds(chosen, precision)
        for departures in self._one_more(chosen) if left else ():
            if self._rounds(departures[-1]) and departures[-1].axis not in {one.axis for one in chosen}:
                fewer = self._beyond_bounds((*chosen, departures[-1]), precision)
                if fewer < left:
                    chosen, left = (*chosen, departures[-1]), fewer
        return in_order(chosen)

    def _refined(self, chosen: Departures, precision: Precision) -> Departures:
        """Within all bounds: one departure after the other put in, or in place of that of its axis, while fewer fail.

        What is small beside a bound, as which gradient through the stabilizer is dropped, the noise floor alone tells.
        """
        left = self._left(chosen, precision)
        while left[0] == 0 < left[1]:
            # Most options change nothing of what fails, so the cases in which something does are looked at first.
            cases = [case_id for case_id in self.cases if self._left(chosen, precision, [case_id])[1]]
            options = [(self._left(option, precision, cases), len(option), option) for option in self._with_one(chosen)]
            nearest = sorted((each for each in options if each[0] < left), key=lambda each: each[:2])
            better = next((option for *_, option in nearest if self._left(option, precision) < left), None)
            if better is None:
                break
            chosen, left = better, self._left(better, precision)
        return chosen

    def _with_one(self, chosen: Departures) -> Iterator[Departures]:
        """Chosen ones with another one, in place of that of its axis if there is one; exact ones first."""
        for one in self._ordered:
            if one not in chosen:
                yield in_order((*(other for other in chosen if other.axis != one.axis), one))

    def _one_more(self, chosen: Departures) -> list[Departures]:
        """Chosen ones with another one, last, of an axis that none of them has."""
        axes = {departure.axis for departure in chosen}
        return [(*chosen, one) for one in self._ordered if one.axis not in axes]

    def _cost(self, departures: Departures, precision: Precision) -> float:
        """How far all outputs are off together, each by the logarithm of its error over its bound."""
        total = 0.0
        for case_id in self.cases:
            for output, distance in self._apart(case_id, departures).items():
                if self._concerned(output):
                    loose = self.evidence.looseness(case_id, output, precision, gradients=self.gradients)
                    total += log(min(max(distance / loose, _NEAR), _FAR))
        return total

    def _beyond_bounds(self, departures: Departures, precision: Precision, cases: Sequence[str] = ()) -> int:
        chosen = in_order(departures)
        return sum(len(self._failing_of(case_id, chosen, precision, False)) for case_id in cases or self.cases)

    def _left(self, departures: Departures, precision: Precision, cases: Sequence[str] = ()) -> tuple[int, float]:
        """How many outputs of these cases, or of all, are beyond their bounds and, if none is, how many fail.

        m is not counted among those that fail: no dot makes it less exact, and near its threshold it passes by chance.
        """
        beyond = self._beyond_bounds(departures, precision, cases)
        if beyond:
            return beyond, inf
        return 0, sum(output not in OUTPUTS.stabilizers for _, output in self._failing(departures, precision, cases))

    def _shrunk(self, departures: Departures, precision: Precision, *, explains: bool) -> Departures:
        """Without those without which no more is left or, if it explains, it still does."""
        left = self._left(departures, precision)
        for one in departures[::-1]:
            fewer = tuple(other for other in departures if other is not one)
            if self._left(fewer, precision) <= left and (not explains or self._explains(fewer, precision)):
                departures = fewer
        return departures
