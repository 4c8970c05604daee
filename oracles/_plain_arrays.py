"""What every arithmetic without error terms does alike: its arrays are NumPy's, of floats or of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class PlainArrays:
    """The structural part of the protocol ``Arithmetic``, exact in any numbers."""

    at_least: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def where(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(condition, x, y)

    def below(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 1.0 - self.at_least(x, y)

    def outer(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x[..., :, None] * y[..., None, :]

    def matmul(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.matmul(x, y)

    def sum(self, x: np.ndarray) -> np.ndarray:
        return np.sum(x, axis=-1)

    def cumsum(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.cumsum(x, axis=axis)

    def dot(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sum(x * y, axis=(-2, -1))

    def transpose(self, x: np.ndarray) -> np.ndarray:
        return np.swapaxes(x, -1, -2)

    def stack(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.stack(parts, axis)

    def concatenate(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts, -1)

    def freeze(self, m: np.ndarray) -> np.ndarray:
        return m

    def weigh(self, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        return weight * x

    def term(self, x: np.ndarray) -> np.ndarray:
        return x

    def output(self, x: np.ndarray) -> np.ndarray:
        return x
