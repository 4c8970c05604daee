"""Balls hold the exact results, are narrow, and leave open what they cannot decide."""

import functools
import sys
from concurrent.futures import ThreadPoolExecutor

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import (
    Ball,
    Contract,
    Cotangents,
    Float64,
    Inputs,
    MPMath,
    Precision,
    RunningError,
    parallel,
    parallel_vjp,
    recurrent,
    recurrent_vjp,
)
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents

BALL, COARSE = Ball(200), Ball(53)
# 266 bits: beside a radius of 200 bits its own rounding is nothing.
EXACT = MPMath(80)
FORMS = {
    "outputs": (recurrent, parallel),
    "exact": (recurrent_vjp, parallel_vjp),
    "detached": (recurrent_vjp, parallel_vjp),
}
SIZES = {"length": 5, "dhqk": 2, "dhhv": 2, "lead": (1,)}
FLOAT64, RUNNING = Float64(), RunningError(Precision.of("float32"), SIZES["length"])


def compute(ar, form, kind, inputs, contract):
    arguments = () if kind == "outputs" else (draw_cotangents(inputs), kind)
    with np.errstate(invalid="ignore"):  # float64: 0 * inf of an empty state without a denominator
        return dict(form(ar, inputs, contract, *arguments).items())


@functools.cache
def small_case(ar, form, kind, gates, state, contract):
    """Outputs or gradients at a size that mpmath is quick at."""
    return compute(ar, form, kind, draw(gates, state, **SIZES), contract)


def every_case(check):
    """The check for all gates and states; ``cases`` are (kind, gates, state, contract) of all kinds and contracts."""

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("gates", GATES)
    def test(gates, state):
        for kind in FORMS:
            for contract in CONTRACTS:
                check(kind, gates, state, contract)

    test.__name__ = check.__name__
    return test


def outside(ball, balls, numbers):
    """How many of the numbers are not in their balls."""
    assert balls.keys() == numbers.keys()
    return sum(int((~ball.encloses(balls[name], numbers[name])).sum()) for name in balls)


def wide(balls, exact):
    """How many radii are above 1e-40 of the value and of 1e-12, or unbounded where mpmath has a number."""
    count = 0
    for name, value in balls.items():
        for x, number in zip(value.x.ravel(), exact[name].ravel(), strict=True):
            is_narrow = x.rad() <= 1e-40 * abs(x.mid()) or x.rad() <= 1e-52
            count += not is_narrow and abs(number) < np.inf
    return count


@every_case
def test_mpmath_is_inside(*case):
    exact = small_case(EXACT, FORMS[case[0]][0], *case)
    for form in FORMS[case[0]]:
        assert outside(BALL, small_case(BALL, form, *case), exact) == 0, (form.__name__, case)
        # So few bits leave many decisions open.
        if case[0] == "exact" and case[3] in CONTRACTS[::4]:
            assert outside(COARSE, small_case(COARSE, form, *case), exact) == 0, (form.__name__, case)


@every_case
def test_recurrent_and_parallel_balls_intersect(*case):
    one, other = (small_case(BALL, form, *case) for form in FORMS[case[0]])
    assert outside(BALL, one, other) == 0, case


@every_case
def test_balls_are_narrow(*case):
    exact = small_case(EXACT, FORMS[case[0]][0], *case)
    for form in FORMS[case[0]]:
        assert wide(small_case(BALL, form, *case), exact) == 0, (form.__name__, case)


@every_case
def test_float64_is_as_near_to_the_ball_as_float64_permits(*case):
    # The running error bound is linear in the unit: 2^-53 / 2^-24 of that of float32 bounds float64.
    form = FORMS[case[0]][0]
    bounds = small_case(RUNNING, form, *case)
    balls = small_case(BALL, form, *case)
    for other in FORMS[case[0]]:
        for name, value in small_case(FLOAT64, other, *case).items():
            centre, allowed = BALL.to_float64(balls[name]), bounds[name].e * 2.0**-29
            decided = np.isfinite(centre) & np.isfinite(allowed)
            apart = np.abs(value[decided] - centre[decided])
            assert np.all(apart <= allowed[decided]), (other.__name__, name, case)
            # Beyond float64 are only numbers above its range and what an empty state has without a denominator.
            assert decided.all() or case[1] in ("huge", "dead", "both") or case[2] == "empty", (name, case)


