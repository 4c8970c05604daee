"""The running error bound holds for correct float32 code and is exceeded by planted faults."""

import dataclasses
import functools

import numpy as np
import pytest

from oracles import Float64, Precision, RunningError, recurrent, recurrent_vjp
from oracles._running_error import Bounded
from tests.oracles import float32_recurrence
from verify import Case, compute_reference, make_problem
from verify._regimes import regime_tokens

LENGTH, DIM = 33, 16
every_regime = pytest.mark.parametrize("regime", regime_tokens())
both_modes = pytest.mark.parametrize("correct", [True, False])
# float32 overflows here as it does on a GPU.
overflows = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def case_of(regime, seed=0, correct=True, initial="none"):
    return Case(
        regime=regime,
        length=LENGTH,
        dhqk=DIM,
        dhhv=DIM,
        chunk_size=16,
        seed=seed,
        stabilize_correctly=correct,
        initial=initial,
        cotangents="all",
    )


def both_cases(regime, correct):
    return case_of(regime, 0, correct), case_of(regime, 1, correct, "warm@2")


reference = functools.cache(compute_reference)


def float32_parallel(case):
    """All pairs at once in float32 NumPy; log forgets are summed anew for every pair."""
    x, _ = float32_recurrence.first_head(case)
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
    d = np.maximum(np.abs(weights.sum(1, keepdims=True)), b) + np.float32(case.eps)
    return {"h": weights @ x["v"] / d, "m": m}


def ratio(case, got):
    """The largest error / bound of the arrays ``got``."""
    ratios = [0.0]
    for name, actual in got.items():
        wanted, bound = (part[name][0, 0] for part in (reference(case).values, reference(case).bounds))
        with np.errstate(invalid="ignore"):
            error = np.where(actual == wanted, 0.0, np.abs(np.asarray(actual, np.float64) - wanted))
            ratios.append(np.max(np.where(error == 0.0, 0.0, error / bound)))
    return max(ratios)


@overflows
@both_modes
@every_regime
def test_correct_float32_code_stays_within_the_bound(regime, correct):
    plain, warm = both_cases(regime, correct)
    for case in (plain, warm):
        assert ratio(case, float32_recurrence.outputs(case)) <= 1.0
    assert ratio(plain, float32_parallel(plain)) <= 1.0


@overflows
@both_modes
@every_regime
def test_correct_float32_gradients_stay_within_the_bound(regime, correct):
    for case in both_cases(regime, correct):
        assert ratio(case, float32_recurrence.gradients(case)) <= 1.0


@overflows
@pytest.mark.parametrize("fault", ["max of log f", "n scaled", "exp(-m) dropped"])
def test_planted_fault_exceeds_the_bound(fault):
    ratios = {
        regime: ratio(case_of(regime), float32_recurrence.outputs(case_of(regime), fault=fault))
        for regime in regime_tokens()
    }
    assert max(ratios.values()) > 1.0, ratios


@overflows
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("normalizer's gradient dropped", "dq"),
        ("sign(a) forgotten", "dq"),
        ("df of the next token", "df"),
        ("dC_last ignored", "dv"),
        ("df as a difference of cumsums", "df"),
        ("di of later chunks dropped", "di"),
    ],
)
def test_planted_fault_of_a_gradient_exceeds_the_bound(fault, name):
    ratios = {}
    for regime in regime_tokens():
        case = case_of(regime)
        got = float32_recurrence.gradients(case, fault=fault)
        ratios[regime] = ratio(case, {name: got[name]})
    assert max(ratios.values()) > 1.0, ratios


