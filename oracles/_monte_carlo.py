"""Monte Carlo arithmetic: float64 values computed many times, with a random error at every rounding of a kernel.

A number is computed without such errors, as ``Float64`` computes it, and in ``replicates`` other ways: the result of
each operation is multiplied by 1 + u xi, where xi is uniform in [-1, 1] and u the unit of the operation. How far the
replicates scatter is the noise floor: how far correct kernels of that precision are from the exact result.

    x + y, x y, x / y      u of accumulation
    x + y of log gates     u of gates, but no more than |x| or |y|
    exp(x)                 u (1 + |x|): of 2^(x log2 e) the argument is rounded; nothing at x = 0
    log sigmoid(f)         u (1 + (1 + |f|) sigma(f)): exp(-|f|) as seen through log1p
    sum of n terms         every term u sqrt(1 + log2 n), its product and the additions of a tree; then u of the sum
    x in a dot             u of an operand, if x was computed or inputs lose digits there too
    result                 u of storage, and the distance of the dtype's subnormal numbers

Terms have errors of their own, so that a sum which cancels keeps the noise of what it is made of.

What is no matter of chance in a kernel is done in some replicates and not in others. In half of them what is below the
underflow threshold becomes 0, a power that leaves the format infinite, a log forget gate that m absorbs is lost, and a
decision that noise may turn is turned.
In one, if asked for, results are rounded to nearest, as a kernel does: equal steps then have equal errors, which add
up. It counts as much as all others together.

Source: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002, 1997; N. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 4.2, for sums by trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from oracles._precision import Precision

# exp of anything beyond is 0 or infinite in float64.
LARGEST_EXPONENT = 750.0
# A decision nearer than so many times its noise may be turned.
_NEAR = 8.0


class Noise:
    """Random numbers, uniform in [-1, 1]: drawn once, then read from random places.

    Two draws share numbers, but at places that are shifted by chance against each other. The numbers of one draw are
    different ones, so that replicates have nothing in common; what is larger than a part of the pool is drawn anew.
    """

    POOL = 2**20
    LARGEST = POOL // 3

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.uniform(-1.0, 1.0, self.POOL)
        self._factors: dict[float, np.ndarray] = {}
        self._places = self._random_places()

    def _random_places(self) -> Iterator[int]:
        while True:
            yield from self._rng.integers(0, self.POOL - self.LARGEST, 1024).tolist()

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """xi, to be read only."""
        return self._read(self._pool, shape)

    def factors(self, unit: float, shape: tuple[int, ...]) -> np.ndarray:
        """1 + unit xi, to be read only."""
        if prod(shape) > self.LARGEST:
            return 1.0 + unit * self.draw(shape)
        if unit not in self._factors:
            self._factors[unit] = 1.0 + unit * self._pool
        return self._read(self._factors[unit], shape)

    def _read(self, pool: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        count = prod(shape)
        if count > self.LARGEST:
            return self._rng.uniform(-1.0, 1.0, shape)
        place = next(self._places)
        return pool[place : place + count].reshape(shape)


class Replicas:
    """An array of numbers, each computed in several ways, in ``x`` along a leading axis that indices do not see.

    x[0] is computed without errors; an exact number has no other. ``gate`` says whether they are sums of log gates.
    """

    __slots__ = ("ar", "gate", "x")

    def __init__(self, x: np.ndarray, ar: MonteCarlo, gate: bool = False) -> None:
        self.x, self.ar, self.gate = x, ar, gate

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def __getitem__(self, index: Any) -> Replicas:
        index = index if isinstance(index, tuple) else (index,)
        return Replicas(self.x[(slice(None), *index)], self.ar, self.gate)

    def __add__(self, other: Replicas) -> Replicas:
        return self.ar._sum_of(np.add, self, other)

    def __sub__(self, other: Replicas) -> Replicas:
        return self.ar._sum_of(np.subtract, self, other)

    def __mul__(self, other: Replicas) -> Replicas:
        return self.ar._product_of(self, other)


class MonteCarlo:
    """The arithmetic of ``Replicas`` for one ``Precision``.

    Two of the same seed give the same bits; one that is used again gives other errors. Each holds some 20 MB of
    random numbers, whatever is computed.

    Args:
        precision: the units; well above 2^-53, with which the replicates themselves are computed.
        replicates: how many, an even number.
        seed: of the random errors.
        nearest: whether the first replicate rounds to nearest, all but the terms inside of sums.

    Raises:
        ValueError: if replicates is not an even number of at least 2.
    """

    def __init__(self, precision: Precision, replicates: int = 16, seed: int = 0, *, nearest: bool = False) -> None:
        if not isinstance(replicates, int) or replicates < 2 or replicates % 2:
            raise ValueError(f"replicates is {replicates!r}; expected an even number, at least 2.")
        self.precision = precision
        self.replicates = replicates
        self._nearest = nearest
        self._noise = Noise(seed)
        # Of the rows of Replicas.x, those in which what is below the underflow threshold becomes 0.
        self._flushing = slice(1 + replicates // 2, None)

    def noise(self, x: Replicas, reference: np.ndarray) -> np.ndarray:
        """The noise floor: the root mean square, over the replicates, of their distance from ``reference``.

        One that rounds to nearest is not one of many: it counts as much as all others together. Every kernel that
        takes the same steps has its errors, where these add up.

        Returns:
            In the shape of x; 0 where x is exact and the reference is x, also at infinities.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(x.x == reference, 0.0, x.x - reference)
            if len(apart) == 1:
                return np.abs(apart[0])
            # Scaled, since squares of what underflows in float32 may underflow in float64; beside what is infinite
            # they may overflow.
            largest = np.max(np.abs(apart[1:]), axis=0)
            scale = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
            squares = (apart[1:] / scale) ** 2
            if self._nearest:
                return scale * np.sqrt(squares[0] + np.mean(squares[1:], axis=0))
            return scale * np.sqrt(np.mean(squares, axis=0))

    def _perturb(self, x: np.ndarray, unit: Any) -> np.ndarray:
        # x is no view of another number; a unit that is an array has the shape of x, and is at least that of gates.
        if len(x) == 1:
            x = np.repeat(x, 1 + self.replicates, axis=0)
        perturbed = x[1:]
        if self._nearest:
            nearest = _to_nearest(perturbed[0], unit if isinstance(unit, float) else self.precision.gates)
        if isinstance(unit, float):
            perturbed *= self._noise.factors(unit, perturbed.shape)
        else:
            perturbed *= 1.0 + unit[1 if len(unit) > 1 else 0 :] * self._noise.draw(perturbed.shape)
        if self._nearest:
            perturbed[0] = nearest
        return self._flush(x)

    def _perturb_sum(self, x: np.ndarray, squares: np.ndarray, terms: int, unit: float) -> np.ndarray:
        # x is made of sums whose terms, without errors, have these sums of squares: as they stand in x[:1].
        if len(x) == 1:
            x = np.repeat(x, 1 + self.replicates, axis=0)
        levels = (terms - 1).bit_length()
        with np.errstate(invalid="ignore", over="ignore"):
            size = unit * np.sqrt((1 + levels) * squares + x[:1] ** 2)
        # Beyond float64 there is no noise.
        x[1:] += np.where(np.isfinite(size), size, 0.0) * self._noise.draw(x[1:].shape)
        return self._flush(x)

    def _flush(self, x: np.ndarray) -> np.ndarray:
        lost = x[self._flushing]
        below = np.abs(lost) < self.precision.tiny
        if below.any():
            lost[below] = 0.0
        return x

    def _sum_of(self, operation: Callable[..., Any], x: Replicas, y: Replicas) -> Replicas:
        left, right = _aligned(x.x, y.x)
        total = operation(left, right)
        if not (x.gate or y.gate):
            return Replicas(self._perturb(total, self.precision.accumulation), self)
        # x itself is as near to x + y as |y|: what is lost next to a large m is all that the rounding is off by.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            smaller = np.minimum(np.abs(left), np.abs(right)) / np.abs(total)
        total = self._perturb(total, np.fmin(self.precision.gates, smaller))
        # What is less than half an ulp of m is lost at every token, always to the same side: no matter of chance
        # either, and half of the replicates lose it.
        losing = total[self._flushing]
        lost = np.broadcast_to(smaller, total.shape)[self._flushing] < self.precision.gates
        if lost.any():
            left, right = (np.broadcast_to(part, total.shape)[self._flushing][lost] for part in (left, right))
            losing[lost] = np.where(np.abs(left) > np.abs(right), left, operation(np.zeros_like(right), right))
        return Replicas(total, self, gate=True)

    def _product_of(self, x: Replicas, y: Replicas) -> Replicas:
        return Replicas(self._perturb(np.multiply(*_aligned(x.x, y.x)), self.precision.accumulation), self)

    def array(self, values: Any) -> Replicas:
        return Replicas(np.asarray(values, np.float64)[None], self)

    def rsqrt(self, n: int) -> Replicas:
        return Replicas(self._perturb(np.array([1.0 / np.sqrt(np.float64(n))]), self.precision.accumulation), self)

    def exp(self, x: Replicas) -> Replicas:
        with np.errstate(over="ignore", under="ignore"):
            value = np.exp(x.x)
        magnitude = np.minimum(np.abs(x.x), LARGEST_EXPONENT)
        relative = np.where(magnitude > 0.0, 1.0 + magnitude, 0.0)
        value = self._perturb(value, self.precision.gates * relative)
        leaving = value[self._flushing]
        leaving[leaving > self.precision.huge] = np.inf
        return Replicas(value, self)

    def log_sigmoid(self, f: Replicas) -> Replicas:
        magnitude = np.minimum(np.abs(f.x), LARGEST_EXPONENT)
        with np.errstate(under="ignore"):
            value = np.minimum(f.x, 0.0) - np.log1p(np.exp(-np.abs(f.x)))
            through = (1.0 + magnitude) * _sigmoid(f.x)
        return Replicas(self._perturb(value, self.precision.gates * (1.0 + through)), self, gate=True)

    def sigmoid(self, x: Replicas) -> Replicas:
        # A quotient, and for x < 0 the error of exp(x).
        magnitude = np.minimum(np.maximum(-x.x, 0.0), LARGEST_EXPONENT)
        return Replicas(self._perturb(_sigmoid(x.x), self.precision.gates * (2.0 + magnitude)), self)

    def maximum(self, x: Replicas, y: Replicas) -> Replicas:
        return Replicas(np.maximum(*_aligned(x.x, y.x)), self, x.gate or y.gate)

    def absolute(self, x: Replicas) -> Replicas:
        return Replicas(np.abs(x.x), self, x.gate)

    def sign(self, x: Replicas) -> Replicas:
        return Replicas(np.sign(x.x), self)

    def at_least(self, x: Replicas, y: Replicas) -> Replicas:
        left, right = _aligned(x.x, y.x)
        value = np.asarray(np.greater_equal(left, right), np.float64)
        if len(value) > 1:
            with np.errstate(invalid="ignore", over="ignore"):
                margin = left - right
                # A tie, too, may go either way.
                near = np.abs(margin[0]) <= _NEAR * np.sqrt(np.mean((margin[1:] - margin[0]) ** 2, axis=0))
            value[self._flushing, near] = 1.0 - value[0, near]
        return Replicas(value, self)

    def below(self, x: Replicas, y: Replicas) -> Replicas:
        return Replicas(1.0 - self.at_least(x, y).x, self)

    def divide(self, x: Replicas, y: Replicas) -> Replicas:
        dividend, divisor = _aligned(x.x, y.x)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            value = np.where(dividend == 0.0, 0.0, dividend / divisor)
        value = self._perturb(value, self.precision.accumulation)
        # A denominator beyond the format counts as infinite.
        beyond = np.broadcast_to(divisor > self.precision.huge, value.shape)[self._flushing]
        value[self._flushing][beyond] = 0.0
        return Replicas(value, self)

    def where(self, condition: np.ndarray, x: Replicas, y: Replicas) -> Replicas:
        chosen = np.where(*_aligned(np.asarray(condition)[None], x.x, y.x))
        return Replicas(chosen, self, x.gate or y.gate)

    def is_empty(self, m: Replicas) -> np.ndarray:
        # No rounding makes or unmakes an infinity: all replicates agree.
        return np.isneginf(m.x[0])

    def outer(self, x: Replicas, y: Replicas) -> Replicas:
        left, right = self._operand(x), self._operand(y)
        return Replicas(self._perturb(left[..., :, None] * right[..., None, :], self.precision.accumulation), self)

    def _operand(self, x: Replicas) -> np.ndarray:
        # x as it enters a dot.
        computed = len(x.x) > 1 or self.precision.inputs_round
        if not (computed and self.precision.operand):
            return x.x
        return self._perturb(x.x.copy(), self.precision.operand)

    def matmul(self, x: Replicas, y: Replicas) -> Replicas:
        return self._sum_of_products(np.matmul, x, y, x.shape[-1])

    def dot(self, x: Replicas, y: Replicas) -> Replicas:
        return self._sum_of_products(_inner, x, y, x.shape[-1] * x.shape[-2])

    def _sum_of_products(self, product: Callable[..., Any], x: Replicas, y: Replicas, terms: int) -> Replicas:
        total = product(*_aligned(self._operand(x), self._operand(y)))
        with np.errstate(invalid="ignore", over="ignore"):
            squares = product(*_aligned(x.x[:1] ** 2, y.x[:1] ** 2))
        return Replicas(self._perturb_sum(total, squares, terms, self.precision.accumulation), self)

    def _unit(self, x: Replicas) -> float:
        return self.precision.gates if x.gate else self.precision.accumulation

    def sum(self, x: Replicas) -> Replicas:
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.sum(x.x[:1] ** 2, axis=-1)
        total = self._perturb_sum(np.sum(x.x, axis=-1), squares, x.shape[-1], self._unit(x))
        return Replicas(total, self, x.gate)

    def cumsum(self, x: Replicas, axis: int) -> Replicas:
        # Successive sums share the errors of their terms.
        unit, axis = self._unit(x), _inner_axis(axis)
        levels = (x.x.shape[axis] - 1).bit_length()
        terms = self._perturb(x.x.copy(), unit * sqrt(1 + levels))
        return Replicas(self._perturb(np.cumsum(terms, axis=axis), unit), self, x.gate)

    def transpose(self, x: Replicas) -> Replicas:
        return Replicas(np.swapaxes(x.x, -1, -2), self, x.gate)

    def max(self, x: Replicas, axis: int) -> Replicas:
        return Replicas(np.max(x.x, axis=_inner_axis(axis)), self, x.gate)

    def stack(self, parts: Sequence[Replicas], axis: int) -> Replicas:
        return Replicas(np.stack(_replicated(parts), _inner_axis(axis)), self, any(part.gate for part in parts))

    def concatenate(self, parts: Sequence[Replicas]) -> Replicas:
        return Replicas(np.concatenate(_replicated(parts), -1), self, any(part.gate for part in parts))

    def freeze(self, m: Replicas) -> Replicas:
        """The m without errors, one number that all replicates share.

        No result depends on the m' it is relative to, so every m' is as good. With this one the replicates of a
        state that is returned are relative to the m of the reference, and can be compared with it as they are;
        and m, which is returned too, keeps its errors, and what depends on it has them by m - m'.
        """
        return Replicas(m.x[:1], self, m.gate)

    def weigh(self, weight: Replicas, x: Replicas) -> Replicas:
        # The weight has one error for all terms of x. That is how the form computes it; a kernel that has an exp
        # of its own for each of them has the noise of a form that does so too, chunkwise or parallel.
        return weight * x

    def term(self, x: Replicas) -> Replicas:
        return x

    def output(self, x: Replicas) -> Replicas:
        stored = self._perturb(x.x.copy(), self.precision.storage)
        spacing = self.precision.storage_tiny * self._noise.draw(stored[1:].shape)
        stored[1:] += np.where(stored[1:] == 0.0, 0.0, spacing)
        return Replicas(stored, self)

    def to_float64(self, x: Replicas) -> np.ndarray:
        """The mean of the replicates."""
        return np.mean(x.x[1:], axis=0) if len(x.x) > 1 else x.x[0]


def _to_nearest(x: np.ndarray, unit: float) -> np.ndarray:
    # Veltkamp's splitting: the high part of x has an error of at most ``unit``, a power of 2, of its binade.
    if not unit:
        return x.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x * (2.0**53 * unit + 1.0)
        nearest = scaled - (scaled - x)
    return np.where(np.isfinite(nearest), nearest, x)


def _aligned(*arrays: np.ndarray) -> list[np.ndarray]:
    # NumPy broadcasts from the right; the replicates must stay the first axis.
    axes = max(array.ndim for array in arrays)
    return [
        array if array.ndim == axes else array.reshape(len(array), *(1,) * (axes - array.ndim), *array.shape[1:])
        for array in arrays
    ]


def _inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sum(x * y, axis=(-2, -1))


def _inner_axis(axis: int) -> int:
    return axis if axis < 0 else axis + 1


def _replicated(parts: Sequence[Replicas]) -> list[np.ndarray]:
    # An exact number is the same in all replicates.
    count = max(len(part.x) for part in parts)
    return [part.x if len(part.x) == count else np.broadcast_to(part.x, (count, *part.shape)) for part in parts]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    power = np.exp(-np.abs(x))
    return np.where(x < 0.0, power, 1.0) / (1.0 + power)