@pytest.mark.parametrize("kind", FORMS)
def test_the_measures_are_not_blind(kind):
    case = kind, "ordinary", "warm", CONTRACTS[0]
    exact = small_case(EXACT, FORMS[kind][0], *case)
    for form in FORMS[kind]:
        balls = small_case(BALL, form, *case)
        size = sum(value.size for value in exact.values())
        moved = {name: value + EXACT.array(1e-50) for name, value in exact.items()}
        assert outside(BALL, balls, moved) == size
        # A fat ball holds everything and is seen to be wide.
        fat = {name: value + BALL.array(flint.arb(0, 1e-30)) for name, value in balls.items()}
        assert outside(BALL, fat, moved) == 0
        assert wide(fat, exact) == size
        # So are those of an arithmetic that makes one number in flint's own precision,
        inputs, careless = draw("ordinary", "warm", **SIZES), Ball(200)
        careless.rsqrt = lambda n: BALL.array(flint.arb(n).rsqrt())
        assert wide(compute(careless, form, kind, inputs, CONTRACTS[0]), exact) > size / 2
        # and one that does not say how far off it is has balls elsewhere.
        careless.rsqrt = lambda n: BALL.array(flint.arb(n).rsqrt().mid())
        assert outside(BALL, compute(careless, form, kind, inputs, CONTRACTS[0]), exact) > size / 2


eighths = st.integers(-80, 80).map(lambda n: n / 8)
radii = st.sampled_from([0.0, 0.125, 1.0, 7.5])


@settings(derandomize=True, max_examples=150)
@given(x=eighths, y=eighths, x_radius=radii, y_radius=radii)
def test_every_operation_encloses_what_it_makes_of_the_numbers_inside(x, y, x_radius, y_radius):
    def points(middle, radius):
        return np.array([middle + part * radius for part in (-1.0, -0.5, 0.0, 0.5, 1.0)])

    xs, ys = (grid.ravel() for grid in np.meshgrid(points(x, x_radius), points(y, y_radius)))
    left, right = (BALL.array([flint.arb(*number)]) for number in ((x, x_radius), (y, y_radius)))
    a, b = EXACT.array(xs), EXACT.array(ys)
    for name in ("maximum", "at_least", "below", "weigh"):
        assert BALL.encloses(getattr(BALL, name)(left, right), getattr(EXACT, name)(a, b)).all(), name
    for name in ("absolute", "sign", "exp", "sigmoid", "log_sigmoid"):
        assert BALL.encloses(getattr(BALL, name)(left), getattr(EXACT, name)(a)).all(), name
    for got, wanted in ((left + right, a + b), (left - right, a - b), (left * right, a * b)):
        assert BALL.encloses(got, wanted).all()
    positive = ys >= 0
    quotient = BALL.divide(left, right)
    assert BALL.encloses(quotient, EXACT.divide(a[positive], b[positive])).all()


def test_matrix_products_enclose_the_products_of_the_numbers_inside():
    rng = np.random.default_rng(0)
    x, y, step = rng.standard_normal((3, 2, 4)), rng.standard_normal((4, 5)), 0.125
    widened = np.vectorize(lambda number: flint.arb(number, step), otypes=[object])
    product = BALL.matmul(BALL.array(widened(x)), BALL.array(widened(y)))
    for sign in (-1.0, 0.0, 1.0):
        inside = EXACT.matmul(EXACT.array(x + step), EXACT.array(y + sign * step))
        assert BALL.encloses(product, inside).all()
    # The exact radii: step (|x| + |y|) + step^2, summed.
    radii = step * (np.abs(x).sum(-1)[..., None] + np.abs(y).sum(-2)) + 4 * step**2
    assert (BALL.radius(product) < 1.01 * radii).all()


