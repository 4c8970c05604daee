"""The recurrent form: one step a token (docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs, chosen_tokens
from oracles._denominator import output_rows
from oracles._recurrence import Recurrence, State, by_blocks


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
    read = []
    for t in range(tokens.length):
        state = tokens.advance(state, t)
        if t in chosen:
            read.append(tokens.read(state, t))
    return outputs_of(ar, inputs, contract, read, state)


def outputs_of(
    ar: Arithmetic, inputs: Inputs, contract: Contract, read: Sequence[tuple[Any, ...]], last: State
) -> Outputs:
    """The outputs, from what each token read and the last state."""
    h, d, m = by_blocks(ar, read, len(inputs.lead), partial(output_rows, ar, contract))
    of_m = last.of_m(ar)
    return Outputs(h, d, m, of_m[..., :-1], of_m[..., -1], last.m)
