"""The backward kernels against the oracle, over shapes, dtypes, chunk sizes and initial states."""

import numpy as np
import pytest

from verify import Case, Outcome, compute_reference, load_subject, run_case

SUBJECT = "kernels:mlstm_chunkwise_triton_stablef"
GRADIENTS = {"dq", "dk", "dv", "di", "df", "dC_0", "dn_0", "dm_0"}
# Beside those of the smoke tier, tests/test_matrix.py.
SHAPES = [
    (1, 16, 16, 16, "float32"),
    (15, 48, 80, 16, "float16"),
    (33, 80, 48, 32, "bfloat16"),
    (65, 96, 16, 64, "float32"),
    (65, 96, 16, 64, "float16"),
    (129, 16, 96, 128, "float32"),
    (129, 16, 96, 128, "bfloat16"),
    (40, 144, 16, 32, "float32"),
    (40, 144, 16, 32, "bfloat16"),
]


def verdict_of(case, subject=SUBJECT):
    # A verdict does not depend on the noise floor.
    return run_case(case, load_subject(subject), compute_reference(case, replicates=0)).verdict


@pytest.mark.parametrize(("length", "dhqk", "dhhv", "chunk_size", "dtype"), SHAPES)
def test_shape_passes(length, dhqk, dhhv, chunk_size, dtype):
    sizes = {"length": length, "dhqk": dhqk, "dhhv": dhhv, "chunk_size": chunk_size}
    verdict = verdict_of(Case(**sizes, dtype=dtype, initial="warm@2", cotangents="all"))
    assert verdict.outcome is Outcome.PASS, verdict.reason
    assert {measured.output for measured in verdict.measurements} > GRADIENTS


@pytest.mark.parametrize(
    ("initial", "correct"), [("warm@-1000", True), ("warm@1000", False), ("empty@-1000", False), ("empty@50", True)]
)
def test_initial_state_passes(initial, correct):
    # Beside those of the smoke tier.
    sizes = {"length": 40, "dhqk": 16, "dhhv": 16, "chunk_size": 16, "heads": 2}
    verdict = verdict_of(Case(**sizes, initial=initial, stabilize_correctly=correct, cotangents="all"))
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize(("length", "chunk_size"), [(128, 128), (192, 256)])
@pytest.mark.parametrize("regime", ["soft_capped@15", "forget@-10"])
def test_large_m_passes_in_chunks_of_several_blocks(regime, length, chunk_size):
    # The denominators of the forward pass are divided by in the backward pass, whose weights must have their roundings.
    sizes = {"length": length, "dhqk": 16, "dhhv": 16, "chunk_size": chunk_size}
    case = Case(regime=regime, **sizes, eps=0.01, initial="warm@1000", cotangents="h")
    verdict = run_case(case, load_subject(SUBJECT)).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason
    assert max(measured.largest_z for measured in verdict.measurements) < 10


@pytest.mark.parametrize("subject", [SUBJECT, "kernels:mlstm_chunkwise_xla"])
@pytest.mark.parametrize("correct", [True, False])
def test_norm_val_far_from_1_passes(correct, subject):
    # exp(log(norm_val) - m) would lose the digits of log(norm_val).
    sizes = {"length": 20, "dhqk": 16, "dhhv": 16, "chunk_size": 16}
    case = Case(**sizes, norm_val=1e10, eps=0.0, stabilize_correctly=correct, cotangents="all")
    verdict = verdict_of(case, subject)
    assert verdict.outcome is Outcome.PASS, verdict.reason
    assert max(measured.ratio for measured in verdict.measurements) < 0.5


