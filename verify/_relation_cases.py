"""A relation checked on a case, which gives the inputs; its name stands before the case's id:

    two_pieces/ordinary:B1-NH2-S65-QK64-HV64-L64:float32:correct:nv1.0:eps1e-06:warm@2:vjp-all:seed0

The verdict comes from the results of the subject alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

from verify._case import Case, CaseError
from verify._problem import Problem
from verify._relations import RELATIONS, RefusedError, Runs
from verify._scatter import Apart, Call, Given
from verify._verdict import Outcome, Verdict

# NumPy and plain JAX show RMS z up to 3.7 and z of a row up to 9.9 at 24 tokens, over all regimes and modes
# (docs/relations.md). A row's scatter has as few as eight degrees of freedom, REPLICATES: by chance it is a 32nd of
# what it should be once in 10^11 rows.
RMS_Z = 8.0
ROW_Z = 32.0


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

    @property
    def base(self) -> Case:
        """The case that gives the inputs."""
        return Case(**{field.name: getattr(self, field.name) for field in fields(Case)})

    @classmethod
    def on(cls, relation: str, case: Case) -> RelationCase:
        """The relation of this name, checked on the case."""
        return cls(**{field.name: getattr(case, field.name) for field in fields(Case)}, relation=relation)


def parse_case(text: str) -> Case:
    """The case that an id names, with or without a relation; CaseError if it does not parse."""
    relation, slash, rest = text.rpartition("/")
    return RelationCase.on(relation, Case.parse(rest)) if slash else Case.parse(text)


# With more than these the smoke tier takes too long in Triton's interpreter.
_IN_LARGE_GATES = ("prefix_causality", "two_pieces", "linearity_in_v", "input_gate_shift")
_WITH_GRADIENTS = (
    "gradient_causality",
    "head_permutation",
    "nan_in_one_head",
    "repeatability",
    "without_last_states",
    "chunk_size",
)


def relation_cases(tier: str) -> Iterator[RelationCase]:
    """The relations of a tier, on cases that they say something about.

    smoke: every relation forward in one regime, some in a second, some with gradients in a third, at 20 tokens.
    standard: every relation in two dtypes, with gradients in a third regime, at 8192 tokens.
    Any other: these in three regimes each, and at 131,072 tokens in float32; and smoke.
    """
    if tier == "smoke":
        # Heads and tokens cost time in the interpreter: as many as the relation needs.
        small = Case(length=20, dhqk=16, dhhv=16, chunk_size=16)
        yield from _on_each(small, RELATIONS)
        warm = replace(small, initial="warm@2")
        yield from _on_each(replace(warm, regime="input_gates@20"), _IN_LARGE_GATES)
        yield from _on_each(replace(warm, regime="soft_capped@15", cotangents="all"), _WITH_GRADIENTS)
        return
    if tier == "standard":
        long = Case(length=8192, initial="warm@2")
        yield from _on_each(replace(long, regime="soft_capped@15"), RELATIONS)
        yield from _on_each(replace(long, regime="forget@10", dtype="bfloat16"), RELATIONS)
        yield from _on_each(replace(long, cotangents="all"), RELATIONS)
        return
    for length, dtype in ((8192, "float32"), (8192, "bfloat16"), (131_072, "float32")):
        long = Case(length=length, dtype=dtype, initial="warm@2")
        for regime in ("ordinary", "forget@10", "soft_capped@15"):
            yield from _on_each(replace(long, regime=regime), RELATIONS)
        yield from _on_each(replace(long, cotangents="all"), RELATIONS)
    yield from relation_cases("smoke")


def _on_each(base: Case, names: Iterable[str]) -> Iterator[RelationCase]:
    several = {
        "batch_permutation": replace(base, batch=2),
        "head_permutation": replace(base, heads=2),
        "nan_in_one_head": replace(base, heads=3),
        "input_gate_shift": replace(base, eps=0.0, norm_val=0.0, initial="warm@2"),
    }
    for name in names:
        case = several.get(name, base)
        if RELATIONS[name].asks[0](case):
            yield RelationCase.on(name, case)


def compare(case: RelationCase, problem: Problem, call: Call) -> list[Apart]:
    """How far apart the subject leaves what should be equal; RefusedError for results that are not to be compared."""
    return list(RELATIONS[case.relation].compare(Runs(Given(case.base, problem.arrays, problem.cotangents), call)))


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
