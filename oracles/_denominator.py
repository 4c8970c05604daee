"""The denominator d_t, written once for the forms that hold their state relative to a stabilizer m'.

    d'_t = max(|a'_t|, b'_t) + eps exp(m_t - m'_t)
    b'_t = nu exp(-m'_t)  (stabilize_correctly)   or   nu exp(m_t - m'_t)

m' is any real number (docs/method.md, section 1); eps and the second mode still need the definition's m.
"""

from __future__ import annotations

from typing import Any

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract


def or_zero(ar: Arithmetic, m: Any) -> Any:
    """m, or 0 where m = -inf: what an exponent x - m must subtract so that exp(-inf - m) is 0, not NaN."""
    return ar.where(ar.is_empty(m), ar.array(0.0), m)


def denominator(ar: Arithmetic, contract: Contract, a: Any, m: Any, inner: Any) -> Any:
    """d'_t for a'_t relative to ``inner`` = m'_t; all arguments have one shape."""
    excess = ar.exp(m - or_zero(ar, inner))
    if contract.stabilize_correctly:
        b = _times(ar, ar.exp(ar.array(0.0) - or_zero(ar, inner)), contract.norm_val)
    else:
        b = _times(ar, excess, contract.norm_val)
    return ar.maximum(ar.absolute(a), b) + _times(ar, excess, contract.eps)


def _times(ar: Arithmetic, power: Any, constant: float) -> Any:
    # 0 times a power that overflows is 0.
    return power * ar.array(constant) if constant else ar.array(0.0)


def denominator_of_m(ar: Arithmetic, contract: Contract, a: Any, m: Any, inner: Any) -> Any:
    """d_t as it is returned, relative to m_t itself: a_t = a'_t exp(m'_t - m_t)."""
    return denominator(ar, contract, a * ar.exp(or_zero(ar, inner) - or_zero(ar, m)), m, m)
