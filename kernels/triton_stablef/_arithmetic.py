"""Device functions: what a float32 kernel needs to keep its arithmetic honest.

Sources: docs/method.md, section 5 (hazards); N. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., problem 1.5 (log1p).
"""

import triton
import triton.language as tl


@triton.jit
def log_sigmoid(f):
    """phi = log sigmoid(f) <= 0, for every f from -inf to +inf.

    min(f, 0) - log1p(exp(-|f|)), with log1p(x) = log(1 + x) x / ((1 + x) - 1), in which the rounding
    error of 1 + x cancels; it is x itself where 1 + x rounds to 1.
    """
    x = tl.exp(-tl.abs(f))
    y = 1.0 + x
    log1p = tl.where(y == 1.0, x, tl.log(y) * (x / tl.where(y == 1.0, 1.0, y - 1.0)))
    return tl.minimum(f, 0.0) - log1p


@triton.jit
def _expm1(x):
    # exp(x) - 1 for |x| <= 1/2: Taylor's polynomial of degree 9, remainder below 2^-30 |x|.
    series = 1.0 + x / 9.0
    series = 1.0 + x / 8.0 * series
    series = 1.0 + x / 7.0 * series
    series = 1.0 + x / 6.0 * series
    series = 1.0 + x / 5.0 * series
    series = 1.0 + x / 4.0 * series
    series = 1.0 + x / 3.0 * series
    series = 1.0 + x / 2.0 * series
    return x * series


@triton.jit
def decay_and_add(x, state, update):
    """exp(x) state + update, for a scalar x, at most 0 but for the rounding of a large stabilizer.

    Near x = 0 as state + ((exp(x) - 1) state + update): exp(x) rounds to 1 - j 2^-24, always to the
    same side for the same gates, and over thousands of steps that bias would drift.
    """
    near = tl.abs(x) < 0.5
    kept = tl.where(near, 1.0, 0.0)
    factor = tl.where(near, _expm1(tl.where(near, x, 0.0)), tl.exp(x))
    return state * kept + (state * factor + update)


@triton.jit
def finite_or_zero(m):
    """The stabilizer as a subtrahend: exp(x - m) is 0, not NaN, for the empty state x = m = -inf."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def sigmoid_of_minus(f):
    """sigma(-f) = d phi / d f, which 1 - sigma(f) would round to 0 from f = 17 on."""
    x = tl.exp(-tl.abs(f))
    return tl.where(f < 0.0, 1.0, x) / (1.0 + x)


@triton.jit
def advance(phi_left, i_left, phi_right, i_right):
    """Composition of two steps m -> max(phi + m, i): additions and a maximum, never a difference."""
    return phi_left + phi_right, tl.maximum(i_left + phi_right, i_right)


@triton.jit
def _round_to_bits(x, DROPPED: tl.constexpr):
    # Round to nearest, ties to even, by dropping bits of the float32 fraction. NaN and inf stay.
    bits = x.to(tl.int32, bitcast=True)
    odd = (bits >> DROPPED) & 1
    rounded = (bits + ((1 << (DROPPED - 1)) - 1) + odd) >> DROPPED << DROPPED
    return tl.where((bits & 0x7F800000) == 0x7F800000, x, rounded.to(tl.float32, bitcast=True))


@triton.jit
def to_storage(x, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """Round float32 to the storage dtype, to nearest even; the interpreter alone would truncate bfloat16."""
    if INTERPRET:
        if dtype == tl.bfloat16:
            x = _round_to_bits(x, 16)
    return x.to(dtype)


@triton.jit
def dot(a, b, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr):
    """a @ b, accumulated in float32. OPERANDS names how the operands enter:

    ieee, tf32, tf32x3: float32 operands, dots in that mode. bf16: rounded to bfloat16. fp16: as TF32,
    which has float16's 10 fraction bits and float32's range, so that states and sums do not overflow. TF32
    units drop the other bits, always to one side, so that computed numbers are rounded to nearest before.
    """
    if OPERANDS == "fp16":
        # What float16 holds, TF32 holds.
        if a.dtype == tl.float32:
            a = _round_to_bits(a, 13)
        if b.dtype == tl.float32:
            b = _round_to_bits(b, 13)
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    if INTERPRET:
        # The interpreter multiplies in float32 whatever is asked, and keeps bfloat16 as bare bits.
        if OPERANDS == "bf16":
            a = _round_to_bits(a, 16)
            b = _round_to_bits(b, 16)
        elif OPERANDS == "tf32":
            a = _round_to_bits(a, 13)
            b = _round_to_bits(b, 13)
        result = tl.dot(a, b, input_precision="ieee")
    elif OPERANDS == "bf16":
        result = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif OPERANDS == "fp16":
        result = tl.dot(a, b, input_precision="tf32")
    else:
        result = tl.dot(a, b, input_precision=OPERANDS)
    return result


@triton.jit
def causal_dot(weights, x, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr):
    """weights @ x for lower triangular weights, where a NaN in a row of x reaches only that row and later ones.

    A masked 0 times a NaN reaches every row. Only then the product is made again, without what is not finite in
    x, which is put back where the triangle lets it through.
    """
    product = dot(weights, x, OPERANDS, INTERPRET)
    if tl.sum(tl.sum(tl.where(product == product, 0, 1), axis=1), axis=0) > 0:
        wide = x.to(tl.float32)
        finite = (wide - wide) == 0.0
        product = dot(weights, tl.where(finite, wide, 0.0), OPERANDS, INTERPRET)
        product = tl.where(tl.cumsum(tl.where(finite, 0, 1), axis=0) > 0, float("nan"), product)
    return product
