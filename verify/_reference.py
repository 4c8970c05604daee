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
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oracles import (
    Arithmetic,
    Ball,
    EnclosureError,
    Inputs,
    MonteCarlo,
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
from verify._probes import probe_rows
from verify._problem import GRADIENT_OF, NUMPY_DTYPES, Problem, make_problem

# The smallest normal number.
FLOAT32_TINY = 2.0**-126
REPLICATES = 16
# Tokens of all heads, up to which the oracle is proved where it is too far off itself.
PROVED_UP_TO = 2**14
# Of longer sequences the bound, too, is computed a chunk at a time.
BY_TOKENS_UP_TO = 8192
# Token by token m and the states are rounded each time, which may be noisier than chunks are. For more numbers of
# states than this, over all tokens, two replicates must do, one of them rounded to nearest.
NOISE_BY_TOKENS_UP_TO = 2**22
# A kernel that works in base 2 multiplies m by log 2 where it returns it, and phi and i by log2 e before: it is off by
# two roundings each, of the constant and of the product.
_CONVERSIONS = 4
# The outputs with an axis of tokens, and where it is; those with channels as their last axis.
TOKENS = {"h": -2, "n": -1, "m": -1, "dq": -2, "dk": -2, "dv": -2, "di": -1, "df": -1}
CHANNELS = ("h", "C_last", "n_last", "dq", "dk", "dv", "dC_0", "dn_0")


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
    exact = evaluate.by_chunks(RunningError(Precision.of("float64"), depth=case.chunk_size))
    bounding = evaluate.by_tokens if case.length <= BY_TOKENS_UP_TO else evaluate.by_chunks
    rounded = bounding(RunningError(units, depth=case.chunk_size))
    values = {name: np.asarray(number.x) for name, number in exact.items()}
    errors = {name: np.broadcast_to(number.e, values[name].shape) for name, number in exact.items()}
    if _are_too_large(errors, rounded) and case.batch * case.heads * case.length <= PROVED_UP_TO:
        values, errors = evaluate.by_proof() or (values, errors)
    bounds = {name: number.e + errors[name] for name, number in rounded.items()}
    noise = _noise(evaluate, values, case, units, replicates) if replicates else {}
    _allow_conversion_of_m(values, bounds, noise)
    unknown, without_gradient = {}, _without_gradient(case, rows, evaluate.h_of_all(rounded, units))
    for name, number in rounded.items():
        if name in GRADIENT_OF.values():
            bounds[name] = bounds[name] + _underflow(case, problem)
        beyond = _may_leave_float32(name, number, problem.inputs) | without_gradient.get(name, False)
        if not case.eps:
            # exp(-m) may leave even float64, and d_t be 0.
            beyond = beyond | np.isnan(values[name]) | np.isnan(bounds[name])
        # Also where only tokens that are not kept are: a NaN there is no fault.
        if beyond.any() or name in without_gradient:
            unknown[name] = beyond
            values[name], bounds[name] = np.where(beyond, 0.0, values[name]), np.where(beyond, np.inf, bounds[name])
    return Reference(values, _rounded_up(bounds), unknown, _rounded_up(errors), noise, kept)


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
        return values, {name: ball.radius(balls[name]) + 2.0**-53 * np.abs(value) for name, value in values.items()}

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


def _are_too_large(errors: dict[str, np.ndarray], rounded: dict[str, Any]) -> bool:
    """Whether the oracle may be off by 2^-10 of the bound, or of one rounding of the value to float32."""
    for name, number in rounded.items():
        size = np.where(np.isfinite(number.x), np.abs(number.x), 0.0)
        matters = 2.0**-10 * np.maximum(number.e, 2.0**-24 * size + FLOAT32_TINY)
        if np.any((errors[name] > matters) & np.isfinite(number.e)):
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


def _noise(
    evaluate: _Evaluation, values: dict[str, np.ndarray], case: Case, units: Precision, replicates: int
) -> dict[str, np.ndarray]:
    """The noise floor of every row: over the replicates, over the channels if it has any, of the noisier order."""
    seed = zlib.crc32(case.id.encode())
    numbers = case.batch * case.heads * case.length * case.dhqk * case.dhhv
    orders = [(evaluate.by_chunks, replicates)]
    if case.length <= BY_TOKENS_UP_TO:
        orders.append((evaluate.by_tokens, replicates if numbers <= NOISE_BY_TOKENS_UP_TO else 2))
    floors: dict[str, np.ndarray] = {}
    for order, count in orders:
        arithmetic = MonteCarlo(units, count, seed, nearest=True)
        for name, number in order(arithmetic).items():
            floor = arithmetic.noise(number, values[name])
            floor = _root_mean_square(floor) if name in CHANNELS else floor
            # Which terms below the smallest normal number a kernel loses is not told by losing all of them, or none.
            floor = np.where(floor > 0.0, np.hypot(floor, FLOAT32_TINY), floor)
            floors[name] = np.maximum(floor, floors.get(name, 0.0))
    return floors


def _allow_conversion_of_m(
    values: dict[str, np.ndarray], bounds: dict[str, np.ndarray], noise: dict[str, np.ndarray]
) -> None:
    """Add the roundings of a change of base to m, and to the last state, which is relative to that m."""
    unit = Precision.of("float32").gates
    relative = {name: unit * np.where(np.isfinite(m), np.abs(m), 0.0) for name, m in values.items() if name[0] == "m"}
    for name, off in relative.items():
        bounds[name] = bounds[name] + _CONVERSIONS * off
        if noise:
            noise[name] = np.hypot(noise[name], off)
    for name in ("C_last", "n_last"):
        axes = (None,) * (values[name].ndim - relative["m_last"].ndim)
        off = relative["m_last"][..., *axes]
        bounds[name] = bounds[name] + _CONVERSIONS * off * np.abs(values[name])
        if noise:
            noise[name] = np.hypot(noise[name], off[..., 0] * _root_mean_square(values[name]))


def _root_mean_square(x: np.ndarray) -> np.ndarray:
    # Over the last axis; scaled, since squares of what underflows in float32 may underflow in float64.
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    scale = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
    return scale[..., 0] * np.sqrt(np.mean((x / scale) ** 2, axis=-1))


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


def _without_gradient(case: Case, rows: np.ndarray, h: Any) -> dict[str, np.ndarray]:
    """Where a kernel has no gradient, because h_t is stored and left the range of its dtype.

    y_t = dh_t.h_t is then infinite: it is in dq_t, and in what all tokens up to t and the initial state get.
    """
    import ml_dtypes

    if case.cotangents not in ("h", "all"):
        return {}
    largest = float(ml_dtypes.finfo(NUMPY_DTYPES[case.dtype]).max)
    # Where rounding decides whether d_t is 0, h_t may be anything: next to float16's range, not to float32's, it is
    # likely enough to be beyond.
    bound = h.e if case.dtype == "float16" else np.where(np.isinf(h.e), 0.0, h.e)
    beyond = np.any(np.abs(h.x) + bound >= largest, axis=-1)
    if not beyond.any():
        return {}
    last = np.where(beyond, np.arange(case.length), -1).max(axis=-1)
    tokens = rows <= last[..., None]
    heads = last >= 0
    by_channel = {"dq": beyond[..., rows, None], "dk": tokens[..., None], "dv": tokens[..., None]}
    initial = {"dC_0": heads[..., None, None], "dn_0": heads[..., None], "dm_0": heads}
    return {**by_channel, "di": tokens, "df": tokens, **initial}
