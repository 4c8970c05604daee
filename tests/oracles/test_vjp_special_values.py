"""What each cotangent reaches, and the right gradients at the ends."""

import dataclasses
import itertools

import numpy as np
import pytest

from oracles import Contract, Cotangents, Float64, MPMath, parallel_vjp, recurrent_vjp
from tests.oracles.deviation import greatest
from tests.oracles.drawing import STATES, draw, draw_cotangents

MP = MPMath(50)
FORMS = (recurrent_vjp, parallel_vjp)
# The empty state, d_t = 0, makes 0 * inf, which is replaced by 0.
THROWN_AWAY = "ignore:invalid value encountered in multiply:RuntimeWarning"

modes = pytest.mark.parametrize("correct", [True, False])
normalizer_grads = pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@each_form
@normalizer_grads
def test_the_last_state_alone_has_gradients(form, normalizer_grad):
    inputs = draw(state="warm")
    cotangents = dataclasses.replace(draw_cotangents(inputs), h=None)
    got = form(Float64(), inputs, Contract(), cotangents, normalizer_grad)
    assert not got.q.any()
    for name, value in got.items():
        assert name == "dq" or np.max(np.abs(value)) > 1e-3, name


@each_form
@normalizer_grads
def test_an_absent_cotangent_is_zero(form, normalizer_grad):
    inputs = draw(state="warm")
    zeros = draw_cotangents(inputs)
    for field in dataclasses.fields(zeros):
        zeros = dataclasses.replace(zeros, **{field.name: np.zeros(getattr(zeros, field.name).shape)})
    for name, value in form(Float64(), inputs, Contract(), Cotangents(), normalizer_grad).items():
        assert not value.any(), name
        wanted = getattr(form(Float64(), inputs, Contract(), zeros, normalizer_grad), name[1:])
        np.testing.assert_array_equal(value, wanted)


@each_form
@pytest.mark.parametrize(("normalizer_grad", "reached"), [("exact", {"di", "df", "dm_0"}), ("detached", set())])
def test_the_last_m_reaches_gates_only_and_only_if_exact(form, normalizer_grad, reached):
    inputs = draw(state="warm", seed=1)
    cotangents = dataclasses.replace(draw_cotangents(inputs), h=None, C_last=None, n_last=None)
    gradients = form(MP, inputs, Contract(), cotangents, normalizer_grad).items()
    assert {name for name, value in gradients if greatest(value) > 0} <= reached
    assert bool(reached) == any(greatest(value) > 0 for _, value in gradients)


@pytest.mark.filterwarnings(THROWN_AWAY)
@modes
@pytest.mark.parametrize("norm_val", [1.0, 0.0])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("token", [0, 4, 8])
@pytest.mark.parametrize("infinite", ["i", "f", "if"])
def test_gradients_are_finite(infinite, token, state, norm_val, correct):
    inputs = draw(state=state)
    changes = {name: np.array(getattr(inputs, name)) for name in infinite}
    for array in changes.values():
        array[:, token] = -np.inf
    inputs = dataclasses.replace(inputs, **changes)
    contract = Contract(1e-6, norm_val, correct)
    for form, normalizer_grad in itertools.product(FORMS, ("exact", "detached")):
        got = dict(form(Float64(), inputs, contract, draw_cotangents(inputs), normalizer_grad).items())
        for name, value in got.items():
            assert np.isfinite(value).all(), (form.__name__, normalizer_grad, name)
        for name in infinite:
            assert (got[f"d{name}"][:, token] == 0).all(), (form.__name__, normalizer_grad, name)


@each_form
@normalizer_grads
@modes
@pytest.mark.parametrize("token", [0, 4, 8])
def test_nothing_passes_back_over_a_reset(token, correct, normalizer_grad, form):
    for state in STATES:
        inputs = draw(state=state)
        f = np.array(inputs.f)
        f[:, token] = -np.inf
        inputs = dataclasses.replace(inputs, f=f)
        cotangents = draw_cotangents(inputs)
        cotangents.h[:, :token] = 0.0
        got = dict(form(Float64(), inputs, Contract(stabilize_correctly=correct), cotangents, normalizer_grad).items())
        for name in ("dq", "dk", "dv", "di", "df"):
            assert not got[name][:, :token].any(), (state, name)
        assert not got["df"][:, token].any(), state
        for name in ("dC_0", "dn_0", "dm_0"):
            assert name not in got or not got[name].any(), (state, name)
        assert got["dk"][:, token].any(), state
