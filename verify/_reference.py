"""The reference of a case: the oracle's outputs and gradients, and how far rounding may move a kernel from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oracles import Inputs, NormalizerGrad, Precision, RunningError, recurrent, recurrent_vjp
from verify._case import Case
from verify._problem import Problem, make_problem

# The smallest normal number.
FLOAT32_TINY = 2.0**-126


@dataclass(frozen=True)
class Reference:
    """Float64 values of every output, and the running error bound of the case's precision.

    Attributes:
        values: by name (h, n, m, C_last, n_last, m_last; dq, dk, dv, di, df, dC_0, dn_0, dm_0 as far
            as the case has gradients), float64.
        bounds: as values; the largest error that rounding in the case's dtype explains, first order.
        unknown: by name, where a value is beyond float32 and anything is right; absent if nowhere.
    """

    values: dict[str, np.ndarray]
    bounds: dict[str, np.ndarray]
    unknown: dict[str, np.ndarray] = field(default_factory=dict)


def compute_reference(case: Case, normalizer_grad: NormalizerGrad = "exact") -> Reference:
    """The recurrent form in float64 with running error bounds, on the case's own inputs and cotangents."""
    problem = make_problem(case)
    arithmetic = RunningError(Precision.of(case.dtype), depth=case.chunk_size)
    outputs = recurrent(arithmetic, problem.inputs, problem.contract).items()
    values = {name: np.asarray(number.x) for name, number in outputs}
    bounds = {name: np.broadcast_to(number.e, number.x.shape) for name, number in outputs}
    if case.cotangents == "none":
        return Reference(values, bounds)
    # Only the gradient of an empty state overflows, and it may do so at every step.
    with np.errstate(invalid="ignore", over="ignore"):
        gradients = recurrent_vjp(
            arithmetic, problem.inputs, problem.contract, problem.exact_cotangents, normalizer_grad
        ).items()
    unknown, underflow = {}, _underflow(case, problem)
    for name, number in gradients:
        values[name], bounds[name] = np.asarray(number.x), np.broadcast_to(number.e, number.x.shape) + underflow
        beyond = _may_leave_float32(name, number, problem.inputs)
        if beyond.any():
            unknown[name] = beyond
            values[name], bounds[name] = np.where(beyond, 0.0, values[name]), np.where(beyond, np.inf, bounds[name])
    return Reference(values, bounds, unknown)


def _underflow(case: Case, problem: Problem) -> float:
    """What products below float32's smallest normal number may lose of a gradient.

    A gradient sums fewer than S L pairs, each a dot of max(DHQK, DHHV) products, which a kernel may
    multiply by the numbers of two inputs after the product was lost; the running error bound counts
    the products of the recurrence, where these factors come first.
    """
    factors = [problem.arrays[name] for name in ("q", "k", "v", "c_initial", "n_initial") if name in problem.arrays]
    largest = max(float(np.max(np.abs(array), initial=1.0)) for array in (*factors, *problem.cotangents.values()))
    return case.length * case.chunk_size * max(case.dhqk, case.dhhv) * largest**2 * FLOAT32_TINY


def _may_leave_float32(name: str, number: Any, inputs: Inputs) -> np.ndarray:
    # h depends on an empty initial state by exp(m_0 - m_t) / d_t, where d_t may be 0 without norm_val and eps: a
    # term may overflow although their sum does not.
    if name not in ("dC_0", "dn_0"):
        return np.zeros(number.shape, bool)
    empty = inputs.is_empty().reshape(inputs.lead + (1,) * (len(number.shape) - len(inputs.lead)))
    size = np.where(np.isinf(number.e), np.inf, number.s)
    return np.broadcast_to(empty & ~(size <= np.finfo(np.float32).max), number.shape)
