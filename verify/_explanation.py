"""What else can be said of a case that is further off than rounding explains: what its errors look like.

detached    which wrong gradients are those with the normalizer held constant
precision   the tightest precision, looser than the case's dtype, that explains the errors of every output
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from verify._case import Case
from verify._measurement import Measurement, measure
from verify._problem import GRADIENT_OF
from verify._reference import Reference
from verify._verdict import Outcome, Verdict, finding

# From tight to loose. What claims 16 bits has float32 gates and states.
LOOSER = {"float32": ("tf32x3", "tf32", "bfloat16"), "float16": ("bfloat16",), "bfloat16": ()}
# Beyond float32's bound by more than bfloat16's units are larger, no precision of these explains it.
_HOPELESS = 2.0**17

Compute = Callable[..., Reference]


def explain(case: Case, verdict: Verdict, outputs: dict[str, np.ndarray], compute: Compute) -> Verdict:
    """The verdict with what its errors look like.

    Args:
        case: what was run.
        verdict: on it.
        outputs: of the subject.
        compute: (case, keywords) -> reference, as ``compute_reference``.
    """
    if verdict.outcome is not Outcome.INACCURATE:
        return verdict
    precision = _precision(case, verdict.measurements, outputs, compute)
    if precision is not None:
        note = f"claims {case.dtype}, behaves as {precision}"
        return replace(verdict, precision=precision, reason=f"{verdict.reason}; {note}")
    if wrong_gradients(verdict.measurements):
        return explain_as_detached(verdict, outputs, compute(case, normalizer_grad="detached", replicates=0))
    return verdict


def _precision(
    case: Case, measurements: Iterable[Measurement], outputs: dict[str, np.ndarray], compute: Compute
) -> str | None:
    if max(measured.ratio for measured in measurements) > _HOPELESS:
        return None
    for name in LOOSER[case.dtype]:
        # The bound is cheap and tells most; the noise floor tells the rest.
        for replicates in ({"replicates": 0}, {}):
            found = finding(measure(outputs, compute(case, precision=name, **replicates)))
            if found.excess > 1.0:
                break
        else:
            return name
    return None


def wrong_gradients(measurements: Iterable[Measurement]) -> list[str]:
    """The gradients that are further from the reference than rounding explains."""
    return [
        measured.output
        for measured in measurements
        if measured.output in GRADIENT_OF.values() and (measured.nonfinite or finding([measured]).excess > 1.0)
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