@pytest.mark.parametrize("seed", range(20))
def test_a_denominator_is_not_near_0_where_its_maximum_is_not(seed):
    # h = N / (max(|a|, b) + eps) where rounding may carry a, but not b, to 0: any a and b within their errors.
    rng = np.random.default_rng(seed)
    ar = RunningError(Precision.of("float32"), 1)
    numerator, a, b, eps = rng.normal(size=64), rng.normal(size=64), 10.0 ** rng.uniform(-3, 1, 64), 0.01
    off = {"a": 2.0 * np.abs(a), "b": 1e-3 * b, "N": 0.1 * np.abs(numerator)}
    given = ((numerator, off["N"]), (np.abs(a), off["a"]), (b, off["b"]), (eps, 0.0))
    n, size, least, more = (Bounded(np.asarray(x), np.asarray(e), np.abs(x), ar.precision) for x, e in given)
    h = ar.divide(n, ar.maximum(size, least) + more)
    assert np.isfinite(h.e).all()
    for _ in range(200):
        moved = [x + e * rng.choice([-1.0, 1.0, rng.uniform(-1, 1)], np.shape(x)) for x, e in given]
        assert (np.abs(moved[0] / (np.maximum(np.abs(moved[1]), moved[2]) + moved[3]) - h.x) <= h.e).all()
    # Without b nothing is known.
    assert np.isinf(ar.divide(n, size + more).e[off["a"] > np.abs(a) + 2 * eps]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@every_regime
def test_values_are_those_of_float64_bit_for_bit(regime, dtype):
    case = case_of(regime)
    problem = make_problem(case)
    plain, bounded = Float64(), RunningError(Precision.of(dtype), 16)
    both = [recurrent(ar, problem.inputs, problem.contract).items() for ar in (plain, bounded)]
    assert_same_values(*both)


@pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
@pytest.mark.parametrize("initial", ["none", "warm@2", "empty@1"])
@every_regime
def test_values_of_gradients_are_those_of_float64_bit_for_bit(regime, initial, normalizer_grad):
    problem = make_problem(dataclasses.replace(case_of(regime, initial=initial), length=9))
    arguments = problem.inputs, problem.contract, problem.exact_cotangents, normalizer_grad
    plain, bounded = Float64(), RunningError(Precision.of("float32"), 16)
    assert_same_values(*(recurrent_vjp(ar, *arguments).items() for ar in (plain, bounded)))


def assert_same_values(plain, bounded):
    for (name, value), (_, number) in zip(plain, bounded, strict=True):
        np.testing.assert_array_equal(value, number.x, err_msg=name)
        assert not np.isnan(number.e).any(), name
        assert (number.e >= 0).all(), name


RECORDED = {
    "float32": (9.417098750614316e-03, 6.479831415277071e-06, 6.181163035710907e-04, 2.280903581486411e-02),
    "bfloat16": (31.93191191210466, 6.480305562054467e-06, 9.35781559120771e-01, 76.52182566316469),
    "float16": (7.695527593555399, 6.479899017922774e-06, 2.3419105068956136e-01, 18.009557568194268),
}


@pytest.mark.parametrize("dtype", RECORDED)
def test_bounds_are_those_that_were_validated(dtype):
    # Sums of the bounds of h, m, C_last and dq before the units had names; only another model may change them.
    problem = make_problem(dataclasses.replace(case_of("ordinary", seed=1, initial="warm@2"), dtype=dtype))
    arithmetic = RunningError(Precision.of(dtype), 16)
    outputs = recurrent(arithmetic, problem.inputs, problem.contract)
    dq = recurrent_vjp(arithmetic, problem.inputs, problem.contract, problem.exact_cotangents).q
    sums = [np.sum(number.e[np.isfinite(number.e)]) for number in (outputs.h, outputs.m, outputs.C_last, dq)]
    np.testing.assert_allclose(sums, RECORDED[dtype], rtol=1e-9)


def test_lower_precision_and_longer_chunks_widen_the_bound():
    problem = make_problem(case_of("ordinary"))

    def bounds(name, depth):
        arithmetic = RunningError(Precision.of(name), depth)
        gradients = recurrent_vjp(arithmetic, problem.inputs, problem.contract, problem.exact_cotangents)
        return {"h": recurrent(arithmetic, problem.inputs, problem.contract).h.e, "dk": gradients.k.e}

    for output in ("h", "dk"):
        assert (bounds("tf32", 16)[output] > bounds("tf32x3", 16)[output]).all()
        assert (bounds("tf32x3", 16)[output] > bounds("float32", 16)[output]).all()
        assert (bounds("bfloat16", 16)[output] > bounds("float16", 16)[output]).mean() > 0.9
        assert (bounds("float32", 64)[output] > bounds("float32", 16)[output]).all()


def test_what_comes_back_through_the_last_state_has_the_error_of_its_m():
    # The state is returned relative to m as it was rounded: its derivative exp(i_S - m_S) is off by the error of m_S.
    case = dataclasses.replace(case_of("balanced@-3"), cotangents="last")
    bounds, values = reference(case).bounds, reference(case).values
    error = bounds["m_last"][..., None]
    assert (error > 1e-5).all()
    for name in ("dk", "dv"):
        assert (bounds[name][..., -1, :] >= 0.99 * error * np.abs(values[name][..., -1, :])).all()
