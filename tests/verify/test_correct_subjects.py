"""The plain JAX form passes in every regime; tests/test_matrix.py has other correct subjects."""

import dataclasses

from verify import Case, Outcome, compute_reference, load_subject, run_case
from verify._regimes import regime_tokens

XLA = load_subject("kernels.xla_chunkwise:mlstm_chunkwise_xla")
BASE = Case(length=33, dhqk=16, dhhv=16, chunk_size=16, cotangents="all", initial="warm@2")


def test_every_regime_passes():
    # One test for all regimes: they share what is compiled.
    failed = []
    for regime in regime_tokens():
        case = dataclasses.replace(BASE, regime=regime)
        # A verdict does not depend on the noise floor.
        verdict = run_case(case, XLA, compute_reference(case, replicates=0)).verdict
        failed += [(case.id, verdict.reason)] if verdict.outcome is not Outcome.PASS else []
    assert failed == []
