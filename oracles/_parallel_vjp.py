"""The VJP of the parallel form: every pair (target t, source s) at once (docs/method.md, section 12).

A pair's share of the loss, with the sources s = 0 (initial state) to S and the targets t = 1 to S + 1
(last state); x~ = [x|gamma], v~ = [v|1], C~ = [C|n], D~ = [dC_S|dn_S]:

    G_{t,s} = w_{t,s} c (q_t.k_s) (x~_t.v~_s)          G_{t,0} = c w_{t,0} q_t.(C~_0 x~_t)
    G_{S+1,s} = w_{S,s} k_s.(D~ v~_s)                  G_{S+1,0} = w_{S,0} <D~, C~_0>

    di_s = sum_t G_{t,s}       dphi_t = sum_{s < t <= t'} G_{t',s}       dm_0 = sum_t G_{t,0}

and what passes through m is added at the source that m comes from. The sums for dphi are running
sums; nothing is subtracted. Written for a segment: C~_0 is the state that it starts from, D~ the gradient
of the state after it.
"""

from __future__ import annotations

from typing import Any

from oracles._arithmetic import Arithmetic
from oracles._cotangents import Adjoint, Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs
from oracles._denominator import or_zero, row_cotangents
from oracles._parallel import Segment
from oracles._recurrence import State, Tokens


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
    dh, _, _ = cotangents.filled(inputs)
    start = State.initial(ar, inputs)
    segment = Segment(ar, Tokens.of(ar, inputs, 0, inputs.sizes[0]), start)
    after = Adjoint.of_last(ar, inputs, cotangents, segment.last(), exact)
    back = SegmentBack(segment, contract, ar.array(dh), after, exact)
    return back.before().with_initial(ar, inputs, start, Gradients(*back.rows()))


class SegmentBack:
    """The way back over a segment, from the cotangents of its rows and of the state after it."""

    def __init__(self, segment: Segment, contract: Contract, dh: Any, after: Adjoint, exact: bool) -> None:
        ar = self.ar = segment.ar
        self.segment, self.after = segment, after
        self.x, self.x_of_m, mu = row_cotangents(ar, contract, segment.readout, segment.m, segment.inner, dh, exact)
        self.to_i, self.to_phi = self._through_m(mu)

    def _through_m(self, mu: Any) -> tuple[Any, Any]:
        # (1 - p_t) M_t and p_t M_t, (..., L): M_t = mu_t + p_{t+1} M_{t+1}, and 0 where m_t = -inf.
        ar, segment, tokens = self.ar, self.segment, self.segment.tokens
        total, to_i, to_phi = self.after.M, [], []
        for t in reversed(range(tokens.i.shape[-1])):
            before = segment.m[..., t - 1] if t else segment.start.m
            decision = tokens.phi[..., t] + before, tokens.i[..., t]
            here = ar.where(ar.is_empty(segment.m[..., t]), ar.array(0.0), mu[..., t] + total)
            to_i.append(ar.below(*decision) * here)
            total = ar.at_least(*decision) * here
            to_phi.append(total)
        return ar.stack(to_i[::-1], -1), ar.stack(to_phi[::-1], -1)

    def before(self) -> Adjoint:
        """What comes back to the state that the segment starts from."""
        ar, segment, q = self.ar, self.segment, self.segment.tokens.q
        carried, c, M = segment.carried, segment.c, self.to_phi[..., 0]
        kept = ar.weigh(carried[..., -1, None, None], self.after.D)
        D = ar.matmul(ar.transpose(q * carried[..., None] * c), self.x) + kept
        if self.after.D_of_m is None:
            return Adjoint(D, M, None)
        # Relative to m, which does not leave out an empty initial state.
        of_m = ar.exp(segment.prefix + (ar.freeze(segment.start.m)[..., None] - or_zero(ar, ar.freeze(segment.m))))
        kept = ar.weigh(of_m[..., -1, None, None], self.after.D_of_m)
        return Adjoint(D, M, ar.matmul(ar.transpose(q * of_m[..., None] * c), self.x_of_m) + kept)

    def rows(self) -> tuple[Any, Any, Any, Any, Any]:
        """dq_t, dk_t, dv_t, di_t, df_t."""
        ar, segment, tokens, after = self.ar, self.segment, self.segment.tokens, self.after
        c, state, omega = segment.c, segment.start.matrix, segment.last_weights
        scores, pairs = segment.scores * c, segment.weights * ar.matmul(self.x, ar.transpose(tokens.v)) * c
        last_v = ar.matmul(tokens.v, ar.transpose(after.D))
        last_k = ar.weigh(omega[..., None], ar.matmul(tokens.k, after.D))
        to_state = ar.matmul(self.x, ar.transpose(state))

        dq = ar.matmul(pairs, tokens.k) + ar.weigh(segment.carried[..., None], to_state) * c
        dk = ar.matmul(ar.transpose(pairs), tokens.q) + ar.weigh(omega[..., None], last_v)
        dv = (ar.matmul(ar.transpose(scores), self.x) + last_k)[..., :-1]
        from_start = ar.weigh(segment.carried * c, ar.sum(tokens.q * to_state))
        across = ar.concatenate([from_start[..., None], ar.matmul(tokens.q, ar.transpose(tokens.k)) * pairs])
        through = ar.weigh(segment.carried[..., -1], ar.dot(after.D, state))
        last = ar.concatenate([through[..., None], ar.weigh(omega, ar.sum(tokens.k * last_v))])
        di, dphi = self._gates(across, last)
        df = dphi * ar.sigmoid(tokens.minus_f)
        return ar.output(dq), ar.output(dk), ar.output(dv), ar.output(di), df

    def _gates(self, shares: Any, last: Any) -> tuple[Any, Any]:
        # di and dphi from G: rows t = 1..L+1, columns s = 0..L. dphi_t is over rows t' >= t and columns s < t,
        # first along s, then along t'.
        ar, length = self.ar, last.shape[-1] - 1
        rows = ar.stack([*(shares[..., t, :] for t in range(length)), last], -2)
        sums = ar.cumsum(rows, -1)
        dphi = ar.stack([ar.sum(sums[..., t:, t]) for t in range(length)], -1) + self.to_phi
        return ar.sum(ar.transpose(rows))[..., 1:] + self.to_i, dphi
