"""No correct subject fails: outputs and gradients in every regime, in both modes and all dtypes."""

import dataclasses

import pytest

from verify import Case, Outcome, load_subject, run_case
from verify._regimes import regime_tokens

SUBJECTS = [
    load_subject(name) for name in ("kernels.xla_chunkwise:mlstm_chunkwise_xla", "tests.subjects.correct:mlstm")
]
BASE = Case(length=33, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")


@pytest.mark.parametrize(
    ("dtype", "correct", "initial"),
    [
        ("float32", True, "warm@2"),
        ("float32", False, "warm@2"),
        ("float32", True, "empty@1000"),
        ("bfloat16", True, "warm@2"),
        ("float16", False, "none"),
    ],
)
def test_every_regime_passes(dtype, correct, initial):
    # One test for all regimes: they share what is compiled.
    failed = []
    for regime in regime_tokens():
        case = dataclasses.replace(BASE, regime=regime, dtype=dtype, stabilize_correctly=correct, initial=initial)
        results = [run_case(case, subject) for subject in SUBJECTS]
        failed += [(r.case.id, r.verdict.reason) for r in results if r.verdict.outcome is not Outcome.PASS]
    assert failed == []