def test_an_undecided_maximum_holds_both():
    one, two = BALL.array([flint.arb(1, 0.5)]), BALL.array([flint.arb(1.25, 0.5)])
    # All of [0.75, 1.75], and little else.
    assert BALL.encloses(BALL.maximum(one, two), [0.75, 1.0, 1.5, 1.75]).all()
    assert BALL.radius(BALL.maximum(one, two))[0] < 0.51
    assert BALL.encloses(BALL.max(BALL.stack([one, two], -1), -1), [0.75, 1.75]).all()
    assert BALL.encloses(BALL.at_least(one, two), [0.0, 1.0]).all()
    assert BALL.encloses(BALL.below(one, two), [0.0, 1.0]).all()
    assert BALL.encloses(BALL.sign(one - two), [-1.0, 0.0, 1.0]).all()
    # What is decided is exact, and so is a maximum with nothing.
    empty, far = BALL.array([-np.inf]), BALL.array([3.0])
    assert BALL.radius(BALL.at_least(far, one)) == BALL.radius(BALL.below(far, one)) == 0.0
    assert BALL.radius(BALL.maximum(empty, far)) == BALL.radius(BALL.maximum(far, one)) == 0.0
    assert BALL.radius(BALL.maximum(empty, one)) == BALL.radius(one)


@pytest.mark.parametrize("kind", ["exact", "detached"])
@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
def test_a_max_that_53_bits_cannot_decide_has_the_gradients_of_both(form, kind):
    # phi + m_0 = -log 2 and i_1 is the float64 next to it: below, nearest, above.
    contract = Contract(1e-2, 1.0, False)
    for i in (np.nextafter(-np.log(2.0), side) for side in (-1.0, -np.log(2.0), 0.0)):
        inputs = draw(state="warm", **SIZES)
        inputs.i[:, 0], inputs.f[:, 0], inputs.m_0[:] = i, 0.0, 0.0
        balls, exact = (compute(ar, form, kind, inputs, contract) for ar in (COARSE, EXACT))
        assert outside(COARSE, balls, exact) == 0
        # The gradient through m goes to i_1 or to m_0; its ball holds both.
        assert (COARSE.radius(balls["di"])[:, 0] > 1e-3) == (kind == "exact")
        assert outside(BALL, compute(BALL, form, kind, inputs, contract), exact) == 0


@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
def test_a_denominator_that_53_bits_cannot_decide_has_the_gradients_of_both(form):
    # One token: |a_1| = |c q.k| = |q k| 3^-1/2, and nu is the float64 next to it.
    q = k = np.full((1, 1, 3), 1.0)
    inputs = Inputs(q, k, np.full((1, 1, 1), 2.0), np.full((1, 1), 1.0), np.full((1, 1), 3.0))
    cotangents = Cotangents(np.full((1, 1, 1), 1.0))
    for norm_val in (np.nextafter(np.sqrt(3.0), side) for side in (0.0, np.sqrt(3.0), 9.0)):
        arguments = inputs, Contract(0.0, float(norm_val), False), cotangents
        balls, exact = (dict(form(ar, *arguments).items()) for ar in (COARSE, EXACT))
        assert outside(COARSE, balls, exact) == 0
        assert (COARSE.radius(balls["dq"]) > 0.1).all()


def test_a_number_stays_the_ball_that_it_is():
    # A midpoint taken for exact would be the result of other inputs.
    one = BALL.array([flint.arb(1, 0.5)])
    for kept in (BALL.freeze(one), BALL.term(one), BALL.output(one), BALL.weigh(one, BALL.array([1.0]))):
        assert BALL.encloses(kept, [0.5, 1.5]).all()
        assert BALL.radius(kept) < 0.501


def test_what_is_known_of_nothing():
    nothing = BALL.array([np.nan])
    assert BALL.encloses(nothing, [1.0, -np.inf]).all()
    assert BALL.radius(nothing) == np.inf
    assert not BALL.encloses(BALL.array([1.0]), [np.nan])
    # A denominator that may be 0; but 0 / y is 0.
    around = BALL.array([flint.arb(0, 1)])
    assert BALL.radius(BALL.divide(BALL.array([1.0]), around)) == np.inf
    assert BALL.radius(BALL.divide(BALL.array([0.0]), around)) == 0.0
    assert not BALL.is_empty(nothing)


