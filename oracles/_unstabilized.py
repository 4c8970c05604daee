"""The definition without a stabilizer in the state: the hat variables of docs/method.md.

    C^_t = e^phi_t C^_{t-1} + e^i_t k_t v_t^T        n^_t likewise        C^_0 = e^m_0 C_0
    h_t  = c C^_t^T q_t / (max(|c q_t.n^_t|, b^_t) + eps e^m_t)     b^_t = nu  or  nu e^m_t

Its numbers span e^(+-10^4) and more, so it needs an arithmetic without overflow, such as MPMath.
"""

from __future__ import annotations

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs
from oracles._denominator import or_zero


def unstabilized(ar: Arithmetic, inputs: Inputs, contract: Contract) -> Outputs:
    """h_t and the states by the linear recurrence; the state is divided by e^m only where it is returned."""
    length, dhqk, _ = inputs.sizes
    c = ar.rsqrt(dhqk)
    q, k, v = ar.array(inputs.q), ar.array(inputs.k), ar.array(inputs.v_and_one())
    i, phi = ar.array(inputs.i), ar.log_sigmoid(ar.array(inputs.f))
    state_0, m_0 = inputs.initial_state()
    m = ar.array(m_0)
    state = ar.exp(m)[..., None, None] * ar.array(state_0)

    rows = []
    for t in range(length):
        m = ar.maximum(phi[..., t] + m, i[..., t])
        update = ar.outer(ar.exp(i[..., t])[..., None] * k[..., t, :], v[..., t, :])
        state = ar.exp(phi[..., t])[..., None, None] * state + update
        readout = ar.matmul(q[..., t, None, :], state)[..., 0, :] * c
        e_m = ar.exp(m)
        b = ar.array(1.0) if contract.stabilize_correctly else e_m
        d = ar.maximum(ar.absolute(readout[..., -1]), b * ar.array(contract.norm_val)) + e_m * ar.array(contract.eps)
        rows.append((ar.divide(readout[..., :-1], d[..., None]), d * ar.exp(ar.array(0.0) - or_zero(ar, m)), m))

    h, d_rows, m_rows = zip(*rows, strict=True)
    last = state * ar.exp(ar.array(0.0) - or_zero(ar, m))[..., None, None]
    return Outputs(ar.stack(h, -2), ar.stack(d_rows, -1), ar.stack(m_rows, -1), last[..., :-1], last[..., -1], m)
