"""The denominator d_t and what is derived through it, written once for all forms.

    d'_t = max(|a'_t|, b'_t) + eps exp(m_t - m'_t)
    b'_t = nu exp(-m'_t)  (stabilize_correctly)   or   nu exp(m_t - m'_t)

m' is any real number (docs/method.md, section 1); eps and the second mode still need the definition's m.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Contract


def or_zero(ar: Arithmetic, m: Any) -> Any:
    """m, or 0 where m = -inf: what an exponent x - m must subtract so that exp(-inf - m) is 0, not NaN."""
    return ar.where(ar.is_empty(m), ar.array(0.0), m)


def denominator(ar: Arithmetic, contract: Contract, a: Any, m: Any, inner: Any) -> Any:
    """d'_t for a'_t relative to ``inner`` = m'_t; all arguments have one shape."""
    excess = ar.exp(m - or_zero(ar, inner))
    b = _threshold(ar, contract, excess, inner)
    return ar.maximum(ar.absolute(a), b) + _times(ar, excess, contract.eps)


def _threshold(ar: Arithmetic, contract: Contract, excess: Any, inner: Any) -> Any:
    # b'_t; excess is exp(m_t - m'_t)
    power = ar.exp(ar.array(0.0) - or_zero(ar, inner)) if contract.stabilize_correctly else excess
    return _times(ar, power, contract.norm_val)


def _times(ar: Arithmetic, power: Any, constant: float) -> Any:
    # 0 times a power that overflows is 0.
    return power * ar.array(constant) if constant else ar.array(0.0)


def denominator_of_m(ar: Arithmetic, contract: Contract, a: Any, m: Any, inner: Any) -> Any:
    """d_t as it is returned, relative to m_t itself: a_t = a'_t exp(m'_t - m_t)."""
    return denominator(ar, contract, a * ar.exp(inner - or_zero(ar, m)), m, m)


def output_rows(ar: Arithmetic, contract: Contract, readout: Any, m: Any, inner: Any) -> tuple[Any, Any, Any]:
    """h_t, d_t and m_t from [N'|a']_t relative to ``inner``, (..., DHHV + 1)."""
    a = readout[..., -1]
    h = ar.output(ar.divide(readout[..., :-1], denominator(ar, contract, a, m, inner)[..., None]))
    return h, denominator_of_m(ar, contract, a, m, inner), m


def row_cotangents(
    ar: Arithmetic, contract: Contract, readout: Any, m: Any, inner: Any, dh: Any, exact: bool
) -> tuple[Any, Any, Any]:
    """What dL/dh_t says about [N'|a']_t and m_t (docs/method.md, section 12).

        x_t = dh_t / d_t     y_t = dh_t.h_t     gamma_t = -A s_t y_t / d_t     mu_t = -kappa_t y_t
        A = 1 where |a_t| > b_t, else 0         s_t = sign(a_t)
        kappa_t = eps / d_t, but 1 where A = 0 and b_t = nu (the second mode)

    Args:
        readout: [N'|a'], (..., DHHV + 1), relative to ``inner``.
        dh: (..., DHHV).
        exact: False takes d_t and m_t as constants: gamma = mu = 0.

    Returns:
        [x'|gamma'] relative to ``inner``, the same relative to m, and mu. All are 0 where the state is empty.
    """
    # What is relative to m is so with the same m on both ways to C_0, whatever m was rounded to.
    shared = ar.freeze(m)
    relative_to_m = readout * ar.exp(inner - or_zero(ar, shared))[..., None]
    x, _ = _one_row(ar, contract, readout, m, inner, dh, exact)
    # eps / d_t has no overflow relative to m.
    x_of_m, mu = _one_row(ar, contract, relative_to_m, m, shared, dh, exact)
    return x, x_of_m, mu


def _one_row(
    ar: Arithmetic, contract: Contract, readout: Any, m: Any, inner: Any, dh: Any, exact: bool
) -> tuple[Any, Any]:
    zero, a = ar.array(0.0), readout[..., -1]
    excess = ar.exp(m - or_zero(ar, inner))
    d = denominator(ar, contract, a, m, inner)
    x = ar.divide(dh, d[..., None])
    y = ar.sum(dh * ar.output(ar.divide(readout[..., :-1], d[..., None])))
    decision = _threshold(ar, contract, excess, inner), ar.absolute(a)
    gamma = zero - ar.below(*decision) * ar.sign(a) * ar.divide(y, d)
    kappa = ar.divide(ar.array(contract.eps), d)
    if not contract.stabilize_correctly:
        kappa = ar.below(*decision) * kappa + ar.at_least(*decision)
    mu = ar.term(zero - kappa * y)
    if not exact:
        gamma = mu = ar.array(np.zeros(a.shape))
    row = ar.concatenate([x, gamma[..., None]])
    empty = ar.is_empty(inner)
    return ar.where(empty[..., None], zero, row), ar.where(empty, zero, mu)
