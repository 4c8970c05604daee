"""A subject, dtype by dtype: what it did with the probes, and the departures that explain it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from oracles import Precision
from verify._case import Case
from verify._diagnosis._departures import DEPARTURES, Departure
from verify._diagnosis._fit import Evidence, Fit, Observed, Search, excess_of, in_order, is_gradient
from verify._diagnosis._probes import probes
from verify._diagnosis._reading import Reading
from verify._explanation import LOOSER
from verify._isolation import IsolatedSubject
from verify._measurement import Measurement, measure
from verify._problem import NUMPY_DTYPES
from verify._reference import Reference
from verify._subject import Subject
from verify._verdict import OF_CASE_DTYPE, Outcome, Verdict, judge

# A float32 kernel that rounds operands of dots alone, inputs included, to bfloat16; TF32 is as float16 would be.
_BFLOAT16_DOTS = replace(Precision.of("tf32"), name="bfloat16 dots", operand=2.0**-8)


@dataclass(frozen=True)
class Failure:
    """A probe that gave no numbers, or numbers that no array of the contract has.

    Attributes:
        case: its id.
        outcome: of the suite.
        reason: the first line of it.
        passes: which part of the case it is about: ``forward``, ``gradients``, or ``both``.
    """

    case: str
    outcome: Outcome
    reason: str
    passes: str


@dataclass(frozen=True)
class Row:
    """An output where it is furthest from the contract.

    Attributes:
        output, case: see there.
        contract, left: its error against the contract, and against the reading that was found, normwise.
        contract_excess, left_excess: the same over the threshold of the worst check.
    """

    output: str
    case: str
    contract: float
    contract_excess: float
    left: float
    left_excess: float


@dataclass(frozen=True)
class Topic:
    """A point of the contract: what the subject does there, and how far off the nearest other reading would be.

    Attributes:
        name, does: see there.
        other: the nearest other reading; empty if none can be told apart from it by these probes.
        off: how many times beyond its threshold the worst output is against that.
        departs: whether it is not the contract's.
    """

    name: str
    does: str
    other: str
    off: float
    departs: bool


@dataclass(frozen=True)
class Diagnosis:
    """A subject in one dtype.

    Attributes:
        dtype: see there.
        failures: what gave no numbers.
        unsupported: ids of probes that its signature has no words for, with the reason.
        fit: the departures, the precision, and what is left; None where there was nothing to fit.
        base: the precision that the dtype claims.
        rows, topics: the evidence.
    """

    dtype: str
    failures: tuple[Failure, ...]
    unsupported: tuple[tuple[str, str], ...]
    fit: Fit | None
    base: str
    rows: tuple[Row, ...] = ()
    topics: tuple[Topic, ...] = ()

    @property
    def follows(self) -> bool:
        """Whether it follows the contract, in all that was asked of it."""
        fit = self.fit
        return not self.failures and fit is not None and not self.departs

    @property
    def departs(self) -> bool:
        """Whether there are numbers, and they are not the contract's."""
        fit = self.fit
        return fit is not None and (bool(fit.departures or fit.unexplained) or fit.precision.name != self.base)


def plan(
    subject: Subject | IsolatedSubject, dtype: str, chunk_size: int, dim: int, seed: int, *, gradients: bool
) -> tuple[list[Case], list[tuple[str, str]]]:
    """The probes that a subject can run, and those that it cannot, with the reason."""
    able: list[Case] = []
    unable = []
    for case in probes(dtype, chunk_size, dim, seed):
        adapted = subject.adapt(case if gradients else replace(case, cotangents="none"))
        reason = subject.lacks(adapted)
        if reason is not None:
            unable.append((adapted.id, reason))
        elif adapted not in able:
            able.append(adapted)
    return able, unable


def execute(
    subject: Subject | IsolatedSubject, cases: Sequence[Case], step: Callable[[Case], None]
) -> tuple[dict[Case, dict[str, np.ndarray]], list[Failure]]:
    """Run the probes, each once; what dies in the plainest forward pass is not asked again.

    A probe whose gradients fail is run without them; after the plainest one, so are all others.
    """
    returned: dict[Case, dict[str, np.ndarray]] = {}
    failures: list[Failure] = []
    forward_alone = False
    for number, case in enumerate(cases):
        step(case)
        asked = replace(case, cotangents="none") if forward_alone else case
        execution = subject.execute(asked)
        if execution.failure is not None and asked.cotangents != "none":
            alone = replace(asked, cotangents="none")
            again = subject.execute(alone)
            part = "both" if again.failure is not None else "gradients"
            failures.append(_failure(asked, execution.failure, part))
            forward_alone = forward_alone or number == 0
            asked, execution = alone, again
        elif execution.failure is not None:
            failures.append(_failure(asked, execution.failure, "forward"))
        if execution.failure is None:
            returned[asked] = execution.outputs
        elif number == 0:
            break
    return returned, failures


