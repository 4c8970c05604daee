"""Where the gradient with a constant normalizer is the gradient, and where it is not."""

import dataclasses
import functools

import numpy as np
import pytest

from oracles import Contract, Cotangents, Float64, MPMath, parallel_vjp, recurrent, recurrent_vjp
from tests.oracles.deviation import deviation
from tests.oracles.drawing import CONTRACTS, STATES, draw, draw_cotangents

DIGITS = 50
NEAR = 10.0 ** (10 - DIGITS)
ARITHMETICS = {"MPMath": (MPMath(DIGITS), NEAR), "Float64": (Float64(), 1e-12)}
CASES = [("MPMath", state, contract) for state in STATES for contract in CONTRACTS]
states = pytest.mark.parametrize("state", STATES)
contracts = pytest.mark.parametrize("contract", CONTRACTS, ids=str)


def exact_and_detached(ar, inputs, contract, cotangents):
    return tuple(recurrent_vjp(ar, inputs, contract, cotangents, name) for name in ("exact", "detached"))


def below_layer_norm(ar, g, h):
    """dL/dh of L = sum g LN(h), LN(h) = (h - mean h) / std h for every row of each head, without an epsilon."""
    size = g.shape[-1]
    g, one = ar.array(g), ar.array(1.0)
    centered = h - (np.sum(h, -1) / size)[..., None]
    inverse_std = one / (np.sum(centered * centered, -1) / size) ** (one / 2)
    normed = centered * inverse_std[..., None]
    along = normed * (np.sum(g * normed, -1) / size)[..., None]
    return (g - (np.sum(g, -1) / size)[..., None] - along) * inverse_std[..., None]


def inner(x, y):
    """<x, y> for each head."""
    return np.sum((x * y).reshape(y.shape[0], -1), axis=1)


def below_a_layer_norm(arithmetic, state, contract):
    ar, near = ARITHMETICS[arithmetic]
    inputs = draw(state=state, length=7, dhqk=2, dhhv=4)
    g, h = draw_cotangents(inputs).h, recurrent(ar, inputs, contract).h
    cotangents = Cotangents(h=below_layer_norm(ar, g, h))
    return deviation(*exact_and_detached(ar, inputs, contract, cotangents), negligible=near)


every_case = pytest.mark.parametrize(
    ("arithmetic", "state", "contract"),
    # With m_0 = 1000 of an empty state h is below float64.
    CASES + [("Float64", state, contract) for state in ("none", "warm") for contract in CONTRACTS],
    ids=str,
)


@every_case
def test_below_a_layer_norm_detached_is_exact(arithmetic, state, contract):
    assert below_a_layer_norm(arithmetic, state, contract) <= ARITHMETICS[arithmetic][1]


@every_case
def test_without_it_detached_is_another_gradient(arithmetic, state, contract):
    ar, near = ARITHMETICS[arithmetic]
    inputs = draw(state=state, length=7, dhqk=2, dhhv=4)
    cotangents = Cotangents(h=draw_cotangents(inputs).h)
    assert deviation(*exact_and_detached(ar, inputs, contract, cotangents), negligible=near) > 0.1


@contracts
@states
def test_detached_is_exact_where_nothing_passes_through_the_denominator(state, contract):
    # dh_t.h_t = 0, and of the last state dm_S = <dC_S, C_S> + dn_S.n_S.
    ar, near = ARITHMETICS["MPMath"]
    inputs = draw(state=state, length=7, dhqk=2, dhhv=3, lead=(1,))
    drawn, outputs = draw_cotangents(inputs), recurrent(ar, inputs, contract)
    dh, h = ar.array(drawn.h), outputs.h
    dh = dh - (np.sum(dh * h, -1) / np.sum(h * h, -1))[..., None] * h
    dm = inner(ar.array(drawn.C_last), outputs.C_last) + inner(ar.array(drawn.n_last), outputs.n_last)
    cotangents = dataclasses.replace(drawn, h=dh, m_last=dm)
    assert deviation(*exact_and_detached(ar, inputs, contract, cotangents), negligible=near) <= near
    assert deviation(*exact_and_detached(ar, inputs, contract, drawn), negligible=near) > 0.1


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
def test_detached_is_another_gradient(form, correct):
    inputs = draw(state="warm", length=24, dhqk=8, dhhv=8)
    gradients = functools.partial(
        form, Float64(), inputs, Contract(stabilize_correctly=correct), draw_cotangents(inputs)
    )
    exact, detached = (dict(gradients(name).items()) for name in ("exact", "detached"))
    for name, value in exact.items():
        apart = np.linalg.norm(value - detached[name]) / np.linalg.norm(value)
        # dv has no gradient through d_t or m_t in it.
        assert apart == 0.0 if name in ("dv", "dC_0") else apart > 0.1, (name, apart)
