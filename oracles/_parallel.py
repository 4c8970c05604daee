"""The parallel form: every pair (target t, source s) at once (docs/method.md, section 2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs
from oracles._denominator import denominator, denominator_of_m, or_zero


def parallel(ar: Arithmetic, inputs: Inputs, contract: Contract) -> Outputs:
    """h_t and the last state as weighted sums over all sources s <= t and the initial state (s = 0).

        l_{t,s} = sum_{s < r <= t} phi_r + i_s       l_{t,0} = sum_{1 <= r <= t} phi_r + m_0
        m_t     = max_s l_{t,s}                      w_{t,s} = exp(l_{t,s} - m'_t)
        [N|a]_t = c w_{t,0} [C_0|n_0]^T q_t + sum_s w_{t,s} c (q_t.k_s) [v_s|1]

    The max of m' leaves out an empty initial state. Needs S x S numbers for each head.
    """
    length, dhqk, _ = inputs.sizes
    c = ar.rsqrt(dhqk)
    q, k, v = ar.array(inputs.q), ar.array(inputs.k), ar.array(inputs.v_and_one())
    state_0, m_0 = inputs.initial_state()
    weights, carried, m, inner = pair_weights(ar, inputs, m_0)

    scores = ar.matmul(q, ar.transpose(k)) * weights
    readout = (ar.matmul(scores, v) + carried[..., None] * ar.matmul(q, ar.array(state_0))) * c
    d = denominator(ar, contract, readout[..., -1], m, inner)
    h = ar.output(ar.divide(readout[..., :-1], d[..., None]))

    to_m = ar.exp(inner[..., -1] - or_zero(ar, ar.freeze(m[..., -1])))[..., None, None]
    taken_in = ar.matmul(ar.transpose(k * weights[..., length - 1, :, None]), v)
    last = (carried[..., -1, None, None] * ar.array(state_0) + taken_in) * to_m
    d_of_m = denominator_of_m(ar, contract, readout[..., -1], m, inner)
    return Outputs(h, d_of_m, m, last[..., :-1], last[..., -1], m[..., -1])


def pair_weights(ar: Arithmetic, inputs: Inputs, m_0: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """w_{t,s} (0 above the diagonal), w_{t,0}, m_t and m'_t."""
    length = inputs.sizes[0]
    i, phi = ar.array(inputs.i), ar.log_sigmoid(ar.array(inputs.f))
    source, target = np.arange(length)[None, :], np.arange(length)[:, None]
    below = ar.array(np.where(source <= target, 0.0, -np.inf))

    # Row t of sum_{s < r <= t} phi_r is row t-1 plus phi_t for s < t: running sums, no differences.
    row, total = ar.array(np.zeros((*inputs.lead, length))), ar.array(np.zeros(inputs.lead))
    sums, prefix = [], []
    for t in range(length):
        row = ar.where(source[0] < t, row + phi[..., t, None], ar.array(0.0))
        total = total + phi[..., t]
        sums.append(row)
        prefix.append(total)
    logs = ar.stack(sums, -2) + i[..., None, :] + below
    from_initial = ar.stack(prefix, -1) + ar.array(m_0)[..., None]
    occupied = ar.array(np.where(inputs.is_empty(), -np.inf, 0.0))[..., None]

    best = ar.max(logs, -1)
    m = ar.maximum(best, from_initial)
    inner = ar.freeze(ar.maximum(best, from_initial + occupied))
    subtrahend = or_zero(ar, inner)
    return ar.exp(logs - subtrahend[..., None]), ar.exp(from_initial + occupied - subtrahend), m, inner
