"""Right values at the ends (docs/method.md, section 4), in every form and arithmetic that can hold them."""

import dataclasses

import numpy as np
import pytest

from oracles import Ball, Contract, Float64, MPMath, parallel, recurrent, unstabilized
from tests.oracles.drawing import draw

FORMS = [
    (recurrent, Float64()),
    (parallel, Float64()),
    (recurrent, MPMath(30)),
    (parallel, MPMath(30)),
    (unstabilized, MPMath(30)),
    (recurrent, Ball(100)),
    (parallel, Ball(100)),
    (unstabilized, Ball(100)),
]
every = pytest.mark.parametrize(
    ("form", "ar"), FORMS, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
modes = pytest.mark.parametrize("correct", [True, False])


def outputs(form, ar, inputs, correct=True):
    contract = Contract(stabilize_correctly=correct)
    return {name: ar.to_float64(value) for name, value in form(ar, inputs, contract).items()}


def changed(inputs, token, **values):
    arrays = {name: np.array(getattr(inputs, name)) for name in values}
    for name, value in values.items():
        arrays[name][:, token] = value
    return dataclasses.replace(inputs, **arrays)


@every
@modes
def test_no_input_leaves_the_state_decayed(form, ar, correct):
    inputs = changed(draw(state="warm"), 4, i=-np.inf)
    got = outputs(form, ar, inputs, correct)
    other = outputs(form, ar, changed(inputs, 4, k=77.0, v=-5.0), correct)
    for name, value in got.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    phi = -np.log1p(np.exp(-inputs.f[:, 4]))
    np.testing.assert_allclose(got["m"][:, 4], phi + got["m"][:, 3], rtol=2.0**-50, atol=2.0**-50)


@every
@modes
def test_reset_forgets_tokens_and_initial_state(form, ar, correct):
    inputs = changed(draw(state="warm"), 4, f=-np.inf)
    got = outputs(form, ar, inputs, correct)
    tail = dataclasses.replace(
        inputs, **{name: getattr(inputs, name)[:, 4:] for name in "qkvif"}, C_0=None, n_0=None, m_0=None
    )
    alone = outputs(form, ar, tail, correct)
    unit = 64 * 2.0**-53  # a few dozen roundings of sums of a handful of terms
    np.testing.assert_allclose(got["m"][:, 4], inputs.i[:, 4], rtol=unit)
    np.testing.assert_allclose(got["h"][:, 4:], alone["h"], rtol=unit * 100, atol=unit)
    np.testing.assert_allclose(got["C_last"], alone["C_last"], rtol=unit, atol=unit)


@every
@modes
def test_reset_without_input_is_the_empty_state(form, ar, correct):
    inputs = changed(draw(state="warm"), 4, f=-np.inf, i=-np.inf)
    got = outputs(form, ar, inputs, correct)
    assert (got["h"][:, 4] == 0).all()
    assert np.isneginf(got["m"][:, 4]).all()
    assert np.isfinite(got["h"]).all()


@every
@modes
def test_infinite_forget_gate_forgets_nothing(form, ar, correct):
    inputs = draw("kept")
    m = outputs(form, ar, inputs, correct)["m"]
    np.testing.assert_array_equal(m, np.maximum.accumulate(np.maximum(inputs.i, 0.0), axis=-1))


@every
@modes
def test_empty_initial_state_is_ignored_but_for_its_m(form, ar, correct):
    inputs = draw(state="empty")
    got = outputs(form, ar, dataclasses.replace(inputs, m_0=np.full(2, -np.inf)), correct)
    np.testing.assert_array_equal(got["m"][:, 0], np.maximum(inputs.i[:, 0], -np.inf))
