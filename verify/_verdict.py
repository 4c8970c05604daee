"""The verdict on a case. PROVISIONAL: to be replaced by a calibrated rule.

The rule: every output and every gradient has the right shape and dtype, is finite where the reference is, and has
ratio <= 1, that is, no element is further from the reference than the running error bound of the
case's dtype allows.

What it can tell: the bound is that of a kernel whose gates, gate sums and states are float32 and which
never subtracts gate sums. A ratio above 1 is, to first order, more than such a kernel's rounding: a bug,
arithmetic of lower precision than the dtype claims, or a less stable formula. What it cannot: the bound
is a worst case. One rounding may use it up, but sums of many stay well below, so a pass leaves room for a
small systematic error, and on short sequences for a less stable formula. How much room is in the record:
``normwise_bound`` and ``undecided`` of each measurement. The threshold 1 is the definition of a bound and
is not tuned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from verify._case import Case
from verify._measurement import Measurement, measure
from verify._problem import GRADIENT_OF, NUMPY_DTYPES
from verify._reference import Reference

THRESHOLD = 1.0
_OF_CASE_DTYPE = ("h", "dq", "dk", "dv", "di")


class Outcome(Enum):
    """What happened to a case; ``sentence`` is what a reader sees."""

    CRASH = "crash"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CHANGED_INPUTS = "changed-inputs"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DTYPE = "wrong-dtype"
    NONFINITE = "nonfinite"
    INACCURATE = "inaccurate"
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
        return self not in (Outcome.PASS, Outcome.UNSUPPORTED)


_SENTENCES = {
    Outcome.CRASH: "The subject raised an error, or ended its process.",
    Outcome.TIMEOUT: "The subject was not done in time (--timeout).",
    Outcome.OUT_OF_MEMORY: "The subject asked for more memory than there is, or than it may have (--memory).",
    Outcome.CHANGED_INPUTS: "The subject wrote to an array that it was given.",
    Outcome.WRONG_SHAPE: "An output or a gradient has the wrong shape.",
    Outcome.WRONG_DTYPE: "An output or a gradient has the wrong dtype.",
    Outcome.NONFINITE: "An output or a gradient is NaN or infinite where the reference is finite.",
    Outcome.INACCURATE: "An output or a gradient is further from the reference than rounding explains.",
    Outcome.RELATION_BROKEN: "Two results of the subject are not related as every correct kernel's are.",
    Outcome.NONDETERMINISTIC: "The same call did not give the same bits again.",
    Outcome.UNSUPPORTED: "The subject's signature lacks what the case needs; it was not run.",
    Outcome.PASS: "Every output and every gradient is within the running error bound.",
}


@dataclass(frozen=True)
class Verdict:
    """An outcome and its reason, with the measurements it rests on (none if there was nothing to measure)."""

    outcome: Outcome
    reason: str
    measurements: tuple[Measurement, ...] = ()


def judge(case: Case, outputs: dict[str, np.ndarray], reference: Reference) -> Verdict:
    """The verdict on what a subject returned."""
    for name, array in outputs.items():
        expected = reference.shape(name, case.length)
        if array.shape != expected:
            return Verdict(Outcome.WRONG_SHAPE, f"{name} has shape {array.shape}; expected {expected}")
    for name, array in outputs.items():
        dtype = NUMPY_DTYPES[case.dtype if name in _OF_CASE_DTYPE else "float32"]
        if array.dtype != dtype:
            return Verdict(Outcome.WRONG_DTYPE, f"{name} is {array.dtype}; expected {dtype}")
    measurements = tuple(measure(outputs, reference))
    worst = max(measurements, key=lambda measurement: (measurement.nonfinite > 0, measurement.ratio))
    place = f"{worst.output}{list(worst.worst)}"
    if worst.nonfinite:
        count = f"{worst.nonfinite} elements of {worst.output} are not finite"
        reason = f"{count}; {place} is {worst.got}, wanted {worst.wanted:.9g}"
        return Verdict(Outcome.NONFINITE, reason, measurements)
    reason = f"{place} is {worst.got:.9g}, wanted {worst.wanted:.9g}: {worst.ratio:.3g} times the bound"
    return Verdict(Outcome.INACCURATE if worst.ratio > THRESHOLD else Outcome.PASS, reason, measurements)


def wrong_gradients(measurements: Iterable[Measurement]) -> list[str]:
    """The gradients that are further from the reference than rounding explains."""
    return [
        measured.output
        for measured in measurements
        if measured.output in GRADIENT_OF.values() and (measured.nonfinite or measured.ratio > THRESHOLD)
    ]


def explain_as_detached(verdict: Verdict, outputs: dict[str, np.ndarray], detached: Reference) -> Verdict:
    """The verdict, saying which wrong gradients are those of the reference with the normalizer held constant."""
    gradients = {name: array for name, array in outputs.items() if name in GRADIENT_OF.values()}
    measurements = measure(gradients, detached)
    other = wrong_gradients(measurements)
    undecided = [measured.output for measured in measurements if measured.undecided >= 0.5]
    found = [name for name in wrong_gradients(verdict.measurements) if name not in (*other, *undecided)]
    if not found:
        return verdict
    note = "the gradients are those with the normalizer held constant (detached), not those of the forward pass"
    if other:
        note = f"with the normalizer held constant (detached): {', '.join(found)}; neither: {', '.join(other)}"
    return replace(verdict, reason=f"{verdict.reason}; {note}")
