"""Balls [mid +- rad] by python-flint: numbers of any precision that prove how far they are off.

Every operation returns a ball that holds the exact result for all numbers of the balls it was given, so a
result holds the exact one for the given inputs, whatever was rounded on the way. A decision that balls leave
open has a ball that holds every answer:

    max(x, y) = x or y where one is proved to be at least the other, else the hull of all maxima
    x >= y    = 1 or 0 where proved, else [0, 1]                sign(x) likewise, else [-1, 1]

-inf is a number (a gate, the stabilizer of an empty state). NaN is the ball of which nothing is known: it
holds everything. x / y is NaN where y may be 0 and x is not the exact 0.

Source: F. Johansson, Arb: efficient arbitrary-precision midpoint-radius interval arithmetic, IEEE Transactions
on Computers 66(8), 2017.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

_ONE_THREAD = threading.RLock()


@cache
def _flint() -> ModuleType:
    try:
        import flint
    except ImportError as error:
        message = f"Ball needs python-flint, which cannot be imported ({error}): pip install python-flint."
        raise ImportError(message) from error
    return flint


class Balls:
    """An array of balls whose operators work with ``bits``: flint's own precision is global, and left as it was."""

    __slots__ = ("bits", "x")

    def __init__(self, x: Any, bits: int) -> None:
        self.x: np.ndarray = np.asarray(x, object)
        self.bits = bits

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    def __getitem__(self, index: Any) -> Balls:
        return Balls(self.x[index], self.bits)

    def __add__(self, other: Balls) -> Balls:
        return _apply(self.bits, np.add, self, other)

    def __sub__(self, other: Balls) -> Balls:
        return _apply(self.bits, np.subtract, self, other)

    def __mul__(self, other: Balls) -> Balls:
        return _apply(self.bits, np.multiply, self, other)


def _apply(bits: int, function: Callable[..., Any], *arrays: Balls, **options: Any) -> Balls:
    # All arithmetic passes through here: flint takes its precision from a global of all threads, which is put back.
    with _ONE_THREAD, _flint().ctx.workprec(bits):
        return Balls(function(*(array.x for array in arrays), **options), bits)


class Ball:
    """The arithmetic of ``Balls`` with ``bits`` binary digits.

    Raises:
        ValueError: if bits is not an integer of at least 53.
        ImportError: if python-flint is not installed.
    """

    def __init__(self, bits: int = 200) -> None:
        if not isinstance(bits, int) or bits < 53:
            raise ValueError(f"bits is {bits!r}; expected an integer of at least 53.")
        _flint()
        self.bits = bits

    def array(self, values: Any) -> Balls:
        """Floats, mpmath numbers or balls, taken exactly, whatever the precision."""
        numbers = values.x if isinstance(values, Balls) else np.asarray(values)
        if numbers.dtype == object:
            return Balls(_number(numbers), self.bits)
        # In one pass without a Python function for each, which is what most of the time would go to.
        arb = np.frompyfunc(_flint().arb, 1, 1)
        return Balls(arb(numbers.astype(np.float64, copy=False)), self.bits)

    def rsqrt(self, n: int) -> Balls:
        return _apply(self.bits, np.frompyfunc(lambda x: x.rsqrt(), 1, 1), self.array(n))

    def exp(self, x: Balls) -> Balls:
        return _apply(self.bits, _exp, x)

    def log_sigmoid(self, f: Balls) -> Balls:
        return _apply(self.bits, _log_sigmoid, f)

    def maximum(self, x: Balls, y: Balls) -> Balls:
        return _apply(self.bits, _maximum, x, y)

    def absolute(self, x: Balls) -> Balls:
        return _apply(self.bits, np.absolute, x)

    def sign(self, x: Balls) -> Balls:
        return _apply(self.bits, _sign, x)

    def at_least(self, x: Balls, y: Balls) -> Balls:
        return _apply(self.bits, _at_least, x, y)

    def below(self, x: Balls, y: Balls) -> Balls:
        return self.array(1.0) - self.at_least(x, y)

    def sigmoid(self, x: Balls) -> Balls:
        return _apply(self.bits, _sigmoid, x)

    def divide(self, x: Balls, y: Balls) -> Balls:
        return _apply(self.bits, _divide, x, y)

    def where(self, condition: np.ndarray, x: Balls, y: Balls) -> Balls:
        return Balls(np.where(condition, x.x, y.x), self.bits)

    def is_empty(self, m: Balls) -> np.ndarray:
        """Where m is proved to be -inf.

        m is -inf or finite by what it is made of, not by a rounding; where it is NaN, so is all that follows.
        """
        return np.asarray(_is_minus_infinity(m.x), bool)

    def outer(self, x: Balls, y: Balls) -> Balls:
        return x[..., :, None] * y[..., None, :]

    def matmul(self, x: Balls, y: Balls) -> Balls:
        return _apply(self.bits, _matmul, x, y)

    def sum(self, x: Balls) -> Balls:
        return _apply(self.bits, np.sum, x, axis=-1)

    def cumsum(self, x: Balls, axis: int) -> Balls:
        return _apply(self.bits, np.cumsum, x, axis=axis)

    def dot(self, x: Balls, y: Balls) -> Balls:
        return _apply(self.bits, np.sum, x * y, axis=(-2, -1))

    def transpose(self, x: Balls) -> Balls:
        return Balls(np.swapaxes(x.x, -1, -2), self.bits)

    def max(self, x: Balls, axis: int) -> Balls:
        return _apply(self.bits, _maximum.reduce, x, axis=axis)

    def stack(self, parts: Sequence[Balls], axis: int) -> Balls:
        return Balls(np.stack([part.x for part in parts], axis), self.bits)

    def concatenate(self, parts: Sequence[Balls]) -> Balls:
        return Balls(np.concatenate([part.x for part in parts], -1), self.bits)

    def freeze(self, m: Balls) -> Balls:
        # The midpoint would be another stabilizer, and the last state is returned relative to the exact one.
        return m

    def weigh(self, weight: Balls, x: Balls) -> Balls:
        return weight * x

    def term(self, x: Balls) -> Balls:
        return x

    def output(self, x: Balls) -> Balls:
        return x

    def to_float64(self, x: Balls) -> np.ndarray:
        """The float64 numbers nearest to the midpoints."""
        return np.asarray(_midpoint(x.x), np.float64)

    def radius(self, x: Balls) -> np.ndarray:
        """The radii in float64, rounded up; 0 of -inf and inf, inf of NaN."""
        return np.asarray(_radius(x.x), np.float64)

    def is_wide(self, x: Balls, relative: float, absolute: float) -> np.ndarray:
        """Where the radius is not proved to be at most max(relative |midpoint|, absolute), without float64's limits.

        -inf and inf are narrow, NaN is wide.
        """
        return np.asarray(_apply(64, _is_wide, x, self.array(relative), self.array(absolute)).x, bool)

    def encloses(self, x: Balls, values: Any) -> np.ndarray:
        """Where x holds the value, a float or an mpmath number taken exactly, or has a number in common with a ball.

        Only the NaN ball holds a NaN.
        """
        found = _overlaps(x.x, values.x) if isinstance(values, Balls) else _contains(x.x, self.array(values).x)
        return np.asarray(found, bool)


