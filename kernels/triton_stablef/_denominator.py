"""The denominator of one token, in the forward and in the backward kernels alike.

    d' = max(|a'|, b') + eps exp(m - m')      b' = norm_val exp(-m')      (stabilize_correctly)
                                                   norm_val exp(m - m')   (otherwise)

relative to any stabilizer m' (docs/method.md, section 1), given as a subtrahend, 0 for -inf. An overflow to inf
is right: h is 0 to float32 then.
"""

import triton
import triton.language as tl

# FLT_MIN: what a denominator of 0 is raised to, so that 0 / 0 for q = 0 or an empty state is 0.
FLOOR = tl.constexpr(1.1754944e-38)


@triton.jit
def times_exp(factor, x):
    """factor exp(x), 0 for factor = 0, also where exp(x) alone leaves the range of float32 and the product does not."""
    root = tl.exp(0.5 * x)
    product = tl.where(tl.abs(x) > 80.0, factor * root * root, factor * tl.exp(x))
    return tl.where(factor > 0.0, product, 0.0)


@triton.jit
def threshold(m, subtrahend, norm_val, STABILIZE_CORRECTLY: tl.constexpr):
    """b'."""
    exponent = 0.0 - subtrahend
    if not STABILIZE_CORRECTLY:
        exponent = m - subtrahend
    return times_exp(norm_val, exponent)


@triton.jit
def denominator(a, b, m, subtrahend, eps):
    """d', at least FLOOR."""
    return tl.maximum(tl.maximum(tl.abs(a), b) + times_exp(eps, m - subtrahend), FLOOR)
