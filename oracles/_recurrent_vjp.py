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

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._cotangents import Adjoint, Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs, chosen_tokens
from oracles._denominator import row_cotangents
from oracles._recurrence import Recurrence, State, Trail


def recurrent_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Gradients:
    """The gradients by the recurrence over t = S..1.

    Of the forward pass only about sqrt(S) states are kept; those between are computed again.

    Args:
        rows: increasing token indices, from 0; only these rows of dq, dk, dv, di and df are made and
            returned. None: all.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, another normalizer_grad, or rows that are no
            such indices.
    """
    exact = is_exact(normalizer_grad)
    length = inputs.sizes[0]
    chosen = set(chosen_tokens(rows, length).tolist())
    dh, _, _ = cotangents.filled(inputs)
    tokens, start = Recurrence(ar, inputs), State.initial(ar, inputs)
    trail = Trail(start, length, tokens.advance, isqrt(length - 1) + 1)

    adjoint, made = Adjoint.of_last(ar, inputs, cotangents, trail.last, exact), []
    for t, before, after in trail.back():
        step = _StepBack(tokens, contract, t, before, after, ar.array(dh[..., t, :]), adjoint, exact)
        if t in chosen:
            made.append(step.row())
        adjoint = step.leaving()

    dq, dk, dv, di, df = zip(*reversed(made), strict=True)
    gradients = Gradients(ar.stack(dq, -2), ar.stack(dk, -2), ar.stack(dv, -2), ar.stack(di, -1), ar.stack(df, -1))
    return adjoint.with_initial(ar, inputs, start, gradients)


class _StepBack:
    """One token back: D_t, relative to m'_t like the state itself, and M_t; from them its row and what goes on."""

    def __init__(
        self,
        tokens: Recurrence,
        contract: Contract,
        t: int,
        before: State,
        after: State,
        dh: Any,
        arriving: Adjoint,
        exact: bool,
    ) -> None:
        ar = self.ar = tokens.ar
        self.tokens, self.before, self.after, self.arriving = tokens, before, after, arriving
        token = self.token = tokens.token(t)
        readout = tokens.readout(after, token)
        self.x, self.x_of_m, mu = row_cotangents(ar, contract, readout, after.m, after.inner, dh, exact)
        self.D = ar.outer(token.q * tokens.c, self.x) + arriving.D
        # The empty state has no token that m could come from.
        self.M = ar.where(ar.is_empty(after.m), ar.array(0.0), mu + arriving.M)
        self.decision = token.phi + before.m, token.i
        self.forget = tokens.forget(before.inner, after.inner, token)
        self.through_m = ar.at_least(*self.decision) * self.M

    def row(self) -> tuple[Any, ...]:
        """dq_t, dk_t, dv_t, di_t, df_t."""
        ar, token, D = self.ar, self.token, self.D
        take_in = self.tokens.take_in(self.after.inner, token)[..., None]
        dq = ar.matmul(self.after.matrix, self.x[..., None])[..., 0] * self.tokens.c
        dk = ar.weigh(take_in, ar.matmul(D, token.v[..., None])[..., 0])
        dv = ar.weigh(take_in, ar.matmul(token.k[..., None, :], D)[..., 0, :-1])
        di = ar.sum(token.k * dk) + ar.below(*self.decision) * self.M
        dphi = ar.weigh(self.forget, ar.dot(D, self.before.matrix)) + self.through_m
        df = dphi * ar.sigmoid(token.minus_f)
        return *(ar.output(gradient) for gradient in (dq, dk, dv, di)), df

    def leaving(self) -> Adjoint:
        """What comes back to the state before the token."""
        ar, arriving, tokens = self.ar, self.arriving, self.tokens
        D = ar.weigh(self.forget[..., None, None], self.D)
        if arriving.D_of_m is None:
            return Adjoint(D, self.through_m, None)
        D_of_m = ar.outer(self.token.q * tokens.c, self.x_of_m) + arriving.D_of_m
        forget_of_m = tokens.forget(ar.freeze(self.before.m), ar.freeze(self.after.m), self.token)
        return Adjoint(D, self.through_m, ar.weigh(forget_of_m[..., None, None], D_of_m))
