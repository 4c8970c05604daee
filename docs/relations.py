"""How far correct implementations are from the relations: prints the tables of docs/relations.md.

Run it from the clone, where the packages of the tests are: ``PYTHONPATH=. python docs/relations.py [--seeds N]
[--lengths S...] [IMPLEMENTATION...]``. Every relation in every regime, both modes and all dtypes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from verify import Case, CaseError, Subject, load_subject, make_problem
from verify._backend import BackendOption, choose_backend
from verify._case import DTYPES
from verify._regimes import regime_tokens
from verify._relation_cases import RMS_Z, ROW_Z, RelationCase, compare
from verify._relations import RELATIONS, RefusedError
from verify._scatter import Apart

IMPLEMENTATIONS = {
    "Triton": "kernels:mlstm_chunkwise_triton_stablef",
    "plain JAX": "kernels:mlstm_chunkwise_xla",
    "NumPy recurrence": "tests.subjects.float32:recurrence",
    "NumPy parallel": "tests.subjects.float32:parallel",
    "NumPy float64": "tests.subjects.correct:mlstm",
}


def bases(relation: str, length: int, seed: int, name: str) -> Iterator[RelationCase]:
    """The relation in every regime, both modes, all dtypes, with an initial state and without."""
    several = {"batch_permutation": (2, 1), "head_permutation": (1, 2), "nan_in_one_head": (1, 2)}
    batch, heads = several.get(relation, (1, 1))
    base = Case(batch=batch, heads=heads, length=length, dhqk=16, dhhv=16, chunk_size=16, seed=seed)
    for dtype in DTYPES[:1] if name in ("NumPy recurrence", "NumPy parallel") else DTYPES:
        for number, regime in enumerate(regime_tokens()):
            for correct in (True, False):
                for gradients in ("none", "all"):
                    initial = ("none", "warm@2", "warm@50")[(number + correct + seed) % 3]
                    case = replace(base, dtype=dtype, regime=regime, stabilize_correctly=correct)
                    case = replace(case, cotangents=gradients, initial=initial)
                    if relation == "input_gate_shift":
                        case = replace(case, eps=0.0, norm_val=0.0, initial="warm@2")
                    try:
                        yield RelationCase.on(relation, case)
                    except CaseError:
                        continue


def worst(subject: Subject, case: RelationCase) -> Apart | None:
    """The output that is furthest from the relation."""
    if subject.lacks(case):
        return None
    found = compare(case, make_problem(case), lambda given: subject.call(given.case, given))
    return max(found, key=lambda apart: max(apart.rms_z / RMS_Z, apart.row_z / ROW_Z))


def main() -> None:
    """Print, for each implementation and relation, the largest z and where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="*", default=[40])
    parser.add_argument("--relations", nargs="*", default=list(RELATIONS))
    parser.add_argument("--implementations", nargs="*", default=list(IMPLEMENTATIONS))
    given = parser.parse_args()
    choose_backend(BackendOption.auto)
    print("| implementation | relation | cases | not equal | largest RMS z | largest row z | where |\n|" + " --- |" * 7)
    for name in given.implementations:
        subject = load_subject(IMPLEMENTATIONS[name])
        for relation in given.relations:
            found: list[tuple[Apart, RelationCase]] = []
            for seed in range(given.seeds):
                for length in given.lengths:
                    for case in list(bases(relation, length, seed, name))[seed % given.every :: given.every]:
                        try:
                            apart = worst(subject, case)
                        except RefusedError as refused:
                            print(f"REFUSED {case.id}: {refused}")
                            continue
                        if apart:
                            found.append((apart, case))
            if not found:
                continue
            unequal = sum(apart.differ > 0 for apart, _ in found)
            rms, at_rms = max(found, key=lambda pair: pair[0].rms_z)
            row, at_row = max(found, key=lambda pair: pair[0].row_z)
            where = " ; ".join(f"{apart.output} {case.id}" for apart, case in ((rms, at_rms), (row, at_row)))
            print(f"| {name} | {relation} | {len(found)} | {unequal} | {rms.rms_z:.2g} | {row.row_z:.2g} | {where} |")


if __name__ == "__main__":
    main()
