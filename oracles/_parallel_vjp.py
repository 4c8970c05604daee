"""The VJP of the parallel form: every pair (target t, source s) at once (docs/method.md, section 12).

A pair's share of the loss, with the sources s = 0 (initial state) to S and the targets t = 1 to S + 1
(last state); x~ = [x|gamma], v~ = [v|1], C~ = [C|n], D~ = [dC_S|dn_S]:

    G_{t,s} = w_{t,s} c (q_t.k_s) (x~_t.v~_s)          G_{t,0} = c w_{t,0} q_t.(C~_0 x~_t)
    G_{S+1,s} = w_{S,s} k_s.(D~ v~_s)                  G_{S+1,0} = w_{S,0} <D~, C~_0>

    di_s = sum_t G_{t,s}       dphi_t = sum_{s < t <= t'} G_{t',s}       dm_0 = sum_t G_{t,0}

and what passes through m is added at the source that m comes from. The sums for dphi are running
sums; nothing is subtracted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oracles._arithmetic import Arithmetic
from oracles._cotangents import Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs
from oracles._denominator import or_zero, row_cotangents
from oracles._parallel import pair_weights


def parallel_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
) -> Gradients:
    """The gradients as sums over pairs. Needs S x S numbers for each head.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, or another normalizer_grad.
    """
    exact = is_exact(normalizer_grad)
    length, dhqk, _ = inputs.sizes
    c = ar.rsqrt(dhqk)
    q, k, v = ar.array(inputs.q), ar.array(inputs.k), ar.array(inputs.v_and_one())
    state_0, m_0 = (ar.array(part) for part in inputs.initial_state())
    dh, d_state, dm = (ar.array(array) for array in cotangents.filled(inputs))
    weights, carried, m, inner = pair_weights(ar, inputs, inputs.initial_state()[1])

    scores = ar.matmul(q, ar.transpose(k)) * weights * c
    readout = ar.matmul(scores, v) + carried[..., None] * ar.matmul(q, state_0) * c
    x, x_of_m, mu = row_cotangents(ar, contract, readout, m, inner, dh, exact)

    to_m = ar.exp(inner[..., -1] - or_zero(ar, m[..., -1]))
    omega = weights[..., length - 1, :] * to_m[..., None]
    last_v = ar.matmul(v, ar.transpose(d_state))
    last_k = ar.matmul(k, d_state) * omega[..., None]
    pairs = weights * ar.matmul(x, ar.transpose(v)) * c
    dq = ar.matmul(pairs, k) + carried[..., None] * ar.matmul(x, ar.transpose(state_0)) * c
    dk = ar.matmul(ar.transpose(pairs), q) + omega[..., None] * last_v
    dv = (ar.matmul(ar.transpose(scores), x) + last_k)[..., :-1]

    # Rows t = 1..S+1, columns s = 0..S.
    keep_all = carried[..., -1] * to_m
    shares = ar.concatenate([
        (carried * c * ar.sum(q * ar.matmul(x, ar.transpose(state_0))))[..., None],
        ar.matmul(q, ar.transpose(k)) * pairs,
    ])  # fmt: skip
    last_row = ar.concatenate([(keep_all * ar.dot(d_state, state_0))[..., None], omega * ar.sum(k * last_v)])
    last_matrix = (keep_all[..., None, None] * state_0) + ar.matmul(ar.transpose(k * omega[..., None]), v)
    through_last = ar.term(dm - ar.dot(d_state, last_matrix))
    to_i, to_phi = _through_m(ar, inputs, m, mu, through_last if exact else ar.array(0.0) * dm)

    rows = ar.stack([*(shares[..., t, :] for t in range(length)), last_row], -2)
    across = _across(ar, rows, length)
    di = ar.sum(ar.transpose(rows))[..., 1:] + to_i
    df = (across + to_phi) * ar.sigmoid(ar.array(-inputs.f))
    gradients = Gradients(ar.output(dq), ar.output(dk), ar.output(dv), ar.output(di), df)
    if inputs.C_0 is None:
        return gradients
    # Relative to m, which does not leave out an empty initial state.
    of_m = ar.exp(_prefix_sums(ar, inputs) + (m_0[..., None] - or_zero(ar, ar.freeze(m))))
    D = ar.matmul(ar.transpose(q * of_m[..., None] * c), x_of_m) + of_m[..., -1, None, None] * d_state
    dm_0 = ar.sum(ar.transpose(rows))[..., 0] + to_phi[..., 0]
    return replace(gradients, C_0=D[..., :-1], n_0=D[..., -1], m_0=dm_0)


def _through_m(ar: Arithmetic, inputs: Inputs, m: Any, mu: Any, last: Any) -> tuple[Any, Any]:
    # (1 - p_t) M_t and p_t M_t, (..., S): M_t = mu_t + p_{t+1} M_{t+1}, and 0 where m_t = -inf.
    phi, i = ar.log_sigmoid(ar.array(inputs.f)), ar.array(inputs.i)
    m_0 = ar.array(inputs.initial_state()[1])
    total, to_i, to_phi = last, [], []
    for t in reversed(range(inputs.sizes[0])):
        before = m[..., t - 1] if t else m_0
        decision = phi[..., t] + before, i[..., t]
        here = ar.where(ar.is_empty(m[..., t]), ar.array(0.0), mu[..., t] + total)
        to_i.append(ar.below(*decision) * here)
        total = ar.at_least(*decision) * here
        to_phi.append(total)
    return ar.stack(to_i[::-1], -1), ar.stack(to_phi[::-1], -1)


def _across(ar: Arithmetic, rows: Any, length: int) -> Any:
    # sum over rows t' >= t and columns s < t, for t = 1..S: first along s, then along t', by running sums
    sums = ar.cumsum(rows, -1)
    return ar.stack([ar.sum(sums[..., t:, t]) for t in range(length)], -1)


def _prefix_sums(ar: Arithmetic, inputs: Inputs) -> Any:
    return ar.cumsum(ar.log_sigmoid(ar.array(inputs.f)), -1)
