"""Monte Carlo arithmetic: its random errors, its laws, and the noise floor it gives."""

import dataclasses
import functools
import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import Float64, MonteCarlo, Precision, RunningError, parallel, parallel_vjp, recurrent, recurrent_vjp
from oracles._monte_carlo import Noise
from tests.oracles import float32_recurrence
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents
from verify import Case, make_problem
from verify._regimes import regime_tokens

FLOAT32 = Precision.of("float32")
PLAIN = Float64()
FORMS = ((recurrent, recurrent_vjp), (parallel, parallel_vjp))
# Of a hundred thousand uniform numbers the standard errors of mean and variance are 0.0018 and 0.0009.
COUNT = 100_000


def with_units(replicates=16, seed=0, **units):
    return MonteCarlo(dataclasses.replace(FLOAT32, **{"tiny": 0.0, **units}), replicates, seed)


def errors(number):
    """The relative errors of the replicates."""
    return (number.x[1:] / number.x[:1] - 1.0).ravel()


def computed(form, vjp, ar, inputs, contract, cotangents):
    """Every output and gradient by name."""
    # Only the gradient of an empty state overflows, and Float64's does too.
    with np.errstate(invalid="ignore", over="ignore"):
        return form(ar, inputs, contract).items() + vjp(ar, inputs, contract, cotangents).items()


# The random numbers.


def test_noise_is_uniform_in_the_unit_interval_around_0():
    xi = Noise(0).draw((COUNT,))
    assert abs(np.mean(xi)) < 0.01
    assert abs(np.var(xi) - 1 / 3) < 0.005
    assert abs(np.mean(xi**4) - 1 / 5) < 0.005
    assert 0.9999 < np.max(np.abs(xi)) <= 1.0


@pytest.mark.parametrize("shape", [(16, 60), (16, 4160), (16, 40_000)])
def test_draws_and_replicates_do_not_correlate(shape):
    # The last shape is more than the pool may give at once, the one before takes a good part of it.
    noise = Noise(1)
    draws = [noise.draw(shape) for _ in range(30)]
    size = draws[0].size
    following = [np.mean(a * b) * 3 for a, b in itertools.pairwise(draws)]
    assert np.sqrt(np.mean(np.square(following))) < 2 / np.sqrt(size)
    assert abs(np.mean(following)) < 4 / np.sqrt(30 * size)
    between = np.corrcoef(np.concatenate(draws, axis=1))
    others = between[~np.eye(16, dtype=bool)]
    assert np.sqrt(np.mean(others**2)) < 2 / np.sqrt(30 * shape[1])


def test_draws_come_from_different_places():
    noise = Noise(0)
    first = [float(noise.draw((8,))[0]) for _ in range(3000)]
    assert len(set(first)) > 2900


def test_factors_have_the_size_of_the_unit():
    for shape in ((3, 5), (Noise.LARGEST + 1,)):
        xi = (Noise(0).factors(2.0**-20, shape) - 1.0) * 2.0**20
        assert np.max(np.abs(xi)) <= 1.0
        assert np.std(xi) > 0.3


# The unit of each operation.


def unary(name):
    return lambda ar, x: getattr(ar, name)(x)


UNITS = {
    "+": (lambda ar, x: x + x, "accumulation", 1.0),
    "-": (lambda ar, x: x - x * ar.array(3.0), "accumulation", np.sqrt(1.0 + 1.5**2)),
    "*": (lambda ar, x: x * x, "accumulation", 1.0),
    "divide": (lambda ar, x: ar.divide(x, x), "accumulation", 1.0),
    "weigh": (lambda ar, x: ar.weigh(x, x), "accumulation", 1.0),
    "exp": (unary("exp"), "gates", 3.0),
    "log_sigmoid": (unary("log_sigmoid"), "gates", 1.0 + 3.0 / (1.0 + np.exp(-2.0))),
    "sigmoid": (unary("sigmoid"), "gates", 2.0),
    "gate sum": (lambda ar, x: x + ar.freeze(ar.log_sigmoid(x)), "gates", 1.0),
    "output": (unary("output"), "storage", 1.0),
    "outer": (lambda ar, x: ar.outer(x[..., None], x[..., None]), "accumulation", 1.0),
    # Terms of a tree of two levels, and the sum itself.
    "matmul": (lambda ar, x: ar.matmul(ar.stack([x] * 4, -1)[..., None, :], ar.array(np.eye(4))), "accumulation", 2.0),
    "sum": (lambda ar, x: ar.sum(x[..., None]), "accumulation", np.sqrt(2.0)),
}


