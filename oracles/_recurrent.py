"""The recurrent form: one step a token (docs/method.md, section 1)."""

from __future__ import annotations

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs
from oracles._denominator import denominator, denominator_of_m, or_zero


def recurrent(ar: Arithmetic, inputs: Inputs, contract: Contract) -> Outputs:
    """h_t and the states by the recurrence over t = 1..S.

    The state is [C | n], a matrix with one column more than v, since n is C for v = 1. It is held
    relative to m', which follows the recurrence of m but starts at -inf where the initial state is
    empty: m_0 alone must not underflow the tokens.
    """
    length, dhqk, _ = inputs.sizes
    c = ar.rsqrt(dhqk)
    q, k, v = ar.array(inputs.q), ar.array(inputs.k), ar.array(inputs.v_and_one())
    i, phi = ar.array(inputs.i), ar.log_sigmoid(ar.array(inputs.f))
    state_0, m_0 = inputs.initial_state()
    state, m = ar.array(state_0), ar.array(m_0)
    inner = ar.freeze(ar.array(np.where(inputs.is_empty(), -np.inf, m_0)))

    rows = []
    for t in range(length):
        m = ar.maximum(phi[..., t] + m, i[..., t])
        entering, inner = inner, ar.freeze(ar.maximum(phi[..., t] + inner, i[..., t]))
        forget = ar.exp(phi[..., t] + (entering - or_zero(ar, inner)))
        take_in = ar.exp(i[..., t] - or_zero(ar, inner))
        update = ar.outer(take_in[..., None] * k[..., t, :], v[..., t, :])
        state = forget[..., None, None] * state + update

        readout = ar.matmul(q[..., t, None, :], state)[..., 0, :] * c
        d = denominator(ar, contract, readout[..., -1], m, inner)
        h = ar.output(ar.divide(readout[..., :-1], d[..., None]))
        rows.append((h, denominator_of_m(ar, contract, readout[..., -1], m, inner), m))

    h, d, m_rows = zip(*rows, strict=True)
    last = state * ar.exp(inner - or_zero(ar, ar.freeze(m)))[..., None, None]
    return Outputs(ar.stack(h, -2), ar.stack(d, -1), ar.stack(m_rows, -1), last[..., :-1], last[..., -1], m)
