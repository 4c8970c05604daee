"""The protocol between a form of the mLSTM and the numbers it is computed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Arithmetic(Protocol):
    """Numbers and the operations on arrays of them.

    The arrays (``Any`` below) support ``+ - *`` with each other, indexing as NumPy does, and
    ``None`` as an index. Every method states the law that holds up to the arithmetic's own rounding.
    """

    def array(self, values: Any) -> Any:
        """The floating point numbers ``values``, taken exactly."""

    def rsqrt(self, n: int) -> Any:
        """The scale c = n^-1/2, a scalar."""

    def exp(self, x: Any) -> Any:
        """e^x; exp(-inf) = 0."""

    def log_sigmoid(self, f: Any) -> Any:
        """log(1 / (1 + e^-f)) <= 0; -inf at -inf, 0 at +inf."""

    def maximum(self, x: Any, y: Any) -> Any:
        """The larger of both, elementwise."""

    def absolute(self, x: Any) -> Any:
        """|x|, elementwise."""

    def sign(self, x: Any) -> Any:
        """-1, 0 or 1, elementwise."""

    def at_least(self, x: Any, y: Any) -> Any:
        """The number 1 where x >= y, else 0, elementwise: a decision that enters products."""

    def below(self, x: Any, y: Any) -> Any:
        """1 - at_least(x, y)."""

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e^-x), elementwise; 0 at -inf, 1 at +inf."""

    def divide(self, x: Any, y: Any) -> Any:
        """x / y for y >= 0, elementwise, and 0 where x is 0, whatever y is."""

    def where(self, condition: np.ndarray, x: Any, y: Any) -> Any:
        """x where the condition holds, else y."""

    def is_empty(self, m: Any) -> np.ndarray:
        """Where the stabilizer m is -inf."""

    def outer(self, x: Any, y: Any) -> Any:
        """x_a y_b over the last axes: (..., A), (..., B) -> (..., A, B)."""

    def matmul(self, x: Any, y: Any) -> Any:
        """Matrix product over the last two axes."""

    def sum(self, x: Any) -> Any:
        """The sum over the last axis."""

    def cumsum(self, x: Any, axis: int) -> Any:
        """The running sums along one axis."""

    def dot(self, x: Any, y: Any) -> Any:
        """<X, Y> = sum_ab x_ab y_ab over the last two axes."""

    def transpose(self, x: Any) -> Any:
        """The last two axes exchanged."""

    def max(self, x: Any, axis: int) -> Any:
        """The maximum over one axis."""

    def stack(self, parts: Sequence[Any], axis: int) -> Any:
        """Arrays of equal shape along a new axis."""

    def concatenate(self, parts: Sequence[Any]) -> Any:
        """Arrays joined along their last axis."""

    def freeze(self, m: Any) -> Any:
        """The number m as it stands, taken as exact.

        A state may be held relative to any stabilizer m' (docs/method.md, section 1): the rounding
        that made m' is then no error of the result. Plain arithmetics return m itself.
        """

    def weigh(self, weight: Any, x: Any) -> Any:
        """weight x, elementwise, for a sum x whose terms a kernel may have weighted one by one.

        Plain arithmetics return weight * x.
        """

    def term(self, x: Any) -> Any:
        """x as a term of the sums over pairs of a chunk, in any order. Plain arithmetics return x."""

    def output(self, x: Any) -> Any:
        """x as a result that is stored in the kernel's output dtype. Plain arithmetics return x."""

    def to_float64(self, x: Any) -> np.ndarray:
        """The nearest float64 numbers."""
