"""How far off a correct kernel may be: the steps that all references share, whatever they are of.

They differ in what is evaluated (the outputs of a case, the stages between them, what a kernel with a departure
returns), in the kinds of its names, and in where anything is right, of which two reasons are here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from oracles import Arithmetic, Inputs, MonteCarlo, Precision, RunningError
from verify._case import Case
from verify._probes import probe_rows
from verify._problem import NUMPY_DTYPES, Problem

Arrays = dict[str, np.ndarray]
# The smallest normal number.
FLOAT32_TINY = 2.0**-126
# Of longer sequences the bound, too, is computed a chunk at a time.
BY_TOKENS_UP_TO = 8192
# Token by token m and the states are rounded each time, which may be noisier than chunks are. For more numbers of
# states than this, over all tokens, two replicates must do, one of them rounded to nearest.
NOISE_BY_TOKENS_UP_TO = 2**22
# A kernel that works in base 2 multiplies m by log 2 where it returns it, and phi and i by log2 e before: it is off by
# two roundings each, of the constant and of the product.
_CONVERSIONS = 4


class Orders(NamedTuple):
    """What is evaluated, in any arithmetic: all of it by chunks, and what a token has of it token by token."""

    by_chunks: Callable[[Arithmetic], dict[str, Any]]
    by_tokens: Callable[[Arithmetic], dict[str, Any]]


@dataclass(frozen=True)
class Kinds:
    """Which names have channels as their last axis, lose what underflows, are m of a token, are operands of dots."""

    channels: Collection[str]
    gradients: Collection[str]
    stabilizers: Collection[str] = ("m", "m_last")
    operands: Collection[str] = ()
    # Those whose noise floor nobody asks for.
    without_noise: Collection[str] = ()


@dataclass(frozen=True)
class Bounded:
    """What was evaluated with running errors.

    Attributes:
        case, problem, units: what it is of, and the precision of the bounds.
        values, errors: by chunks in float64, and how far these may be off.
        rounded: the numbers whose running errors, in the units, are the bounds.
    """

    case: Case
    problem: Problem
    units: Precision
    values: Arrays
    errors: Arrays
    rounded: dict[str, Any]

    @classmethod
    def of(cls, orders: Orders, case: Case, problem: Problem, units: Precision, depth: int | None = None) -> Bounded:
        """Evaluate, the bounds token by token, and by chunks what no token has; depth None: the case's chunk size."""
        depth = depth or case.chunk_size
        exact = orders.by_chunks(RunningError(Precision.of("float64"), depth=depth))
        bounding = RunningError(units, depth=depth)
        rounded = orders.by_tokens(bounding) if case.length <= BY_TOKENS_UP_TO else {}
        if exact.keys() - rounded.keys():
            rounded = orders.by_chunks(bounding) | rounded
        values = {name: np.asarray(number.x) for name, number in exact.items()}
        errors = {name: np.broadcast_to(number.e, values[name].shape) for name, number in exact.items()}
        return cls(case, problem, units, values, errors, rounded)

    def scales(self, orders: Orders, kinds: Kinds, replicates: int, by_tokens: int = 0) -> tuple[Arrays, Arrays]:
        """Bounds and, from so many replicates, the noise floor; by tokens from others, 0: as many, or two if slow."""
        bounds = {name: self.rounded[name].e + self.errors[name] for name in self.values}
        for name in bounds.keys() & kinds.operands:
            bounds[name] = bounds[name] + self.units.operand * np.abs(self.values[name])
        numbers = self.case.batch * self.case.heads * self.case.length * self.case.dhqk * self.case.dhhv
        by_tokens = by_tokens or (replicates if numbers <= NOISE_BY_TOKENS_UP_TO else 2)
        noise = self._noise(orders, kinds, replicates, by_tokens) if replicates else {}
        _allow_conversion_of_m(kinds.stabilizers, self.values, bounds, noise)
        if self.case.length > BY_TOKENS_UP_TO:
            self._allow_steps_of_m(bounds, noise)
        for name in bounds.keys() & kinds.gradients:
            bounds[name] = bounds[name] + _underflow(self.case, self.problem)
        return bounds, noise

    def _allow_steps_of_m(self, bounds: Arrays, noise: Arrays) -> None:
        """Add to m what a kernel loses that rounds it at every token, where chunks alone were evaluated.

        d_t is relative to m_t, and of h_t log h_t changes by kappa_t with it (docs/method.md, section 12).
        """
        most, likely = roundings_of_m(self.problem.inputs)
        for name, off in self._of_m(most).items():
            bounds[name] = bounds[name] + off
        for name, off in self._of_m(likely).items():
            if name in noise:
                noise[name] = np.hypot(noise[name], _root_mean_square(off) if name == "h" else off)

    def _of_m(self, lost: np.ndarray) -> Arrays:
        # What is off, by name, where m_t is off by ``lost``.
        case, values = self.case, self.values
        here = lost if values["m"].shape[-1] == case.length else lost[..., probe_rows(case)]
        kappa = case.eps / np.maximum(values["n"], FLOAT32_TINY) + (0.0 if case.stabilize_correctly else 1.0)
        relative = np.expm1(here)
        return {
            "m": here,
            "m_last": lost[..., -1],
            "n": relative * np.abs(values["n"]),
            "h": (relative * kappa)[..., None] * np.abs(values["h"]),
        }

    def _noise(self, orders: Orders, kinds: Kinds, replicates: int, by_tokens: int) -> Arrays:
        """The noise floor of every row: over the replicates, over the channels if it has any, of the noisier order."""
        floors: Arrays = {}
        counts = (replicates, by_tokens) if self.case.length <= BY_TOKENS_UP_TO else (replicates,)
        for order, count in zip(orders, counts, strict=False):
            arithmetic = MonteCarlo(self.units, count, zlib.crc32(self.case.id.encode()), nearest=True)
            for name, number in order(arithmetic).items():
                if name not in self.values or name in kinds.without_noise:
                    continue
                floor = arithmetic.noise(number, self.values[name])
                if name in kinds.operands:
                    floor = np.hypot(floor, self.units.operand * np.abs(self.values[name]))
                floor = _root_mean_square(floor) if name in kinds.channels else floor
                # Which terms below the smallest normal number a kernel loses is not told by losing all, or none. A
                # gradient has as many as a chunk has sources, and each as many as there are channels.
                terms = self.case.chunk_size * max(self.case.dhqk, self.case.dhhv) if name in kinds.gradients else 1
                floor = np.where(floor > 0.0, np.hypot(floor, np.sqrt(terms) * FLOAT32_TINY), floor)
                floors[name] = np.maximum(floor, floors.get(name, 0.0))
        return floors


