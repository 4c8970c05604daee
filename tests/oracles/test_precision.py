"""The rounding units by name, and what RunningError makes of them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import Float64, MPMath, Precision, RunningError, recurrent, recurrent_vjp
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents

NAMES = ("float32", "tf32", "bfloat16", "float16", "tf32x3", "float64")
FLOAT32 = Precision.of("float32")


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="precision is 'float8'; expected one of " + ", ".join(NAMES)):
        Precision.of("float8")


@pytest.mark.parametrize(
    ("name", "operand", "inputs_round", "storage", "storage_tiny"),
    [
        ("float32", 0.0, False, 2.0**-24, 2.0**-150),
        ("tf32", 2.0**-10, True, 2.0**-24, 2.0**-150),
        ("tf32x3", 2.0**-22, True, 2.0**-24, 2.0**-150),
        ("bfloat16", 2.0**-8, False, 2.0**-8, 2.0**-134),
        ("float16", 2.0**-10, False, 2.0**-11, 2.0**-25),
    ],
)
def test_gates_sums_and_states_are_float32_whatever_the_dots_and_the_storage(
    name, operand, inputs_round, storage, storage_tiny
):
    precision = Precision.of(name)
    assert precision.name == name
    assert (precision.gates, precision.accumulation) == (2.0**-24, 2.0**-24)
    assert (precision.tiny, precision.huge) == (2.0**-126, 2.0**126)
    assert (precision.operand, precision.inputs_round) == (operand, inputs_round)
    assert (precision.storage, precision.storage_tiny) == (storage, storage_tiny)


def cut_to_tf32(x):
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_to_tf32(x):
    return cut_to_tf32((x.view(np.uint32) + np.uint32(0x1000)).view(np.float32))


def test_units_of_tf32_are_those_of_its_products():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 100_000)).astype(np.float32)
    exact = x.astype(np.float64) * y

    def error(*products):
        total = sum(np.multiply(*(part.astype(np.float64) for part in pair)) for pair in products)
        return np.max(np.abs(total - exact) / np.abs(exact))

    assert 0.9 < error((cut_to_tf32(x), cut_to_tf32(y))) / (2 * Precision.of("tf32").operand) <= 1
    x1, y1 = rounded_to_tf32(x), rounded_to_tf32(y)
    x2, y2 = cut_to_tf32(x - x1), cut_to_tf32(y - y1)
    assert 0.8 < error((x1, y1), (x1, y2), (x2, y1)) / (2 * Precision.of("tf32x3").operand) <= 1


def with_units(precision=FLOAT32, **units):
    return RunningError(dataclasses.replace(precision, tiny=0.0, **units), 0)


@pytest.mark.parametrize(("name", "of_inputs"), [("tf32", 2), ("tf32x3", 2), ("bfloat16", 0), ("float16", 0)])
def test_an_input_is_charged_where_it_loses_digits_in_a_dot(name, of_inputs):
    # Gates of 2^-60 mark a number as computed and charge it next to nothing.
    ar = with_units(Precision.of(name), gates=2.0**-60, accumulation=0.0)
    given, computed = ar.array([1.0]), ar.exp(ar.array([0.0]))
    for x, y, count in ((given, given, of_inputs), (computed, given, max(1, of_inputs)), (computed, computed, 2)):
        assert round(float(ar.outer(x, y).e[0, 0]) / ar.precision.operand, 6) == count


def test_each_charge_is_of_its_own_unit():
    gates, sums = with_units(gates=2.0**-10, accumulation=0.0), with_units(gates=0.0, accumulation=2.0**-10)
    for ar, of_gates in ((gates, True), (sums, False)):
        phi, x = ar.log_sigmoid(ar.array([1.0])), ar.array([3.0])
        for number, is_gate in (
            (ar.exp(x), True),
            (ar.sigmoid(x), True),
            (phi, True),
            (ar.freeze(phi) + x, True),
            (ar.freeze(ar.maximum(x, phi)) - x, True),
            (ar.sum(ar.freeze(ar.stack([phi, phi], -1))), True),
            (ar.where(np.array([False]), x, ar.freeze(phi))[0] + x[0], True),
            (x + x, False),
            (x * x, False),
            (ar.freeze(phi) * x, False),
            (ar.freeze(phi) * x + x, False),
            (ar.divide(x, x), False),
            (ar.sum(x), False),
            (ar.rsqrt(3), False),
        ):
            assert bool(np.all(number.e > 0.0)) == (is_gate == of_gates)


cases = st.tuples(
    st.sampled_from(GATES), st.sampled_from(STATES), st.sampled_from(CONTRACTS), st.integers(1, 5), st.integers(0, 99)
)


@settings(derandomize=True, max_examples=20)
@given(case=cases)
def test_float64_is_within_its_own_bound(case):
    gates, state, contract, length, seed = case
    inputs = draw(gates, state, length=length, lead=(1,), seed=seed)
    cotangents = draw_cotangents(inputs, seed)
    exact, plain, bounded = MPMath(50), Float64(), RunningError(Precision.of("float64"), 1)
    # Only the gradient of an empty state overflows.
    with np.errstate(invalid="ignore", over="ignore"):
        for form, more in ((recurrent, ()), (recurrent_vjp, (cotangents,))):
            wanted, got, numbers, coarse = (
                form(ar, inputs, contract, *more).items() for ar in (exact, plain, bounded, RunningError(FLOAT32, 1))
            )
            for (name, r), (_, x), (_, number), (_, of_float32) in zip(wanted, got, numbers, coarse, strict=True):
                bound = np.broadcast_to(number.e, x.shape)
                assert np.all(off(exact, r, x) <= bound), name
                assert np.all((bound <= 2.0**-28 * of_float32.e) | np.isinf(bound)), name


def off(exact, r, x):
    """|x - r| in 50 digits; inf where x is not finite and not r."""
    finite = np.isfinite(x)
    error = exact.to_float64(exact.absolute(exact.array(np.where(finite, x, 0.0)) - r))
    return np.where(finite, error, np.where(x == exact.to_float64(r), 0.0, np.inf))
