"""The gradients are the limits of difference quotients of the forward pass, 60 digits, every input."""

import dataclasses
import functools

import numpy as np
import pytest

from oracles import Contract, Float64, Inputs, MPMath, recurrent, recurrent_vjp
from tests.oracles.deviation import deviation
from tests.oracles.drawing import draw, draw_cotangents

FINE = MPMath(60)
STEP = 1e-20
# What is left: the square of the step and 60 digits over the step, 1e-40 each, times derivatives.
NEAR = 1e-30
# (eps, norm_val): each value of one with each of the other.
CONSTANTS = tuple((eps, norm_val) for eps in (0.0, 1e-6, 1e-2) for norm_val in (1.0, 0.5, 10.0))
# One token each: no input, a reset, and both.
TOKENS = {"ordinary": {}, "reset": {"f": 1}, "dead": {"i": 1}, "both": {"i": 1, "f": 1}}
M_0 = {"none": None, "warm": None, "empty, m_0 = 2": 2.0, "empty, m_0 = -2": -2.0}
STARTS = (
    ("ordinary", "warm", CONSTANTS),
    ("ordinary", "empty, m_0 = 2", CONSTANTS[::4]),
    ("ordinary", "empty, m_0 = -2", CONSTANTS[::4]),
    ("ordinary", "none", CONSTANTS[::4]),
    ("reset", "warm", CONSTANTS[::4]),
    ("dead", "warm", CONSTANTS[::4]),
    ("both", "warm", CONSTANTS[::4]),
    ("dead", "empty, m_0 = 2", CONSTANTS[::4]),
)
CASES = [
    (tokens, start, Contract(eps, norm_val, correct), normalizer_grad, seed)
    for tokens, start, constants in STARTS
    for seed, (eps, norm_val) in enumerate(constants)
    for correct in (True, False)
    for normalizer_grad in ("exact", "detached")
]


def tiny(tokens, start, seed):
    inputs = draw(state=start.split(",")[0], length=3 + seed % 3, dhqk=2, dhhv=1 + seed % 2, lead=(1,), seed=seed)
    inputs = dataclasses.replace(inputs, q=8 * inputs.q)  # so that |a_t| is above b_t and below it
    changes = {name: np.array(getattr(inputs, name)) for name in TOKENS[tokens]}
    for name, token in TOKENS[tokens].items():
        changes[name][:, token] = -np.inf
    if M_0[start] is not None:
        changes["m_0"] = np.full(1, M_0[start])
    return dataclasses.replace(inputs, **changes)


def neighbours(inputs):
    """The inputs 2 P times over, of which 2 j and 2 j + 1 have one number moved up and down; and which number."""
    present = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    present = {name: array for name, array in present.items() if array is not None}
    places = [
        (name, index)
        for name, array in present.items()
        for index in np.ndindex(array.shape[1:])
        if np.isfinite(array[0][index])
    ]
    arrays = {}
    for name, array in present.items():
        arrays[name] = np.repeat(FINE.array(array), 2 * len(places), axis=0)
        for number, (moved, index) in enumerate(places):
            if moved == name:
                arrays[name][2 * number, *index] += FINE.array(STEP)[()]
                arrays[name][2 * number + 1, *index] -= FINE.array(STEP)[()]
    return Inputs(**arrays), places


def difference_quotients(inputs, loss):
    """Gradients by central differences of ``loss``, 0 for what cannot be moved, an infinite gate."""
    moved, places = neighbours(inputs)
    losses = loss(moved)
    gradients = {
        f"d{field.name}": FINE.array(np.zeros(getattr(inputs, field.name).shape))
        for field in dataclasses.fields(inputs)
        if getattr(inputs, field.name) is not None
    }
    for (name, index), up, down in zip(places, losses[::2], losses[1::2], strict=True):
        gradients[f"d{name}"][0, *index] = (up - down) / (2 * FINE.array(STEP)[()])
    return gradients


def inner(x, y):
    """<x, y> for each head."""
    return np.sum((x * y).reshape(y.shape[0], -1), axis=1)