def _failure(case: Case, verdict: Verdict, passes: str) -> Failure:
    # Of a death the tail of what was written says most.
    lines = [line.strip() for line in verdict.reason.splitlines() if line.strip()]
    first = lines[0] if lines else verdict.outcome.sentence
    assertion = next((line for line in lines[1:] if re.search(r"assert", line, re.IGNORECASE)), "")
    reason = f"{first}: {assertion}" if assertion and assertion not in first else first
    return Failure(case.id, verdict.outcome, reason, passes)


def diagnose(
    dtype: str,
    returned: dict[Case, dict[str, np.ndarray]],
    references: dict[Case, Reference],
    failures: Sequence[Failure],
    unsupported: Sequence[tuple[str, str]],
) -> Diagnosis:
    """The departures that explain what was returned.

    Args:
        dtype: of all cases.
        returned: what the subject returned of each case.
        references: of these cases, the contract's.
        failures, unsupported: what gave nothing.
    """
    observed, wrong = {}, list(failures)
    for case, outputs in returned.items():
        kept, failure = _as_arrays(case, outputs, references[case])
        if failure is not None:
            wrong.append(failure)
        if kept:
            observed[case.id] = Observed(case, kept, references[case])
    base = Precision.of(dtype)
    if not observed:
        return Diagnosis(dtype, tuple(wrong), tuple(unsupported), None, base.name)
    evidence = Evidence(observed, base)
    fit = fit_all(evidence, _ladder(dtype))
    rows, topics = tuple(_rows(evidence, fit)), tuple(_topics(evidence, fit))
    return Diagnosis(dtype, tuple(wrong), tuple(unsupported), fit, base.name, rows, topics)


def _as_arrays(
    case: Case, outputs: dict[str, np.ndarray], reference: Reference
) -> tuple[dict[str, np.ndarray], Failure | None]:
    """The outputs in the dtypes of the contract; a shape that is not the contract's leaves nothing to compare."""
    verdict = judge(case, outputs, reference)
    if verdict.outcome is Outcome.WRONG_SHAPE:
        return {}, _failure(case, verdict, "both")
    if verdict.outcome is not Outcome.WRONG_DTYPE:
        return outputs, None
    dtypes = {name: NUMPY_DTYPES[case.dtype if name in OF_CASE_DTYPE else "float32"] for name in outputs}
    with np.errstate(over="ignore"):
        cast = {name: array.astype(dtypes[name]) for name, array in outputs.items()}
    return cast, _failure(case, verdict, "both")


def _ladder(dtype: str) -> list[Precision]:
    """From the precision that a dtype claims to looser ones."""
    looser = [Precision.of(name) for name in LOOSER[dtype]]
    if dtype == "float32":
        looser.insert(-1, _BFLOAT16_DOTS)
    return [Precision.of(dtype), *looser]


def fit_all(evidence: Evidence, ladder: Sequence[Precision]) -> Fit:
    """What is returned first, then, with the departures found there, the gradients."""
    forward = [one for one in DEPARTURES if not one.backward]
    backward = [one for one in DEPARTURES if one.backward]
    of_outputs = Search(evidence, forward, (), False, ladder).best()
    if not any(map(is_gradient, (name for seen in evidence.observed.values() for name in seen.outputs))):
        return of_outputs
    looser = ladder[ladder.index(of_outputs.precision) :]
    of_gradients = Search(evidence, backward, of_outputs.departures, True, looser).best()
    return replace(of_gradients, unexplained=(*of_outputs.unexplained, *of_gradients.unexplained))


def _rows(evidence: Evidence, fit: Fit) -> Iterator[Row]:
    """Each output where it is furthest from the contract."""
    worst: dict[str, tuple[Measurement, str]] = {}
    left: dict[tuple[str, str], Measurement] = {}
    for case_id in evidence.observed:
        for measured in evidence.measured(case_id, (), evidence.base):
            before = worst.get(measured.output)
            if before is None or excess_of(measured) > excess_of(before[0]):
                worst[measured.output] = measured, case_id
        for measured in evidence.measured(case_id, fit.departures, fit.precision):
            left[case_id, measured.output] = measured
    for output, (measured, case_id) in worst.items():
        remains = left[case_id, output]
        yield Row(output, case_id, measured.normwise, excess_of(measured), remains.normwise, excess_of(remains))


