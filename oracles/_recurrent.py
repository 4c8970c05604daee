"""The recurrent form: one step a token (docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs, chosen_tokens
from oracles._denominator import output_rows
from oracles._recurrence import Recurrence, State


def recurrent(
    ar: Arithmetic, inputs: Inputs, contract: Contract, *, rows: Sequence[int] | np.ndarray | None = None
) -> Outputs:
    """h_t and the states by the recurrence over t = 1..S.

    Args:
        rows: increasing token indices, from 0; only these rows of h, n and m are made and returned. None: all.

    Raises:
        ValueError: for rows that are no such indices.
    """
    chosen = set(chosen_tokens(rows, inputs.sizes[0]).tolist())
    tokens, state = Recurrence(ar, inputs), State.initial(ar, inputs)
    made = []
    for t in range(tokens.length):
        state = tokens.advance(state, t)
        if t in chosen:
            readout = tokens.readout(state, tokens.token(t))
            made.append(output_rows(ar, contract, readout, state.m, state.inner))

    h, d, m = zip(*made, strict=True)
    last = state.of_m(ar)
    return Outputs(ar.stack(h, -2), ar.stack(d, -1), ar.stack(m, -1), last[..., :-1], last[..., -1], state.m)
