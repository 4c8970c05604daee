"""The reference of a case: the oracle's outputs, and how far rounding may move a kernel from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oracles import Precision, RunningError, recurrent
from verify._case import Case
from verify._problem import make_problem


@dataclass(frozen=True)
class Reference:
    """Float64 values of every output, and the running error bound of the case's precision.

    Attributes:
        values: by output name (h, n, m, C_last, n_last, m_last), float64.
        bounds: as values; the largest error that rounding in the case's dtype explains, first order.
    """

    values: dict[str, np.ndarray]
    bounds: dict[str, np.ndarray]


def compute_reference(case: Case) -> Reference:
    """The recurrent form in float64 with running error bounds, on the case's own inputs."""
    problem = make_problem(case)
    arithmetic = RunningError(Precision.of(case.dtype), depth=case.chunk_size)
    outputs = recurrent(arithmetic, problem.inputs, problem.contract).items()
    values = {name: np.asarray(number.x) for name, number in outputs}
    bounds = {name: np.broadcast_to(number.e, number.x.shape) for name, number in outputs}
    return Reference(values, bounds)
