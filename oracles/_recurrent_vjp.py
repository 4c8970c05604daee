"""The VJP of the recurrent form: one step back a token (docs/method.md, section 12).

    D_t   = c q_t [x_t|gamma_t]^T + F_{t+1} D_{t+1}      from   D_{S+1} = [dC_S|dn_S],  F_{S+1} = 1
    M_t   = mu_t + p_{t+1} M_{t+1}                       from   M_{S+1} = dm_S - <D_{S+1}, [C_S|n_S]>,  p_{S+1} = 1
    dq_t  = c [C_t|n_t] [x_t|gamma_t]      dk_t = I_t D_t [v_t|1]      dv_t = I_t (D_t without its last column)^T k_t
    di_t  = k_t.dk_t + (1 - p_t) M_t       dphi_t = F_t <D_t, [C_{t-1}|n_{t-1}]> + p_t M_t     df_t = dphi_t sigma(-f_t)
    [dC_0|dn_0] = F_1 D_1                  dm_0 = <F_1 D_1, [C_0|n_0]> + p_1 M_1

D is the gradient of the state. M is the gradient that passes through the stabilizer m, with the
states exp(m) C held fixed; p_t is 1 where m_t comes from m_{t-1}, ties included, and 0 where it is i_t.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

from oracles._arithmetic import Arithmetic
from oracles._cotangents import Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs
from oracles._denominator import or_zero, row_cotangents
from oracles._recurrence import Recurrence, State


def recurrent_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
) -> Gradients:
    """The gradients by the recurrence over t = S..1.

    Of the forward pass only about sqrt(S) states are kept; those between are computed again.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, or another normalizer_grad.
    """
    exact = is_exact(normalizer_grad)
    tokens = Recurrence(ar, inputs)
    stride = isqrt(tokens.length - 1) + 1
    starts, state = [], tokens.start()
    for t in range(tokens.length):
        if t % stride == 0:
            starts.append(state)
        state = tokens.advance(state, t)

    step = _StepBack(tokens, contract, cotangents, state, exact)
    for number in reversed(range(len(starts))):
        first = number * stride
        states = [starts[number]]
        for t in range(first, min(first + stride, tokens.length)):
            states.append(tokens.advance(states[-1], t))
        for t in reversed(range(first, first + len(states) - 1)):
            step(t, states[t - first], states[t - first + 1])
    return step.gradients(starts[0])


class _StepBack:
    """The gradients of the state and of m, carried from token to token backwards, and the rows collected.

    D_t is held relative to m'_t like the state itself. The gradient of an empty initial state is
    relative to m_0, which m' leaves out: only there a second D is carried, relative to m.
    """

    def __init__(
        self, tokens: Recurrence, contract: Contract, cotangents: Cotangents, last: State, exact: bool
    ) -> None:
        ar = self.ar = tokens.ar
        self.tokens, self.contract, self.exact = tokens, contract, exact
        dh, d_state, dm = (ar.array(array) for array in cotangents.filled(tokens.inputs))
        self.dh = dh
        # The last state that a kernel returns is relative to m with its rounding, and so is what comes back through it.
        self.D_of_m = d_state * ar.exp(last.m - or_zero(ar, ar.freeze(last.m)))[..., None, None]
        to_m = ar.exp(last.inner - or_zero(ar, last.m))[..., None, None]
        self.D = d_state * to_m
        through_m = ar.term(dm - ar.dot(d_state, ar.weigh(to_m, last.matrix)))
        self.M = through_m if exact else ar.array(0.0) * dm
        self.wants_initial = tokens.inputs.C_0 is not None
        self.is_apart = self.wants_initial and bool(tokens.inputs.is_empty().any())
        self.rows: list[tuple[Any, ...]] = []

    def __call__(self, t: int, before: State, after: State) -> None:
        """One token back: D and M arrive as they leave token t, and go on as they enter it."""
        ar, tokens = self.ar, self.tokens
        readout = tokens.readout(after, t)
        dh = self.dh[..., t, :]
        x, x_of_m, mu = row_cotangents(ar, self.contract, readout, after.m, after.inner, dh, self.exact)
        q, k, v = tokens.q[..., t, :], tokens.k[..., t, :], tokens.v[..., t, :]

        D = ar.outer(q * tokens.c, x) + self.D
        # The empty state has no token that m could come from.
        M = ar.where(ar.is_empty(after.m), ar.array(0.0), mu + self.M)
        decision = tokens.phi[..., t] + before.m, tokens.i[..., t]
        take_in = tokens.take_in(after.inner, t)[..., None]
        forget = tokens.forget(before.inner, after.inner, t)

        dq = ar.matmul(after.matrix, x[..., None])[..., 0] * tokens.c
        dk = ar.weigh(take_in, ar.matmul(D, v[..., None])[..., 0])
        dv = ar.weigh(take_in, ar.matmul(k[..., None, :], D)[..., 0, :-1])
        di = ar.sum(k * dk) + ar.below(*decision) * M
        self.M = ar.at_least(*decision) * M
        dphi = ar.weigh(forget, ar.dot(D, before.matrix)) + self.M
        df = dphi * ar.sigmoid(ar.array(-tokens.inputs.f[..., t]))
        self.rows.append((*(ar.output(gradient) for gradient in (dq, dk, dv, di)), df))

        self.D = ar.weigh(forget[..., None, None], D)
        if self.is_apart:
            D_of_m = ar.outer(q * tokens.c, x_of_m) + self.D_of_m
            forget_of_m = tokens.forget(ar.freeze(before.m), ar.freeze(after.m), t)
            self.D_of_m = ar.weigh(forget_of_m[..., None, None], D_of_m)

    def gradients(self, start: State) -> Gradients:
        """All rows in the order of the tokens, and those of the initial state if there is one."""
        ar = self.ar
        dq, dk, dv, di, df = zip(*reversed(self.rows), strict=True)
        rows = Gradients(ar.stack(dq, -2), ar.stack(dk, -2), ar.stack(dv, -2), ar.stack(di, -1), ar.stack(df, -1))
        if not self.wants_initial:
            return rows
        empty = self.tokens.inputs.is_empty()
        D = ar.where(empty[..., None, None], self.D_of_m, self.D)
        # <D, 0> is 0 also where D overflows; there self.D is 0.
        through_state = ar.dot(self.D, start.matrix)
        return replace(rows, C_0=D[..., :-1], n_0=D[..., -1], m_0=through_state + self.M)
