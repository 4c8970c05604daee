"""The forward kernels against the oracle, where a backward pass would take long; ``test_backward`` has the rest."""

import pytest

from verify import Case, Outcome, load_subject, run_case

SUBJECT = "kernels:mlstm_chunkwise_triton_stablef"
SHAPES = [
    (257, 32, 32, 256),
    (40, 512, 16, 32),
    (40, 16, 512, 32),
]


def outcome_of(case: Case) -> tuple[Outcome, str]:
    verdict = run_case(case, load_subject(SUBJECT)).verdict
    return verdict.outcome, verdict.reason


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("length", "dhqk", "dhhv", "chunk_size"), SHAPES)
def test_shape_passes(length, dhqk, dhhv, chunk_size, dtype):
    case = Case(length=length, dhqk=dhqk, dhhv=dhhv, chunk_size=chunk_size, dtype=dtype, initial="warm@2")
    outcome, reason = outcome_of(case)
    assert outcome is Outcome.PASS, reason


def test_ieee_dots_are_an_order_better_than_tf32_dots():
    # float32 means float32 unless TF32 is asked for by name.
    from functools import partial

    import kernels
    from verify import Subject

    case = Case(length=64, dhqk=64, dhhv=64)
    errors = {}
    for precision in ("ieee", "tf32"):
        function = partial(kernels.mlstm_chunkwise_triton_stablef, input_precision=precision)
        measured = run_case(case, Subject(precision, function, None)).verdict.measurements
        errors[precision] = next(m.normwise for m in measured if m.output == "h")
    assert errors["ieee"] * 10 < errors["tf32"]