@pytest.mark.parametrize("m_0", [-100, -1000])
def test_denominator_of_an_empty_state_passes(m_0):
    # exp(m' - m) is 0 for m' = -inf, however large exp(-m) is.
    case = Case("dead_input", length=3, dhqk=16, dhhv=16, chunk_size=16, initial=f"empty@{m_0}", cotangents="all")
    verdict = verdict_of(case)
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize(("regime", "seed"), [("kept", 5), ("ordinary", 3)])
def test_gradient_of_an_empty_state_next_to_overflow_passes(regime, seed):
    # d is next to the smallest float32 number: terms of dn_0 overflow although their sum does not.
    sizes = {"length": 4, "dhqk": 16, "dhhv": 16, "chunk_size": 16}
    verdict = verdict_of(Case(regime, **sizes, eps=0.0, initial="empty@88", cotangents="h", seed=seed))
    assert verdict.outcome is Outcome.PASS, verdict.reason


def test_eps_times_an_overflowing_power_passes():
    # m is near 1000 - 60 t and m' near 0: exp(m - m') overflows some tokens before eps exp(m - m') no longer does.
    sizes = {"length": 40, "dhqk": 16, "dhhv": 16, "chunk_size": 16}
    verdict = verdict_of(Case("forget@-60", **sizes, initial="empty@1000", cotangents="all", seed=1))
    assert verdict.outcome is Outcome.PASS, verdict.reason


def test_gates_that_forget_all_keep_the_accuracy_of_df():
    # What the sums without a subtraction are for: the peers' df is off by e^60 here.
    case = Case("forget@-60", length=64, dhqk=16, dhhv=16, chunk_size=32, cotangents="h")
    verdict = verdict_of(case)
    assert verdict.outcome is Outcome.PASS, verdict.reason
    df = next(measured for measured in verdict.measurements if measured.output == "df")
    assert df.normwise < 1e-5 < df.normwise * 1e3


def test_detached_is_told_from_exact():
    from functools import partial

    from kernels import mlstm_chunkwise_triton_stablef
    from verify import Subject

    case = Case(length=40, dhqk=16, dhhv=16, chunk_size=16, cotangents="all", initial="warm@2")
    function = partial(mlstm_chunkwise_triton_stablef, normalizer_grad="detached")
    verdict = run_case(case, Subject("detached", function, None)).verdict
    assert verdict.outcome is Outcome.INACCURATE
    assert "normalizer held constant (detached)" in verdict.reason


def test_only_gradients_of_computed_operands_are_rounded():
    # float32 inputs of a bfloat16 kernel get gradients that are not rounded to bfloat16.
    import jax
    import jax.numpy as jnp
    import ml_dtypes

    from kernels import mlstm_chunkwise_triton_stablef as mlstm

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, 1, 20, 16)).astype(np.float32) for _ in range(3)]
    arrays += [rng.standard_normal((1, 1, 20)).astype(np.float32) for _ in range(2)]

    def loss(*arrays):
        return jnp.sum(mlstm(*arrays, chunk_size=16, autocast_kernel_dtype="bfloat16").astype(jnp.float32) ** 2)

    for gradient in jax.grad(loss, argnums=range(5))(*arrays):
        assert gradient.dtype == jnp.float32
        stored = np.asarray(gradient).astype(ml_dtypes.bfloat16).astype(np.float32)
        assert (stored != np.asarray(gradient)).any()


def test_gradients_of_one_ruling_token_are_as_exact_as_the_plain_kernel():
    # c q_t.k_s / d_t is 1 where token s rules, however small q_t.k_s is: 1 / d_t must not be rounded with q_t.
    # Both kernels round the same numbers, so that over 4 heads they differ by little; dv 1.8 times if q_t is rounded.
    sizes = {"heads": 4, "length": 64, "dhqk": 32, "dhhv": 32, "chunk_size": 32}
    case = Case("spike@50", **sizes, dtype="bfloat16", cotangents="all", seed=5)
    reference = compute_reference(case, replicates=0)
    ours, plain = (
        {measured.output: measured.normwise for measured in run_case(case, subject, reference).verdict.measurements}
        for subject in map(load_subject, (SUBJECT, "kernels:mlstm_chunkwise_xla"))
    )
    assert max(ours[name] / plain[name] for name in GRADIENTS & ours.keys()) < 1.3
