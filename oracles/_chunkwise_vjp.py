"""The VJP of the chunkwise form: that of the parallel form over one segment after the other, backwards.

As ``oracles/_chunkwise.py`` it has no mathematics of its own (docs/method.md, section 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._chunkwise import segment_starts, tokens_within
from oracles._cotangents import Adjoint, Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs, chosen_tokens
from oracles._parallel import Segment
from oracles._parallel_vjp import SegmentBack
from oracles._recurrence import State, Tokens, Trail, join_tokens


def chunkwise_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    chunk_size: int = 64,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Gradients:
    """The gradients by segments of ``chunk_size`` tokens, from the last one back.

    Of the states before the segments only about sqrt(S / chunk_size) are kept; those between are computed
    again. For ``RunningError`` see ``chunkwise``.

    Args:
        chunk_size: at least 1.
        rows: increasing token indices, from 0; only these rows of dq, dk, dv, di and df are returned, and
            segments without one make none. None: all.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, another normalizer_grad or chunk_size, or
            rows that are no such indices.
    """
    exact = is_exact(normalizer_grad)
    length = inputs.sizes[0]
    chosen, starts = chosen_tokens(rows, length), segment_starts(length, chunk_size)
    dh, _, _ = cotangents.filled(inputs)

    def segment(start: State, number: int) -> Segment:
        first = starts[number]
        return Segment(ar, Tokens.of(ar, inputs, first, min(first + chunk_size, length)), start)

    initial, count = State.initial(ar, inputs), len(starts)
    trail = Trail(initial, count, lambda state, number: segment(state, number).last(), isqrt(count - 1) + 1)
    adjoint, made = Adjoint.of_last(ar, inputs, cotangents, trail.last, exact), []
    for number, before, _ in trail.back():
        first, stop = starts[number], starts[number] + chunk_size
        back = SegmentBack(segment(before, number), contract, ar.array(dh[..., first:stop, :]), adjoint, exact)
        here = tokens_within(chosen, first, stop)
        if here.size:
            dq, dk, dv, di, df = back.rows()
            made.append((dq[..., here, :], dk[..., here, :], dv[..., here, :], di[..., here], df[..., here]))
        adjoint = back.before()

    *vectors, di, df = zip(*reversed(made), strict=True)
    dq, dk, dv = (join_tokens(ar, parts) for parts in vectors)
    gradients = Gradients(dq, dk, dv, ar.concatenate(di), ar.concatenate(df))
    return adjoint.with_initial(ar, inputs, initial, gradients)
