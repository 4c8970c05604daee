"""What enters and what leaves a vector-Jacobian product (VJP) of the mLSTM.

A loss L is known by its derivatives with respect to the outputs, the cotangents; the VJP gives its
derivatives with respect to the inputs, the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Inputs
from oracles._denominator import or_zero
from oracles._recurrence import State

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
            arrays[name] = np.broadcast_to(0.0, shape) if array is None else array
            if arrays[name].shape != shape:
                raise ValueError(f"cotangent {name} has shape {arrays[name].shape}; expected {shape}, from the inputs.")
        state = np.concatenate([arrays["C_last"], arrays["n_last"][..., None]], axis=-1)
        return arrays["h"], state, arrays["m_last"]


@dataclass(frozen=True)
class Gradients:
    """dL/d of every input, in its shape and in the numbers of the arithmetic; of an absent initial state None.

    Of q, k, v, i and f a form that was asked for some rows returns only these.
    """

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


@dataclass(frozen=True)
class Adjoint:
    """What comes back to a state [C'|n'] with m and m': the gradient of the state and what passes through m.

    The gradient of an empty initial state is relative to m_0, which m' leaves out: only where that is
    wanted a second D is carried, relative to m.

    Attributes:
        D: relative to m', in the shape of [C'|n'].
        M: in the shape of m.
        D_of_m: D relative to m, or None.
    """

    D: Any
    M: Any
    D_of_m: Any

    @classmethod
    def of_last(cls, ar: Arithmetic, inputs: Inputs, cotangents: Cotangents, last: State, exact: bool) -> Adjoint:
        """Of the last state, from the cotangents of what is returned of it, which is relative to m_S."""
        d_state, dm = (ar.array(array) for array in cotangents.filled(inputs)[1:])
        to_m = ar.exp(last.inner - or_zero(ar, last.m))[..., None, None]
        through_m = ar.term(dm - ar.dot(d_state, ar.weigh(to_m, last.matrix)))
        M = through_m if exact else ar.array(0.0) * dm
        if inputs.C_0 is None or not inputs.is_empty().any():
            return cls(d_state * to_m, M, None)
        # The last state that a kernel returns is relative to m with its rounding, and so is what comes back through it.
        return cls(d_state * to_m, M, d_state * ar.exp(last.m - or_zero(ar, ar.freeze(last.m)))[..., None, None])

    def with_initial(self, ar: Arithmetic, inputs: Inputs, start: State, rows: Gradients) -> Gradients:
        """The rows and, if there is an initial state, its gradients; this adjoint being that of the initial state."""
        if inputs.C_0 is None:
            return rows
        D = self.D
        if self.D_of_m is not None:
            D = ar.where(inputs.is_empty()[..., None, None], self.D_of_m, D)
        # <D, 0> is 0 also where D overflows; there self.D is 0.
        return replace(rows, C_0=D[..., :-1], n_0=D[..., -1], m_0=ar.dot(self.D, start.matrix) + self.M)


def is_exact(normalizer_grad: str) -> bool:
    """Whether it is ``exact`` and not ``detached``; ValueError for another word."""
    if normalizer_grad not in ("exact", "detached"):
        raise ValueError(f"normalizer_grad is {normalizer_grad!r}; expected exact or detached.")
    return normalizer_grad == "exact"