def test_infinities_do_not_poison():
    empty, one = BALL.array([-np.inf]), BALL.array([flint.arb(1, 0.5)])
    assert BALL.is_empty(empty + one).all()
    assert BALL.radius(empty + one) == BALL.radius(BALL.exp(empty + one)) == 0.0
    assert BALL.to_float64(BALL.log_sigmoid(BALL.array([np.inf]))) == 0.0
    assert BALL.radius(BALL.log_sigmoid(BALL.array([np.inf, -np.inf]))).tolist() == [0.0, 0.0]
    # Whatever is a number has a narrow ball, however large.
    for f in (-1e300, -1e5, 1e5, 1e300, -5e-324):
        gate = BALL.array([f])
        assert BALL.radius(BALL.log_sigmoid(gate)) <= 2.0**-190 * max(abs(f), 1.0)
        assert BALL.radius(BALL.sigmoid(gate)) <= 2.0**-190


def test_float64_is_nearest_and_the_radius_is_rounded_up():
    third = BALL.divide(BALL.array([1.0]), BALL.array([3.0]))
    assert BALL.to_float64(third) == 1.0 / 3.0
    assert 0.0 < BALL.radius(third) < 2.0**-199
    assert BALL.to_float64(BALL.array(EXACT.exp(EXACT.array([1000.0])))) == np.inf
    tiny = flint.arb(0, flint.arb(2) ** -5000)
    assert BALL.radius(BALL.array([tiny, flint.arb(0, flint.arb(2) ** 5000)])).tolist() == [5e-324, np.inf]


def test_numbers_are_taken_exactly():
    fine = EXACT.divide(EXACT.array([1.0]), EXACT.array([3.0]))
    assert COARSE.radius(COARSE.array(fine)) == 0.0
    assert COARSE.encloses(COARSE.array(fine), fine)
    assert not COARSE.encloses(COARSE.array(fine), [1.0 / 3.0])
    huge = EXACT.exp(EXACT.array([1e4, -np.inf]))
    assert COARSE.encloses(COARSE.array(huge), huge).all()
    assert COARSE.array(EXACT.array([-np.inf])).x[0] == -np.inf


@pytest.mark.parametrize("bits", [53, 200, 1000])
@pytest.mark.parametrize("outer", [20, 53, 2000])
def test_precision_is_the_arithmetics_own(outer, bits):
    before = flint.ctx.prec
    try:
        flint.ctx.prec = outer
        ar = Ball(bits)
        x, y = ar.array([[3.0, 7.0]]), ar.array([[7.0], [11.0]])
        third = ar.divide(ar.array([1.0]), x[0])
        results = [third + x[0], third - x[0], third * x[0], ar.exp(x), ar.log_sigmoid(x), ar.sigmoid(x), ar.rsqrt(3)]
        quotient = ar.divide(x, y)
        results += [ar.matmul(quotient, ar.transpose(quotient)), ar.outer(third, third), ar.sum(quotient)]
        results += [ar.dot(quotient, quotient), ar.cumsum(quotient, -1), ar.weigh(third, third)]
        for number, result in enumerate(results):
            assert (np.vectorize(lambda ball: ball.rel_accuracy_bits())(result.x) >= bits - 8).all(), number
            assert (np.vectorize(lambda ball: ball.rel_accuracy_bits())(result.x) <= bits + 8).all(), number
        with pytest.raises(ValueError, match="operands could not be broadcast"):
            ar.array([1.0, 2.0]) + ar.array([1.0, 2.0, 3.0])
        recurrent_vjp(ar, draw(**SIZES), Contract(), draw_cotangents(draw(**SIZES)))
        assert flint.ctx.prec == outer
    finally:
        flint.ctx.prec = before


def test_threads_have_each_their_own_precision():
    def narrowest_and_widest(bits):
        ar = Ball(bits)
        x = ar.array(np.linspace(0.1, 3.0, 50))
        accuracies = [ball.rel_accuracy_bits() for _ in range(20) for ball in ar.exp(x).x]
        return min(accuracies) >= bits - 8, max(accuracies) <= bits + 8

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(narrowest_and_widest, [60, 1000] * 4)) == {(True, True)}
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("bits", [52, 0, -1, 200.0, "200"])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits is .*; expected an integer of at least 53"):
        Ball(bits)


def test_without_python_flint_only_balls_are_missing(monkeypatch):
    import oracles._ball

    oracles._ball._flint.cache_clear()
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match="Ball needs python-flint, which cannot be imported"):
        Ball(200)
