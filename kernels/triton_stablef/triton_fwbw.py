"""The public function: the chunkwise mLSTM with Triton kernels, as JAX users call it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kernels.triton_stablef._arguments import check_arguments, kernel_dtype
from kernels.triton_stablef._forward import mlstm_chunkwise_fw


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
    input_precision: str = "ieee",
    return_normalizer: bool = False,
) -> Any:
    """Apply the mLSTM in its chunkwise form, forward pass.

    With phi_t = log sigmoid(f_t), m_t = max(phi_t + m_{t-1}, i_t), and C, n the states that decay by
    exp(phi_t + m_{t-1} - m_t) and take in exp(i_t - m_t) k_t (v_t^T, 1), and c = DHQK^-1/2:

        h_t = c C_t^T q_t / (max(|c q_t.n_t|, b_t) + eps),   b_t = norm_val exp(-m_t), or norm_val

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
        chunk_size: a power of two from 16 to 256. It changes rounding, not the result.
        autocast_kernel_dtype: float32, float16 or bfloat16, by name or as a dtype. q, k, v, i are cast
            to it; f and the initial state are cast to float32.
        stabilize_correctly: denominator with norm_val exp(-m_t) (True) or with norm_val (False).
        norm_val: see above; at least 0.
        input_precision: how float32 operands enter a dot: ieee (float32 means float32), or by name
            tf32 or tf32x3. The 16-bit dtypes ignore it.
        return_normalizer: also return the denominators and stabilizers of every step.

    Returns:
        h of shape (B, NH, S, DHHV) in the kernel dtype; or a tuple that begins with h, goes on with
        (c, n, m) in float32 and the shapes of the initial state if return_last_states, and ends with
        (d, m) of shape (B, NH, S) in float32, d_t relative to m_t, if return_normalizer.

    Raises:
        ValueError: for shapes that do not fit, S = 0, a chunk size that is no power of two, an
            unsupported kernel dtype, a partial or non-finite initial state, a negative eps or norm_val.

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
        input_precision=input_precision,
    )
    matQ, matK, matV, vecI = (jnp.asarray(array, dtype) for array in (q, k, v, i))
    initial = (
        None if array is None else jnp.asarray(array, jnp.float32) for array in (c_initial, n_initial, m_initial)
    )
    matC_initial, vecN_initial, scaM_initial = initial
    forward = mlstm_chunkwise_fw(
        matQ,
        matK,
        matV,
        vecI,
        jnp.asarray(f, jnp.float32),
        matC_initial,
        vecN_initial,
        scaM_initial,
        eps=float(eps),
        chunk_size=int(chunk_size),
        stabilize_correctly=bool(stabilize_correctly),
        norm_val=float(norm_val),
        input_precision=input_precision,
    )
    result: tuple[Any, ...] = (forward.matH,)
    if return_last_states:
        result += ((forward.matC_last, forward.vecN_last, forward.scaM_last),)
    if return_normalizer:
        result += ((forward.vecN, forward.vecM),)
    return result if len(result) > 1 else forward.matH