@pytest.mark.parametrize("name", UNITS)
def test_errors_have_the_size_of_the_unit(name):
    operation, unit, factor = UNITS[name]
    units = {"gates": 0.0, "accumulation": 0.0, "storage": 0.0, "storage_tiny": 0.0, unit: 2.0**-16}
    ar = with_units(**units)
    got = errors(operation(ar, ar.array(np.full(COUNT // 16, 2.0))))
    size = units[unit] * factor
    assert abs(np.mean(got)) < 0.02 * size
    assert abs(np.std(got) / (size / np.sqrt(3.0)) - 1.0) < 0.02


def test_what_m_absorbs_is_lost_by_half_of_the_replicates_and_known_to_itself_by_the_others():
    ar = with_units(gates=2.0**-16)
    # log sigmoid(20) is -2e-9; m = 1024 leaves it no digit.
    phi = ar.freeze(ar.log_sigmoid(ar.array(np.full(1000, 20.0))))
    for total in (phi + ar.array(np.full(1000, 1024.0)), ar.array(np.full(1000, 1024.0)) + phi):
        by_replicate = np.abs(total.x[1:] - 1024.0)
        assert sorted(by_replicate.max(axis=1) == 0.0) == [False] * 8 + [True] * 8
        assert 0.0 < by_replicate.max() < 2.5 * abs(phi.x[0, 0])


def test_sums_have_the_errors_of_their_terms():
    # 1 - 1 = 0: what is left is the noise of two terms in a tree of one level.
    ar = with_units(accumulation=2.0**-16)
    row = ar.array(np.tile([1.0, -1.0], (COUNT // 16, 1)))
    column = ar.array([[1.0], [1.0]])
    size = 2.0**-16 * np.sqrt(2.0 * 2.0 / 3.0)
    for cancelled in (ar.sum(row), ar.matmul(row[:, None, :], column), ar.cumsum(row, -1)[:, 1]):
        assert (cancelled.x[0] == 0.0).all()
        assert abs(np.std(cancelled.x[1:]) / size - 1.0) < 0.02
    four = ar.dot(ar.stack([row, row], -1), ar.array(np.ones((1, 2, 2))))
    assert abs(np.std(four.x[1:]) / (2.0**-16 * np.sqrt(4.0 * 3.0 / 3.0)) - 1.0) < 0.02


@pytest.mark.parametrize(("name", "of_inputs"), [("float32", 0), ("tf32", 2), ("tf32x3", 2), ("bfloat16", 0)])
def test_operands_lose_digits_where_they_are_rounded(name, of_inputs):
    precision = Precision.of(name)
    # Gates of 2^-60 mark a number as computed, and change nothing.
    ar = MonteCarlo(dataclasses.replace(precision, accumulation=0.0, gates=2.0**-60), 16, 0)
    exact = ar.array(np.ones((COUNT // 16, 1, 1)))
    made = ar.exp(ar.array(np.zeros((COUNT // 16, 1, 1))))
    for product in (ar.matmul, ar.dot, lambda x, y: ar.outer(x[..., 0], y[..., 0])):
        for x, y, count in ((exact, exact, of_inputs), (made, exact, max(1, of_inputs)), (made, made, 2)):
            wanted = precision.operand * np.sqrt(count / 3.0)
            assert abs(np.std(errors(product(x, y))) - wanted) <= 0.02 * wanted


# Laws.


def test_ends():
    ar = with_units()
    assert (ar.exp(ar.array([-np.inf])).x == 0.0).all()
    assert (ar.exp(ar.array([0.0])).x == 1.0).all()
    assert np.isposinf(ar.exp(ar.array([np.inf, 1e4])).x).all()
    assert (ar.divide(ar.array([0.0, 0.0, 1.0]), ar.array([0.0, np.inf, np.inf])).x == 0.0).all()
    assert np.isposinf(ar.divide(ar.array([1.0]), ar.array([0.0])).x).any()
    phi = ar.log_sigmoid(ar.array([-np.inf, np.inf, -1000.0]))
    assert np.isneginf(phi.x[:, 0]).all()
    assert (phi.x[:, 1] == 0.0).all()
    np.testing.assert_allclose(phi.x[:, 2], -1000.0, rtol=2.0**-24)
    assert np.isneginf((phi[:1] + ar.array([5.0])).x).all()
    assert ar.is_empty(phi).tolist() == [True, False, False]
    sigma = ar.sigmoid(ar.array([-np.inf, np.inf])).x
    assert (sigma[:, 0] == 0.0).all()
    np.testing.assert_allclose(sigma[:, 1], 1.0, rtol=2.0**-22)
    nan = ar.array([np.nan])
    assert all(np.isnan(number.x).all() for number in (nan + nan, nan * nan, ar.exp(nan), ar.divide(nan, nan)))


def test_what_is_below_the_underflow_threshold_is_lost_in_half_of_the_replicates():
    ar = MonteCarlo(FLOAT32, 16, 0)
    small = ar.array([2.0**-100]) * ar.array([2.0**-30])
    assert np.count_nonzero(small.x[1:]) == 8
    assert small.x[0, 0] == 2.0**-130
    # It is always the same half: what is lost twice is not half as likely lost.
    assert np.count_nonzero((small + small).x[1:]) == 8
    # So is what is divided by a number near the end of the format, though the quotient is normal.
    assert np.count_nonzero(ar.divide(ar.array([4.0]), ar.array([2.0**126.5])).x[1:]) == 8


def test_indices_do_not_see_the_replicates():
    ar = with_units(replicates=2)
    values = np.arange(24.0).reshape(2, 3, 4)
    for x in (ar.array(values), ar.array(values) * ar.array(1.0)):
        assert x.shape == values.shape
        for index in (
            (..., 1, slice(None)),
            (..., None),
            (slice(None), ...),
            (..., slice(1, None), 2),
            (..., [0, 2], slice(None)),
            1,
            None,
            slice(1),
            Ellipsis,
        ):
            np.testing.assert_allclose(x[index].x[0], values[index])
            assert x[index].shape == values[index].shape
            assert len(x[index].x) == len(x.x)


def test_numbers_of_fewer_axes_are_broadcast_from_the_right():
    ar = with_units(replicates=2)
    scalar, row, block = (ar.array(np.full(shape, 2.0)) * ar.array(1.0) for shape in ((), (3,), (2, 2, 3)))
    chosen = ar.where(np.array([True, False, True]), row, block)
    for number in (scalar * block, block + row, ar.maximum(row, block), chosen):
        assert number.shape == (2, 2, 3)
        assert len(number.x) == 3
    assert ar.where(np.ones((2, 2, 3), bool), scalar, scalar).shape == (2, 2, 3)
    assert ar.matmul(row[None, :], ar.transpose(block)).shape == (2, 1, 2)
    assert ar.stack([row, ar.array(np.ones(3))], 0).shape == (2, 3)
    assert ar.concatenate([row, ar.array(np.ones(1))]).shape == (4,)
    assert ar.max(block, 0).shape == (2, 3)
    assert ar.cumsum(block, 0).shape == (2, 2, 3)


def test_decisions_are_those_of_each_replicate():
    ar = with_units(seed=1)
    third = ar.divide(ar.array([1.0]), ar.array([3.0]))
    again = ar.divide(ar.array([1.0]), ar.array([3.0]))
    for decided in (ar.at_least(third, again), ar.below(third, again), ar.sign(third - again)):
        assert 0 < np.count_nonzero(decided.x[1:] > 0.0) < 16
    assert (ar.at_least(third, again).x + ar.below(third, again).x == 1.0).all()


def test_a_frozen_number_is_one_that_all_replicates_share():
    ar = with_units()
    m = ar.log_sigmoid(ar.array([2.0]))
    frozen = ar.freeze(m)
    assert frozen.x.tolist() == PLAIN.log_sigmoid(np.array([[2.0]])).tolist()
    assert np.ptp(m.x) > 0.0


@pytest.mark.parametrize("replicates", [0, 1, 3, -2, 16.0])
def test_an_odd_number_of_replicates_is_refused(replicates):
    with pytest.raises(ValueError, match=r"replicates is .*; expected an even number, at least 2"):
        MonteCarlo(FLOAT32, replicates)


# The noise floor.


def test_noise_is_the_root_mean_square_of_the_replicates():
    ar = with_units(replicates=4)
    x = ar.array([3.0, np.inf, -1.0])
    assert ar.noise(x, np.array([3.0, np.inf, 1.0])).tolist() == [0.0, 0.0, 2.0]
    y = x * ar.array(1.0)
    wanted = np.sqrt(np.mean((y.x[1:, 0] - 3.0) ** 2))
    assert wanted > 0.0
    np.testing.assert_allclose(ar.noise(y, np.full(3, 3.0))[0], wanted, rtol=1e-12)
    np.testing.assert_allclose(ar.to_float64(y)[0], np.mean(y.x[1:, 0]))
    assert ar.noise(y, np.array([3.0, 1.0, -1.0]))[1] == np.inf
    tiny = with_units(replicates=4, accumulation=0.5)
    assert tiny.noise(tiny.array([1e-200]) * tiny.array([1.0]), np.array([1e-200]))[0] > 1e-202


cases = st.tuples(
    st.sampled_from(GATES), st.sampled_from(STATES), st.sampled_from(CONTRACTS), st.integers(1, 7), st.integers(0, 99)
)


@pytest.mark.parametrize("forms", FORMS, ids=["recurrent", "parallel"])
@settings(derandomize=True, max_examples=12)
@given(case=cases)
def test_the_same_seed_gives_the_same_bits_and_no_nan_of_its_own(forms, case):
    gates, state, contract, length, seed = case
    inputs = draw(gates, state, length=length, seed=seed)
    cotangents = draw_cotangents(inputs, seed)
    plain = computed(*forms, PLAIN, inputs, contract, cotangents)
    first, again, other = (
        computed(*forms, MonteCarlo(FLOAT32, 4, number), inputs, contract, cotangents) for number in (7, 7, 8)
    )
    for (name, x), (_, a), (_, b) in zip(plain, first, again, strict=True):
        assert a.x.tobytes() == b.x.tobytes(), name
        assert a.shape == x.shape, name
        np.testing.assert_allclose(a.x[0], x, rtol=1e-9, atol=1e-300, err_msg=name)
        assert not np.isnan(a.x[:, ~np.isnan(x)]).any(), name
    assert any(a.x.tobytes() != c.x.tobytes() for (_, a), (_, c) in zip(first, other, strict=True))


def case_of(regime, correct=True, initial="none", length=24):
    return Case(
        regime=regime,
        length=length,
        dhqk=8,
        dhhv=8,
        chunk_size=16,
        stabilize_correctly=correct,
        initial=initial,
        cotangents="all",
    )


@functools.cache
def values_of(case, forms=FORMS[0]):
    problem = make_problem(case)
    return dict(computed(*forms, PLAIN, problem.inputs, problem.contract, problem.exact_cotangents))


def noise_of(case, ar, forms=FORMS[0]):
    problem, values = make_problem(case), values_of(case, forms)
    numbers = computed(*forms, ar, problem.inputs, problem.contract, problem.exact_cotangents)
    return {name: ar.noise(number, values[name]) for name, number in numbers}


@pytest.mark.parametrize(("initial", "correct"), [("none", True), ("warm@2", False), ("empty@1", True)])
@pytest.mark.parametrize("regime", regime_tokens())
def test_noise_is_within_the_bound(regime, initial, correct):
    case = case_of(regime, correct, initial, length=9)
    problem = make_problem(case)
    bounded = RunningError(FLOAT32, case.chunk_size)
    numbers = dict(computed(*FORMS[0], bounded, problem.inputs, problem.contract, problem.exact_cotangents))
    for name, sigma in noise_of(case, MonteCarlo(FLOAT32, 16, 0)).items():
        assert not np.isnan(sigma).any(), name
        assert (sigma <= numbers[name].e).all(), name


@pytest.mark.parametrize("regime", ["ordinary", "input_gates@20", "forget@10"])
def test_noise_grows_as_the_unit(regime):
    # The same random numbers: to first order nothing but the scale changes.
    fine = noise_of(case_of(regime), MonteCarlo(FLOAT32, 16, 3))
    for factor in (2.0**-6, 2.0**3):
        units = {name: factor * getattr(FLOAT32, name) for name in ("gates", "accumulation", "storage")}
        scaled = noise_of(case_of(regime), MonteCarlo(dataclasses.replace(FLOAT32, **units), 16, 3))
        for name, sigma in fine.items():
            np.testing.assert_allclose(scaled[name], factor * sigma, rtol=0.02, atol=1e-4 * factor * np.max(sigma))


@pytest.mark.parametrize("regime", ["ordinary", "soft_capped@15", "input_gates@-20"])
def test_both_forms_have_much_the_same_noise(regime):
    case = case_of(regime)
    one, other = (noise_of(case, MonteCarlo(FLOAT32, 64, 0), forms) for forms in FORMS)
    for name, sigma in one.items():
        sizes = [np.sqrt(np.mean(np.square(floor))) for floor in (sigma, other[name])]
        assert 0.1 * sizes[0] <= sizes[1] <= 10.0 * sizes[0], name


def test_replicates_are_as_far_from_float64_as_float32_code_is():
    for regime in ("ordinary", "forget@10", "soft_capped@15", "staircase@60"):
        case = case_of(regime, length=40)
        sigma, wanted = noise_of(case, MonteCarlo(FLOAT32, 16, 0)), values_of(case)
        got = float32_recurrence.outputs(case) | float32_recurrence.gradients(case)
        wrong = float32_recurrence.outputs(case, fault="n scaled")
        for name, x in got.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                z = np.where(x == wanted[name][0, 0], 0.0, (x - wanted[name][0, 0]) / sigma[name][0, 0])
            assert 0.05 < np.sqrt(np.mean(z**2)) < 3.0, (regime, name)
            assert np.max(np.abs(z)) < 10.0, (regime, name)
        z = (wrong["h"] - wanted["h"][0, 0]) / sigma["h"][0, 0]
        assert np.max(np.abs(z)) > 1000.0


@pytest.mark.parametrize(("unit", "dtype"), [(2.0**-24, np.float32), (2.0**-8, ml_dtypes.bfloat16)])
def test_one_replicate_rounds_to_nearest(unit, dtype):
    x = np.random.default_rng(0).standard_normal(2000)
    ar = MonteCarlo(Precision.of("bfloat16"), 4, nearest=True)
    stored = ar._perturb(x[None].copy(), unit)
    assert np.array_equal(stored[1], x.astype(dtype).astype(np.float64))
    assert not np.array_equal(stored[2], stored[1])


def test_equal_steps_have_errors_that_add_up():
    # 1000 times + 0.1: in float32 the same error over stretches of steps, ten times what chance would make of it.
    ar = MonteCarlo(Precision.of("float32"), 16, nearest=True)
    total, step = ar.array(0.0), ar.array(0.1)
    for _ in range(1000):
        total = total + step
    apart = np.abs(total.x[1:] - 100.0)
    in_float32 = abs(float(np.cumsum(np.full(1000, 0.1), dtype=np.float32)[-1]) - 100.0)
    assert in_float32 > 5.0 * np.sqrt(np.mean(apart[1:] ** 2))
    assert apart[0] > 0.5 * in_float32


def test_what_rounds_to_nearest_counts_as_much_as_all_others():
    ar = MonteCarlo(Precision.of("float32"), 4, nearest=True)
    x = ar.array([3.0]) * ar.array([1.0])
    for apart, wanted in (([2.0, 0.0, 0.0, 0.0], 2.0), ([0.0, 3.0, 3.0, 3.0], 3.0), ([3.0, 4.0, 4.0, 4.0], 5.0)):
        x.x[1:, 0] = 3.0 + np.array(apart)
        np.testing.assert_allclose(ar.noise(x, np.array([3.0])), [wanted])
    total, step = ar.array(0.0), ar.array(0.1)
    for _ in range(1000):
        total = total + step
    in_float32 = abs(float(np.cumsum(np.full(1000, 0.1), dtype=np.float32)[-1]) - 100.0)
    assert ar.noise(total, np.array(100.0)) > 0.5 * in_float32


def test_a_decision_that_noise_may_turn_is_turned_in_half_of_the_replicates():
    ar = MonteCarlo(Precision.of("float32"), 16, seed=3)
    threshold = ar.array(np.full(3, 3.0))
    # 1 + 2 has noise; the second is next to 3 within it, the others are far off.
    x = ar.array(np.array([1.0, 1.0 + 2.0**-22, 1.1])) + ar.array(np.array([1.9, 2.0, 2.0]))
    taken = ar.at_least(x, threshold).x
    assert np.array_equal(taken[0], [0.0, 1.0, 1.0])
    assert np.array_equal(taken[9:, 1], np.zeros(8))
    assert (taken[:, 0] == 0.0).all()
    assert (taken[:, 2] == 1.0).all()
    assert np.array_equal(ar.below(x, threshold).x, 1.0 - taken)
    # Computed numbers that are equal may be decided either way, also without noise.
    tie = ar.where(np.array([True]), ar.array([1.0]) * ar.array([1.0]), ar.array([2.0]))
    assert np.array_equal(ar.at_least(tie, tie).x[:, 0], np.repeat([1.0, 0.0], [9, 8]))
    # Exact numbers decide exactly, ties included.
    assert np.array_equal(ar.at_least(threshold, threshold).x, np.ones((1, 3)))