def roundings_of_m(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """How far m_t may be off, and how far it is likely to be, where every token rounds it to float32: (..., S) each.

    A token rounds phi_t + m_{t-1} by u |m_t|, or loses phi_t next to a larger m; where i_t wins, nothing is left of it.
    Roundings that are a matter of chance add up as their squares; those that are not, since steps are equal or each is
    lost, are those of a float32 m.
    """
    unit = Precision.of("float32").gates
    phi, i = (np.moveaxis(array, -1, 0) for array in (-np.logaddexp(0.0, -inputs.f), inputs.i))
    phi_32, i_32 = phi.astype(np.float32), i.astype(np.float32)
    most, likely = np.zeros(phi.shape), np.zeros(phi.shape)
    m = inputs.initial_state()[1]
    m_32, sum_, squares = m.astype(np.float32), np.zeros(m.shape), np.zeros(m.shape)
    for t in range(len(phi)):
        stayed = phi[t] + m
        off = np.where(np.isfinite(stayed), np.minimum(unit * np.abs(stayed), np.abs(phi[t])), 0.0)
        gone = stayed + sum_ + off < i[t]
        sum_, squares = np.where(gone, 0.0, sum_ + off), np.where(gone, 0.0, squares + off**2)
        m, m_32 = np.maximum(stayed, i[t]), np.maximum(phi_32[t] + m_32, i_32[t])
        # Of an empty state both are -inf.
        with np.errstate(invalid="ignore"):
            apart = np.where(m == m_32, 0.0, m_32 - m)
        most[t], likely[t] = sum_, np.hypot(np.sqrt(squares / 3.0), apart)
    return np.moveaxis(most, 0, -1), np.moveaxis(likely, 0, -1)


def _allow_conversion_of_m(names: Collection[str], values: Arrays, bounds: Arrays, noise: Arrays) -> None:
    """Add the roundings of a change of base to every m, and to the last state, which is relative to the last."""
    unit = Precision.of("float32").gates
    relative = {name: unit * np.where(np.isfinite(values[name]), np.abs(values[name]), 0.0) for name in names}
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


def may_leave_float32(name: str, number: Any, inputs: Inputs) -> np.ndarray:
    # h depends on an empty initial state by exp(m_0 - m_t) / d_t, where d_t may be 0 without norm_val and eps: a
    # term may overflow although their sum does not.
    if name not in ("dC_0", "dn_0"):
        return np.zeros(number.shape, bool)
    empty = inputs.is_empty().reshape(inputs.lead + (1,) * (len(number.shape) - len(inputs.lead)))
    size = np.where(np.isinf(number.e), np.inf, number.s)
    return np.broadcast_to(empty & ~(size <= np.finfo(np.float32).max), number.shape)


def without_gradient(case: Case, rows: np.ndarray, h: Any) -> Arrays:
    """Where a kernel has no gradient, because h_t is stored and left the range of its dtype.

    y_t = dh_t.h_t is then infinite or, where dh_t is 0, no number: it is in dq_t, and in what all tokens up to t and
    the initial state get.
    """
    import ml_dtypes

    if case.cotangents == "none":
        return {}
    largest = float(ml_dtypes.finfo(NUMPY_DTYPES[case.dtype]).max)
    # Where rounding decides whether d_t is 0, h_t may be anything: without eps, or next to float16's range, it is
    # likely enough to be beyond.
    bound = h.e if case.dtype == "float16" or not case.eps else np.where(np.isinf(h.e), 0.0, h.e)
    beyond = np.any(np.abs(h.x) + bound >= largest, axis=-1)
    if not beyond.any():
        return {}
    last = np.where(beyond, np.arange(case.length), -1).max(axis=-1)
    tokens = rows <= last[..., None]
    heads = last >= 0
    by_channel = {"dq": beyond[..., rows, None], "dk": tokens[..., None], "dv": tokens[..., None]}
    initial = {"dC_0": heads[..., None, None], "dn_0": heads[..., None], "dm_0": heads}
    return {**by_channel, "di": tokens, "df": tokens, **initial}
