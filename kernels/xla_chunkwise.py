"""The chunkwise mLSTM in jax.numpy: for machines without a GPU, and as a second implementation under test.

It computes what the Triton kernels compute (docs/method.md, sections 3 to 5), with XLA for a compiler and
nothing in common with them but the checks of the arguments. Its gradients are JAX's, but for these:

* log sigmoid has its derivative sigma(-f) written out, which cancels nowhere;
* casts to the kernel dtype do not round gradients, and dots round their operands backward as forward;
* m' is a constant: by the stabilizer freedom (section 1) no result depends on it;
* h as a function of N, a and m has written cotangents (``_output``), so that nothing is ever
  differentiated through exp(-m);
* an initial state of zeros, which m' ignores, gets its gradient by a path of its own (``_sums_from_empty``).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels._arguments import check_arguments, kernel_dtype

_FLT_MIN = 1.1754944e-38


def mlstm_chunkwise_xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    i: jax.Array,
    f: jax.Array,
    c_initial: jax.Array | None = None,
    n_initial: jax.Array | None = None,
    m_initial: jax.Array | None = None,
    return_last_states: bool = False,
    eps: float = 1e-6,
    chunk_size: int = 64,
    autocast_kernel_dtype: Any = jnp.float32,
    stabilize_correctly: bool = True,
    norm_val: float = 1.0,
    *,
    normalizer_grad: str = "exact",
    return_normalizer: bool = False,
) -> Any:
    """Apply the mLSTM in its chunkwise form; differentiable in q, k, v, i, f and the initial state.

    Args, returns and errors are those of ``mlstm_chunkwise_triton_stablef``, but for:

    Args:
        q, k, v, i, f, c_initial, n_initial, m_initial: as there. Gradients come back in their dtypes.
        return_last_states, eps, chunk_size, autocast_kernel_dtype, stabilize_correctly, norm_val: as there.
        normalizer_grad: what the gradient takes for the denominator d_t and the stabilizer m_t: functions
            of the inputs (exact), or constants, also in the last state (detached).
        return_normalizer: as there. No gradient flows through what it returns.

    Raises:
        ValueError: as there, and for another normalizer_grad.

    Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, eqs. 19-27; the
    chunkwise form is that of docs/method.md, section 3.
    """
    dtype = kernel_dtype(autocast_kernel_dtype)
    check_arguments(
        q,
        k,
        v,
        i,
        f,
        c_initial,
        n_initial,
        m_initial,
        eps=eps,
        chunk_size=chunk_size,
        norm_val=norm_val,
        input_precision="ieee",
        normalizer_grad=normalizer_grad,
    )
    options = _Options(
        int(chunk_size), dtype, float(eps), float(norm_val), bool(stabilize_correctly), normalizer_grad == "exact"
    )
    stored = [_store(dtype, jnp.asarray(array)) for array in (q, k, v, i)]
    initial = None if c_initial is None else (c_initial, n_initial, m_initial)
    initial = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), initial)
    h, last, normalizer = _mlstm(options, *stored, jnp.asarray(f, jnp.float32), initial)
    result: tuple[Any, ...] = (h.astype(dtype),)
    if return_last_states:
        result += (last,)
    if return_normalizer:
        result += (normalizer,)
    return result if len(result) > 1 else result[0]


class _Options(NamedTuple):
    # What is fixed when a function is compiled.
    chunk_size: int
    dtype: np.dtype
    eps: float
    norm_val: float
    stabilize_correctly: bool
    exact_gradient: bool


class _Gates(NamedTuple):
    # Per chunk, phi and i of its L tokens and their sums; every axis before L is (B, NH, NC).
    phi: jax.Array
    i: jax.Array
    triangle: jax.Array  # T_{j,s} = sum_{s < r <= j} phi_r, (..., L, L)
    beta: jax.Array  # beta_j = sum_{r <= j} phi_r
    sigma: jax.Array  # sigma_s = sum_{r > s} phi_r
    best: jax.Array  # max_{s <= j}(T_{j,s} + i_s)


class _State(NamedTuple):
    # C' and n' relative to m' (inner), and the definition's m beside them.
    C: jax.Array
    n: jax.Array
    m: jax.Array
    inner: jax.Array


@partial(jax.jit, static_argnums=0)
def _mlstm(
    options: _Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    i: jax.Array,
    f: jax.Array,
    initial: tuple[jax.Array, jax.Array, jax.Array] | None,
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    # h in float32, (C, n, m) after the last token, and (d, m) of every token.
    batch, heads, length, _ = v.shape
    size = options.chunk_size
    # What fills the last chunk changes no bit: no forgetting, no input.
    q, k, v = (_in_chunks(array, size, 0.0) for array in (q, k, v))
    gates = _gates(_in_chunks(i, size, -math.inf), _log_sigmoid(_in_chunks(f, size, math.inf)))
    state = _entering_state(q, v, initial)
    last, entering = _chunk_states(options, gates, k, v, state)
    m = _larger(gates.beta + entering.m[..., None], gates.best)
    if not options.exact_gradient:
        m = jax.lax.stop_gradient(m)
    inner = jax.lax.stop_gradient(_larger(gates.beta + entering.inner[..., None], gates.best))
    numerator, a = _sums(options, gates, q, k, v, entering, inner)

    m_last, to_m = m[..., -1, -1], jnp.exp(last.inner - _finite_or_zero(m[..., -1, -1]))
    C_last, n_last = last.C * to_m[..., None, None], last.n * to_m[..., None]
    numerator_0 = a_0 = None
    if initial is not None:
        numerator_0, a_0, (C_kept, n_kept) = _sums_from_empty(options, gates, q, m, initial)
        C_last, n_last = C_last + C_kept, n_last + n_kept
    h = _output(options, numerator, a, numerator_0, a_0, m, inner)
    normalizer = jax.lax.stop_gradient((_denominator_of_m(options, a, m, inner), m))

    def in_sequence(rows: jax.Array) -> jax.Array:
        return rows.reshape(batch, heads, -1, *rows.shape[4:])[:, :, :length]

    return in_sequence(h), (C_last, n_last, m_last), tuple(in_sequence(rows) for rows in normalizer)


def _in_chunks(array: jax.Array, size: int, fill: float) -> jax.Array:
    # (B, NH, S, ...) as (B, NH, NC, L, ...)
    widths = [(0, 0)] * array.ndim
    widths[2] = (0, -array.shape[2] % size)
    padded = jnp.pad(array, widths, constant_values=fill)
    return padded.reshape(*array.shape[:2], -1, size, *array.shape[3:])


def _gates(i: jax.Array, phi: jax.Array) -> _Gates:
    # Running sums of what the mask leaves, never differences: those cancel, and are NaN after phi = -inf.
    step = jnp.arange(phi.shape[-1])
    later = step[None, :] < step[:, None]
    triangle = jnp.cumsum(jnp.where(later, phi[..., :, None], 0.0), axis=-2)
    shifted = jnp.concatenate([phi[..., 1:], jnp.zeros_like(phi[..., :1])], axis=-1)
    logs = jnp.where(_causal(phi.shape[-1]), triangle + i[..., None, :], -jnp.inf)
    # The first of equal maxima gets the whole gradient, as in the nested max, where the carry wins a tie.
    is_source = step == jnp.argmax(logs, axis=-1)[..., None]
    best = jnp.sum(jnp.where(is_source, logs, 0.0), axis=-1)
    sigma = jax.lax.cumsum(shifted, axis=phi.ndim - 1, reverse=True)
    return _Gates(phi, i, triangle, jnp.cumsum(phi, axis=-1), sigma, best)


def _causal(size: int) -> jax.Array:
    # s <= j at [j, s]
    step = jnp.arange(size)
    return step[None, :] <= step[:, None]


def _larger(carry: jax.Array, best: jax.Array) -> jax.Array:
    """max(carry, best), NaN if one is; the carry wins a tie, and an empty state, -inf, passes no gradient."""
    m = jnp.where((carry >= best) | jnp.isnan(carry), carry, best)
    return jnp.where(m == -jnp.inf, -jnp.inf, m)


def _finite_or_zero(m: jax.Array) -> jax.Array:
    # The stabilizer as a subtrahend: exp(x - m) is 0, not NaN, for the empty state x = m = -inf.
    return jnp.where(m == -jnp.inf, 0.0, m)


def _is_empty(initial: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    C, n, _ = initial
    return ~(jnp.any(C != 0, axis=(2, 3)) | jnp.any(n != 0, axis=2))


def _entering_state(q: jax.Array, v: jax.Array, initial: tuple[jax.Array, jax.Array, jax.Array] | None) -> _State:
    # m' starts at -inf where the initial state is empty: m_0 alone must not underflow the tokens.
    if initial is None:
        lead = q.shape[:2]
        C, n = (jnp.zeros((*lead, *sizes), jnp.float32) for sizes in ((q.shape[-1], v.shape[-1]), (q.shape[-1],)))
        return _State(C, n, jnp.zeros(lead, jnp.float32), jnp.full(lead, -jnp.inf, jnp.float32))
    C, n, m = initial
    inner = jax.lax.stop_gradient(jnp.where(_is_empty(initial), -jnp.inf, m))
    # C^_0 = exp(m_0) C_0 depends on m_0. m'_0 is a constant, so C' = exp(m_0 - m'_0) C_0, which is C_0.
    finite = _finite_or_zero(m)
    one = jnp.exp(finite - jax.lax.stop_gradient(finite))
    return _State(C * one[..., None, None], n * one[..., None], m, inner)


def _chunk_states(options: _Options, gates: _Gates, k: jax.Array, v: jax.Array, state: _State) -> tuple[_State, _State]:
    """The state after the last chunk, and the one that enters each, (B, NH, NC, ...).

    C_{k+1} = exp(beta_L + (m'_k - m'_{k+1})) C_k + sum_s exp(sigma_s + (i_s - m'_{k+1})) k_s v_s^T
    """

    def advance(state: _State, chunk: tuple[_Gates, jax.Array, jax.Array]) -> tuple[_State, _State]:
        gates, k, v = chunk
        total, best = gates.beta[..., -1], gates.best[..., -1]
        inner = jax.lax.stop_gradient(_larger(total + state.inner, best))
        subtrahend = _finite_or_zero(inner)
        decay = total + (state.inner - subtrahend)
        weighted = k * jnp.exp(gates.sigma + (gates.i - subtrahend[..., None]))[..., None]
        update = _dot("bhsk,bhsv->bhkv", options.dtype, weighted, v)
        C = _decay_and_add(decay[..., None, None], state.C, update)
        n = _decay_and_add(decay[..., None], state.n, jnp.sum(weighted, axis=-2))
        return _State(C, n, _larger(total + state.m, best), inner), state

    chunks = jax.tree.map(lambda array: jnp.moveaxis(array, 2, 0), (gates, k, v))
    last, entering = jax.lax.scan(advance, state, chunks)
    return last, jax.tree.map(lambda array: jnp.moveaxis(array, 0, 2), entering)


def _decay_and_add(x: jax.Array, state: jax.Array, update: jax.Array) -> jax.Array:
    # exp(x) state + update. exp of a tiny x rounds to one side and would drift over many chunks.
    near = x > -0.5
    factor = jnp.where(near, jnp.expm1(jnp.where(near, x, 0.0)), jnp.exp(x))
    return state * jnp.where(near, 1.0, 0.0) + (state * factor + update)


def _sums(
    options: _Options, gates: _Gates, q: jax.Array, k: jax.Array, v: jax.Array, entering: _State, inner: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """N' and a' of every token.

    W_{j,s} = exp(T_{j,s} + (i_s - m'_j)) for s <= j, else 0        g_j = exp(beta_j + (m'_k - m'_j))
    N'_j    = sum_s W_{j,s} c (q_j.k_s) v_s + c g_j C_k^T q_j       a'_j = sum_s W_{j,s} c (q_j.k_s) + c g_j q_j.n_k
    """
    scale = q.shape[-1] ** -0.5
    causal = _causal(options.chunk_size)
    subtrahend = _finite_or_zero(inner)
    exponent = gates.triangle + (gates.i[..., None, :] - subtrahend[..., :, None])
    # Selected before exp, which may overflow, and again after the product, which may be NaN.
    weights = jnp.exp(jnp.where(causal, exponent, -jnp.inf))
    product = _dot("bhnjk,bhnsk->bhnjs", options.dtype, q, k) * scale
    weights = jnp.where(causal, weights * product, 0.0)
    # A masked 0 times NaN would reach earlier rows: NaN is taken out of the product, and put back below.
    finite = jnp.isfinite(v)
    inside = _dot("bhnjs,bhnsv->bhnjv", options.dtype, weights, jnp.where(finite, v, 0.0))
    inside = jnp.where(jnp.cumsum(~finite, axis=-2) > 0, jnp.nan, inside)

    carry = jnp.exp(gates.beta + (entering.inner[..., None] - subtrahend)) * scale
    carried = _dot("bhnjk,bhnkv->bhnjv", options.dtype, q, entering.C)
    carried_a = jnp.sum(q * entering.n[..., None, :], axis=-1)
    return inside + carried * carry[..., None], jnp.sum(weights, axis=-1) + carried_a * carry


def _sums_from_empty(
    options: _Options, gates: _Gates, q: jax.Array, m: jax.Array, initial: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """What an initial state that is all zero would have added, relative to m: its value is 0, its gradient is not.

    With B_t = sum_{1 <= r <= t} phi_r, for the empty heads only (elsewhere ``_sums`` has it, relative to m'):

    N0_t = c exp(B_t + (m_0 - m_t)) C_0^T q_t        C_S += exp(B_S + (m_0 - m_S)) C_0        a0_t, n_S likewise
    """
    C, n, _ = initial
    # Only C_0 and n_0 get a gradient by this path: every other one is a multiple of them, 0.
    gates, q, m, m_0 = jax.lax.stop_gradient((gates, q, m, initial[2]))
    empty, scale = _is_empty(initial), q.shape[-1] ** -0.5
    lead = (*q.shape[:2], -1)
    passed = jnp.cumsum(gates.phi.reshape(lead), axis=-1)
    exponent = passed + (m_0[..., None] - _finite_or_zero(m.reshape(lead)))
    weight = jnp.exp(jnp.where(empty[..., None], exponent, -jnp.inf))
    rows = q.reshape(*lead, q.shape[-1])
    numerator = _dot("bhtk,bhkv->bhtv", options.dtype, rows, C) * (scale * weight)[..., None]
    a = jnp.sum(rows * n[..., None, :], axis=-1) * (scale * weight)
    # Selected again, so that a cotangent that overflows in another head meets no 0 here.
    numerator = jnp.where(empty[..., None, None], numerator, 0.0)
    a = jnp.where(empty[..., None], a, 0.0)
    kept = (C * weight[..., -1, None, None], n * weight[..., -1, None])
    return numerator.reshape(*m.shape, -1), a.reshape(m.shape), kept


def _times_exp(factor: float, x: jax.Array) -> jax.Array:
    # factor exp(x), also where exp(x) alone leaves the range of float32 and the product does not
    if factor == 0:
        return jnp.zeros_like(x)
    root = jnp.exp(0.5 * x)
    return jnp.where(jnp.abs(x) > 80, factor * root * root, factor * jnp.exp(x))


def _denominator(options: _Options, a: jax.Array, m: jax.Array, inner: jax.Array) -> tuple[jax.Array, jax.Array]:
    # d' = max(|a'|, b') + eps exp(m - m') and b'. They may overflow: h is 0 to float32 then.
    excess = m - _finite_or_zero(inner)
    b = _times_exp(options.norm_val, -_finite_or_zero(inner) if options.stabilize_correctly else excess)
    d = jnp.maximum(jnp.abs(a), b) + _times_exp(options.eps, excess)
    # The floor is FLT_MIN: 0 / 0 for q = 0 or an empty state is 0.
    return jnp.maximum(d, _FLT_MIN), b


def _denominator_of_m(options: _Options, a: jax.Array, m: jax.Array, inner: jax.Array) -> jax.Array:
    # d_t as the definition has it, relative to m_t.
    subtrahend = _finite_or_zero(m)
    b = _times_exp(options.norm_val, -subtrahend) if options.stabilize_correctly else options.norm_val
    return jnp.maximum(jnp.abs(a) * jnp.exp(inner - subtrahend), b) + options.eps


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _output(
    options: _Options,
    numerator: jax.Array,
    a: jax.Array,
    numerator_0: jax.Array | None,
    a_0: jax.Array | None,
    m: jax.Array,
    inner: jax.Array,
) -> jax.Array:
    """h = N' / d', with cotangents that are written out, per row. ``numerator_0`` and ``a_0`` are 0.

    x     = dh / d                      cotangent of N; relative to m' for N', to m for N0
    y     = sum(dh h)
    gamma = -sign(a) y / d  if |a| > b, else 0        cotangent of a
    mu    = -kappa y                                  cotangent of m at fixed C^, n^

    kappa = d log(d^) / dm is eps / d, but 1 where d = norm_val + eps (mode `constant`, |a| <= b): there
    d^ = exp(m) d as a whole. The cotangent of m' is 0: h does not depend on it.
    """
    d, _ = _denominator(options, a, m, inner)
    return numerator / d[..., None]


def _output_fwd(
    options: _Options,
    numerator: jax.Array,
    a: jax.Array,
    numerator_0: jax.Array | None,
    a_0: jax.Array | None,
    m: jax.Array,
    inner: jax.Array,
) -> tuple[jax.Array, tuple[Any, ...]]:
    h = _output(options, numerator, a, numerator_0, a_0, m, inner)
    return h, (h, a, m, inner, a_0)


def _output_bwd(options: _Options, saved: tuple[Any, ...], dh: jax.Array) -> tuple[Any, ...]:
    h, a, m, inner, a_0 = saved
    # What is stored of h is what a kernel has of it.
    h = _store(options.dtype, h)
    d, b = _denominator(options, a, m, inner)
    d_of_m = jnp.maximum(_denominator_of_m(options, a, m, inner), _FLT_MIN)
    # A row that reads an empty state, or whose d is 0 to float32, passes no gradient: 1 / FLT_MIN must not
    # meet its zero weights.
    passes, passes_of_m = (inner > -jnp.inf) & (d > _FLT_MIN), d_of_m > _FLT_MIN
    x = jnp.where(passes[..., None], dh / d[..., None], 0.0)
    x_of_m = jnp.where(passes_of_m[..., None], dh / d_of_m[..., None], 0.0)
    if options.exact_gradient:
        y = jnp.sum(dh * h, axis=-1)
        above = jnp.abs(a) > b
        slope = jnp.where(above, -jnp.sign(a) * y, 0.0)
        kappa = options.eps / d_of_m
        if not options.stabilize_correctly:
            kappa = jnp.where(above, kappa, 1.0)
        mu = -kappa * y
    else:
        slope = mu = jnp.zeros_like(a)
    gamma, gamma_of_m = jnp.where(passes, slope / d, 0.0), jnp.where(passes_of_m, slope / d_of_m, 0.0)
    from_initial = (None, None) if a_0 is None else (x_of_m, gamma_of_m)
    return x, gamma, *from_initial, mu, jnp.zeros_like(inner)


_output.defvjp(_output_fwd, _output_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dot(subscripts: str, dtype: np.dtype, left: jax.Array, right: jax.Array) -> jax.Array:
    """einsum in float32 of operands that are rounded as a kernel of that dtype rounds them, backward too."""
    operands = (_operand(dtype, left), _operand(dtype, right))
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def _dot_fwd(
    subscripts: str, dtype: np.dtype, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dot(subscripts, dtype, left, right), (left, right)


def _dot_bwd(
    subscripts: str, dtype: np.dtype, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = saved
    of_operands, of_product = subscripts.split("->")
    of_left, of_right = of_operands.split(",")
    return (
        _dot(f"{of_product},{of_right}->{of_left}", dtype, cotangent, right),
        _dot(f"{of_left},{of_product}->{of_right}", dtype, left, cotangent),
    )


_dot.defvjp(_dot_fwd, _dot_bwd)


def _operand(dtype: np.dtype, x: jax.Array) -> jax.Array:
    if dtype == jnp.bfloat16:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    if dtype == jnp.float16:
        # As TF32: float16's fraction, but float32's range, so that sums and states do not overflow.
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
    return x


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _store(dtype: np.dtype, x: jax.Array) -> jax.Array:
    """x rounded to the storage dtype, as float32 numbers. The gradient is not rounded."""
    # XLA leaves out a cast there and back unless something stands between them.
    return jax.lax.optimization_barrier(x.astype(dtype)).astype(jnp.float32)


@_store.defjvp
def _store_jvp(dtype: np.dtype, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _store(dtype, primals[0]), tangents[0].astype(jnp.float32)


@jax.custom_jvp
def _log_sigmoid(f: jax.Array) -> jax.Array:
    """phi = log sigmoid(f), for every f from -inf to +inf."""
    return jnp.minimum(f, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(f)))


@_log_sigmoid.defjvp
def _log_sigmoid_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # sigma(-f) without 1 - sigma(f), which cancels for large f
    (f,) = primals
    small = jnp.exp(-jnp.abs(f))
    slope = jnp.where(f < 0, 1.0, small) / (1.0 + small)
    return _log_sigmoid(f), slope * tangents[0]
