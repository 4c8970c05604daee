"""Inputs for the tests of the oracles: ordinary and extreme gates, three initial states."""

import numpy as np

from oracles import Contract, Cotangents, Inputs

GATES = ("ordinary", "huge", "dead", "reset", "both", "kept")
STATES = ("none", "warm", "empty")
CONTRACTS = tuple(
    Contract(eps, norm_val, correct)
    for correct in (True, False)
    for eps, norm_val in ((1e-6, 1.0), (0.0, 1.0), (1e-2, 0.5), (0.0, 0.0), (1e-6, 0.0))
)


def draw(gates="ordinary", state="none", length=9, dhqk=4, dhhv=3, lead=(2,), seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((*lead, length, size)) for size in (dhqk, dhqk, dhhv))
    i, f = rng.standard_normal((*lead, length)), 2 + rng.standard_normal((*lead, length))
    if gates == "huge":
        i, f = 1e4 * rng.uniform(-1, 1, i.shape), 1e4 * rng.uniform(-1, 1, f.shape)
    if gates in ("dead", "both"):
        i[..., ::3] = -np.inf
    if gates == "reset":
        f[..., 1::3] = -np.inf
    if gates == "both":
        f[..., 3::3] = -np.inf
    if gates == "kept":
        f[:] = np.inf
    if state == "none":
        return Inputs(q, k, v, i, f)
    if state == "empty":
        return Inputs(q, k, v, i, f, np.zeros((*lead, dhqk, dhhv)), np.zeros((*lead, dhqk)), np.full(lead, 1000.0))
    return Inputs(
        q,
        k,
        v,
        i,
        f,
        rng.standard_normal((*lead, dhqk, dhhv)),
        rng.standard_normal((*lead, dhqk)),
        3 * rng.standard_normal(lead),
    )


def draw_cotangents(inputs, seed=0):
    """N(0, 1) for h and all of the last state."""
    rng = np.random.default_rng([seed, 1])
    (length, dhqk, dhhv), lead = inputs.sizes, inputs.lead
    shapes = ((length, dhhv), (dhqk, dhhv), (dhqk,), ())
    return Cotangents(*(rng.standard_normal((*lead, *shape)) for shape in shapes))
