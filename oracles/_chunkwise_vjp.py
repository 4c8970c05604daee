"""The VJP of the chunkwise form: that of the parallel form over one segment after the other, backwards.

As ``oracles/_chunkwise.py`` it has no mathematics of its own (docs/method.md, section 12).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._chunkwise import outputs_and_trail, segment_at, segment_starts, tokens_within
from oracles._cotangents import Adjoint, Cotangents, Gradients, NormalizerGrad, is_exact
from oracles._definition import Contract, Inputs, Outputs, chosen_tokens
from oracles._parallel_vjp import SegmentBack
from oracles._recurrence import State, join_tokens, stride_of


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
    """The gradients by segments; for arguments and errors see ``chunkwise_and_vjp``."""
    return chunkwise_and_vjp(ar, inputs, contract, cotangents, normalizer_grad, chunk_size=chunk_size, rows=rows)[1]


def chunkwise_and_vjp(
    ar: Arithmetic,
    inputs: Inputs,
    contract: Contract,
    cotangents: Cotangents,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    chunk_size: int = 64,
    rows: Sequence[int] | np.ndarray | None = None,
) -> tuple[Outputs, Gradients]:
    """What ``chunkwise`` returns, and the gradients by segments of ``chunk_size`` tokens, from the last one back.

    Of many states before the segments only about sqrt(S / chunk_size) are kept; those between are computed
    again. For ``RunningError`` see ``chunkwise``.

    Args:
        chunk_size: at least 1.
        rows: increasing token indices, from 0; only these rows of h, n and m, of dq, dk, dv, di and df are returned,
            and segments without one make none. None: all.

    Raises:
        ValueError: for a cotangent that does not fit the inputs, another normalizer_grad or chunk_size, or
            rows that are no such indices.
    """
    exact = is_exact(normalizer_grad)
    length = inputs.sizes[0]
    chosen, starts = chosen_tokens(rows, length), segment_starts(length, chunk_size)
    dh, _, _ = cotangents.filled(inputs)
    outputs, trail = outputs_and_trail(ar, inputs, contract, chunk_size, rows, stride_of(inputs, len(starts)))
    adjoint, made = Adjoint.of_last(ar, inputs, cotangents, trail.last, exact), []
    for number, before, _ in trail.back():
        first, stop = starts[number], starts[number] + chunk_size
        segment = segment_at(ar, inputs, before, first, chunk_size)
        back = SegmentBack(segment, contract, ar.array(dh[..., first:stop, :]), adjoint, exact)
        here = tokens_within(chosen, first, stop)
        if here.size:
            dq, dk, dv, di, df = back.rows()
            made.append((dq[..., here, :], dk[..., here, :], dv[..., here, :], di[..., here], df[..., here]))
        adjoint = back.before()

    *vectors, di, df = zip(*reversed(made), strict=True)
    dq, dk, dv = (join_tokens(ar, parts) for parts in vectors)
    gradients = Gradients(dq, dk, dv, ar.concatenate(di), ar.concatenate(df))
    return outputs, adjoint.with_initial(ar, inputs, State.initial(ar, inputs), gradients)
