"""Gates and states at the ends of their ranges: what must give finite outputs and gradients."""

import numpy as np

INF = np.inf
# name: {input: (where in its last axis, value)}
ENDS = {
    "no input at one token": {"i": (9, -INF)},
    "no input at all": {"i": (slice(None), -INF)},
    "no input at first": {"i": (slice(9), -INF)},
    "reset": {"f": (9, -INF)},
    "resets only": {"f": (slice(None), -INF)},
    "empty state": {"i": (9, -INF), "f": (9, -INF)},
    "empty state at first": {"i": (0, -INF), "f": (0, -INF)},
    "empty states to the end": {"i": (slice(9, None), -INF), "f": (slice(9, None), -INF)},
    "empty states only": {"i": (slice(None), -INF), "f": (slice(None), -INF)},
    "no forgetting": {"f": (slice(None), INF)},
    "ignored initial state": {"m_0": (slice(None), -INF)},
    "ignored initial state, no input": {"m_0": (slice(None), -INF), "i": (slice(None), -INF)},
    "large m_0": {"m_0": (slice(None), 1000)},
    "large m_0, no input": {"m_0": (slice(None), 1000), "i": (slice(None), -INF)},
    "small m_0": {"m_0": (slice(None), -1000)},
    "i = 100": {"i": (slice(None), 100)},
    "i = -100": {"i": (slice(None), -100)},
    "one i = 1000": {"i": (9, 1000)},
    "f = -1000": {"f": (slice(None), -1000)},
    "f = -1000, no input": {"f": (slice(None), -1000), "i": (slice(None), -INF)},
    "every other f = -1000": {"f": (slice(None, None, 2), -1000)},
    "zero query": {"q": (slice(None), 0)},
}
