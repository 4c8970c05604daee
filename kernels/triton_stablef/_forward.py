"""The forward pass: both kernels behind one function, for inputs that are already cast and checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.launch import launch
from kernels.triton_stablef._fw_parallel import mlstm_chunkwise_fw_parallel
from kernels.triton_stablef._fw_recurrent import mlstm_chunkwise_fw_recurrent
from kernels.triton_stablef._tiles import tiles

_OPERANDS = {"float16": "fp16", "bfloat16": "bf16"}


class Forward(NamedTuple):
    """What the forward pass computes.

    Attributes:
        matH: (B, NH, S, DHHV), storage dtype.
        matC_last: (B, NH, DHQK, DHHV) float32, relative to scaM_last.
        vecN_last: (B, NH, DHQK) float32, relative to scaM_last.
        scaM_last: (B, NH) float32, natural-log units.
        vecN: (B, NH, S) float32, the denominators d_t relative to vecM.
        vecM: (B, NH, S) float32, the definition's stabilizers m_t, natural-log units.
    """

    matH: jax.Array
    matC_last: jax.Array
    vecN_last: jax.Array
    scaM_last: jax.Array
    vecN: jax.Array
    vecM: jax.Array


def mlstm_chunkwise_fw(
    matQ: jax.Array,
    matK: jax.Array,
    matV: jax.Array,
    vecI: jax.Array,
    vecF: jax.Array,
    matC_initial: jax.Array | None = None,
    vecN_initial: jax.Array | None = None,
    scaM_initial: jax.Array | None = None,
    *,
    eps: float = 1e-6,
    chunk_size: int = 64,
    stabilize_correctly: bool = True,
    norm_val: float = 1.0,
    input_precision: str = "ieee",
) -> Forward:
    """Run the recurrent and the parallel kernel.

    Args:
        matQ: (B, NH, S, DHQK), float32, float16 or bfloat16.
        matK: (B, NH, S, DHQK), the dtype of matQ.
        matV: (B, NH, S, DHHV), the dtype of matQ.
        vecI: (B, NH, S) input gate preactivations, the dtype of matQ.
        vecF: (B, NH, S) forget gate preactivations, float32.
        matC_initial, vecN_initial, scaM_initial: float32 state, all three or none.
        eps, chunk_size, stabilize_correctly, norm_val, input_precision: as in
            ``mlstm_chunkwise_triton_stablef``.

    Source: docs/method.md, section 3; Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024, eqs. 19-27.
    """
    batch, heads, length, dhqk = matQ.shape
    dhhv = matV.shape[-1]
    num_chunks = -(-length // chunk_size)
    tile = tiles(chunk_size, dhqk, dhhv, matQ.dtype.itemsize)
    options: dict[str, Any] = {
        "DHQK": dhqk,
        "DHHV": dhhv,
        "CHUNK": chunk_size,
        "BLOCK_L": tile.block_l,
        "BLOCK_QK": tile.block_qk,
        "BLOCK_HV": tile.block_hv,
        "OPERANDS": _OPERANDS.get(matQ.dtype.name, input_precision),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    blocks_qk, blocks_hv = -(-dhqk // tile.block_qk), -(-dhhv // tile.block_hv)

    def float32(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, heads, *shape), jnp.float32)

    state = _entering_state(matC_initial, vecN_initial, scaM_initial, (batch, heads, dhqk, dhhv))
    matC, vecN, inner, vecM, vecInner, matC_last, vecN_last, scaM_last = launch(
        mlstm_chunkwise_fw_recurrent,
        (matK, matV, vecI, vecF, *state, length),
        (
            float32(num_chunks, dhqk, dhhv),
            float32(num_chunks, dhqk),
            float32(num_chunks),
            float32(length),
            float32(length),
            float32(dhqk, dhhv),
            float32(dhqk),
            float32(),
        ),
        programs=batch * heads * blocks_qk * blocks_hv,
        **options,
    )
    log_norm_val = math.log(norm_val) if norm_val > 0 else -math.inf
    scalars = (length, np.float32(dhqk**-0.5), np.float32(log_norm_val), np.float32(eps))
    matH, normalizer = launch(
        mlstm_chunkwise_fw_parallel,
        (matQ, matK, matV, vecI, vecF, matC, vecN, inner, vecM, vecInner, *scalars),
        (jax.ShapeDtypeStruct(matV.shape, matQ.dtype), float32(length)),
        programs=batch * heads * num_chunks * (chunk_size // tile.block_l) * blocks_hv,
        STABILIZE_CORRECTLY=stabilize_correctly,
        **options,
    )
    return Forward(matH, matC_last, vecN_last, scaM_last, normalizer, vecM)


def _entering_state(
    matC: jax.Array | None, vecN: jax.Array | None, scaM: jax.Array | None, sizes: tuple[int, int, int, int]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    # C_0, n_0, m_0 and m'_0, which is -inf where the state is empty (docs/method.md, section 1).
    batch, heads = sizes[:2]
    if matC is None or vecN is None or scaM is None:
        zero = jnp.zeros((batch, heads), jnp.float32)
        return jnp.zeros(sizes, jnp.float32), jnp.zeros(sizes[:3], jnp.float32), zero, zero - jnp.inf
    occupied = jnp.any(matC != 0, axis=(2, 3)) | jnp.any(vecN != 0, axis=2)
    return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)
