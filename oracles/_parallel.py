"""The parallel form: every pair (target t, source s) at once (docs/method.md, section 2).

It is written for a segment of tokens that starts from any state, held relative to any m'; the whole
sequence is one segment, and the chunkwise form a chain of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs
from oracles._denominator import or_zero, output_rows
from oracles._recurrence import State, Tokens


def parallel(ar: Arithmetic, inputs: Inputs, contract: Contract) -> Outputs:
    """h_t and the last state as weighted sums over all sources s <= t and the initial state (s = 0).

        l_{t,s} = sum_{s < r <= t} phi_r + i_s       l_{t,0} = sum_{1 <= r <= t} phi_r + m_0
        m_t     = max_s l_{t,s}                      w_{t,s} = exp(l_{t,s} - m'_t)
        [N|a]_t = c w_{t,0} [C_0|n_0]^T q_t + sum_s w_{t,s} c (q_t.k_s) [v_s|1]

    The max of m' leaves out an empty initial state. Needs S x S numbers for each head.
    """
    tokens = Tokens.of(ar, inputs, 0, inputs.sizes[0])
    segment = Segment(ar, tokens, State.initial(ar, inputs))
    last = segment.last()
    C_and_n = last.of_m(ar)
    return Outputs(*segment.rows(contract), C_and_n[..., :-1], C_and_n[..., -1], last.m)


class Segment:
    """All pairs of a segment's tokens and of the state it starts from (s = 0); weights are made where asked for.

    Attributes:
        m, inner: m_t and m'_t, (..., L).
    """

    def __init__(self, ar: Arithmetic, tokens: Tokens, start: State) -> None:
        self.ar, self.tokens, self.start = ar, tokens, start
        self.c = ar.rsqrt(tokens.q.shape[-1])
        self._sums, self.prefix = self._sums_of_forgets()
        best = ar.max(self._only_past(self._sums + tokens.i[..., None, :]), -1)
        self.m = ar.maximum(best, self.prefix + start.m[..., None])
        self.inner = ar.freeze(ar.maximum(best, self.prefix + start.inner[..., None]))
        self._subtrahend = or_zero(ar, self.inner)

    def _sums_of_forgets(self) -> tuple[Any, Any]:
        # sum_{s < r <= t} phi_r for s <= t, and for s = 0. Row t is row t-1 plus phi_t for s < t: running
        # sums, no differences.
        ar, phi = self.ar, self.tokens.phi
        *lead, length = phi.shape
        source = np.arange(length)
        row, total = ar.array(np.zeros((*lead, length))), ar.array(np.zeros(lead))
        sums, prefix = [], []
        for t in range(length):
            row = ar.where(source < t, row + phi[..., t, None], ar.array(0.0))
            total = total + phi[..., t]
            sums.append(row)
            prefix.append(total)
        return ar.stack(sums, -2), ar.stack(prefix, -1)

    def _only_past(self, x: Any) -> Any:
        # x_{t,s} for s <= t, else -inf
        token = np.arange(x.shape[-1])
        return self.ar.where(token <= token[:, None], x, self.ar.array(-np.inf))

    # i - m' comes first, as in a kernel: both may be large, and then lose the digits of the sum of forgets.

    @cached_property
    def weights(self) -> Any:
        """w_{t,s}, 0 above the diagonal."""
        gained = self.tokens.i[..., None, :] - self._subtrahend[..., None]
        return self.ar.exp(self._only_past(self._sums + gained))

    @cached_property
    def last_weights(self) -> Any:
        """w_{L,s}, the last row alone."""
        return self.ar.exp(self._sums[..., -1, :] + (self.tokens.i - self._subtrahend[..., -1, None]))

    @cached_property
    def carried(self) -> Any:
        """w_{t,0}."""
        return self.ar.exp(self.prefix + (self.start.inner[..., None] - self._subtrahend))

    @cached_property
    def scores(self) -> Any:
        """w_{t,s} (q_t.k_s)."""
        return self.ar.matmul(self.tokens.q, self.ar.transpose(self.tokens.k)) * self.weights

    @cached_property
    def readout(self) -> Any:
        """[N' | a']_t."""
        ar, tokens = self.ar, self.tokens
        from_start = ar.weigh(self.carried[..., None], ar.matmul(tokens.q, self.start.matrix))
        return (ar.matmul(self.scores, tokens.v) + from_start) * self.c

    def rows(self, contract: Contract) -> tuple[Any, Any, Any]:
        """h_t, d_t and m_t."""
        return output_rows(self.ar, contract, self.readout, self.m, self.inner)

    def last(self) -> State:
        """The state after the segment."""
        ar, tokens = self.ar, self.tokens
        taken_in = ar.matmul(ar.transpose(tokens.k * self.last_weights[..., None]), tokens.v)
        kept = ar.weigh(self.carried[..., -1, None, None], self.start.matrix)
        return State(kept + taken_in, self.m[..., -1], self.inner[..., -1])
