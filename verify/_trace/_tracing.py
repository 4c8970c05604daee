"""The trace of one case: its verdict, the first stage that is out, and all that is known of that place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verify._case import Case
from verify._errors import UsageError
from verify._explanation import explain
from verify._isolation import IsolatedSubject
from verify._problem import Problem, make_problem
from verify._reference import Reference, compute_reference
from verify._subject import Execution, Subject
from verify._trace._black_box import BlackBox, Found, judge_outputs
from verify._trace._parts import Parts, parts_of_error
from verify._trace._place import Judged, Place, around, judge_stages, place_of, program_of, spread
from verify._trace._scales import stage_reference, task_of
from verify._trace._stages import Stages
from verify._verdict import Outcome, Verdict, judge

TRACEABLE = (Outcome.INACCURATE, Outcome.NONFINITE)


@dataclass(frozen=True)
class Trace:
    """Where a case goes wrong first.

    Attributes:
        case, verdict: what was run, and what came of it.
        by: ``stages`` that the subject exposes, or ``probes`` of a black box; empty if the case passes.
        judged: the stages, or the outputs, in the order of the dataflow.
        first: the place; None if nothing is out.
        near: the elements beside it.
        spread: how much of the first stage is out.
        parts: what the error is in terms of the parts of the stage's sum, if it has some.
        program: the kernel and the program that computed it, if known.
        probes: what was asked of a black box and what it said.
        notes: what else a reader must know.
    """

    case: Case
    verdict: Verdict
    by: str = ""
    judged: list[Judged] = field(default_factory=list)
    first: Place | None = None
    near: list[Place] = field(default_factory=list)
    spread: dict[str, Any] = field(default_factory=dict)
    parts: Parts | None = None
    program: dict[str, Any] | None = None
    probes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def trace_case(case: Case, subject: Subject | IsolatedSubject, reference: Reference) -> Trace:
    """Run the case and, if it is red, find where.

    Raises:
        UsageError: if the subject cannot run the case, or returns nothing that could be compared.
    """
    reason = subject.lacks(case)
    if reason is not None:
        raise UsageError(f"subject {subject.name!r} cannot run case {case.id}: {reason}.")
    problem = make_problem(case)
    execution = subject.execute(case, problem, stages=True)
    if execution.failure is not None:
        raise _nothing_to_compare(case, execution.failure)
    verdict = judge(case, execution.outputs, reference)
    verdict = explain(case, verdict, execution.outputs, compute_reference)
    if verdict.outcome in (Outcome.PASS, Outcome.REFERENCE_UNCERTAIN):
        return Trace(case, verdict)
    if verdict.outcome not in TRACEABLE:
        raise _nothing_to_compare(case, verdict)
    return _trace(case, problem, subject, execution, verdict)


def _nothing_to_compare(case: Case, verdict: Verdict) -> UsageError:
    told, expected = verdict.reason.partition("\n")[0], " or ".join(outcome.value for outcome in TRACEABLE)
    return UsageError(f"case {case.id} ends as {verdict.outcome.value} ({told}); a trace needs one that is {expected}.")


def _trace(
    case: Case, problem: Problem, subject: Subject | IsolatedSubject, execution: Execution, verdict: Verdict
) -> Trace:
    notes: tuple[str, ...] = ()
    if execution.stages is not None:
        stages = Stages.of(subject.name, execution.stages)
        differ = [name for name, array in execution.outputs.items() if not _same(stages.arrays.get(name), array)]
        # What is returned is a stage, exposed or not.
        stages = replace(stages, arrays=execution.outputs | stages.arrays)
        traced = None if differ else _by_stages(case, problem, stages, verdict)
        if traced is not None:
            return traced
        notes = ("no stage that it exposes is out, though its outputs are",)
        if differ:
            notes = (f"its stages are those of another computation: {', '.join(differ)} are not what it returned",)
    judged = judge_outputs(case, problem, execution.outputs)
    found = BlackBox(subject, case, problem, judged).find()
    trace = Trace(case, verdict, "probes", judged, notes=notes)
    if found is None:
        return replace(trace, notes=(*notes, "no output is out by itself"))
    return _with_place(trace, found)


def _same(stage: np.ndarray | None, returned: np.ndarray) -> bool:
    # What is not exposed is no contradiction.
    return stage is None or (stage.shape == returned.shape and stage.tobytes() == returned.tobytes())


def _with_place(trace: Trace, found: Found) -> Trace:
    near = around(found.judged, found.index, found.stages, trace.case.length)
    return replace(trace, first=found.place, near=near, spread=spread(found.judged), probes=found.probes)


def _by_stages(case: Case, problem: Problem, stages: Stages, verdict: Verdict) -> Trace | None:
    task = task_of(case, problem, stages.chunk_size, stages.block_size)
    judged = judge_stages(stages, *stage_reference(case, problem, task))
    first = next((one for one in judged if one.is_out), None)
    if first is None:
        return None
    index = first.first()
    place = place_of(first, index, stages, case.length)
    return Trace(
        case,
        verdict,
        "stages",
        judged,
        place,
        around(first, index, stages, case.length),
        spread(first),
        parts_of_error(first, place, stages, task),
        program_of(place, stages, case.heads),
    )
