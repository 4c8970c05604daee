"""mpmath numbers in NumPy object arrays: any precision, no overflow; the trust anchor."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._plain_arrays import PlainArrays


class MPMath(PlainArrays):
    """Arrays are ``np.ndarray`` of mpmath's mpf with ``digits`` decimal digits.

    The context is this object's own: no other computation's precision is touched.

    Raises:
        ValueError: if digits is not an integer of at least 15.
        ImportError: if mpmath is not installed.
    """

    def __init__(self, digits: int = 50) -> None:
        if not isinstance(digits, int) or digits < 15:
            raise ValueError(f"digits is {digits!r}; expected an integer of at least 15.")
        # Machines that only run kernels do without it.
        import mpmath

        self.digits = digits
        self._context = mpmath.MPContext()
        self._context.dps = digits
        self._from_number = np.frompyfunc(self._number, 1, 1)
        self._exp = np.frompyfunc(self._context.exp, 1, 1)
        self._log_sigmoid = np.frompyfunc(lambda f: -self._context.log1p(self._context.exp(-f)), 1, 1)
        self._sign = np.frompyfunc(self._context.sign, 1, 1)
        self._at_least = np.frompyfunc(lambda x, y: self._context.mpf(bool(x >= y)), 2, 1)
        self._sigmoid = np.frompyfunc(lambda x: 1 / (1 + self._context.exp(-x)), 1, 1)
        self._divide = np.frompyfunc(self._divide_one, 2, 1)
        self._is_empty = np.frompyfunc(lambda m: m == self._context.ninf, 1, 1)
        self._to_float = np.frompyfunc(float, 1, 1)

    def _number(self, x: Any) -> Any:
        # A float is taken exactly, another context's number digit for digit.
        return self._context.mpf(x._mpf_) if hasattr(x, "_mpf_") else self._context.mpf(float(x))

    def _divide_one(self, x: Any, y: Any) -> Any:
        if x == 0:
            return self._context.zero
        return x / y if y != 0 else self._context.inf * self._context.sign(x)

    def array(self, values: Any) -> np.ndarray:
        return np.asarray(self._from_number(np.asarray(values)), object)

    def rsqrt(self, n: int) -> Any:
        return 1 / self._context.sqrt(n)

    def exp(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._exp(x), object)

    def log_sigmoid(self, f: np.ndarray) -> np.ndarray:
        return np.asarray(self._log_sigmoid(f), object)

    def maximum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(x, y), object)

    def absolute(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(x), object)

    def sign(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._sign(x), object)

    def at_least(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(self._at_least(x, y), object)

    def sigmoid(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._sigmoid(x), object)

    def divide(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(self._divide(x, y), object)

    def is_empty(self, m: np.ndarray) -> np.ndarray:
        return np.asarray(self._is_empty(m), bool)

    def max(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.max(x, axis=axis), object)

    def to_float64(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(self._to_float(x), np.float64)
