"""Initial states by name: ``none``, ``warm@m_0`` and ``empty@m_0``."""

from __future__ import annotations

import numpy as np

from verify._parameter import split_parameter

_TAKES = {"none": False, "warm": True, "empty": True}
State = tuple[np.ndarray, np.ndarray, np.ndarray]


def check_initial(text: str) -> None:
    """Raise UsageError unless ``text`` names an initial state."""
    split_parameter("initial state", text, _TAKES)


def generate_initial(text: str, rng: np.random.Generator, lead: tuple[int, int], dhqk: int, dhhv: int) -> State | None:
    """(C_0, n_0, m_0) in float32, or None.

    ``warm@m_0`` is the state after four tokens of standard normal keys and values, ``empty@m_0`` is
    zeros; m_0 varies over the heads by a standard normal around its value.
    """
    name, level = split_parameter("initial state", text, _TAKES)
    if level is None:
        return None
    m_0 = (level + rng.standard_normal(lead)).astype(np.float32)
    if name == "empty":
        return np.zeros((*lead, dhqk, dhhv), np.float32), np.zeros((*lead, dhqk), np.float32), m_0
    k, v = rng.standard_normal((*lead, 4, dhqk)), rng.standard_normal((*lead, 4, dhhv))
    return (np.swapaxes(k, -1, -2) @ v).astype(np.float32), k.sum(-2).astype(np.float32), m_0
