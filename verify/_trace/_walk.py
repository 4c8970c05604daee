"""The oracle's stages: the same forms as ``oracles``, walked so that what is between is kept, in any arithmetic.

Two orders, as for the reference of a case: token by token, whose running error bound covers any order inside a
kernel's chunks, and chunk by chunk. Stages that only a chunk has come from the second alone; sums of gates are charged
by their size there, which covers any order too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from oracles import Arithmetic, Contract, Cotangents, Inputs, NormalizerGrad
from oracles._cotangents import Adjoint, Gradients
from oracles._denominator import denominator, or_zero, output_rows, row_cotangents
from oracles._parallel import Segment
from oracles._parallel_vjp import SegmentBack
from oracles._recurrence import Recurrence, State, Tokens, Trail, by_blocks, stride_of
from oracles._recurrent_vjp import Returning, StepBack, gradients_of

Numbers = dict[str, Any]
# Of a row on the way back, as ``_row_stages`` makes them.
ROW_STAGES = ("inverse", "gamma", "mu")


@dataclass(frozen=True)
class Task:
    """What is walked.

    Attributes:
        inputs, contract, cotangents, normalizer_grad: as of the oracles; cotangents None: forward alone.
        chunk_size, block_size: of the subject's stages, the first a multiple of the second.
    """

    inputs: Inputs
    contract: Contract
    cotangents: Cotangents | None
    chunk_size: int
    block_size: int
    normalizer_grad: NormalizerGrad = "exact"

    @property
    def length(self) -> int:
        """S."""
        return self.inputs.sizes[0]

    def dh(self) -> np.ndarray:
        """dL/dh, zeros where there is none."""
        assert self.cotangents is not None
        return self.cotangents.filled(self.inputs)[0]

    def ends_block(self, t: int) -> bool:
        """Whether token t is the last of its block."""
        return (t + 1) % self.block_size == 0 or t + 1 == self.length


class _Kept:
    """Numbers by stage, gathered along an axis."""

    def __init__(self, ar: Arithmetic) -> None:
        self.ar, self.parts = ar, dict[str, list[Any]]()

    def add(self, **numbers: Any) -> None:
        for name, number in numbers.items():
            self.parts.setdefault(name, []).append(number)

    def stacked(self, first: int, *, reverse: bool = False) -> Numbers:
        """One array of each; the new axis is behind the first ``first``, those of batch and head."""
        step = -1 if reverse else 1
        return {
            name: self.ar.stack(parts[::step], first - len(parts[0].shape) - 1) for name, parts in self.parts.items()
        }


def by_tokens(ar: Arithmetic, task: Task) -> Numbers:
    """All stages that a token has, by the recurrence."""
    lead = len(task.inputs.lead)
    tokens, start = Recurrence(ar, task.inputs), State.initial(ar, task.inputs)
    trail, read = Trail(start, tokens.advance, stride_of(task.inputs, task.length)), []
    chunks, blocks = _Kept(ar), _Kept(ar)
    for t in range(task.length):
        _keep_state(task, t, trail.last, chunks, blocks)
        trail.go(tokens.advance(trail.last, t))
        read.append(tokens.read(trail.last, t))

    def rows(readout: Any, m: Any, inner: Any) -> tuple[Any, ...]:
        h, n, m = output_rows(ar, task.contract, readout, m, inner)
        return h, n, m, inner, readout[..., -1], h * n[..., None]

    made = by_blocks(ar, read, lead, rows)
    kept = dict(zip(("h", "n", "m", "inner", "a", "numerator"), made, strict=True))
    kept |= chunks.stacked(lead) | blocks.stacked(lead) | _last(ar, trail.last)
    return kept if task.cotangents is None else kept | _back_by_tokens(ar, task, tokens, trail, read)


def _keep_state(task: Task, t: int, state: State, chunks: _Kept, blocks: _Kept) -> None:
    if t % task.chunk_size == 0:
        chunks.add(C_entering=state.matrix[..., :-1], n_entering=state.matrix[..., -1])
    if t % task.block_size == 0:
        blocks.add(m_entering=state.m, inner_entering=state.inner)


def _last(ar: Arithmetic, state: State) -> Numbers:
    of_m = state.of_m(ar)
    return {"C_last": of_m[..., :-1], "n_last": of_m[..., -1], "m_last": state.m}


def _of_last(ar: Arithmetic, task: Task, last: State) -> tuple[Adjoint, Numbers]:
    assert task.cotangents is not None
    adjoint = Adjoint.of_last(ar, task.inputs, task.cotangents, last, task.normalizer_grad == "exact")
    return adjoint, {"dC_last": adjoint.D[..., :-1], "dn_last": adjoint.D[..., -1], "M_last": adjoint.M}


def _leaving(adjoint: Adjoint) -> Numbers:
    return {"dC_leaving": adjoint.D[..., :-1], "dn_leaving": adjoint.D[..., -1], "M_leaving": adjoint.M}


def _row_stages(ar: Arithmetic, task: Task, readout: Any, m: Any, inner: Any, dh: Any) -> Numbers:
    exact = task.normalizer_grad == "exact"
    x, _, mu = row_cotangents(ar, task.contract, readout, m, inner, dh, exact)
    d = denominator(ar, task.contract, readout[..., -1], m, inner)
    one = ar.array(np.ones(d.shape))
    inverse = ar.where(ar.is_empty(inner), ar.array(0.0), ar.divide(one, d))
    return dict(zip(ROW_STAGES, (inverse, x[..., -1], mu), strict=True))


def _back_by_tokens(
    ar: Arithmetic, task: Task, tokens: Recurrence, trail: Trail, read: list[tuple[Any, ...]]
) -> Numbers:
    lead, exact = len(task.inputs.lead), task.normalizer_grad == "exact"

    def stages(*given: Any) -> tuple[Any, ...]:
        return tuple(_row_stages(ar, task, *given).values())

    dh = task.dh()
    returning = Returning(ar, lead, read, dh, partial(row_cotangents, ar, task.contract, exact=exact))
    adjoint, kept = _of_last(ar, task, trail.last)
    blocks, made = _Kept(ar), []
    for t, before, after in trail.back():
        if task.ends_block(t):
            blocks.add(**_leaving(adjoint))
        step = StepBack(tokens, t, before, after, returning.row(t), adjoint)
        made.append(step.sums())
        adjoint = step.leaving()
    of_rows = by_blocks(ar, [(*read[t], ar.array(dh[..., t, :])) for t in range(task.length)], lead, stages)
    kept |= dict(zip(ROW_STAGES, of_rows, strict=True)) | blocks.stacked(lead, reverse=True)
    gradients = gradients_of(ar, tokens.c, made[::-1], lead)
    return kept | dict(adjoint.with_initial(ar, task.inputs, State.initial(ar, task.inputs), gradients).items())


def by_chunks(ar: Arithmetic, task: Task) -> Numbers:
    """All stages, by segments of a block."""
    lead = len(task.inputs.lead)
    rows, chunks, blocks, segments = _Kept(ar), _Kept(ar), _Kept(ar), []
    for first, segment in walk_segments(ar, task.inputs, task.block_size):
        segments.append((first, segment))
        _keep_state(task, first, segment.start, chunks, blocks)
        h, n, m = segment.rows(task.contract)
        rows.add(h=h, n=n, m=m, inner=segment.inner, a=segment.readout[..., -1], numerator=h * n[..., None])
        beta, sigma, best = _gates(ar, segment.tokens)
        rows.add(beta=beta, sigma=sigma, best=best)
    kept = _joined(ar, rows, lead) | chunks.stacked(lead) | blocks.stacked(lead) | _last(ar, segment.last())
    return kept if task.cotangents is None else kept | _back_by_chunks(ar, task, segments)


def walk_segments(ar: Arithmetic, inputs: Inputs, size: int) -> Iterator[tuple[int, Segment]]:
    """(its first token, the segment), one after the other."""
    state, length = State.initial(ar, inputs), inputs.sizes[0]
    for first in range(0, length, size):
        segment = Segment(ar, Tokens.of(ar, inputs, first, min(first + size, length)), state)
        yield first, segment
        state = segment.last()


def _joined(ar: Arithmetic, rows: _Kept, lead: int, *, reverse: bool = False) -> Numbers:
    """Along the tokens, which are the axis behind batch and head."""
    joined = {}
    for name, parts in rows.parts.items():
        ordered = parts[::-1] if reverse else parts
        flat = len(parts[0].shape) == lead + 1
        joined[name] = ar.concatenate(ordered if flat else [ar.transpose(part) for part in ordered])
        joined[name] = joined[name] if flat else ar.transpose(joined[name])
    return joined


def _gates(ar: Arithmetic, tokens: Tokens) -> tuple[Any, Any, Any]:
    """beta, sigma and best of a block: sums that are charged in any order."""
    step = np.arange(tokens.i.shape[-1])
    source, target = step, step[:, None]
    zero, never = ar.array(0.0), ar.array(-np.inf)
    later = ar.where(source < target, tokens.phi[..., :, None], zero)
    # i_s is a term like the others: a kernel may round at its size at every step.
    terms = ar.where(source == target, tokens.i[..., None, :], later)
    best = ar.max(ar.where(source <= target, ar.cumsum(terms, -2), never), -1)
    return ar.cumsum(tokens.phi, -1), ar.cumsum(later, -2)[..., -1, :], best


class _BlockBack(SegmentBack):
    """The way back over a block, that keeps di and dphi as they are without the message to m."""

    pairs: Numbers

    def _gates(self, shares: Any, last: Any) -> tuple[Any, Any]:
        through = self.to_i, self.to_phi
        self.to_i = self.to_phi = self.ar.array(np.zeros(self.to_i.shape))
        di, dphi = super()._gates(shares, last)
        self.pairs = {"di_pairs": di, "dphi_pairs": dphi}
        self.to_i, self.to_phi = through
        return di + self.to_i, dphi + self.to_phi


def _back_by_chunks(ar: Arithmetic, task: Task, segments: list[tuple[int, Segment]]) -> Numbers:
    lead, dh, exact = len(task.inputs.lead), task.dh(), task.normalizer_grad == "exact"
    adjoint, kept = _of_last(ar, task, segments[-1][1].last())
    rows, blocks = _Kept(ar), _Kept(ar)
    for first, segment in reversed(segments):
        blocks.add(**_leaving(adjoint))
        here = ar.array(dh[..., first : first + task.block_size, :])
        back = _BlockBack(segment, task.contract, here, adjoint, exact)
        of_rows = _row_stages(ar, task, segment.readout, segment.m, segment.inner, here)
        rows.add(**of_rows, **_carries(ar, segment, of_rows))
        blocks.add(kept=_decay(ar, segment))
        rows.add(**dict(zip(("dq", "dk", "dv", "di", "df"), back.rows(), strict=True)))
        rows.add(**back.pairs)
        adjoint = back.before()
    kept |= _joined(ar, rows, lead, reverse=True) | blocks.stacked(lead, reverse=True)
    gradients = Gradients(*(kept[name] for name in ("dq", "dk", "dv", "di", "df")))
    return kept | dict(adjoint.with_initial(ar, task.inputs, segments[0][1].start, gradients).items())


def _carries(ar: Arithmetic, segment: Segment, of_rows: Numbers) -> Numbers:
    beta = ar.cumsum(segment.tokens.phi, -1)
    carry = ar.exp(beta + (segment.start.inner[..., None] - or_zero(ar, segment.inner))) * segment.c
    return {"carry_x": carry * of_rows["inverse"], "carry_gamma": carry * of_rows["gamma"]}


def _decay(ar: Arithmetic, segment: Segment) -> Any:
    total = ar.cumsum(segment.tokens.phi, -1)[..., -1]
    return ar.exp(total + (segment.start.inner - or_zero(ar, segment.inner[..., -1])))
