"""The thresholds of the verdict on the noise floor's scale: where correct implementations end.

For each output, RMS z and the largest z of many measurements of correct implementations are one sample each. Its
largest values fall off about exponentially: errors are sums of many roundings, and a noise floor of 16 replicates makes
of a normal number one of Student's with 16 degrees of freedom. So the tail is continued as an exponential one, with the
mean excess at the upper end of its 95 % confidence interval, to the value that one measurement in 1 / RATE exceeds.
Where a few regimes or long sequences make it heavier it is so the more the further out: of the largest 2 %, 1 % and 0.5
% those count that end last. The same thresholds serve every regime, length, dtype and device. They are in
calibration.json, beside the runs that they rest on; ``mlstm-verify calibrate`` writes it.

Of few numbers one alone may carry RMS z beyond its threshold T. So the limit for N numbers is sqrt(T^2 + L^2 / N): one
of them may be as large as L, the threshold of the largest z.

Source: S. Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, section 4.2, with shape 0.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, hypot, log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify._digits import three_digits
from verify._errors import SuiteError, UsageError

if TYPE_CHECKING:
    from verify._measurement import Measurement
    from verify._runner import Result

CALIBRATION = Path(__file__).with_name("calibration.json")
SCHEMA = 1
# Of false alarms, for each output of a case and each of the two statistics.
RATE = 1e-8
STATISTICS = ("rms_z", "largest_z")
_TAIL_SHARES = (0.02, 0.01, 0.005)
# A tail of fewer measurements is no tail.
_SMALLEST_TAIL = 20
# The 95 % quantile of a normal number.
_UPPER = 1.645


@dataclass(frozen=True)
class Tail:
    """Where a statistic of correct implementations ends.

    Attributes:
        threshold: exceeded by a correct implementation at ``RATE``.
        largest: the largest value seen.
        excess: mean distance of the tail from where it begins, at the upper end of its interval.
        count: how many values were seen.
    """

    threshold: float
    largest: float
    excess: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Tail:
        """The tail of a sample.

        Raises:
            UsageError: for a sample that is too small to have one, or not finite.
        """
        ordered = sorted(values, reverse=True)
        sizes = [max(_SMALLEST_TAIL, ceil(share * len(ordered))) for share in _TAIL_SHARES]
        if len(ordered) <= sizes[0] or not ordered[sizes[0]] > 0.0 or ordered[0] == float("inf"):
            raise UsageError(f"{len(ordered)} values from {ordered[-1:]} to {ordered[:1]} have no tail to be fitted.")
        threshold, excess = max(_continued(ordered, kept) for kept in sizes)
        return cls(three_digits(threshold), three_digits(ordered[0]), three_digits(excess), len(ordered))


def _continued(ordered: Sequence[float], kept: int) -> tuple[float, float]:
    """The threshold by the largest ``kept`` values, and their excess."""
    base = ordered[kept]
    excess = (sum(ordered[:kept]) / kept - base) * (1.0 + _UPPER / sqrt(kept))
    return base + excess * log(kept / (len(ordered) * RATE)), excess


Tails = dict[str, dict[str, Tail]]


def calibrate(runs: Sequence[tuple[dict[str, Any], list[Result]]]) -> dict[str, Any]:
    """The content of calibration.json, from (manifest, results) of runs of correct implementations.

    Raises:
        UsageError: if an implementation cannot be correct, or the runs are too few.
    """
    values: dict[str, dict[str, list[float]]] = {name: {} for name in STATISTICS}
    rest_on = []
    for manifest, results in runs:
        measurements = _measurements(manifest["subject"], results)
        for measured in measurements:
            for name in STATISTICS:
                values[name].setdefault(measured.output, []).append(getattr(measured, name))
        environment = manifest["environment"]
        rest_on.append(
            {
                "subject": manifest["subject"],
                "device": environment["device"],
                "backend": environment["backend"],
                "packages": {name: environment["packages"].get(name) for name in ("jax", "triton", "numpy")},
                "definition": manifest["definition"],
                "seeds": sorted({result.case.seed for result in results}),
                "cases": len(results),
                "measurements": len(measurements),
            }
        )
    tails = {
        name: {output: asdict(Tail.of(sample)) for output, sample in sorted(of_output.items())}
        for name, of_output in values.items()
    }
    return {"schema": SCHEMA, "rate": RATE, "runs": rest_on, "tails": tails}


def _measurements(subject: str, results: Sequence[Result]) -> list[Measurement]:
    for result in results:
        outcome, of_case = result.verdict.outcome, result.verdict.measurements
        wrong = [f"{one.output} is {one.ratio:.3g} times its bound" for one in of_case if one.ratio > 1.0]
        if outcome.value not in ("pass", "inaccurate", "unsupported"):
            wrong = [outcome.value]
        if wrong:
            raise UsageError(f"{subject} is no correct implementation: {result.case.id}: {wrong[0]}.")
    return [measured for result in results for measured in result.verdict.measurements]


def limit(statistic: str, output: str, count: int) -> float:
    """The most that a statistic of so many numbers may be; see the head of this module."""
    threshold = thresholds()[statistic][output].threshold
    if statistic != "rms_z":
        return threshold
    return hypot(threshold, thresholds()["largest_z"][output].threshold / sqrt(max(count, 1)))


@functools.cache
def thresholds() -> Tails:
    """By statistic and output, from calibration.json.

    Raises:
        SuiteError: if the file is missing or damaged.
    """
    try:
        content = json.loads(CALIBRATION.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        return {name: {output: Tail(**tail) for output, tail in content["tails"][name].items()} for name in STATISTICS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"{CALIBRATION} cannot be read: {type(error).__name__}: {error}") from error