def exact_loss(contract, cotangents, inputs):
    outputs = recurrent(FINE, inputs, contract)
    return sum(
        inner(FINE.array(getattr(cotangents, name)), getattr(outputs, name))
        for name in ("h", "C_last", "n_last", "m_last")
    )


def detached_loss(contract, cotangents, frozen, inputs):
    """h_t = c C^_t^T q_t / (e^m_t d_t), C_S = e^-m_S C^_S, with d_t and m_t those of ``frozen``."""
    outputs = recurrent(FINE, frozen, contract)
    unit = 1 / FINE.rsqrt(1)
    exp = np.frompyfunc(lambda x: unit.context.exp(x), 1, 1)
    q, k, v, i, f = (FINE.array(getattr(inputs, name)) for name in "qkvif")
    C, n = 0 * unit, 0 * unit
    if inputs.C_0 is not None:
        C, n = exp(inputs.m_0)[:, None, None] * inputs.C_0, exp(inputs.m_0)[:, None] * inputs.n_0
    total = 0
    for t in range(q.shape[1]):
        keep, take = 1 / (1 + exp(-f[:, t])), exp(i[:, t])
        C = keep[:, None, None] * C + take[:, None, None] * k[:, t, :, None] * v[:, t, None, :]
        n = keep[:, None] * n + take[:, None] * k[:, t]
        if outputs.m[0, t] > -unit.context.inf:
            numerator = np.sum(q[:, t, :, None] * C, axis=1) * FINE.rsqrt(q.shape[-1])
            total = total + inner(FINE.array(cotangents.h[:, t]), numerator) * exp(-outputs.m[0, t]) / outputs.n[0, t]
    last = inner(FINE.array(cotangents.C_last), C) + inner(FINE.array(cotangents.n_last), n)
    return total + last * exp(-outputs.m[0, -1])


def gradients_against_quotients(tokens, start, contract, normalizer_grad, seed):
    inputs = tiny(tokens, start, seed)
    cotangents = draw_cotangents(inputs, seed)
    loss = functools.partial(exact_loss, contract, cotangents)
    if normalizer_grad == "detached":
        loss = functools.partial(detached_loss, contract, cotangents, inputs)
    got = recurrent_vjp(FINE, inputs, contract, cotangents, normalizer_grad)
    for name, token in TOKENS[tokens].items():
        assert getattr(got, name)[0, token] == 0
    return deviation(got, difference_quotients(inputs, loss), negligible=1e-15)


@pytest.mark.parametrize(
    ("tokens", "start", "contract", "normalizer_grad", "seed"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)
def test_gradients_are_the_limits_of_difference_quotients(tokens, start, contract, normalizer_grad, seed):
    assert gradients_against_quotients(tokens, start, contract, normalizer_grad, seed) <= NEAR


@pytest.mark.parametrize("correct", [True, False])
def test_every_branch_is_seen(correct):
    seen = set()
    for tokens, start, contract, _, seed in CASES:
        if contract.stabilize_correctly == correct:
            inputs = tiny(tokens, start, seed)
            outputs = recurrent(Float64(), inputs, contract)
            occupied = np.isfinite(outputs.m)
            b = contract.norm_val * (np.exp(-outputs.m) if correct else 1.0)
            largest_is_b = outputs.n <= (b + contract.eps) * (1 + 1e-12)
            from_before = outputs.m > inputs.i
            seen |= set(zip(largest_is_b[occupied].tolist(), from_before[occupied].tolist(), strict=True))
    assert len(seen) == 4


def test_another_gradient_is_seen():
    # The quotients tell exact from detached, so they see the gradient of the normalizer.
    inputs, contract = tiny("ordinary", "warm", 0), Contract()
    cotangents = draw_cotangents(inputs)
    wanted = difference_quotients(inputs, functools.partial(exact_loss, contract, cotangents))
    assert deviation(recurrent_vjp(FINE, inputs, contract, cotangents, "detached"), wanted, negligible=1e-15) > 0.1
