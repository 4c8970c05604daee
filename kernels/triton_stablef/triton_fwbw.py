"""The public functions: the chunkwise mLSTM with Triton kernels, forward and backward, as JAX users call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels._arguments import check_arguments, kernel_dtype
from kernels.triton_stablef._backward import Cotangents, Saved, mlstm_chunkwise_bw
from kernels.triton_stablef._forward import Arrays, Options, mlstm_chunkwise_fw, run_recurrence
from kernels.triton_stablef._tiles import block_l
from kernels.triton_stablef._vmap import folds_into_batch


def mlstm_chunkwise_triton_stablef(
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
    recompute_states_in_bw: bool = True,
    normalizer_grad: str = "exact",
    input_precision: str = "ieee",
    return_normalizer: bool = False,
) -> Any:
    """Apply the mLSTM in its chunkwise form; differentiable in q, k, v, i, f and the initial state.

    With phi_t = log sigmoid(f_t), m_t = max(phi_t + m_{t-1}, i_t), and C, n the states that decay by
    exp(phi_t + m_{t-1} - m_t) and take in exp(i_t - m_t) k_t (v_t^T, 1), and c = DHQK^-1/2:

        h_t = c C_t^T q_t / (max(|c q_t.n_t|, b_t) + eps),   b_t = norm_val exp(-m_t), or norm_val

    Works under jit, grad, value_and_grad, vjp, checkpoint and vmap (the mapped axis joins the batch). There is
    no forward mode (jvp, jacfwd) and no second derivative.

    Args:
        q: (B, NH, S, DHQK) queries. Any S >= 1; DHQK from 16 to 512.
        k: (B, NH, S, DHQK) keys.
        v: (B, NH, S, DHHV) values. DHHV from 16 to 512.
        i: (B, NH, S) input gate preactivations; -inf means no input.
        f: (B, NH, S) forget gate preactivations; -inf means a reset.
        c_initial: (B, NH, DHQK, DHHV) initial state, with n_initial and m_initial, or None.
        n_initial: (B, NH, DHQK) initial state.
        m_initial: (B, NH) stabilizer of the initial state, in natural-log units; -inf is an empty state.
        return_last_states: also return the state after the last token.
        eps: added to the denominator.
        chunk_size: a power of two from 16 to 256: the tokens between two kept states of the forward pass. It
            changes rounding, not the result. The backward pass takes chunks of more than 64 tokens apart.
        autocast_kernel_dtype: float32, float16 or bfloat16, by name or as a dtype. q, k, v, i are cast
            to it; f and the initial state are cast to float32.
        stabilize_correctly: denominator with norm_val exp(-m_t) (True) or with norm_val (False).
        norm_val: see above; at least 0.
        recompute_states_in_bw: compute the states again in the backward pass (True), or keep them, one every
            chunk of at most 64 tokens (False). The gradients are the same bit for bit.
        normalizer_grad: what the gradient takes for the denominator d_t and the stabilizer m_t: functions of
            the inputs (exact, the gradient of the forward pass), or constants, also in the last state (detached).
        input_precision: how float32 operands enter a dot: ieee (float32 means float32), or by name
            tf32 or tf32x3. The 16-bit dtypes ignore it.
        return_normalizer: also return the denominators and stabilizers of every step; no gradient flows
            through them.

    Returns:
        h of shape (B, NH, S, DHHV) in the kernel dtype; or a tuple that begins with h, goes on with
        (c, n, m) in float32 and the shapes of the initial state if return_last_states, and ends with
        (d, m) of shape (B, NH, S) in float32, d_t relative to m_t, if return_normalizer. Gradients come back in
        the dtypes of the inputs.

    Raises:
        ValueError: for shapes that do not fit, S = 0, a chunk size that is no power of two, an
            unsupported kernel dtype, a partial or non-finite initial state, a negative eps or norm_val,
            another normalizer_grad or input_precision.
        TypeError: from JAX, under forward-mode differentiation. A second derivative raises an error of JAX too.

    Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, eqs. 19-27; the
    chunkwise form is that of docs/method.md, section 3, its gradient that of section 12.
    """
    options = Options(
        eps, chunk_size, stabilize_correctly, norm_val, input_precision, normalizer_grad, recompute_states_in_bw
    )
    initial = (c_initial, n_initial, m_initial)
    h, last, normalizer = _apply(kernel_dtype(autocast_kernel_dtype), options, (q, k, v, i, f), initial)
    result: tuple[Any, ...] = (h,)
    if return_last_states:
        result += (last,)
    if return_normalizer:
        result += (normalizer,)
    return result if len(result) > 1 else h


def _get_chunkwise_fwbw_kernel(autocast_kernel_dtype: Any, **kwargs: Any) -> Callable[..., tuple[Any, ...]]:
    """The function of ``_mlstm_chunkwise_fwbw_generator`` for a kernel dtype by name or as a dtype.

    Args:
        autocast_kernel_dtype: float32, float16 or bfloat16.
        kwargs: the other arguments of ``_mlstm_chunkwise_fwbw_generator``.

    Raises:
        ValueError: for another dtype.
    """
    return _mlstm_chunkwise_fwbw_generator(kernel_dtype(autocast_kernel_dtype), **kwargs)


def _mlstm_chunkwise_fwbw_generator(
    autocast_kernel_dtype: Any = jnp.bfloat16,
    return_last_states: bool = False,
    recompute_states_in_bw: bool = True,
    chunk_size: int = 64,
    eps: float = 1e-6,
    stabilize_correctly: bool = True,
    norm_val: float = 1.0,
    *,
    normalizer_grad: str = "exact",
    input_precision: str = "ieee",
) -> Callable[..., tuple[Any, ...]]:
    """Generate the differentiable mLSTM with these constants, which ``mlstm_chunkwise_triton_stablef`` documents.

    Returns:
        A function of matQ, matK (B, NH, S, DHQK), matV (B, NH, S, DHHV), vecI, vecF (B, NH, S) and, all or none,
        matC_initial (B, NH, DHQK, DHHV), vecN_initial (B, NH, DHQK), scaM_initial (B, NH). It returns
        (matH, matC_last, vecN_last, scaM_last); without ``return_last_states`` the last three are None.
    """
    dtype = kernel_dtype(autocast_kernel_dtype)
    options = Options(
        eps, chunk_size, stabilize_correctly, norm_val, input_precision, normalizer_grad, recompute_states_in_bw
    )

    def forward(
        matQ: jax.Array,
        matK: jax.Array,
        matV: jax.Array,
        vecI: jax.Array,
        vecF: jax.Array,
        matC_initial: jax.Array | None = None,
        vecN_initial: jax.Array | None = None,
        scaM_initial: jax.Array | None = None,
    ) -> tuple[Any, ...]:
        initial = (matC_initial, vecN_initial, scaM_initial)
        matH, last, _ = _apply(dtype, options, (matQ, matK, matV, vecI, vecF), initial)
        return (matH, *last) if return_last_states else (matH, None, None, None)

    return forward


class _Static(NamedTuple):
    # What is fixed when a call is compiled: the constants, the storage dtype, and those of the gradients.
    options: Options
    dtype: np.dtype
    gradient_dtypes: tuple[np.dtype, ...]


def _apply(dtype: np.dtype, options: Options, rows: tuple[Any, ...], initial: tuple[Any, ...]) -> tuple[Any, ...]:
    # (h, last state, normalizer), after the checks
    check_arguments(
        *rows,
        *initial,
        eps=options.eps,
        chunk_size=options.chunk_size,
        norm_val=options.norm_val,
        input_precision=options.input_precision,
        normalizer_grad=options.normalizer_grad,
    )
    arrays = tuple(jnp.asarray(array) for array in (*rows, *initial) if array is not None)
    plain = options._replace(
        eps=float(options.eps),
        chunk_size=int(options.chunk_size),
        stabilize_correctly=bool(options.stabilize_correctly),
        norm_val=float(options.norm_val),
        recompute_states_in_bw=bool(options.recompute_states_in_bw),
    )
    static = _Static(plain, dtype, tuple(array.dtype for array in arrays))
    return _mlstm(static, *arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mlstm(static: _Static, *inputs: jax.Array) -> tuple[Any, ...]:
    return _forward(static, inputs, static.options.chunk_size)[0]


def _mlstm_fwd(static: _Static, *inputs: jax.Array) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    keep = static.options.chunk_size if static.options.recompute_states_in_bw else block_l(static.options.chunk_size)
    return _forward(static, inputs, keep)


def _forward(static: _Static, inputs: tuple[jax.Array, ...], keep: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    # What is returned, and what the backward pass needs of it.
    options = static.options
    arrays = cast_inputs(static.dtype, inputs)
    forward = folds_into_batch(lambda *arrays: mlstm_chunkwise_fw(Arrays(*arrays), options, keep))(*arrays)
    states = forward.states
    outputs = (
        forward.matH,
        (states.matC_last, states.vecN_last, states.scaM_last),
        (forward.vecN, forward.vecM),
    )
    rows = (forward.matH, forward.vecA, forward.vecM, forward.vecMinner)
    return outputs, (arrays, rows, None if options.recompute_states_in_bw else states)


def cast_inputs(dtype: np.dtype, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """q, k, v, i in the storage dtype, f and the initial state in float32."""
    storage, others = inputs[:4], inputs[4:]
    return (*(jnp.asarray(x, dtype) for x in storage), *(jnp.asarray(x, jnp.float32) for x in others))


def _mlstm_bwd(static: _Static, residual: tuple[Any, ...], cotangents: tuple[Any, ...]) -> tuple[jax.Array, ...]:
    options = static.options

    def backward(
        inputs: tuple[Any, ...], rows: tuple[Any, ...], states: Any, cotangents: tuple[Any, ...]
    ) -> tuple[jax.Array, ...]:
        arrays = Arrays(*inputs)
        if states is None:
            states = run_recurrence(arrays, options, block_l(options.chunk_size))
        matH, vecA, vecM, vecMinner = rows
        saved = Saved(arrays, options, matH, vecA, vecM, vecMinner, states, Cotangents(*cotangents))
        return mlstm_chunkwise_bw(saved, static.gradient_dtypes)

    # No gradient flows through the normalizer that is returned.
    dh, last, _ = cotangents
    gradients = folds_into_batch(backward)(*residual, (dh, *last))
    return tuple(gradient.astype(dtype) for gradient, dtype in zip(gradients, static.gradient_dtypes, strict=True))


_mlstm.defvjp(_mlstm_fwd, _mlstm_bwd)
