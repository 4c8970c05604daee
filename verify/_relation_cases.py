"""A relation checked on a case, which gives the inputs; its name stands before the case's id:

    two_pieces/ordinary:B1-NH2-S65-QK64-HV64-L64:float32:correct:nv1.0:eps1e-06:warm@2:vjp-all:seed0

The verdict comes from the results of the subject alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from verify._case import Case, CaseError
from verify._problem import Problem
from verify._relations import RELATIONS, RefusedError, Runs
from verify._scatter import Apart, Call, Given
from verify._verdict import Outcome, Verdict

RMS_Z = 8.0
ROW_Z = 64.0


@dataclass(frozen=True)
class RelationCase(Case):
    """A relation that is checked on a case; its id is ``NAME/CASE_ID``.

    Attributes:
        relation: its name; see ``mlstm-verify list relations``.

    Raises:
        CaseError: for an unknown relation, or a case on which the relation says nothing.
    """

    relation: str = "repeatability"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relation not in RELATIONS:
            raise CaseError(f"relation is {self.relation!r}; expected one of {', '.join(RELATIONS)}.")
        holds, words = RELATIONS[self.relation].asks
        if not holds(self):
            raise CaseError(f"relation {self.relation} is checked on {super().id}; expected a case with {words}.")

    @property
    def id(self) -> str:
        """The name of this case; ``parse_case`` is the inverse."""
        return f"{self.relation}/{super().id}"

    @classmethod
    def on(cls, relation: str, case: Case) -> RelationCase:
        """The relation of this name, checked on the case."""
        return cls(**{field.name: getattr(case, field.name) for field in fields(Case)}, relation=relation)


def parse_case(text: str) -> Case:
    """The case that an id names, with or without a relation; CaseError if it does not parse."""
    relation, slash, rest = text.rpartition("/")
    return RelationCase.on(relation, Case.parse(rest)) if slash else Case.parse(text)


def compare(case: RelationCase, problem: Problem, call: Call) -> list[Apart]:
    """How far apart the subject leaves what should be equal; RefusedError for results that are not to be compared."""
    return list(RELATIONS[case.relation].compare(Runs(Given(case, problem.arrays, problem.cotangents), call)))


def check_relation(case: RelationCase, problem: Problem, call: Call) -> Verdict:
    """The verdict on a subject, from its own results alone."""
    try:
        found = compare(case, problem, call)
    except RefusedError as refused:
        return Verdict(refused.outcome, f"{case.relation}: {refused}")
    worst = max(found, key=_badness)
    broken = list(dict.fromkeys(apart.output for apart in found if _badness(apart) > 1.0))
    place = f"{worst.output}{list(worst.place)} is {worst.got:.9g}, wanted {worst.wanted:.9g}"
    size = f"{worst.differ} of {worst.size} elements differ; RMS z {worst.rms_z:.3g}, of a row {worst.row_z:.3g}"
    reason = f"{case.relation}: {place}; {size}; allowed {RMS_Z:g} and {ROW_Z:g}"
    if others := [name for name in broken if name != worst.output]:
        reason += f"; also {', '.join(others)}"
    if undecided := sum(apart.undecided for apart in found):
        reason += f"; {undecided} elements are undecided"
    return Verdict(RELATIONS[case.relation].outcome if broken else Outcome.PASS, reason)


def _badness(apart: Apart) -> float:
    return max(apart.rms_z / RMS_Z, apart.row_z / ROW_Z)
