"""What fails, and whether another input fails in the same way.

The outcome must be the same. Of an output that is not finite, or inaccurate, at least one that failed must fail again;
where it was beyond the running error bound, beyond that bound again, which no rounding explains on any input. Anything
else must be told in the same words, but for numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from verify._measurement import Measurement
from verify._reference import REPLICATES
from verify._verdict import Outcome, Verdict, finding

_MEASURED = (Outcome.INACCURATE, Outcome.NONFINITE)
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True)
class Failure:
    """A way to fail.

    Attributes:
        outcome: of the verdict.
        outputs: those that failed.
        proved: whether they failed by the bound, or by not being finite, for which no noise floor is needed.
        told: of a failure without measurements: the first line of the reason, without its numbers.
    """

    outcome: Outcome
    outputs: frozenset[str] = frozenset()
    proved: bool = True
    told: str = ""

    @classmethod
    def of(cls, verdict: Verdict) -> Failure:
        """The way in which a verdict is a failure."""
        if verdict.outcome not in _MEASURED:
            return cls(verdict.outcome, told=_without_numbers(verdict.reason))
        beyond = _failing(verdict.measurements, proved=True)
        if beyond:
            return cls(verdict.outcome, beyond)
        return cls(verdict.outcome, _failing(verdict.measurements, proved=False), proved=False)

    @property
    def replicates(self) -> int:
        """Of the noise floor that another input is judged by."""
        return 0 if self.proved else REPLICATES

    def outputs_of(self, verdict: Verdict) -> frozenset[str]:
        """The outputs that fail again in this way."""
        return self.outputs & _failing(verdict.measurements, proved=self.proved)

    def is_again(self, verdict: Verdict) -> bool:
        """Whether the verdict on another input is the same failure."""
        if verdict.outcome is not self.outcome:
            return False
        if self.outcome in _MEASURED:
            return bool(self.outputs_of(verdict))
        return self.told == _without_numbers(verdict.reason)


def _failing(measurements: Iterable[Measurement], *, proved: bool) -> frozenset[str]:
    measured = list(measurements)
    infinite = {one.output for one in measured if one.nonfinite}
    if infinite:
        return frozenset(infinite)
    return frozenset(one.output for one in measured if (one.ratio if proved else finding([one]).excess) > 1.0)


def _without_numbers(reason: str) -> str:
    # What follows a semicolon is the suite's own note.
    return _NUMBER.sub("#", reason.partition("\n")[0].partition(";")[0])
