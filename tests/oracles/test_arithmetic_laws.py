"""The laws of the protocol ``Arithmetic``, for every arithmetic."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import Ball, Float64, MPMath, Precision, RunningError

ARITHMETICS = {
    "Float64": Float64(),
    "MPMath": MPMath(50),
    "Ball": Ball(200),
    "RunningError": RunningError(Precision.of("float32"), 16),
}
every = pytest.mark.parametrize("ar", ARITHMETICS.values(), ids=ARITHMETICS)
numbers = st.floats(-1e4, 1e4)


@every
@settings(derandomize=True, max_examples=50)
@given(x=numbers, y=numbers)
def test_elementwise_operations(ar, x, y):
    a, b = ar.array([x]), ar.array([y])
    for got, wanted in (
        (a + b, x + y),
        (a - b, x - y),
        (a * b, x * y),
        (ar.maximum(a, b), max(x, y)),
        (ar.absolute(a), abs(x)),
        (ar.sign(a), np.sign(x)),
        (ar.at_least(a, b), float(x >= y)),
        (ar.at_least(a, a), 1.0),
        (ar.below(a, b), float(x < y)),
        (ar.weigh(a, b), x * y),
        (ar.term(a), x),
        (ar.where(np.array([x > y]), a, b), x if x > y else y),
        (ar.exp(ar.array([x / 100])), np.exp(x / 100)),
    ):
        np.testing.assert_allclose(ar.to_float64(got), [wanted], rtol=4 * 2.0**-53)


@every
@pytest.mark.parametrize(
    ("f", "phi"),
    [
        (np.inf, 0.0),
        (-np.inf, -np.inf),
        (-1000.0, -1000.0),
        (0.0, -np.log(2.0)),
        (30.0, np.exp(-60.0) / 2 - np.exp(-30.0)),
    ],
)
def test_log_sigmoid(ar, f, phi):
    np.testing.assert_allclose(ar.to_float64(ar.log_sigmoid(ar.array([f]))), [phi], rtol=4 * 2.0**-53)


@every
@pytest.mark.parametrize(
    ("x", "sigma"),
    [
        (np.inf, 1.0),
        (-np.inf, 0.0),
        (0.0, 0.5),
        (-30.0, np.exp(-30.0) - np.exp(-60.0)),
        (30.0, 1.0 - np.exp(-30.0)),
        (-700.0, np.exp(-700.0)),
    ],
)
def test_sigmoid(ar, x, sigma):
    np.testing.assert_allclose(ar.to_float64(ar.sigmoid(ar.array([x]))), [sigma], rtol=4 * 2.0**-53)


@every
def test_ends(ar):
    assert ar.to_float64(ar.exp(ar.array([-np.inf])))[0] == 0.0
    assert ar.to_float64(ar.divide(ar.array([0.0, 0.0, 1.0]), ar.array([0.0, np.inf, np.inf]))).tolist() == [
        0.0,
        0.0,
        0.0,
    ]
    assert ar.is_empty(ar.array([-np.inf, -1e4, 0.0])).tolist() == [True, False, False]
    assert ar.to_float64(ar.sign(ar.array([-np.inf, -2.0, 0.0, 3.0]))).tolist() == [-1.0, -1.0, 0.0, 1.0]
    empty, lower, upper = ar.array([-np.inf] * 3), ar.array([-np.inf, -1e4, 0.0]), ar.array([0.0, -np.inf, 1.0])
    assert ar.to_float64(ar.at_least(lower, empty)).tolist() == [1.0, 1.0, 1.0]
    assert ar.to_float64(ar.at_least(lower, upper)).tolist() == [0.0, 1.0, 0.0]


@every
def test_matrices(ar):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 5))
    unit = 8 * 2.0**-53
    np.testing.assert_allclose(ar.to_float64(ar.matmul(ar.array(x), ar.array(y))), x @ y, atol=unit * 8)
    np.testing.assert_array_equal(ar.to_float64(ar.transpose(ar.array(x))), np.swapaxes(x, -1, -2))
    np.testing.assert_array_equal(ar.to_float64(ar.max(ar.array(x), -1)), x.max(-1))
    np.testing.assert_array_equal(ar.to_float64(ar.stack([ar.array(x), ar.array(x)], -1)), np.stack([x, x], -1))
    joined = ar.concatenate([ar.array(x), ar.array(x[..., :1])])
    np.testing.assert_array_equal(ar.to_float64(joined), np.concatenate([x, x[..., :1]], -1))
    outer = ar.to_float64(ar.outer(ar.array(x[..., 0]), ar.array(y[..., 0])))
    np.testing.assert_allclose(outer, x[:, :, None, 0] * y[:, None, :, 0], rtol=unit)


@every
def test_sums(ar):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    unit = 16 * 2.0**-53  # of sums of at most 12 terms of size 1 or so
    for got, wanted in (
        (ar.sum(ar.array(x)), x.sum(-1)),
        (ar.dot(ar.array(x), ar.array(y)), (x * y).sum((-2, -1))),
        (ar.cumsum(ar.array(x), -1), np.cumsum(x, -1)),
        (ar.cumsum(ar.array(x), 1), np.cumsum(x, 1)),
        (ar.cumsum(ar.array(x), 0), np.cumsum(x, 0)),
    ):
        np.testing.assert_allclose(ar.to_float64(got), wanted, atol=unit * 8)


def test_running_error_knows_an_open_decision():
    ar = ARITHMETICS["RunningError"]
    third = ar.divide(ar.array([1.0]), ar.array([3.0]))
    difference = third - third  # 0, or what rounding made of it
    assert ar.sign(difference).e.tolist() == [2.0]
    assert ar.at_least(difference, ar.array([0.0])).e.tolist() == [1.0]
    assert ar.at_least(ar.array([-np.inf]), ar.array([-np.inf])).e.tolist() == [1.0]
    assert ar.below(difference, ar.array([0.0])).e.tolist() == [1.0]
    assert ar.sign(third).e.tolist() == ar.at_least(third, ar.array([0.0])).e.tolist() == [0.0]
    # What a sure decision leaves out adds no error, but for the underflow of the product.
    left_out = ar.below(third, ar.array([0.0])) * ar.array([1e9])
    assert left_out.s.tolist() == [0.0]
    assert left_out.e[0] < 1e-37


def test_running_error_of_a_weight_is_that_of_every_term():
    # 1 - 1 = 0, but exp(-30) - exp(-30) is what two roundings of exp(-30) leave.
    ar = ARITHMETICS["RunningError"]
    weight, cancelled = ar.exp(ar.array([-30.0])), ar.sum(ar.array([[1.0, -1.0]]))
    assert ar.weigh(weight, cancelled).x.tolist() == [0.0]
    assert ar.weigh(weight, cancelled).e[0] >= 2.0 * weight.e[0] > (weight * cancelled).e[0]


def test_running_error_of_a_term_is_that_of_sums_over_the_pairs_of_a_chunk():
    term = ARITHMETICS["RunningError"].term(ARITHMETICS["RunningError"].array([3.0]))
    assert term.e.tolist() == [2 * 16 * 2.0**-24 * 3.0]


def test_running_error_of_computed_operands_is_their_rounding():
    ar = RunningError(Precision.of("bfloat16"), 0)
    given = ar.array([1.0])
    computed = ar.exp(ar.array([0.0]))
    unit = ar.precision.operand
    for left, right, count in ((given, given, 0), (computed, given, 1), (given, computed, 1), (computed, computed, 2)):
        assert round(float(ar.outer(left, right).e[0, 0]) / unit, 2) == count


@pytest.mark.parametrize("product", ["matmul", "dot", "outer"])
def test_running_error_of_an_unbounded_number_is_unbounded(product):
    ar = ARITHMETICS["RunningError"]
    third = ar.divide(ar.array([1.0, 1.0]), ar.array([3.0, 3.0]))
    # A denominator that rounding may carry to 0.
    unbounded = ar.divide(ar.array([1.0, 1.0]), third - third + ar.array([1e-9, 1.0]))
    assert np.isinf(unbounded.e).tolist() == [True, False]
    zeros = ar.array([0.0, 0.0])
    left, right = (unbounded, zeros) if product == "outer" else (unbounded[None, :], zeros[:, None])
    if product == "dot":
        right = zeros[None, :]
    assert np.isinf(getattr(ar, product)(left, right).e).any()
    assert not np.isnan(getattr(ar, product)(left, right).e).any()


def test_mpmath_takes_the_numbers_of_another_context():
    fine, coarse = MPMath(60), MPMath(20)
    third = coarse.divide(coarse.array([1.0]), coarse.array([3.0]))
    # Every digit of a coarser number is taken; what is done with it then has the finer precision.
    assert fine.array(third)[0] == third[0]
    again = fine.divide(fine.array([1.0]), fine.divide(fine.array([1.0]), fine.array(third)))
    assert 0 < abs(fine.divide(fine.array([1.0]), fine.array([3.0])) - fine.array(third))[0] < 1e-20
    assert abs(again - fine.array(third))[0] < 1e-59
    # A finer number is rounded.
    assert coarse.array(fine.divide(fine.array([1.0]), fine.array([3.0])))[0] == third[0]
    assert coarse.array(fine.array([-np.inf]))[0] == -np.inf


@pytest.mark.parametrize(
    ("ar", "change"),
    [(Float64(), 2.0**-40), (MPMath(50), 2.0**-150), (Ball(200), 2.0**-185)],
    ids=["Float64", "MPMath", "Ball"],
)
def test_small_changes_of_the_input_are_resolved(ar, change):
    near = ar.exp(ar.array([1.0]) + ar.array([change])) - ar.exp(ar.array([1.0]))
    np.testing.assert_allclose(ar.to_float64(near), [np.e * change], rtol=2.0**-10)


def test_mpmath_keeps_its_precision_to_itself():
    before = mpmath.mp.dps
    MPMath(200).exp(MPMath(200).array([1.0]))
    assert mpmath.mp.dps == before


@pytest.mark.parametrize("digits", [14, 0, -1, 50.0, "50"])
def test_mpmath_refuses_other_digits(digits):
    with pytest.raises(ValueError, match=r"digits is .*; expected an integer of at least 15"):
        MPMath(digits)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'float8'; expected one of float32, tf32, bfloat16, float16"):
        Precision.of("float8")