# What the contract says, and the axes of the departures from it.
_TOPICS = (
    ("gradient of the normalizer", "exact", ("normalizer",)),
    ("gradient of the stabilizer", "exact, with the path to m_0", ("stabilizer", "di", "dm_0")),
    ("other gradients", "exact", ("state gradient", "dC_0", "dn_0", "df", "dq", "dk")),
    ("cotangents", "of h and of the last state", ("cotangent of",)),
    ("units of m", "natural logarithm, returned and given", ("units of m", "m_0")),
    ("eps", "outside the maximum", ("eps",)),
    ("norm_val", "scaled by exp(-m) as asked", ("norm_val", "mode")),
    ("denominator", "|q.n|", ("absolute value",)),
    ("scale", "DHQK^-1/2, on q.k", ("scale",)),
    ("gates", "exp(i), sigmoid(f)", ("input gate", "gates", "forget gate")),
    ("initial state", "read", ("initial state",)),
    ("last state", "relative to m_last, after the last token", ("last state",)),
    ("casts of inputs", "none", ("cast of",)),
    ("storage", "as the dtype", ("storage of",)),
)


def _on(axis: str, axes: tuple[str, ...]) -> bool:
    return any(axis == one or (one.endswith(" of") and axis.startswith(one)) for one in axes)


def _topics(evidence: Evidence, fit: Fit) -> Iterator[Topic]:
    taken = {one.axis for one in fit.departures}
    for name, contract, axes in _TOPICS:
        found = [one for one in fit.departures if _on(one.axis, axes)]
        nearest, off = "", inf
        detached = [one for one in fit.departures if one.name.endswith("(detached)")]
        if detached and "stabilizer" in axes:
            # Both are dropped, and no other way to the stabilizer is left to be told apart.
            yield Topic(name, "; ".join(one.name for one in (*detached, *found)), nearest, off, True)
            continue
        for other in DEPARTURES:
            if _on(other.axis, axes) and other.axis not in taken:
                how_far = _off(evidence, fit, other, off)
                if how_far is not None and (how_far < off or not nearest):
                    nearest, off = other.name, how_far
        yield Topic(name, "; ".join(one.name for one in found) or contract, nearest, off, bool(found))


def _off(evidence: Evidence, fit: Fit, other: Departure, enough: float) -> float | None:
    """How far off the worst output would be with one more departure, or more than enough; None where it does nothing.

    The whole output's error over the whole output's bound, which is less than any check has; where that decides
    nothing, the verdict's checks with the noise floor of the reading that was found. A departure that does no more than
    round cannot be ruled out, nor can any other by an output that is off under the reading that was found.
    """
    departures = in_order((*fit.departures, other))
    readings = {case_id: evidence.reading(case_id, departures) for case_id in evidence.observed}
    known = {case_id: evidence.reading(case_id, fit.departures) for case_id in readings}
    acting = {case_id: reading for case_id, reading in readings.items() if reading is not known[case_id]}
    if any(_rounds_alone(known[case_id], reading) for case_id, reading in acting.items()):
        return None
    largest = 0.0
    for case_id in acting:
        for output, distance in evidence.apart(case_id, departures).items():
            if (case_id, output) in fit.unexplained:
                continue
            largest = max(largest, distance / evidence.looseness(case_id, output, fit.precision))
        if largest >= enough:
            return largest
    if acting and largest <= 1.0:
        largest = max(_checked(evidence, fit, case_id, reading) for case_id, reading in acting.items())
    return largest if acting else None


def _rounds_alone(known: Reading, reading: Reading) -> bool:
    if reading.coarseness > known.coarseness:
        return True
    return reading.slack != known.slack and reading.inputs is known.inputs


def _checked(evidence: Evidence, fit: Fit, case_id: str, reading: Reading) -> float:
    """The verdict's worst check of a case against a reading, on the scales of the one that was found."""
    found, values = evidence.reference(case_id, fit.departures, fit.precision, noise=True), reading.values()
    outputs = {name: array for name, array in evidence.observed[case_id].outputs.items() if name in found.values}
    exact = {name: values[name] for name in outputs if name in values and np.isfinite(values[name]).all()}
    measured = measure({name: outputs[name] for name in exact}, replace(found, values=exact)) if "h" in exact else []
    explained = (one for one in measured if (case_id, one.output) not in fit.unexplained)
    return max(map(excess_of, explained), default=0.0)
