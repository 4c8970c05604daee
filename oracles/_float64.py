"""NumPy float64: the everyday reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._plain_arrays import PlainArrays


class Float64(PlainArrays):
    """Arrays are ``np.ndarray`` of float64. Overflow gives inf and underflow 0, silently."""

    def array(self, values: Any) -> np.ndarray:
        return np.asarray(values, np.float64)

    def rsqrt(self, n: int) -> np.float64:
        return np.float64(1.0) / np.sqrt(np.float64(n))

    def exp(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(x)

    def log_sigmoid(self, f: np.ndarray) -> np.ndarray:
        with np.errstate(under="ignore"):
            return np.minimum(f, 0.0) - np.log1p(np.exp(-np.abs(f)))

    def maximum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(x, y)

    def absolute(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)

    def sign(self, x: np.ndarray) -> np.ndarray:
        return np.sign(x)

    def at_least(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(x >= y, np.float64)

    def sigmoid(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(under="ignore"):
            power = np.exp(-np.abs(x))
        return np.where(x < 0.0, power, 1.0) / (1.0 + power)

    def divide(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            return np.where(x == 0.0, 0.0, x / y)

    def is_empty(self, m: np.ndarray) -> np.ndarray:
        return np.isneginf(m)

    def max(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.max(x, axis=axis)

    def to_float64(self, x: np.ndarray) -> np.ndarray:
        return x
