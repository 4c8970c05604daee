"""The chunkwise form: the parallel form over one segment of tokens after the other (docs/method.md, section 3).

It has no mathematics of its own. What it is for: S x chunk_size pairs in place of S x S, in matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract, Inputs, Outputs, chosen_tokens
from oracles._parallel import Segment
from oracles._recurrence import State, Tokens, Trail, join_tokens


def chunkwise(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    *,
    chunk_size: int = 64,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Outputs:
    """h_t and the states by segments of ``chunk_size`` tokens, the last one shorter.

    Beside the inputs and what it returns it needs memory for one segment and two states. What ``RunningError``
    says of it is the rounding of this order of evaluation; the bound that covers any order inside a kernel's
    chunks is that of ``recurrent``.

    Args:
        chunk_size: at least 1.
        rows: increasing token indices, from 0; only these rows of h, n and m are returned, and segments
            without one make none. None: all.

    Raises:
        ValueError: for another chunk_size, or rows that are no such indices.
    """
    count = len(segment_starts(inputs.sizes[0], chunk_size))
    return outputs_and_trail(ar, inputs, contract, chunk_size, rows, stride=count)[0]


def outputs_and_trail(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    chunk_size: int,
    rows: Sequence[int] | np.ndarray | None,
    stride: int,
) -> tuple[Outputs, Trail]:
    """What ``chunkwise`` returns, and the states before the segments, of which every ``stride``-th is kept."""
    length = inputs.sizes[0]
    chosen, starts = chosen_tokens(rows, length), segment_starts(length, chunk_size)

    def segment_after(state: State, number: int) -> Segment:
        return segment_at(ar, inputs, state, starts[number], chunk_size)

    trail = Trail(State.initial(ar, inputs), lambda state, number: segment_after(state, number).last(), stride)
    made = []
    for number, first in enumerate(starts):
        segment = segment_after(trail.last, number)
        here = tokens_within(chosen, first, first + chunk_size)
        if here.size:
            h, d, m = segment.rows(contract)
            made.append((h[..., here, :], d[..., here], m[..., here]))
        trail.go(segment.last())

    h, d, m = zip(*made, strict=True)
    of_m = trail.last.of_m(ar)
    rows_of_all = join_tokens(ar, h), ar.concatenate(d), ar.concatenate(m)
    return Outputs(*rows_of_all, of_m[..., :-1], of_m[..., -1], trail.last.m), trail


def segment_at(ar: Arithmetic, inputs: Inputs, start: State, first: int, chunk_size: int) -> Segment:
    """The segment whose first token is ``first``, from the state before it."""
    return Segment(ar, Tokens.of(ar, inputs, first, min(first + chunk_size, inputs.sizes[0])), start)


def segment_starts(length: int, chunk_size: int) -> range:
    """The first token of every segment; ValueError for a chunk_size that is not an integer of at least 1."""
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size!r}; expected an integer of at least 1.")
    return range(0, length, chunk_size)


def tokens_within(chosen: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Those of the chosen tokens that are first..stop - 1, counted from first."""
    return chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, stop)] - first
