"""The forward pass: its kernels behind one function, for inputs that are already cast and checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.launch import launch
from kernels.triton_stablef._fw_parallel import mlstm_chunkwise_fw_parallel
from kernels.triton_stablef._fw_recurrent import mlstm_chunkwise_fw_recurrent
from kernels.triton_stablef._gates import mlstm_chunkwise_gates
from kernels.triton_stablef._tiles import block_l, tiles

_OPERANDS = {"float16": "fp16", "bfloat16": "bf16"}


class Options(NamedTuple):
    """What is fixed when a call is compiled; see ``mlstm_chunkwise_triton_stablef``."""

    eps: float = 1e-6
    chunk_size: int = 64
    stabilize_correctly: bool = True
    norm_val: float = 1.0
    input_precision: str = "ieee"
    normalizer_grad: str = "exact"
    recompute_states_in_bw: bool = True


class Arrays(NamedTuple):
    """The inputs, cast to what the kernels read.

    Attributes:
        matQ, matK: (B, NH, S, DHQK), float32, float16 or bfloat16: the storage dtype.
        matV: (B, NH, S, DHHV), storage dtype.
        vecI: (B, NH, S), storage dtype.
        vecF: (B, NH, S), float32.
        matC_initial: (B, NH, DHQK, DHHV), float32, or None with the next two.
        vecN_initial: (B, NH, DHQK), float32.
        scaM_initial: (B, NH), float32, natural-log units.
    """

    matQ: jax.Array
    matK: jax.Array
    matV: jax.Array
    vecI: jax.Array
    vecF: jax.Array
    matC_initial: jax.Array | None = None
    vecN_initial: jax.Array | None = None
    scaM_initial: jax.Array | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, NH, S, DHQK, DHHV."""
        batch, heads, length, dhqk = self.matQ.shape
        return batch, heads, length, dhqk, self.matV.shape[-1]

    @property
    def m_0(self) -> jax.Array:
        """scaM_initial, 0 where there is no initial state."""
        return jnp.zeros(self.matQ.shape[:2], jnp.float32) if self.scaM_initial is None else self.scaM_initial

    def programs(self, constants: dict[str, Any], *blocks: str) -> int:
        """One program for each head and each block of the axes named: L, QK, HV."""
        batch, heads, length, dhqk, dhhv = self.sizes
        sizes = {"L": length, "QK": dhqk, "HV": dhhv}
        return batch * heads * math.prod(-(-sizes[name] // constants[f"BLOCK_{name}"]) for name in blocks)

    def float32(self, *shape: int) -> jax.ShapeDtypeStruct:
        """What a kernel returns in float32, (B, NH, *shape)."""
        return jax.ShapeDtypeStruct((*self.matQ.shape[:2], *shape), jnp.float32)

    def operand(self, *shape: int) -> jax.ShapeDtypeStruct:
        """What enters nothing but dots, in the dtype that they round it to: float16 enters as TF32."""
        dtype = jnp.bfloat16 if self.matQ.dtype == jnp.bfloat16 else jnp.float32
        return jax.ShapeDtypeStruct((*self.matQ.shape[:2], *shape), dtype)

    def launch_options(self, kernel: str, options: Options) -> dict[str, Any]:
        """The tile and the dot mode of a kernel, and its launch options."""
        *_, dhqk, dhhv = self.sizes
        tile = tiles(kernel, dhqk, dhhv, self.matQ.dtype.name)
        return {
            "DHQK": dhqk,
            "DHHV": dhhv,
            "BLOCK_L": block_l(options.chunk_size),
            "BLOCK_QK": tile.block_qk,
            "BLOCK_HV": tile.block_hv,
            "OPERANDS": _OPERANDS.get(self.matQ.dtype.name, options.input_precision),
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        }


class States(NamedTuple):
    """What the recurrence of the forward pass leaves behind.

    Attributes:
        vecBeta, vecSigma, vecBest: (B, NH, S) float32, the sums of the gates inside each block.
        matC, vecN: (B, NH, NK, ...), the state that enters each stretch of ``keep`` tokens, relative to m'.
        scaM, scaMinner: (B, NH, NB) float32, m and m' that enter each block, natural-log units.
        matC_last, vecN_last, scaM_last: the last state in float32, relative to its m.
    """

    vecBeta: jax.Array
    vecSigma: jax.Array
    vecBest: jax.Array
    matC: jax.Array
    vecN: jax.Array
    scaM: jax.Array
    scaMinner: jax.Array
    matC_last: jax.Array
    vecN_last: jax.Array
    scaM_last: jax.Array


class Forward(NamedTuple):
    """What the forward pass computes.

    Attributes:
        matH: (B, NH, S, DHHV), storage dtype.
        vecN: (B, NH, S) float32, the denominators d_t relative to m_t.
        vecA: (B, NH, S) float32, c q_t.n_t relative to m'_t.
        vecM, vecMinner: (B, NH, S) float32, the stabilizers m_t and m'_t, natural-log units.
        states: the states.
    """

    matH: jax.Array
    vecN: jax.Array
    vecA: jax.Array
    vecM: jax.Array
    vecMinner: jax.Array
    states: States


def mlstm_chunkwise_fw(arrays: Arrays, options: Options, keep: int | None = None) -> Forward:
    """Run the forward kernels.

    Args:
        arrays: the inputs.
        options: the constants.
        keep: tokens between two kept states; the chunk size unless given, which it must divide.

    Source: docs/method.md, section 3; Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024, eqs. 19-27.
    """
    batch, heads, length, dhqk, dhhv = arrays.sizes
    keep = options.chunk_size if keep is None else keep
    states = run_recurrence(arrays, options, keep)
    constants = arrays.launch_options("fw_parallel", options)
    blocks = -(-length // options.chunk_size) * (options.chunk_size // constants["BLOCK_L"])
    matH, vecN, vecA, vecM, vecMinner = launch(
        mlstm_chunkwise_fw_parallel,
        (
            *arrays[:5],
            *states[:7],
            *(length, np.float32(dhqk**-0.5), np.float32(options.norm_val), np.float32(options.eps)),
        ),
        (
            jax.ShapeDtypeStruct(arrays.matV.shape, arrays.matQ.dtype),
            *(arrays.float32(length),) * 4,
        ),
        programs=batch * heads * blocks * -(-dhhv // constants["BLOCK_HV"]),
        CHUNK=options.chunk_size,
        KEEP=keep,
        STABILIZE_CORRECTLY=options.stabilize_correctly,
        **constants,
    )
    return Forward(matH, vecN, vecA, vecM, vecMinner, states)


def run_recurrence(arrays: Arrays, options: Options, keep: int) -> States:
    """Run the kernels of the gates and of the recurrence, which keeps a state every ``keep`` tokens."""
    *_, length, dhqk, dhhv = arrays.sizes
    constants = arrays.launch_options("fw_recurrent", options)
    size, kept = constants["BLOCK_L"], -(-length // keep)
    vecBeta, vecSigma, vecBest = launch(
        mlstm_chunkwise_gates,
        (arrays.vecI, arrays.vecF, length),
        (arrays.float32(length),) * 3,
        programs=arrays.programs(constants, "L"),
        num_warps=1,
        num_stages=1,
        BLOCK_L=size,
    )
    outputs = launch(
        mlstm_chunkwise_fw_recurrent,
        (
            *(arrays.matK, arrays.matV, arrays.vecI),
            *(vecBeta, vecSigma, vecBest, *entering_state(arrays)),
            length,
        ),
        (
            arrays.operand(kept, dhqk, dhhv),
            arrays.float32(kept, dhqk),
            arrays.float32(-(-length // size)),
            arrays.float32(-(-length // size)),
            arrays.float32(dhqk, dhhv),
            arrays.float32(dhqk),
            arrays.float32(),
        ),
        # Blocks of C, and of n beside them.
        programs=arrays.programs(constants, "QK", "HV") + arrays.programs(constants, "QK"),
        KEEP=keep,
        **constants,
    )
    return States(vecBeta, vecSigma, vecBest, *outputs)


def entering_state(arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """C_0, n_0, m_0 and m'_0, which is -inf where the state is empty (docs/method.md, section 1)."""
    batch, heads, _, dhqk, dhhv = arrays.sizes
    matC, vecN, scaM = arrays[5:]
    if matC is None or vecN is None or scaM is None:
        matC, vecN = (jnp.zeros((batch, heads, *shape), jnp.float32) for shape in ((dhqk, dhhv), (dhqk,)))
        return matC, vecN, arrays.m_0, arrays.m_0 - jnp.inf
    occupied = jnp.any(matC != 0, axis=(2, 3)) | jnp.any(vecN != 0, axis=2)
    return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)
