"""No correct subject fails: outputs and gradients in every regime, in both modes and all dtypes."""

import dataclasses

import pytest

from verify import Case, Outcome, compute_reference, load_subject, run_case
from verify._regimes import regime_tokens

SUBJECTS = [
    load_subject(name) for name in ("kernels.xla_chunkwise:mlstm_chunkwise_xla", "tests.subjects.correct:mlstm")
]
BASE = Case(length=33, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")


@pytest.mark.parametrize(
    ("dtype", "correct", "states"),
    [
        ("float32", True, ("warm@2", "empty@1000")),
        ("float32", False, ("warm@2",)),
        ("bfloat16", True, ("warm@2",)),
        ("float16", False, ("none",)),
    ],
)
def test_every_regime_passes(dtype, correct, states):
    # One test for all regimes and states: they share what is compiled.
    failed = []
    for regime in regime_tokens():
        for initial in states:
            case = dataclasses.replace(BASE, regime=regime, dtype=dtype, stabilize_correctly=correct, initial=initial)
            # One reference for both subjects; a verdict does not depend on the noise floor.
            reference = compute_reference(case, replicates=0)
            results = [run_case(case, subject, reference) for subject in SUBJECTS]
            failed += [(r.case.id, r.verdict.reason) for r in results if r.verdict.outcome is not Outcome.PASS]
    assert failed == []
