"""The recurrence over tokens, one step at a time: what the recurrent form and its VJP walk along.

The state is [C | n], a matrix with one column more than v, since n is C for v = 1. It is held
relative to m', which follows the recurrence of m but starts at -inf where the initial state is
empty: m_0 alone must not underflow the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Inputs
from oracles._denominator import or_zero


@dataclass(frozen=True)
class State:
    """What one token hands to the next: [C' | n'], the definition's m and the stabilizer m' (``inner``)."""

    matrix: Any
    m: Any
    inner: Any


class Recurrence:
    """The arrays of the inputs in one arithmetic, and the step from token to token; t counts from 0."""

    def __init__(self, ar: Arithmetic, inputs: Inputs) -> None:
        self.ar = ar
        self.inputs = inputs
        self.length, dhqk, _ = inputs.sizes
        self.c = ar.rsqrt(dhqk)
        self.q, self.k, self.v = ar.array(inputs.q), ar.array(inputs.k), ar.array(inputs.v_and_one())
        self.i, self.phi = ar.array(inputs.i), ar.log_sigmoid(ar.array(inputs.f))

    def start(self) -> State:
        """The initial state."""
        matrix, m_0 = self.inputs.initial_state()
        inner = np.where(self.inputs.is_empty(), -np.inf, m_0)
        return State(self.ar.array(matrix), self.ar.array(m_0), self.ar.freeze(self.ar.array(inner)))

    def advance(self, before: State, t: int) -> State:
        """The state after token t."""
        ar = self.ar
        m = ar.maximum(self.phi[..., t] + before.m, self.i[..., t])
        inner = ar.freeze(ar.maximum(self.phi[..., t] + before.inner, self.i[..., t]))
        update = ar.outer(self.take_in(inner, t)[..., None] * self.k[..., t, :], self.v[..., t, :])
        kept = ar.weigh(self.forget(before.inner, inner, t)[..., None, None], before.matrix)
        return State(kept + update, m, inner)

    def forget(self, before: Any, after: Any, t: int) -> Any:
        """F'_t = exp(phi_t + m'_{t-1} - m'_t), for two stabilizers."""
        return self.ar.exp(self.phi[..., t] + (before - or_zero(self.ar, after)))

    def take_in(self, after: Any, t: int) -> Any:
        """I'_t = exp(i_t - m'_t)."""
        return self.ar.exp(self.i[..., t] - or_zero(self.ar, after))

    def readout(self, after: State, t: int) -> Any:
        """[N' | a']_t = c [C' | n']^T q_t."""
        return self.ar.matmul(self.q[..., t, None, :], after.matrix)[..., 0, :] * self.c

    def to_m(self, after: State) -> Any:
        """exp(m' - m): what brings a state from m' to the definition's m."""
        return self.ar.exp(after.inner - or_zero(self.ar, self.ar.freeze(after.m)))[..., None, None]
