"""Running error analysis: float64 values that carry a bound on what a kernel's rounding may do to them.

Each number is (x, e, s): its value, a bound on the error that a computation in the given precision
may have made so far, and its size, the same expression with every term replaced by its absolute
value. With unit roundoff u and the underflow threshold t of float32 (to first order in u):

    x + y:   e = e_x + e_y + u s,  s = s_x + s_y         x y:  e = |x| e_y + |y| e_x + e_x e_y + u s + t
    exp(x):  e = e^x (expm1(e_x) + u (4 + 2|x|)) + t     max:  e = the larger of both, where both may win
    x / y:   e = (e_x + |x/y| e_y) / (y - e_y) + 4 u |x/y| + t (1 + |x|)

Sums are charged by size, not by value: cancellation in one order says nothing of another. The order is
that of the form, token after token. A term that a chunkwise kernel adds to others of its chunk in an
order of its own is charged ``depth`` additions when it is made, or twice as many where it sums over pairs
(``term``). A weight is charged by the size of what it weighs, since each term may have an exp of its own
(``weigh``). A computed number that enters a dot is charged its rounding to the operand format. exp is
charged as a GPU computes it, 2^(x log2 e): the constant and the product are rounded, and PTX's ex2.approx
may be off by 2^-22.5 < 3u. A quotient is charged as PTX's div.full, which may be off by 2 ulp = 4u.

What it tells: an error above the bound is more than the rounding of such a computation, to first order; a
less stable formula, such as differences of prefix sums, may exceed it too. An error below the bound proves
nothing: the bound is a worst case.

Sources: NVIDIA, PTX ISA, ex2 and div; J. Wilkinson, Error analysis revisited, 1986; N. Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., sections 3.1 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FLOAT32_UNIT = 2.0**-24
FLOAT32_TINY = 2.0**-126
FLOAT32_HUGE = 2.0**126


@dataclass(frozen=True)
class Precision:
    """The rounding units of a kernel. Gates, sums and states are float32 in every one of them.

    Attributes:
        name: what reports call it.
        operand: relative error of a computed number that enters a dot (0 if it enters as float32).
        storage: unit roundoff of the dtype of h.
        storage_tiny: half the distance of that dtype's subnormal numbers.
    """

    name: str
    operand: float
    storage: float
    storage_tiny: float

    @classmethod
    def of(cls, name: str) -> Precision:
        """By name: float32, tf32, bfloat16 or float16.

        Raises:
            ValueError: for another name.
        """
        # TF32 units drop the low bits of an operand instead of rounding them: 2^-10, not 2^-11.
        # float16 kernels may let computed operands enter as TF32, which does not overflow.
        known = {
            "float32": cls("float32", 0.0, 2.0**-24, 2.0**-150),
            "tf32": cls("tf32", 2.0**-10, 2.0**-24, 2.0**-150),
            "bfloat16": cls("bfloat16", 2.0**-8, 2.0**-8, 2.0**-134),
            "float16": cls("float16", 2.0**-10, 2.0**-11, 2.0**-25),
        }
        if name not in known:
            raise ValueError(f"precision is {name!r}; expected one of {', '.join(known)}.")
        return known[name]


class Bounded:
    """An array of numbers (x, e, s); see the head of this module."""

    __slots__ = ("e", "s", "x")

    def __init__(self, x: Any, e: Any, s: Any) -> None:
        self.x, self.e, self.s = x, e, s

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.x)

    def __getitem__(self, index: Any) -> Bounded:
        return Bounded(self.x[index], self.e[index], self.s[index])

    def __add__(self, other: Bounded) -> Bounded:
        size = self.s + other.s
        return Bounded(self.x + other.x, self.e + other.e + FLOAT32_UNIT * _finite(size), size)

    def __sub__(self, other: Bounded) -> Bounded:
        return self + Bounded(-other.x, other.e, other.s)

    def __mul__(self, other: Bounded) -> Bounded:
        size = self.s * other.s
        e = _product_error(np.multiply, self, other)
        return Bounded(self.x * other.x, e + FLOAT32_UNIT * size + FLOAT32_TINY, size)


def _product_error(product: Callable[[Any, Any], Any], x: Bounded, y: Bounded) -> Any:
    # What the errors of the factors make of a product or of a sum of products.
    with np.errstate(invalid="ignore", over="ignore"):
        e = product(np.abs(x.x), y.e) + product(x.e, np.abs(y.x)) + product(x.e, y.e)
    # A factor that is unbounded times an error of 0: nothing is known.
    return np.where(np.isnan(e), np.inf, e)


def _inner(x: Any, y: Any) -> Any:
    return np.sum(x * y, axis=(-2, -1))


def _finite(size: Any) -> Any:
    # Minus infinity is a value of gates and stabilizers; adding to it makes no rounding error.
    return np.where(np.isinf(size), 0.0, size)


class RunningError:
    """The arithmetic of ``Bounded`` numbers for one ``Precision``.

    Args:
        precision: the units.
        depth: how many additions a term may take part in inside its chunk: the chunk size.
    """

    def __init__(self, precision: Precision, depth: int) -> None:
        self.precision = precision
        self.depth = depth

    def array(self, values: Any) -> Bounded:
        x = np.asarray(values, np.float64)
        return Bounded(x, np.zeros_like(x), np.abs(x))

    def rsqrt(self, n: int) -> Bounded:
        x = np.float64(n) ** -0.5
        return Bounded(x, FLOAT32_UNIT * x, x)

    def exp(self, x: Bounded) -> Bounded:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            value = np.exp(x.x)
            relative = np.expm1(x.e) + FLOAT32_UNIT * (4.0 + 2.0 * np.abs(x.x))
            return Bounded(value, np.where(value == 0.0, 0.0, value * relative) + FLOAT32_TINY, value)

    def log_sigmoid(self, f: Bounded) -> Bounded:
        # min(f, 0) - log1p(exp(-|f|)): the error of exp, seen through log1p, and four roundings.
        magnitude = np.abs(f.x)
        with np.errstate(under="ignore"):
            power = np.exp(-magnitude)
            x = np.minimum(f.x, 0.0) - np.log1p(power)
        through = power / (1.0 + power) * (4.0 + 2.0 * _finite(magnitude))
        e = FLOAT32_UNIT * (through + 4.0 * _finite(np.abs(x))) + FLOAT32_TINY
        return Bounded(x, e, np.abs(x))

    def maximum(self, x: Bounded, y: Bounded) -> Bounded:
        value = np.maximum(x.x, y.x)
        # "Not certainly below": inf - inf, an overflow of which nothing is known, may win.
        with np.errstate(invalid="ignore"):
            x_loses, y_loses = x.x + x.e < y.x - y.e, y.x + y.e < x.x - x.e
        e = np.maximum(np.where(x_loses, 0.0, x.e), np.where(y_loses, 0.0, y.e))
        return Bounded(value, e, np.abs(value))

    def absolute(self, x: Bounded) -> Bounded:
        return Bounded(np.abs(x.x), x.e, x.s)

    def sign(self, x: Bounded) -> Bounded:
        value = np.sign(x.x)
        return Bounded(value, np.where(np.abs(x.x) <= x.e, 2.0, 0.0), np.abs(value))

    def at_least(self, x: Bounded, y: Bounded) -> Bounded:
        return self._decision(x, y, np.asarray(x.x >= y.x, np.float64))

    def below(self, x: Bounded, y: Bounded) -> Bounded:
        return self._decision(x, y, np.asarray(x.x < y.x, np.float64))

    def _decision(self, x: Bounded, y: Bounded, value: np.ndarray) -> Bounded:
        # One that rounding may turn is off by 1, any other is exact: what it leaves out adds no error.
        # inf - inf decides nothing.
        with np.errstate(invalid="ignore"):
            sure = np.abs(x.x - y.x) > x.e + y.e
        return Bounded(value, np.where(sure, 0.0, 1.0), np.where(sure, value, 1.0))

    def sigmoid(self, x: Bounded) -> Bounded:
        # e^x / (1 + e^x) for x < 0, 1 / (1 + e^-x) else: the error of exp, a sum and a quotient; |slope| <= value.
        magnitude = _finite(np.abs(x.x))
        with np.errstate(under="ignore"):
            power = np.exp(-np.abs(x.x))
        value = np.where(x.x < 0.0, power, 1.0) / (1.0 + power)
        e = value * (np.expm1(x.e) + FLOAT32_UNIT * (9.0 + 2.0 * magnitude)) + FLOAT32_TINY
        return Bounded(value, e, value)

    def divide(self, x: Bounded, y: Bounded) -> Bounded:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            value = np.where(x.x == 0.0, 0.0, x.x / y.x)
            size = np.abs(value)
            smallest = y.x - y.e
            e = np.where(smallest > 0.0, (x.e + size * y.e) / smallest, np.inf)
            # A denominator beyond float32 counts as infinite; h = 0 is then off by |h| itself.
            e = np.where(np.isinf(y.x) | (y.x > FLOAT32_HUGE), size, e)
            e = np.where(np.isnan(e), np.inf, e)
        return Bounded(value, e + 4.0 * FLOAT32_UNIT * size + FLOAT32_TINY * (1.0 + np.abs(x.x)), size)

    def where(self, condition: np.ndarray, x: Bounded, y: Bounded) -> Bounded:
        return Bounded(*(np.where(condition, a, b) for a, b in ((x.x, y.x), (x.e, y.e), (x.s, y.s))))

    def is_empty(self, m: Bounded) -> np.ndarray:
        return np.isneginf(m.x)

    def outer(self, x: Bounded, y: Bounded) -> Bounded:
        product = x[..., :, None] * y[..., None, :]
        # An input has the operand format already; a number that was computed is rounded to it.
        computed = (x.e > 0.0).astype(float)[..., :, None] + (y.e > 0.0).astype(float)[..., None, :]
        unit = self.depth * FLOAT32_UNIT + computed * self.precision.operand
        return Bounded(product.x, product.e + unit * product.s, product.s)

    def matmul(self, x: Bounded, y: Bounded) -> Bounded:
        terms = x.shape[-1]
        size = x.s @ y.s
        e = _product_error(np.matmul, x, y)
        unit = (terms + 1) * FLOAT32_UNIT + 2.0 * self.precision.operand
        return Bounded(x.x @ y.x, e + unit * size + terms * FLOAT32_TINY, size)

    def sum(self, x: Bounded) -> Bounded:
        size = np.sum(x.s, axis=-1)
        e = np.sum(x.e, axis=-1) + x.shape[-1] * FLOAT32_UNIT * size
        return Bounded(np.sum(x.x, axis=-1), e, size)

    def cumsum(self, x: Bounded, axis: int) -> Bounded:
        size = np.cumsum(x.s, axis=axis)
        e = np.cumsum(x.e, axis=axis) + x.shape[axis] * FLOAT32_UNIT * size
        return Bounded(np.cumsum(x.x, axis=axis), e, size)

    def dot(self, x: Bounded, y: Bounded) -> Bounded:
        # Sums of sums: first over one axis, then over the other, in any order within each.
        terms = x.shape[-1] + x.shape[-2]
        size = _inner(x.s, y.s)
        e = _product_error(_inner, x, y)
        unit = (terms + 1) * FLOAT32_UNIT + 2.0 * self.precision.operand
        return Bounded(_inner(x.x, y.x), e + unit * size + terms * FLOAT32_TINY, size)

    def transpose(self, x: Bounded) -> Bounded:
        return Bounded(*(np.swapaxes(part, -1, -2) for part in (x.x, x.e, x.s)))

    def max(self, x: Bounded, axis: int) -> Bounded:
        value = np.max(x.x, axis=axis)
        return Bounded(value, np.max(x.e, axis=axis), np.abs(value))

    def stack(self, parts: Sequence[Bounded], axis: int) -> Bounded:
        return Bounded(*(np.stack([getattr(part, name) for part in parts], axis) for name in ("x", "e", "s")))

    def concatenate(self, parts: Sequence[Bounded]) -> Bounded:
        return Bounded(*(np.concatenate([getattr(part, name) for part in parts], -1) for name in ("x", "e", "s")))

    def freeze(self, m: Bounded) -> Bounded:
        return Bounded(m.x, np.zeros_like(m.x), np.abs(m.x))

    def weigh(self, weight: Bounded, x: Bounded) -> Bounded:
        # Every term has a rounding of the weight of its own: what cancels in x does not cancel in its errors.
        return Bounded(weight.x * x.x, (weight * Bounded(x.s, x.e, x.s)).e, weight.s * x.s)

    def term(self, x: Bounded) -> Bounded:
        # Over the sources of a chunk, then over its targets.
        return Bounded(x.x, x.e + 2.0 * self.depth * FLOAT32_UNIT * x.s, x.s)

    def output(self, x: Bounded) -> Bounded:
        e = x.e + self.precision.storage * (np.abs(x.x) + x.e) + self.precision.storage_tiny
        return Bounded(x.x, e, x.s)

    def to_float64(self, x: Bounded) -> np.ndarray:
        return np.asarray(x.x)
