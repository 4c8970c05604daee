"""What enters and what leaves a vector-Jacobian product (VJP) of the mLSTM.

A loss L is known by its derivatives with respect to the outputs, the cotangents; the VJP gives its
derivatives with respect to the inputs, the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from oracles._definition import Inputs

# exact: the derivative of the definition. detached: d_t and m_t are held constant (docs/method.md, section 12).
NormalizerGrad = Literal["exact", "detached"]


@dataclass(frozen=True)
class Cotangents:
    """dL/dh (..., S, DHHV) and dL/d of the last state, in the shapes of C_0, n_0, m_0; None is zero."""

    h: np.ndarray | None = None
    C_last: np.ndarray | None = None
    n_last: np.ndarray | None = None
    m_last: np.ndarray | None = None

    def filled(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dL/dh, dL/d[C|n] of shape (..., DHQK, DHHV + 1) and dL/dm, with zeros where None.

        Raises:
            ValueError: naming the cotangent whose shape does not fit the inputs.
        """
        length, dhqk, dhhv = inputs.sizes
        lead = inputs.lead
        shapes = {
            "h": (*lead, length, dhhv),
            "C_last": (*lead, dhqk, dhhv),
            "n_last": (*lead, dhqk),
            "m_last": lead,
        }
        arrays = {}
        for name, shape in shapes.items():
            array = getattr(self, name)
            arrays[name] = np.zeros(shape) if array is None else array
            if arrays[name].shape != shape:
                raise ValueError(f"cotangent {name} has shape {arrays[name].shape}; expected {shape}, from the inputs.")
        state = np.concatenate([arrays["C_last"], arrays["n_last"][..., None]], axis=-1)
        return arrays["h"], state, arrays["m_last"]


@dataclass(frozen=True)
class Gradients:
    """dL/d of every input, in its shape and in the numbers of the arithmetic; of an absent initial state None."""

    q: Any
    k: Any
    v: Any
    i: Any
    f: Any
    C_0: Any = None
    n_0: Any = None
    m_0: Any = None

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of every gradient there is: dq, dk, dv, di, df, dC_0, dn_0, dm_0."""
        pairs = [(f"d{field.name}", getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in pairs if value is not None]


def is_exact(normalizer_grad: str) -> bool:
    """Whether it is ``exact`` and not ``detached``; ValueError for another word."""
    if normalizer_grad not in ("exact", "detached"):
        raise ValueError(f"normalizer_grad is {normalizer_grad!r}; expected exact or detached.")
    return normalizer_grad == "exact"
