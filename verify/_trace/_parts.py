"""Which part of a sum the error of a stage lies along: a kernel adds up in one program what the definition has apart.

numerator, h              inter-chunk part  c g_t C_k^T q_t        intra-chunk part  sum_s W_{t,s} c (q_t.k_s) v_s
C_entering, n_entering    kept of the state before                 taken in of the chunk
dC_leaving, dn_leaving    passed on of the gradient behind         of the rows of the block
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles import Float64
from oracles._denominator import or_zero
from oracles._parallel import Segment
from verify._trace._place import Judged, Place
from verify._trace._stages import Stages
from verify._trace._walk import Task, walk_segments


@dataclass(frozen=True)
class Parts:
    """What the error of one row or state is, in terms of the parts of it.

    Attributes:
        factors: error = the sum of factor times part, by least squares: -1 where a part is missing.
        explained: how much of the squared error that is, 0 to 1.
    """

    factors: dict[str, float]
    explained: float


def parts_of_error(judged: Judged, place: Place, stages: Stages, task: Task) -> Parts | None:
    """Of the row or the state at a place; None of a stage without parts, or of an error that is not finite."""
    lead = place.index["batch"], place.index["head"]
    if place.stage in ("numerator", "h"):
        parts, along = _of_row(place, stages, task), (*lead, place.index["step"])
    elif place.stage in ("C_entering", "n_entering") and place.chunk > 0:
        parts, along = _of_state(place, stages, task), (*lead, place.index["chunk"])
    elif place.stage in ("dC_leaving", "dn_leaving") and place.step + 1 < task.length:
        parts, along = _of_gradient(judged, place, stages, task), (*lead, place.index["block"])
    else:
        return None
    if place.stage in ("C_entering", "dC_leaving"):
        parts = {name: part[..., :-1] for name, part in parts.items()}
    elif place.stage in ("n_entering", "dn_leaving"):
        parts = {name: part[..., -1] for name, part in parts.items()}
    error = judged.got[along] - judged.wanted[along]
    return _fitted(error.ravel(), {name: part[lead].ravel() for name, part in parts.items()})


def _fitted(error: np.ndarray, parts: dict[str, np.ndarray]) -> Parts | None:
    whole = float(np.sum(error**2))
    columns = np.stack(list(parts.values()), -1)
    if not (np.isfinite(whole) and np.isfinite(columns).all() and whole > 0.0):
        return None
    # Of one length each: a small part is a part.
    lengths = np.sqrt(np.sum(columns**2, axis=0))
    lengths[lengths == 0.0] = 1.0
    factors = np.linalg.lstsq(columns / lengths, error, rcond=None)[0] / lengths
    left = float(np.sum((error - columns @ factors) ** 2))
    return Parts(dict(zip(parts, factors.tolist(), strict=True)), 1.0 - left / whole)


def _segment(number: int, size: int, task: Task) -> Segment:
    with np.errstate(all="ignore"):
        return next(segment for first, segment in walk_segments(Float64(), task.inputs, size) if first == number * size)


def _of_row(place: Place, stages: Stages, task: Task) -> dict[str, Any]:
    ar, segment = Float64(), _segment(place.chunk, stages.chunk_size, task)
    t = place.step - place.chunk * stages.chunk_size
    with np.errstate(all="ignore"):
        scale = np.exp(segment.inner[..., t] - or_zero(ar, segment.m[..., t]))[..., None] * segment.c
        if place.stage == "h":
            _, d, _ = segment.rows(task.contract)
            scale = scale / d[..., t, None]
        from_start = (
            segment.carried[..., t, None] * (segment.tokens.q[..., t, None, :] @ segment.start.matrix)[..., 0, :]
        )
        inside = (segment.scores[..., t, None, :] @ segment.tokens.v)[..., 0, :]
        return {"inter-chunk part": (from_start * scale)[..., :-1], "intra-chunk part": (inside * scale)[..., :-1]}


def _of_state(place: Place, stages: Stages, task: Task) -> dict[str, Any]:
    segment = _segment(place.chunk - 1, stages.chunk_size, task)
    kept = segment.carried[..., -1, None, None] * segment.start.matrix
    return {"kept of the state before": kept, "taken in of the chunk": segment.last().matrix - kept}


def _of_gradient(judged: Judged, place: Place, stages: Stages, task: Task) -> dict[str, Any]:
    # The gradient that enters a block is that which leaves the next one.
    block = place.index["block"]
    segment = _segment(block + 1, stages.block_size, task)
    decay = segment.carried[..., -1]
    behind, here = judged.wanted[:, :, block + 1], judged.wanted[:, :, block]
    if place.stage == "dn_leaving":
        behind, here = behind[..., None], here[..., None]
    else:
        # A column more, as the parts of the states have, which is taken off again.
        behind, here = (np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, 1)]) for array in (behind, here))
    passed = decay[..., None, None] * behind
    return {"passed on of the gradient behind": passed, "of the rows of the block": here - passed}
