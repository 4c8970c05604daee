"""Which drifts fail: what got worse beyond the ratchet, and is not acknowledged.

Known drifts stand in a committed file, each with a reason and a day after which it fails again:

    [[drift]]
    case = "forget@*:*:bfloat16:*"     # of the case id; * stands for anything, ? for one character
    output = "d?"                      # of the output; "outcome" for a verdict that changed
    reason = "triton 3.7 contracts the product with the gate"
    expires = 2027-03-31
"""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from verify._drift import RATCHET, Drift, Kind
from verify._errors import UsageError

_KEYS: dict[str, type] = {"case": str, "output": str, "reason": str, "expires": datetime.date}
OUTCOME = "outcome"


@dataclass(frozen=True)
class Acknowledgement:
    """A drift that is known.

    Attributes:
        case, output: patterns of the case id and of the output.
        reason: why it may be.
        expires: the last day on which it may.
    """

    case: str
    output: str
    reason: str
    expires: datetime.date

    def knows(self, case: str, output: str) -> bool:
        """Whether it is about this output of this case."""
        return fnmatchcase(case, self.case) and fnmatchcase(output, self.output)


@dataclass(frozen=True)
class Regression:
    """What got worse.

    Attributes:
        output: its name, or ``outcome``.
        cases: ids.
        told: by how much, for a reader.
        growth: log2 of the measure that moved most, after over before.
        acknowledged: by what, on this day; None: it fails.
        expired: what acknowledged it until a day that is past.
    """

    output: str
    cases: tuple[str, ...]
    told: str
    growth: float
    acknowledged: tuple[Acknowledgement, ...] | None = None
    expired: tuple[Acknowledgement, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether nobody acknowledged it, or only until a day that is past."""
        return self.acknowledged is None


def regressions(drift: Drift, known: Sequence[Acknowledgement], today: datetime.date) -> tuple[Regression, ...]:
    """What got worse, worst first, with who acknowledged it.

    Args:
        drift: the comparison.
        known: the acknowledgements.
        today: the day on which they are to hold.
    """
    found = sorted(_regressions(drift), key=lambda one: (one.output != OUTCOME, -one.growth))
    return tuple(_acknowledged(one, known, today) for one in found)


def _regressions(drift: Drift) -> Iterable[Regression]:
    limit = math.log2(RATCHET)
    for change in drift.outcomes:
        if change.worse:
            told = f"{change.after.value}, was {change.before.value}"
            yield Regression(OUTCOME, (change.case,), told, math.inf)
    for case, output in drift.lost:
        yield Regression(output, (case,), "no longer measured", math.inf)
    for pair in drift.of_kind(Kind.MOVED):
        if pair.growth > limit:
            before, after = (getattr(level, pair.measure) for level in (pair.before, pair.after))
            yield Regression(
                pair.output, (pair.case,), f"{MEASURES[pair.measure]} {before:.3g} -> {after:.3g}", pair.growth
            )
    for shift in drift.shifts:
        if shift.growth > limit:
            told = f"RMS z grew in {shift.grew} of {shift.grew + shift.shrank} {shift.dtype} cases together"
            yield Regression(shift.output, shift.members, told, shift.growth)


MEASURES = {"nonfinite": "not finite", "rms_z": "RMS z", "largest_z": "largest z", "ratio": "error/bound"}


def _acknowledged(found: Regression, known: Sequence[Acknowledgement], today: datetime.date) -> Regression:
    about = [one for one in known if any(one.knows(case, found.output) for case in found.cases)]
    valid = tuple(one for one in about if one.expires >= today)
    covered = all(any(one.knows(case, found.output) for one in valid) for case in found.cases)
    expired = tuple(one for one in about if one.expires < today)
    return Regression(found.output, found.cases, found.told, found.growth, valid if covered else None, expired)


def read_acknowledgements(path: Path) -> tuple[Acknowledgement, ...]:
    """The known drifts of a file.

    Raises:
        UsageError: with the file's name and the entry, if it cannot be read or an entry is not complete.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    entries = content.pop("drift", [])
    if content or not isinstance(entries, list):
        told = ", ".join(content) or "drift, which is no list"
        raise UsageError(f"{path} has {told}; expected [[drift]] entries and nothing else.")
    return tuple(_acknowledgement(path, number, entry) for number, entry in enumerate(entries, 1))


def _acknowledgement(path: Path, number: int, entry: Any) -> Acknowledgement:
    where = f"{path}, drift {number}"
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected a table [[drift]], got {entry!r}.")
    if wrong := sorted(set(entry) ^ set(_KEYS)):
        told = ", ".join(f"{'has an unknown' if key in entry else 'has no'} {key}" for key in wrong)
        raise UsageError(f"{where} {told}; expected {', '.join(_KEYS)}.")
    for key, kind in _KEYS.items():
        # A TOML date with a time is a date to Python.
        if not isinstance(entry[key], kind) or isinstance(entry[key], datetime.datetime) or not entry[key]:
            expected = "a date, as 2027-03-31 without quotes" if key == "expires" else "some text"
            raise UsageError(f"{where}: {key} is {entry[key]!r}; expected {expected}.")
    return Acknowledgement(**entry)
