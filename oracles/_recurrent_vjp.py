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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._cotangents import Adjoint, Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs, Outputs, chosen_tokens
from oracles._denominator import or_zero, row_cotangents
from oracles._recurrence import BLOCK, Recurrence, State, Trail, by_blocks, stride_of
from oracles._recurrent import outputs_of


def recurrent_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Gradients:
    """The gradients by the recurrence over t = S..1; for arguments and errors see ``recurrent_and_vjp``."""
    return recurrent_and_vjp(ar, inputs, contract, cotangents, normalizer_grad, rows=rows)[1]


def recurrent_and_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    rows: Sequence[int] | np.ndarray | None = None,
) -> tuple[Outputs, Gradients]:
    """What ``recurrent`` returns, by the recurrence over t = 1..S, and the gradients, over t = S..1.

    Of many states only about sqrt(S) are kept; those between are computed again.

    Args:
        rows: increasing token indices, from 0; only these rows of h, n and m, of dq, dk, dv, di and df are made and
            returned. None: all.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, another normalizer_grad, or rows that are no
            such indices.
    """
    exact = is_exact(normalizer_grad)
    length, lead = inputs.sizes[0], len(inputs.lead)
    chosen = chosen_tokens(rows, length).tolist()
    dh, _, _ = cotangents.filled(inputs)
    tokens, start = Recurrence(ar, inputs), State.initial(ar, inputs)
    trail, read = Trail(start, tokens.advance, stride_of(inputs, length)), []
    for t in range(length):
        trail.go(tokens.advance(trail.last, t))
        read.append(tokens.read(trail.last, t))
    outputs = outputs_of(ar, inputs, contract, [read[t] for t in chosen], trail.last)

    returning = Returning(ar, lead, read, dh, partial(row_cotangents, ar, contract, exact=exact))
    adjoint, made, kept = Adjoint.of_last(ar, inputs, cotangents, trail.last, exact), [], set(chosen)
    for t, before, after in trail.back():
        step = StepBack(tokens, t, before, after, returning.row(t), adjoint)
        if t in kept:
            made.append(step.sums())
        adjoint = step.leaving()
    return outputs, adjoint.with_initial(ar, inputs, start, gradients_of(ar, tokens.c, made[::-1], lead))


class Returning:
    """[x'|gamma']_t, the same relative to m, and mu_t of every token, made a block at a time as the way back meets it.

    Args:
        read: what every token read.
        dh: (..., S, DHHV).
        function: makes them of blocks of these four.
    """

    def __init__(
        self,
        ar: Arithmetic,
        lead: int,
        read: Sequence[tuple[Any, ...]],
        dh: np.ndarray,
        function: Callable[..., tuple[Any, ...]],
    ) -> None:
        self.ar, self.lead, self.read, self.dh, self.function = ar, lead, read, dh, function
        self._first = len(read)

    def row(self, t: int) -> tuple[Any, Any, Any]:
        """Those of token t."""
        if t < self._first:
            self._first = t // BLOCK * BLOCK
            block = [(*self.read[s], self.ar.array(self.dh[..., s, :])) for s in range(self._first, t + 1)]
            self._rows = by_blocks(self.ar, block, self.lead, self.function)
        x, x_of_m, mu = self._rows
        here = t - self._first
        return x[..., here, :], x_of_m[..., here, :], mu[..., here]


class StepBack:
    """One token back: D_t, relative to m'_t like the state itself, and M_t; from them its row and what goes on.

    Args:
        row: [x'|gamma']_t, the same relative to m, and mu_t.
    """

    def __init__(
        self, tokens: Recurrence, t: int, before: State, after: State, row: tuple[Any, Any, Any], arriving: Adjoint
    ) -> None:
        ar = self.ar = tokens.ar
        self.tokens, self.before, self.after, self.arriving = tokens, before, after, arriving
        token = self.token = tokens.token(t)
        self.x, self.x_of_m, mu = row
        self.D = ar.outer(token.q * tokens.c, self.x) + arriving.D
        # The empty state has no token that m could come from.
        self.M = ar.where(ar.is_empty(after.m), ar.array(0.0), mu + arriving.M)
        self.decision = token.phi + before.m, token.i
        self.forget = tokens.forget(before.inner, after.inner, token)
        self.through_m = ar.at_least(*self.decision) * self.M

    def sums(self) -> tuple[Any, ...]:
        """The sums over the state that ``gradients_of`` makes the row of, and what else it needs of the token."""
        ar, token, D = self.ar, self.token, self.D
        to_q = ar.matmul(self.after.matrix, self.x[..., None])[..., 0]
        to_k = ar.matmul(D, token.v[..., None])[..., 0]
        to_v = ar.matmul(token.k[..., None, :], D)[..., 0, :-1]
        to_i = ar.below(*self.decision) * self.M
        to_phi = ar.dot(D, self.before.matrix), self.through_m
        gates = token.i - or_zero(ar, self.after.inner), self.forget, token.minus_f
        return to_q, to_k, to_v, to_i, *to_phi, token.k, *gates

    def leaving(self) -> Adjoint:
        """What comes back to the state before the token."""
        ar, arriving, tokens = self.ar, self.arriving, self.tokens
        D = ar.weigh(self.forget[..., None, None], self.D)
        if arriving.D_of_m is None:
            return Adjoint(D, self.through_m, None)
        D_of_m = ar.outer(self.token.q * tokens.c, self.x_of_m) + arriving.D_of_m
        forget_of_m = tokens.forget(ar.freeze(self.before.m), ar.freeze(self.after.m), self.token)
        return Adjoint(D, self.through_m, ar.weigh(forget_of_m[..., None, None], D_of_m))


def gradients_of(ar: Arithmetic, c: Any, sums: Sequence[tuple[Any, ...]], lead: int) -> Gradients:
    """dq, dk, dv, di and df of successive tokens, from the ``sums`` of their steps back."""

    def rows(
        to_q: Any, to_k: Any, to_v: Any, to_i: Any, dot: Any, through_m: Any, k: Any, i: Any, forget: Any, minus_f: Any
    ) -> tuple[Any, ...]:
        take_in = ar.exp(i)[..., None]
        dk = ar.weigh(take_in, to_k)
        dphi = ar.weigh(forget, dot) + through_m
        vectors = to_q * c, dk, ar.weigh(take_in, to_v), ar.sum(k * dk) + to_i
        return *(ar.output(gradient) for gradient in vectors), dphi * ar.sigmoid(minus_f)

    return Gradients(*by_blocks(ar, sums, lead, rows))
