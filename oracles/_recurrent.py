"""The recurrent form: one step a token (docs/method.md, section 1)."""

from __future__ import annotations

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs
from oracles._denominator import denominator, denominator_of_m
from oracles._recurrence import Recurrence


def recurrent(ar: Arithmetic, inputs: Inputs, contract: Contract) -> Outputs:
    """h_t and the states by the recurrence over t = 1..S."""
    tokens = Recurrence(ar, inputs)
    state = tokens.start()
    rows = []
    for t in range(tokens.length):
        state = tokens.advance(state, t)
        readout = tokens.readout(state, t)
        d = denominator(ar, contract, readout[..., -1], state.m, state.inner)
        h = ar.output(ar.divide(readout[..., :-1], d[..., None]))
        rows.append((h, denominator_of_m(ar, contract, readout[..., -1], state.m, state.inner), state.m))

    h, d, m_rows = zip(*rows, strict=True)
    last = ar.weigh(tokens.to_m(state), state.matrix)
    return Outputs(ar.stack(h, -2), ar.stack(d, -1), ar.stack(m_rows, -1), last[..., :-1], last[..., -1], state.m)
