"""The verdict on a case.

Every output and every gradient must have the right shape and dtype, be finite where the reference is, and pass three
checks, none of which has a tolerance:

    bound      no element is further from the reference than the running error bound of the case's dtype: the threshold
               is 1, the definition of a bound
    RMS z      all elements together are no further off than correct implementations are, in units of the noise floor
    largest z  nor is any one element

The bound is that of a kernel whose gates, gate sums and states are float32 and which never subtracts gate sums. It is a
worst case: beyond it is, to first order, no rounding, but a small systematic error may stay below. The noise floor sees
those; its thresholds come from a calibration over correct implementations (``verify._calibration``), with a stated rate
of false alarms. What cannot be decided at all is told by ``undecided`` of each measurement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from verify._calibration import STATISTICS, limit
from verify._case import Case
from verify._measurement import Measurement, measure
from verify._problem import NUMPY_DTYPES
from verify._reference import Reference

OF_CASE_DTYPE = ("h", "dq", "dk", "dv", "di")


class Outcome(Enum):
    """What happened to a case; ``sentence`` is what a reader sees."""

    CRASH = "crash"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    COMPILE_ERROR = "compile-error"
    CHANGED_INPUTS = "changed-inputs"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DTYPE = "wrong-dtype"
    NONFINITE = "nonfinite"
    INACCURATE = "inaccurate"
    REFERENCE_UNCERTAIN = "reference-uncertain"
    RELATION_BROKEN = "relation-broken"
    NONDETERMINISTIC = "nondeterministic"
    UNSUPPORTED = "unsupported"
    PASS = "pass"

    @property
    def sentence(self) -> str:
        """What the outcome means."""
        return _SENTENCES[self]

    @property
    def failed(self) -> bool:
        """Whether the subject is to blame."""
        return self not in (Outcome.PASS, Outcome.UNSUPPORTED, Outcome.REFERENCE_UNCERTAIN)


_SENTENCES = {
    Outcome.CRASH: "The subject raised an error, or ended its process.",
    Outcome.TIMEOUT: "The subject was not done in time (--timeout).",
    Outcome.OUT_OF_MEMORY: "The subject asked for more memory than there is, or than it may have (--memory).",
    Outcome.COMPILE_ERROR: "Triton or XLA did not compile the subject.",
    Outcome.CHANGED_INPUTS: "The subject wrote to an array that it was given.",
    Outcome.WRONG_SHAPE: "An output or a gradient has the wrong shape.",
    Outcome.WRONG_DTYPE: "An output or a gradient has the wrong dtype.",
    Outcome.NONFINITE: "An output or a gradient is NaN or infinite where the reference is finite.",
    Outcome.INACCURATE: "An output or a gradient is further from the reference than rounding explains.",
    Outcome.REFERENCE_UNCERTAIN: "The oracle may be off as far as rounding may itself; nothing can be said.",
    Outcome.RELATION_BROKEN: "Two results of the subject are not related as every correct kernel's are.",
    Outcome.NONDETERMINISTIC: "The same call did not give the same bits again.",
    Outcome.UNSUPPORTED: "The subject's signature lacks what the case needs; it was not run.",
    Outcome.PASS: "Every output and every gradient is as near to the reference as correct kernels are.",
}


@dataclass(frozen=True)
class Finding:
    """The check that comes nearest to its threshold, or is furthest beyond.

    Attributes:
        output: that it is about.
        check: ``nonfinite``, ``ratio``, ``rms_z`` or ``largest_z``.
        excess: the statistic over its threshold; above 1 is a failure.
    """

    output: str
    check: str
    excess: float


@dataclass(frozen=True)
class Verdict:
    """An outcome and its reason.

    Attributes:
        outcome, reason: see there.
        measurements: what it rests on; none if there was nothing to measure.
        worst: what decided; None without measurements.
        precision: the tightest precision that the errors fit: the case's dtype if it passed, None if none is known.
    """

    outcome: Outcome
    reason: str
    measurements: tuple[Measurement, ...] = ()
    worst: Finding | None = None
    precision: str | None = None


def finding(measurements: Iterable[Measurement]) -> Finding:
    """What decides about a case."""
    return max((_worst_check(measured) for measured in measurements), key=lambda found: found.excess)


def _worst_check(measured: Measurement) -> Finding:
    if measured.nonfinite:
        return Finding(measured.output, "nonfinite", float("inf"))
    found = [Finding(measured.output, "ratio", measured.ratio)]
    for name in STATISTICS:
        value = getattr(measured, name)
        # Without a noise floor there is no z.
        if not np.isnan(value):
            found.append(Finding(measured.output, name, value / limit(name, measured.output, measured.counted)))
    return max(found, key=lambda one: one.excess)


def judge(case: Case, outputs: dict[str, np.ndarray], reference: Reference) -> Verdict:
    """The verdict on what a subject returned."""
    for name, array in outputs.items():
        expected = reference.shape(name, case.length)
        if array.shape != expected:
            return Verdict(Outcome.WRONG_SHAPE, f"{name} has shape {array.shape}; expected {expected}")
    for name, array in outputs.items():
        dtype = NUMPY_DTYPES[case.dtype if name in OF_CASE_DTYPE else "float32"]
        if array.dtype != dtype:
            return Verdict(Outcome.WRONG_DTYPE, f"{name} is {array.dtype}; expected {dtype}")
    measurements = tuple(measure(outputs, reference))
    worst = finding(measurements)
    reason = _reason(worst, next(measured for measured in measurements if measured.output == worst.output))
    if worst.check == "nonfinite":
        return Verdict(Outcome.NONFINITE, reason, measurements, worst)
    if worst.excess > 1.0:
        return Verdict(Outcome.INACCURATE, reason, measurements, worst)
    uncertain = [measured.output for measured in measurements if measured.uncertain >= 0.5]
    if uncertain:
        reason = f"most of the bound of {', '.join(uncertain)} is what the oracle itself may be off"
        return Verdict(Outcome.REFERENCE_UNCERTAIN, reason, measurements, worst)
    return Verdict(Outcome.PASS, reason, measurements, worst, case.dtype)


def _reason(found: Finding, measured: Measurement) -> str:
    name = measured.output
    place = f"{name}{list(measured.worst)} is {measured.got:.9g}, wanted {measured.wanted:.9g}"
    if found.check == "nonfinite":
        kinds = ", ".join(f"{count} {kind}" for kind, count in measured.kinds.items())
        return f"{measured.nonfinite} elements of {name} are not finite ({kinds}); {place}"
    told = f"{place}: {measured.ratio:.3g} times the bound"
    if found.check == "ratio":
        return told
    allowed = limit(found.check, name, measured.counted)
    return f"{told}; {_CALLED[found.check]} {getattr(measured, found.check):.3g} ({allowed:.3g} is the threshold)"


_CALLED = {"rms_z": "RMS z", "largest_z": "largest z"}
