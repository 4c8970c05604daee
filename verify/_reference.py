"""The reference of a case: what the oracle returns, how far it may be off itself, and two scales for a kernel's error.

    values   the chunkwise form in float64
    errors   the running error bound of that computation itself, in float64's units. Where it is not far below the
             bounds (a decision that float64 cannot make), both come from balls of as many bits as it takes
    bounds   the running error bound of the recurrent form in the case's precision: how far rounding may move a correct
             kernel
    noise    Monte Carlo arithmetic over the chunkwise form, in chunks of the case, and over the recurrent form, the
             larger of both: how far correct kernels are

All are kept at the rows of ``probe_rows``, in the same digits whether they come from a cache or not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from oracles import (
    Arithmetic,
    Ball,
    EnclosureError,
    NormalizerGrad,
    Precision,
    RunningError,
    chunkwise,
    chunkwise_and_vjp,
    chunkwise_vjp,
    enclose,
    recurrent,
    recurrent_and_vjp,
)
from verify._case import Case
from verify._error_scales import FLOAT32_TINY, Arrays, Bounded, Kinds, Orders, may_leave_float32, without_gradient
from verify._probes import probe_rows
from verify._problem import GRADIENT_OF, Problem, make_problem

REPLICATES = 16
# Tokens of all heads, up to which the oracle is proved where it is too far off itself.
PROVED_UP_TO = 2**14
# The outputs with an axis of tokens, and where it is; those with channels as their last axis.
TOKENS = {"h": -2, "n": -1, "m": -1, "dq": -2, "dk": -2, "dv": -2, "di": -1, "df": -1}
CHANNELS = ("h", "C_last", "n_last", "dq", "dk", "dv", "dC_0", "dn_0")
OUTPUTS = Kinds(channels=CHANNELS, gradients=GRADIENT_OF.values())


@dataclass(frozen=True)
class Reference:
    """What every output should be, at the rows of the probes.

    Attributes:
        values: by name (h, n, m, C_last, n_last, m_last; dq, dk, dv, di, df, dC_0, dn_0, dm_0 as far
            as the case has gradients), float64.
        bounds: as values, float32 rounded up; the largest error that rounding in the case's dtype explains, to first
            order, the oracle's own error included.
        unknown: by name, where anything is right; absent if nowhere.
        errors: as values, float32 rounded up; how far the oracle may be off.
        noise: the root mean square error of correct kernels, by row: without the last axis of an output that has
            channels there. Empty if it was not asked for.
        rows: the tokens that are kept, increasing; None: all.
    """

    values: dict[str, np.ndarray]
    bounds: dict[str, np.ndarray]
    unknown: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    noise: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None

    @classmethod
    def of(
        cls, bounded: Bounded, bounds: Arrays, noise: Arrays, unknown: Arrays, rows: np.ndarray | None = None
    ) -> Reference:
        """With ``Bounded.scales``, which say nothing where anything is right."""
        values, bounds = dict(bounded.values), dict(bounds)
        for name, beyond in unknown.items():
            values[name], bounds[name] = np.where(beyond, 0.0, values[name]), np.where(beyond, np.inf, bounds[name])
        errors = {name: bounded.errors[name] for name in values}
        return cls(values, _rounded_up(bounds), unknown, _rounded_up(errors), noise, rows)

    def at_rows(self, name: str, array: np.ndarray) -> np.ndarray:
        """The rows of a whole output that the reference keeps."""
        return array if self.rows is None or name not in TOKENS else np.take(array, self.rows, TOKENS[name])

    def shape(self, name: str, length: int) -> tuple[int, ...]:
        """The shape of a whole output."""
        shape = list(self.values[name].shape)
        if name in TOKENS:
            shape[TOKENS[name]] = length
        return tuple(shape)


def compute_reference(
    case: Case,
    normalizer_grad: NormalizerGrad = "exact",
    *,
    precision: str | None = None,
    replicates: int = REPLICATES,
    problem: Problem | None = None,
) -> Reference:
    """The reference of a case.

    Args:
        case: what it is of.
        normalizer_grad: detached holds the normalizer constant.
        precision: of the bounds and the noise; None: the case's dtype.
        replicates: of the noise; 0 leaves it out.
        problem: other arrays than those that the case draws, of its sizes and dtypes.
    """
    units = Precision.of(precision or case.dtype)
    problem, rows = problem or make_problem(case), probe_rows(case)
    kept = None if len(rows) == case.length else rows
    evaluate = _Evaluation(case, problem, normalizer_grad, kept)
    orders = Orders(evaluate.by_chunks, evaluate.by_tokens)
    bounded = Bounded.of(orders, case, problem, units)
    if _are_too_large(bounded) and case.batch * case.heads * case.length <= PROVED_UP_TO:
        values, errors = evaluate.by_proof() or (bounded.values, bounded.errors)
        bounded = replace(bounded, values=values, errors=errors)
    bounds, noise = bounded.scales(orders, OUTPUTS, replicates)
    unknown, no_gradient = {}, without_gradient(case, rows, evaluate.h_of_all(bounded.rounded, units))
    for name, number in bounded.rounded.items():
        beyond = may_leave_float32(name, number, problem.inputs) | no_gradient.get(name, False)
        if name == "n":
            # The denominator of the empty state divides 0.
            beyond = beyond | np.isneginf(bounded.values["m"])
        if not case.eps:
            # exp(-m) may leave even float64, and d_t be 0.
            beyond = beyond | np.isnan(bounded.values[name]) | np.isnan(bounds[name])
        # Also where only tokens that are not kept are: a NaN there is no fault.
        if beyond.any() or name in no_gradient:
            unknown[name] = beyond
    return Reference.of(bounded, bounds, noise, unknown, kept)


class _Evaluation:
    """All outputs and gradients of a case by one of the forms, in any arithmetic."""

    def __init__(self, case: Case, problem: Problem, normalizer_grad: NormalizerGrad, rows: np.ndarray | None) -> None:
        self.problem, self.normalizer_grad = problem, normalizer_grad
        self.has_gradients = case.cotangents != "none"
        self.chunk_size = case.chunk_size
        self.rows, self.in_chunks = {"rows": rows}, {"rows": rows, "chunk_size": case.chunk_size}

    def by_tokens(self, arithmetic: Arithmetic) -> dict[str, Any]:
        return self._all(arithmetic, recurrent, recurrent_and_vjp, self.rows)

    def by_chunks(self, arithmetic: Arithmetic) -> dict[str, Any]:
        return self._all(arithmetic, chunkwise, chunkwise_and_vjp, self.in_chunks)

    def h_of_all(self, rounded: dict[str, Any], units: Precision) -> Any:
        """h at all tokens, also at those that are not kept, if a gradient depends on them."""
        if self.rows["rows"] is None or not self.has_gradients:
            return rounded["h"]
        given = self.problem.inputs, self.problem.contract
        return chunkwise(RunningError(units, depth=self.chunk_size), *given, chunk_size=self.chunk_size).h

    def by_proof(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
        """Values and errors from balls as narrow as float64 is; None where no precision decides, or without flint."""
        if importlib.util.find_spec("flint") is None:
            return None
        given = self.problem.inputs, self.problem.contract
        width: dict[str, Any] = {"relative": 2.0**-54, **self.in_chunks}
        try:
            balls = dict(enclose(chunkwise, *given, **width)[0].items())
            if self.has_gradients:
                cotangents = self.problem.exact_cotangents, self.normalizer_grad
                balls |= enclose(chunkwise_vjp, *given, *cotangents, **width)[0].items()
        except EnclosureError:
            return None
        ball = Ball()
        values = {name: ball.to_float64(number) for name, number in balls.items()}
        # An m of -inf is exact.
        sizes = {name: np.where(np.isneginf(value), 0.0, np.abs(value)) for name, value in values.items()}
        return values, {name: ball.radius(balls[name]) + 2.0**-53 * size for name, size in sizes.items()}

    def _all(
        self, arithmetic: Arithmetic, form: Callable[..., Any], with_vjp: Callable[..., Any], options: dict[str, Any]
    ) -> dict[str, Any]:
        given = arithmetic, self.problem.inputs, self.problem.contract
        if not self.has_gradients:
            return dict(form(*given, **options).items())
        # Only the gradient of an empty state overflows, and it may do so at every step.
        with np.errstate(invalid="ignore", over="ignore"):
            cotangents = self.problem.exact_cotangents, self.normalizer_grad
            outputs, gradients = with_vjp(*given, *cotangents, **options)
        return dict([*outputs.items(), *gradients.items()])


def _are_too_large(bounded: Bounded) -> bool:
    """Whether the oracle may be off by 2^-10 of the bound, or of one rounding of the value to float32."""
    for name, number in bounded.rounded.items():
        size = np.where(np.isfinite(number.x), np.abs(number.x), 0.0)
        matters = 2.0**-10 * np.maximum(number.e, 2.0**-24 * size + FLOAT32_TINY)
        if np.any((bounded.errors[name] > matters) & np.isfinite(number.e)):
            return True
    return False


def _rounded_up(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # To float32; beyond its range to infinity.
    with np.errstate(over="ignore", under="ignore"):
        nearest = {name: array.astype(np.float32) for name, array in arrays.items()}
        return {
            name: np.where(near < arrays[name], np.nextafter(near, np.float32(np.inf)), near)
            for name, near in nearest.items()
        }
