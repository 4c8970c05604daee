"""Running error analysis: float64 values that carry a bound on what a kernel's rounding may do to them.

Each number is (x, e, s): its value, a bound on the error that a computation in the given precision
may have made so far, and its size, the same expression with every term replaced by its absolute
value. With the unit u of gates or of accumulation and the underflow threshold t (to first order in u):

    x + y:   e = e_x + e_y + u s,  s = s_x + s_y         x y:  e = |x| e_y + |y| e_x + e_x e_y + u s + t
    exp(x):  e = e^x (expm1(e_x) + u (4 + 2|x|)) + t     max:  e = the larger of both, where both may win
    x / y:   e = (e_x + |x/y| e_y) / least(y) + 4 u |x/y| + t (1 + |x|)

least(y) is y - e_y, but of a maximum the larger of what its arguments are at least: max(|q.n|, exp(-m)) is not near 0
where rounding may carry q.n there.

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
from typing import Any

import numpy as np

from oracles._precision import Precision


class Bounded:
    """An array of numbers (x, e, s), see the head of this module, that know their units.

    ``gate`` says whether they are a sum of log gates; what is made of one by + - max is one too. ``low`` is what they
    are at least, where more is known of it than x - e.
    """

    __slots__ = ("e", "gate", "low", "precision", "s", "x")

    def __init__(self, x: Any, e: Any, s: Any, precision: Precision, gate: bool = False, low: Any = None) -> None:
        self.x, self.e, self.s = x, e, s
        self.precision, self.gate, self.low = precision, gate, low

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.x)

    @property
    def unit(self) -> float:
        """The unit roundoff of their sums."""
        return self.precision.gates if self.gate else self.precision.accumulation

    def __getitem__(self, index: Any) -> Bounded:
        low = None if self.low is None else self.low[index]
        return Bounded(self.x[index], self.e[index], self.s[index], self.precision, self.gate, low)

    @property
    def least(self) -> Any:
        """What rounding leaves of them at least."""
        with np.errstate(invalid="ignore"):
            return self.x - self.e if self.low is None else np.fmax(self.low, self.x - self.e)

    def __add__(self, other: Bounded) -> Bounded:
        size = self.s + other.s
        result = Bounded(self.x + other.x, self.e + other.e, size, self.precision, self.gate or other.gate)
        result.e = result.e + result.unit * _finite(size)
        if self.low is not None:
            with np.errstate(invalid="ignore"):
                result.low = self.least + other.least - result.unit * _finite(size)
        return result

    def __sub__(self, other: Bounded) -> Bounded:
        return self + Bounded(-other.x, other.e, other.s, other.precision, other.gate)

    def __mul__(self, other: Bounded) -> Bounded:
        size = self.s * other.s
        e = _product_error(np.multiply, self, other) + self.precision.accumulation * size + self.precision.tiny
        return Bounded(self.x * other.x, e, size, self.precision)


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

    def _number(self, x: Any, e: Any, s: Any, gate: bool = False) -> Bounded:
        return Bounded(x, e, s, self.precision, gate)

    def array(self, values: Any) -> Bounded:
        x = np.asarray(values, np.float64)
        return self._number(x, np.zeros_like(x), np.abs(x))

    def rsqrt(self, n: int) -> Bounded:
        x = np.float64(n) ** -0.5
        return self._number(x, self.precision.accumulation * x, x)

    def exp(self, x: Bounded) -> Bounded:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            value = np.exp(x.x)
            relative = np.expm1(x.e) + self.precision.gates * (4.0 + 2.0 * np.abs(x.x))
            e = np.where(value == 0.0, 0.0, value * relative) + self.precision.tiny
            # What leaves the format may be infinite, whatever it is multiplied by next.
            return self._number(value, np.where(value > self.precision.huge, np.inf, e), value)

    def log_sigmoid(self, f: Bounded) -> Bounded:
        # min(f, 0) - log1p(exp(-|f|)): the error of exp, seen through log1p, and four roundings.
        magnitude = np.abs(f.x)
        with np.errstate(under="ignore"):
            power = np.exp(-magnitude)
            x = np.minimum(f.x, 0.0) - np.log1p(power)
        through = power / (1.0 + power) * (4.0 + 2.0 * _finite(magnitude))
        e = self.precision.gates * (through + 4.0 * _finite(np.abs(x))) + self.precision.tiny
        return self._number(x, e, np.abs(x), gate=True)

    def maximum(self, x: Bounded, y: Bounded) -> Bounded:
        value = np.maximum(x.x, y.x)
        # "Not certainly below": inf - inf, an overflow of which nothing is known, may win.
        with np.errstate(invalid="ignore"):
            x_loses, y_loses = x.x + x.e < y.x - y.e, y.x + y.e < x.x - x.e
        e = np.maximum(np.where(x_loses, 0.0, x.e), np.where(y_loses, 0.0, y.e))
        result = self._number(value, e, np.abs(value), x.gate or y.gate)
        if not result.gate:
            result.low = np.fmax(x.least, y.least)
        return result

    def absolute(self, x: Bounded) -> Bounded:
        return self._number(np.abs(x.x), x.e, x.s)

    def sign(self, x: Bounded) -> Bounded:
        value = np.sign(x.x)
        return self._number(value, np.where(np.abs(x.x) <= x.e, 2.0, 0.0), np.abs(value))

    def at_least(self, x: Bounded, y: Bounded) -> Bounded:
        return self._decision(x, y, np.asarray(x.x >= y.x, np.float64))

    def below(self, x: Bounded, y: Bounded) -> Bounded:
        return self._decision(x, y, np.asarray(x.x < y.x, np.float64))

    def _decision(self, x: Bounded, y: Bounded, value: np.ndarray) -> Bounded:
        # One that rounding may turn is off by 1, any other is exact: what it leaves out adds no error.
        # inf - inf decides nothing.
        with np.errstate(invalid="ignore"):
            sure = np.abs(x.x - y.x) > x.e + y.e
        return self._number(value, np.where(sure, 0.0, 1.0), np.where(sure, value, 1.0))

    def sigmoid(self, x: Bounded) -> Bounded:
        # e^x / (1 + e^x) for x < 0, 1 / (1 + e^-x) else: the error of exp, a sum and a quotient; |slope| <= value.
        magnitude = _finite(np.abs(x.x))
        with np.errstate(under="ignore"):
            power = np.exp(-np.abs(x.x))
        value = np.where(x.x < 0.0, power, 1.0) / (1.0 + power)
        e = value * (np.expm1(x.e) + self.precision.gates * (9.0 + 2.0 * magnitude)) + self.precision.tiny
        return self._number(value, e, value)

    def divide(self, x: Bounded, y: Bounded) -> Bounded:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            value = np.where(x.x == 0.0, 0.0, x.x / y.x)
            size = np.abs(value)
            e = np.where(y.least > 0.0, (x.e + size * y.e) / y.least, np.inf)
            # A denominator beyond the format, or made of what was, counts as infinite; h = 0 is then off by |h| itself.
            beyond = (y.x > self.precision.huge) | (np.isinf(y.e) & (y.x > np.sqrt(self.precision.huge)))
            e = np.where(beyond, size, e)
            e = np.where(np.isnan(e), np.inf, e)
        e = e + 4.0 * self.precision.accumulation * size + self.precision.tiny * (1.0 + np.abs(x.x))
        return self._number(value, e, size)

    def where(self, condition: np.ndarray, x: Bounded, y: Bounded) -> Bounded:
        value, e, s = (np.where(condition, a, b) for a, b in ((x.x, y.x), (x.e, y.e), (x.s, y.s)))
        return self._number(value, e, s, x.gate or y.gate)

    def is_empty(self, m: Bounded) -> np.ndarray:
        return np.isneginf(m.x)

    def outer(self, x: Bounded, y: Bounded) -> Bounded:
        product = x[..., :, None] * y[..., None, :]
        rounded = self._rounded(x)[..., :, None] + self._rounded(y)[..., None, :]
        unit = self.depth * self.precision.accumulation + rounded * self.precision.operand
        return self._number(product.x, product.e + unit * product.s, product.s)

    def _rounded(self, x: Bounded) -> np.ndarray:
        # 1 for a number that is rounded where it enters a dot: one that was computed, or any.
        return np.asarray((x.e > 0.0) | self.precision.inputs_round, float)

    def matmul(self, x: Bounded, y: Bounded) -> Bounded:
        terms = x.shape[-1]
        size = x.s @ y.s
        e = _product_error(np.matmul, x, y)
        unit = (terms + 1) * self.precision.accumulation + 2.0 * self.precision.operand
        return self._number(x.x @ y.x, e + unit * size + terms * self.precision.tiny, size)

    def sum(self, x: Bounded) -> Bounded:
        size = np.sum(x.s, axis=-1)
        e = np.sum(x.e, axis=-1) + x.shape[-1] * x.unit * size
        return self._number(np.sum(x.x, axis=-1), e, size, x.gate)

    def cumsum(self, x: Bounded, axis: int) -> Bounded:
        size = np.cumsum(x.s, axis=axis)
        e = np.cumsum(x.e, axis=axis) + x.shape[axis] * x.unit * size
        return self._number(np.cumsum(x.x, axis=axis), e, size, x.gate)

    def dot(self, x: Bounded, y: Bounded) -> Bounded:
        # Sums of sums: first over one axis, then over the other, in any order within each.
        terms = x.shape[-1] + x.shape[-2]
        size = _inner(x.s, y.s)
        e = _product_error(_inner, x, y)
        unit = (terms + 1) * self.precision.accumulation + 2.0 * self.precision.operand
        return self._number(_inner(x.x, y.x), e + unit * size + terms * self.precision.tiny, size)

    def transpose(self, x: Bounded) -> Bounded:
        value, e, s = (np.swapaxes(part, -1, -2) for part in (x.x, x.e, x.s))
        return self._number(value, e, s, x.gate)

    def max(self, x: Bounded, axis: int) -> Bounded:
        value = np.max(x.x, axis=axis)
        return self._number(value, np.max(x.e, axis=axis), np.abs(value), x.gate)

    def stack(self, parts: Sequence[Bounded], axis: int) -> Bounded:
        return self._joined(lambda arrays: np.stack(arrays, axis), parts)

    def concatenate(self, parts: Sequence[Bounded]) -> Bounded:
        return self._joined(lambda arrays: np.concatenate(arrays, -1), parts)

    def _joined(self, join: Callable[[list[Any]], Any], parts: Sequence[Bounded]) -> Bounded:
        x, e, s = (join([getattr(part, name) for part in parts]) for name in ("x", "e", "s"))
        return self._number(x, e, s, any(part.gate for part in parts))

    def freeze(self, m: Bounded) -> Bounded:
        return self._number(m.x, np.zeros_like(m.x), np.abs(m.x), m.gate)

    def weigh(self, weight: Bounded, x: Bounded) -> Bounded:
        # Every term has a rounding of the weight of its own: what cancels in x does not cancel in its errors.
        return self._number(weight.x * x.x, (weight * self._number(x.s, x.e, x.s)).e, weight.s * x.s)

    def term(self, x: Bounded) -> Bounded:
        # Over the sources of a chunk, then over its targets.
        return self._number(x.x, x.e + 2.0 * self.depth * self.precision.accumulation * x.s, x.s)

    def output(self, x: Bounded) -> Bounded:
        e = x.e + self.precision.storage * (np.abs(x.x) + x.e) + self.precision.storage_tiny
        return self._number(x.x, e, x.s)

    def to_float64(self, x: Bounded) -> np.ndarray:
        return np.asarray(x.x)
