"""The denominator of one token, in the forward and in the backward kernels alike.

    d' = max(|a'|, b') + eps exp(m - m')      b' = norm_val exp(-m')      (stabilize_correctly)
                                                   norm_val exp(m - m')   (otherwise)

relative to any stabilizer m' (docs/method.md, section 1), given as a subtrahend, 0 for -inf.
"""

import triton
import triton.language as tl

# FLT_MIN: what a denominator of 0 is raised to, so that 0 / 0 for q = 0 or an empty state is 0.
FLOOR = tl.constexpr(1.1754944e-38)


@triton.jit
def threshold(m, inner, log_norm_val, STABILIZE_CORRECTLY: tl.constexpr):
    """b'. An overflow to inf is right: h is 0 to float32 then."""
    exponent = log_norm_val - inner
    if not STABILIZE_CORRECTLY:
        exponent = log_norm_val + (m - inner)
    return tl.exp(exponent)


@triton.jit
def denominator(a, b, m, inner, eps):
    """d', at least FLOOR."""
    # exp(m - m') alone may overflow where eps exp(m - m') does not.
    root = tl.exp(0.5 * (m - inner))
    return tl.maximum(tl.maximum(tl.abs(a), b) + tl.where(eps > 0.0, eps * root * root, 0.0), FLOOR)