def _elementwise(arguments: int) -> Callable[[Callable[..., Any]], np.ufunc]:
    return lambda function: np.frompyfunc(function, arguments, 1)


@_elementwise(1)
def _number(x: Any) -> Any:
    arb = _flint().arb
    if isinstance(x, arb):
        return x
    # arb makes NaN of mpmath's infinities.
    return arb(x) if hasattr(x, "_mpf_") and abs(x) < np.inf else arb(float(x))


@_elementwise(1)
def _exp(x: Any) -> Any:
    return x.exp()


@_elementwise(1)
def _log_sigmoid(f: Any) -> Any:
    # Equal for every f; the one whose exp does not overflow.
    return -(-f).exp().log1p() if f.mid() > 0 else f - f.exp().log1p()


@_elementwise(1)
def _sigmoid(x: Any) -> Any:
    if x.mid() > 0:
        return 1 / (1 + (-x).exp())
    power = x.exp()
    return power / (1 + power)


@_elementwise(2)
def _maximum(x: Any, y: Any) -> Any:
    # A comparison of balls holds if it is proved for all their numbers.
    if x >= y:
        return x
    return y if y >= x else x.max(y)


@_elementwise(1)
def _sign(x: Any) -> Any:
    return x.sgn()


@_elementwise(2)
def _at_least(x: Any, y: Any) -> Any:
    arb = _flint().arb
    if x >= y:
        return arb(1)
    return arb(0) if x < y else arb(0.5, 0.5)


@_elementwise(2)
def _divide(x: Any, y: Any) -> Any:
    return x if x == 0 else x / y


@_elementwise(1)
def _is_minus_infinity(x: Any) -> bool:
    return bool(x == -np.inf)


@_elementwise(2)
def _overlaps(x: Any, y: Any) -> bool:
    return bool(x.overlaps(y))


@_elementwise(2)
def _contains(x: Any, number: Any) -> bool:
    return bool(x.contains(number))


@_elementwise(1)
def _midpoint(x: Any) -> float:
    return float(x.mid())


@_elementwise(1)
def _radius(x: Any) -> float:
    exact = x.rad()
    if x.is_nan() or not exact.is_finite():
        return float("inf")
    if not x.is_finite():
        return 0.0
    nearest = float(exact)
    return nearest if nearest >= exact else float(np.nextafter(nearest, np.inf))


@_elementwise(3)
def _is_wide(x: Any, relative: Any, absolute: Any) -> bool:
    radius = x.rad()
    return x.is_nan() or not (radius <= absolute or radius <= relative * abs(x.mid()))


def _matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    arb_mat = _flint().arb_mat
    (rows, inner), columns = x.shape[-2:], y.shape[-1]
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = np.broadcast_to(x, (*lead, rows, inner)), np.broadcast_to(y, (*lead, inner, columns))
    product = np.empty((*lead, rows, columns), object)
    for head in np.ndindex(lead):
        left = arb_mat(rows, inner, x[head].ravel().tolist())
        right = arb_mat(inner, columns, y[head].ravel().tolist())
        product[head] = np.fromiter((left * right).entries(), object, rows * columns).reshape(rows, columns)
    return product
