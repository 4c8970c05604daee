"""What moved between two records of a subject, output by output.

    bitwise equal      the digests are equal
    equal to rounding  they are not, but no measure of the error moved further than rounding moves it
    moved              one did
    changed outcome    the verdict on the case is another

Rounding moves a measure as far as two correct kernels are apart. If their errors e and e', in units of the noise floor,
are independent, the root mean square of e' - e is sqrt(2), or what it may be by chance for as few numbers as the output
has; and | RMS z' - RMS z | is at most the root mean square of e' - e. The largest z moves by no more than the largest
that any correct implementation of the calibration had. error / bound, of two errors below the bound, moves by no more
than 1. The number of elements that are not finite does not move.

What moved many cases by less is found by them all together. If only roundings are others, an error grows in as many
cases as it shrinks: a sign test, for each output and dtype, with a false alarm in 1 of 100 comparisons. Cases with the
same arrays have one vote.

What moved, in one case or in many together, is a regression if it got worse by more than the factor ``RATCHET``,
whatever the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby
from statistics import NormalDist, median
from typing import Any

from verify._axes import Axis, changed_axes
from verify._calibration import thresholds
from verify._case import Case
from verify._errors import UsageError
from verify._recorded import CaseRecord, Level, Recorded
from verify._verdict import Outcome

# One bit of the accuracy that the subject had.
RATCHET = 2.0
_SIGNIFICANCE = 0.01
# Of false alarms, for an output whose errors are two draws of the noise floor. Only outputs of few numbers come near.
_RATE = 1e-4
_SEVERITY = list(Outcome)


class Kind(Enum):
    """What happened to an output."""

    EQUAL = "bitwise equal"
    ROUNDING = "equal to rounding"
    MOVED = "moved"


@dataclass(frozen=True)
class Pair:
    """One output of one case in both records.

    Attributes:
        case: its id; that of the current record.
        output: its name.
        before, after: the levels.
        kind: see there.
        measure: ``nonfinite``, ``rms_z``, ``largest_z`` or ``ratio``: which moved most, over how far rounding moves it.
        growth: log2 of that measure, after over before; positive is worse.
    """

    case: str
    output: str
    before: Level
    after: Level
    kind: Kind
    measure: str
    growth: float


@dataclass(frozen=True)
class OutcomeChange:
    """A case whose verdict is another."""

    case: str
    before: Outcome
    after: Outcome

    @property
    def worse(self) -> bool:
        """Whether the later one is more severe."""
        return _SEVERITY.index(self.after) < _SEVERITY.index(self.before)


@dataclass(frozen=True)
class Shift:
    """An output that moved in many cases together, in each no further than rounding moves it.

    Attributes:
        output, dtype: the cases of one dtype.
        members: ids of these cases, as far as the output is equal to rounding.
        grew, shrank: in how many sets of arrays the error did.
        growth: log2 of RMS z, after over before; the median over these sets.
        chance: the probability that as many would agree by rounding alone.
    """

    output: str
    dtype: str
    members: tuple[str, ...]
    grew: int
    shrank: int
    growth: float
    chance: float


@dataclass(frozen=True)
class Drift:
    """Two records compared.

    Attributes:
        base, current: them.
        axes: what changed beside the subject's outputs.
        pairs: every output that both have.
        outcomes: cases whose verdict changed.
        lost: (case, output) that was measured in the base alone, though the verdict is the same.
        shifts: outputs that moved in many cases together.
        only_base, only_current: how many cases the other does not have.
    """

    base: Recorded
    current: Recorded
    axes: tuple[Axis, ...]
    pairs: tuple[Pair, ...]
    outcomes: tuple[OutcomeChange, ...]
    lost: tuple[tuple[str, str], ...]
    shifts: tuple[Shift, ...]
    only_base: int
    only_current: int

    def of_kind(self, kind: Kind) -> tuple[Pair, ...]:
        """The outputs to which this happened."""
        return tuple(pair for pair in self.pairs if pair.kind is kind)

    @property
    def common(self) -> tuple[str, ...]:
        """The ids of the cases that both have."""
        return tuple(dict.fromkeys(pair.case for pair in self.pairs) | dict.fromkeys(c.case for c in self.outcomes))


def compare(base: Recorded, current: Recorded, *, any_subject: bool = False) -> Drift:
    """Compare two records.

    Args:
        base, current: them.
        any_subject: whether they may be of two subjects.

    Raises:
        UsageError: if they cannot be compared, and why.
    """
    _check_comparable(base, current, any_subject=any_subject)
    joined, of_chunks = _join(base, current)
    pairs, lost, outcomes = [], [], []
    for before, after in joined:
        name = after.id
        if before.outcome is not after.outcome:
            outcomes.append(OutcomeChange(name, before.outcome, after.outcome))
        else:
            lost += [(name, output) for output in before.levels if output not in after.levels]
        for output in before.levels:
            if output in after.levels:
                pairs.append(_pair(after, before.levels[output], after.levels[output]))
    others = sum(pair.kind is not Kind.EQUAL for pair in pairs) + len(outcomes) + len(lost)
    _check_definitions(base, current, others)
    if not pairs and not outcomes:
        raise UsageError(f"not comparable: no output was measured both in {base.path} and in {current.path}.")
    shifts = _shifts(pairs, {after.id: after.case for _, after in joined})
    axes = changed_axes(base, current) + of_chunks
    rest = len(base.cases) - len(joined), len(current.cases) - len(joined)
    return Drift(base, current, axes, tuple(pairs), tuple(outcomes), tuple(lost), shifts, *rest)


def _check_comparable(base: Recorded, current: Recorded, *, any_subject: bool) -> None:
    if base.subject != current.subject and not any_subject:
        told = f"{current.path} is of {current.subject}, {base.path} of {base.subject}"
        raise UsageError(f"not comparable: {told}; --any-subject compares them nevertheless.")


def _check_definitions(base: Recorded, current: Recorded, others: int) -> None:
    # Where the bits are the same, it does not matter what they were held against.
    if base.definition != current.definition and others:
        told = f"{current.path} has references of definition {current.definition}, {base.path} of {base.definition}"
        bits = f"and {others} outputs or outcomes are not the same"
        raise UsageError(f"not comparable: {told}, {bits}; run both with the same version of the suite.")


def _join(base: Recorded, current: Recorded) -> tuple[list[tuple[CaseRecord, CaseRecord]], tuple[Axis, ...]]:
    common = [(base.cases[name], record) for name, record in current.cases.items() if name in base.cases]
    if common:
        return common, ()
    # Another chunk size makes another id, but the same arrays.
    before, after = _by_arrays_and_dtype(base), _by_arrays_and_dtype(current)
    common = [(before[key], record) for key, record in after.items() if key in before]
    if not common:
        told = f"{base.path} has {len(base.cases)}, {current.path} has {len(current.cases)}"
        raise UsageError(f"not comparable: no case in common; {told}.")
    sizes = [" ".join(str(size) for size in sorted({pair[at].case.chunk_size for pair in common})) for at in (0, 1)]
    return common, (Axis("chunk size", "cases", *sizes),)


def _by_arrays_and_dtype(record: Recorded) -> dict[str, CaseRecord]:
    keys = [f"{one.id.rpartition('/')[0]}/{replace(one.case, chunk_size=1).id}" for one in record.cases.values()]
    return {key: one for key, one in zip(keys, record.cases.values(), strict=True) if keys.count(key) == 1}


def _pair(record: CaseRecord, before: Level, after: Level) -> Pair:
    moves = {
        name: distance(getattr(before, name), getattr(after, name)) / reach
        for name, reach in reaches(record.case, before.output).items()
    }
    measure = max(moves, key=lambda name: abs(moves[name]))
    kind = Kind.MOVED if abs(moves[measure]) > 1.0 else Kind.ROUNDING
    if before.digest == after.digest:
        kind = Kind.EQUAL
    growth = log2_growth(getattr(before, measure), getattr(after, measure))
    return Pair(record.id, before.output, before, after, kind, measure, growth)


def reaches(case: Case, output: str) -> dict[str, float]:
    """How far rounding moves each measure of an output; the count of what is not finite, by less than one."""
    # The largest of many numbers moves no less than one number does.
    largest = max(thresholds()["largest_z"][output].largest, _reach_of_rms(1))
    return {"nonfinite": 0.5, "rms_z": _reach_of_rms(_count(case, output)), "largest_z": largest, "ratio": 1.0}


def _reach_of_rms(count: int) -> float:
    # sqrt(2) times the root mean square of so many normal numbers, at its upper end (Wilson and Hilferty).
    spread = 2.0 / (9.0 * count)
    return math.sqrt(2.0) * (1.0 - spread + NormalDist().inv_cdf(1.0 - _RATE) * math.sqrt(spread)) ** 1.5


def _count(case: Case, output: str) -> int:
    """How many numbers an output has."""
    name = output.removeprefix("d")
    if name.endswith(("_last", "_0")):
        each = {"C": case.dhqk * case.dhhv, "n": case.dhqk, "m": 1}[name[0]]
    else:
        each = case.length * {"h": case.dhhv, "v": case.dhhv, "q": case.dhqk, "k": case.dhqk}.get(name, 1)
    return case.batch * case.heads * each


def distance(before: float, after: float) -> float:
    """after - before; 0 of equal ones, NaN and infinities too, and infinite if one alone is NaN."""
    if before == after or (math.isnan(before) and math.isnan(after)):
        return 0.0
    return math.inf if math.isnan(before) or math.isnan(after) else after - before


def log2_growth(before: float, after: float) -> float:
    """log2(after / before), where 0 and infinity may be either, and nothing becomes NaN."""
    if distance(before, after) == 0.0:
        return 0.0
    if math.isnan(before) or math.isnan(after) or before == 0.0 or math.isinf(after):
        return math.inf
    return -math.inf if after == 0.0 or math.isinf(before) else math.log2(after) - math.log2(before)


def _shifts(pairs: Iterable[Pair], cases: Mapping[str, Case]) -> tuple[Shift, ...]:
    changed = sorted(
        (pair for pair in pairs if pair.kind is Kind.ROUNDING), key=lambda pair: (pair.output, cases[pair.case].dtype)
    )
    groups = [
        _shift(output, dtype, list(members), cases)
        for (output, dtype), members in groupby(changed, key=lambda pair: (pair.output, cases[pair.case].dtype))
    ]
    return tuple(shift for shift in groups if shift.chance * len(groups) < _SIGNIFICANCE)


def _shift(output: str, dtype: str, members: list[Pair], cases: Mapping[str, Case]) -> Shift:
    votes: dict[Any, list[float]] = {}
    for pair in members:
        votes.setdefault(_arrays(cases[pair.case]), []).append(log2_growth(pair.before.rms_z, pair.after.rms_z))
    growths = [median(of_arrays) for of_arrays in votes.values()]
    grew, shrank = sum(growth > 0.0 for growth in growths), sum(growth < 0.0 for growth in growths)
    names = tuple(pair.case for pair in members)
    return Shift(output, dtype, names, grew, shrank, median(growths), _chance(grew, shrank))


def _arrays(case: Case) -> tuple[Any, ...]:
    # The numbers that are drawn depend on these alone.
    return (case.regime, case.batch, case.heads, case.length, case.dhqk, case.dhhv, case.initial, case.seed)


def _chance(grew: int, shrank: int) -> float:
    votes = grew + shrank
    tail = sum(math.comb(votes, count) for count in range(max(grew, shrank), votes + 1))
    return min(1.0, 2.0 * tail / 2**votes)
