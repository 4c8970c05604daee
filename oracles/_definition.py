"""The inputs, the constants and the outputs of the mLSTM, common to every form.

Symbols (docs/method.md, section 1), per head; every array has the same leading axes (usually B, NH):

    q_t, k_t  (..., S, DHQK)       C_0  (..., DHQK, DHHV)      eps >= 0, norm_val = nu >= 0
    v_t       (..., S, DHHV)       n_0  (..., DHQK)            c = DHQK^-1/2
    i_t, f_t  (..., S)             m_0  (...)                  phi_t = log sigmoid(f_t)

    m_t = max(phi_t + m_{t-1}, i_t)
    C_t = exp(phi_t + m_{t-1} - m_t) C_{t-1} + exp(i_t - m_t) k_t v_t^T       n_t likewise with v = 1
    d_t = max(|c q_t.n_t|, b_t) + eps      b_t = nu exp(-m_t)  (stabilize_correctly)   or   nu
    h_t = c C_t^T q_t / d_t

Special values: i_t = -inf is no input, f_t = -inf a reset, m = -inf an empty state, for which h = 0.

Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, eqs. 19-27.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """The arrays that enter, exactly as the kernel receives them after its documented casts.

    Raises:
        ValueError: if shapes do not fit, S = 0, or the initial state is partial.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    i: np.ndarray
    f: np.ndarray
    C_0: np.ndarray | None = None
    n_0: np.ndarray | None = None
    m_0: np.ndarray | None = None

    def __post_init__(self) -> None:
        *lead, length, dhqk = self.q.shape
        dhhv = self.v.shape[-1]
        expected = {
            "k": (*lead, length, dhqk),
            "v": (*lead, length, dhhv),
            "i": (*lead, length),
            "f": (*lead, length),
            "C_0": (*lead, dhqk, dhhv),
            "n_0": (*lead, dhqk),
            "m_0": tuple(lead),
        }
        if length < 1:
            raise ValueError(f"q has shape {self.q.shape}; expected S >= 1 in (..., S, DHQK).")
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; expected {shape}, from the shapes of q and v.")
        missing = [name for name in ("C_0", "n_0", "m_0") if getattr(self, name) is None]
        if len(missing) in (1, 2):
            raise ValueError(f"{', '.join(missing)} is None; an initial state is all of C_0, n_0, m_0, or none.")

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes, usually (B, NH)."""
        return self.q.shape[:-2]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """S, DHQK, DHHV."""
        return self.q.shape[-2], self.q.shape[-1], self.v.shape[-1]

    def tokens(self, first: int, stop: int) -> Inputs:
        """Views of the tokens first..stop - 1, counted from 0, without an initial state."""
        q, k, v = (array[..., first:stop, :] for array in (self.q, self.k, self.v))
        return Inputs(q, k, v, self.i[..., first:stop], self.f[..., first:stop])

    def v_and_one(self) -> np.ndarray:
        """[v_t | 1], (..., S, DHHV + 1): the extra column turns every sum over v into the one for n."""
        return np.concatenate([self.v, np.ones((*self.v.shape[:-1], 1))], axis=-1)

    def initial_state(self) -> tuple[np.ndarray, np.ndarray]:
        """([C_0 | n_0] of shape (..., DHQK, DHHV + 1), m_0); all zero where absent."""
        _, dhqk, dhhv = self.sizes
        if self.C_0 is None or self.n_0 is None or self.m_0 is None:
            return np.zeros((*self.lead, dhqk, dhhv + 1)), np.zeros(self.lead)
        return np.concatenate([self.C_0, self.n_0[..., None]], axis=-1), self.m_0

    def is_empty(self) -> np.ndarray:
        """Where the initial state holds nothing; shape of the leading axes."""
        state, _ = self.initial_state()
        return ~np.any(state != 0, axis=(-2, -1))


def chosen_tokens(rows: Sequence[int] | np.ndarray | None, length: int) -> np.ndarray:
    """The indices of the tokens whose rows are asked for, increasing; all of them for None.

    Raises:
        ValueError: if rows is empty, not increasing, or has other than integers from 0 to length - 1.
    """
    if rows is None:
        return np.arange(length)
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"rows is {rows!r}; expected token indices, at least one.")
    if np.any(chosen[1:] <= chosen[:-1]) or chosen[0] < 0 or chosen[-1] >= length:
        raise ValueError(f"rows is {rows!r}; expected increasing token indices from 0 to {length - 1}.")
    return chosen


@dataclass(frozen=True)
class Contract:
    """The constants of the definition.

    Attributes:
        eps: added to the denominator, at least 0.
        norm_val: nu in b_t, at least 0.
        stabilize_correctly: b_t = nu exp(-m_t) if True, nu if False.
    """

    eps: float = 1e-6
    norm_val: float = 1.0
    stabilize_correctly: bool = True

    def __post_init__(self) -> None:
        for name in ("eps", "norm_val"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} is {value!r}; expected a finite number, at least 0.")


@dataclass(frozen=True)
class Outputs:
    """What every form returns, in the numbers of its arithmetic.

    Attributes:
        h: (..., S, DHHV), the hidden states; of a form that was asked for some rows, only these here and in n, m.
        n: (..., S), the denominators d_t, relative to m_t.
        m: (..., S), the stabilizers m_t, natural-log units.
        C_last, n_last, m_last: the state after the last token, in the shapes of C_0, n_0, m_0.
    """

    h: Any
    n: Any
    m: Any
    C_last: Any
    n_last: Any
    m_last: Any

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of every output, in a fixed order."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]
