"""The running error bound holds for correct float32 code and is exceeded by planted faults."""

import numpy as np
import pytest

from oracles import Float64, Precision, RunningError, recurrent
from verify import Case, compute_reference, make_problem
from verify._regimes import regime_tokens

LENGTH, DIM = 64, 16


def case_of(regime, seed=0, correct=True):
    return Case(regime=regime, length=LENGTH, dhqk=DIM, dhhv=DIM, chunk_size=16, seed=seed, stabilize_correctly=correct)


def float32_recurrence(case, *, fault=""):
    """The definition, step by step, in float32 NumPy: correct, if not careful. Returns h and m."""
    x = {name: array[0, 0] for name, array in make_problem(case).arrays.items()}
    one, c = np.float32(1), np.float32(DIM) ** np.float32(-0.5)
    C, n, m = np.zeros((DIM, DIM), np.float32), np.zeros(DIM, np.float32), np.float32(0)
    rows, stabilizers = [], []
    for t in range(LENGTH):
        phi = min(x["f"][t], np.float32(0)) - np.log1p(np.exp(-abs(x["f"][t])))
        entering, m = m, max(phi + (np.float32(0) if fault == "max of log f" else m), x["i"][t])
        # m = -inf is the empty state: nothing is kept and nothing is taken in.
        base = m if np.isfinite(m) else np.float32(0)
        forget, take_in = np.exp(phi + (entering - base)), np.exp(x["i"][t] - base)
        C = forget * C + np.outer(take_in * x["k"][t], x["v"][t])
        n = forget * n + take_in * x["k"][t] * (np.float32(1.01) if fault == "n scaled" else one)
        b = np.exp(-base) if case.stabilize_correctly and fault != "exp(-m) dropped" else one
        d = max(abs(c * (x["q"][t] @ n)), b) + np.float32(case.eps)
        rows.append(c * (x["q"][t] @ C) / d)
        stabilizers.append(m)
    return np.array(rows), np.array(stabilizers)


def float32_parallel(case):
    """All pairs at once in float32 NumPy, with sums of log forgets as differences of a float64 cumsum rounded once."""
    x = {name: array[0, 0] for name, array in make_problem(case).arrays.items()}
    f = x["f"].astype(np.float64)
    phi = (np.minimum(f, 0) - np.log1p(np.exp(-np.abs(f)))).astype(np.float32)
    logs = np.full((LENGTH, LENGTH), -np.inf, np.float32)
    for t in range(LENGTH):
        for s in range(t + 1):
            logs[t, s] = np.sum(phi[s + 1 : t + 1], dtype=np.float32) + x["i"][s]
    m = np.maximum(np.max(logs, axis=1), [np.sum(phi[: t + 1], dtype=np.float32) for t in range(LENGTH)])
    base = np.where(np.isfinite(m), m, np.float32(0))[:, None]
    weights = np.exp(logs - base) * (x["q"] @ x["k"].T) * np.float32(DIM) ** np.float32(-0.5)
    b = np.exp(-base) if case.stabilize_correctly else np.float32(1)
    return weights @ x["v"] / (np.maximum(np.abs(weights.sum(1, keepdims=True)), b) + np.float32(case.eps)), m


def ratio(case, output):
    reference = compute_reference(case)
    h, m = output
    ratios = []
    for actual, name in ((h, "h"), (m, "m")):
        wanted, bound = reference.values[name][0, 0], reference.bounds[name][0, 0]
        with np.errstate(invalid="ignore"):
            error = np.where(actual == wanted, 0.0, np.abs(actual.astype(np.float64) - wanted))
            ratios.append(np.max(np.where(error == 0.0, 0.0, error / bound)))
    return max(ratios)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # float32 overflows here as it does on a GPU
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("regime", regime_tokens())
def test_correct_float32_code_stays_within_the_bound(regime, correct):
    for seed in range(4):
        case = case_of(regime, seed, correct)
        assert ratio(case, float32_recurrence(case)) <= 1.0
        assert ratio(case, float32_parallel(case)) <= 1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fault", ["max of log f", "n scaled", "exp(-m) dropped"])
def test_planted_fault_exceeds_the_bound(fault):
    ratios = {
        regime: ratio(case_of(regime), float32_recurrence(case_of(regime), fault=fault)) for regime in regime_tokens()
    }
    assert max(ratios.values()) > 1.0, ratios


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("regime", regime_tokens())
def test_values_are_those_of_float64_bit_for_bit(regime, dtype):
    case = case_of(regime)
    problem = make_problem(case)
    plain = recurrent(Float64(), problem.inputs, problem.contract)
    bounded = recurrent(RunningError(Precision.of(dtype), 16), problem.inputs, problem.contract)
    for (name, value), (_, number) in zip(plain.items(), bounded.items(), strict=True):
        np.testing.assert_array_equal(value, number.x, err_msg=name)
        assert not np.isnan(number.e).any(), name
        assert (number.e >= 0).all(), name


def test_lower_precision_and_longer_chunks_widen_the_bound():
    problem = make_problem(case_of("ordinary"))

    def bound(name, depth):
        return recurrent(RunningError(Precision.of(name), depth), problem.inputs, problem.contract).h.e

    assert (bound("tf32", 16) > bound("float32", 16)).all()
    assert (bound("bfloat16", 16) > bound("float16", 16)).mean() > 0.9
    assert (bound("float32", 64) > bound("float32", 16)).all()
