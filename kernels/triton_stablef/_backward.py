"""The backward pass: its kernels behind one function (docs/method.md, section 12).

It works on chunks of at most 64 tokens: a longer chunk is taken apart, which changes rounding alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.launch import launch
from kernels.triton_stablef._bw_gates import mlstm_chunkwise_bw_gates
from kernels.triton_stablef._bw_parallel_qk import mlstm_chunkwise_bw_parallel_qk
from kernels.triton_stablef._bw_parallel_v import mlstm_chunkwise_bw_parallel_v
from kernels.triton_stablef._bw_recurrent import mlstm_chunkwise_bw_recurrent
from kernels.triton_stablef._bw_rows import mlstm_chunkwise_bw_rows
from kernels.triton_stablef._forward import Arrays, Options, States, entering_state
from kernels.triton_stablef._tiles import block_l, tiles


class Cotangents(NamedTuple):
    """dL/dh (B, NH, S, DHHV) in the storage dtype, and in float32 dL/d of the last state."""

    matDeltaH: jax.Array
    matDeltaC_last: jax.Array
    vecDeltaN_last: jax.Array
    scaDeltaM_last: jax.Array


class Rows(NamedTuple):
    """What dL/dh says of every row: (B, NH, S) float32, and one message a block, (B, NH, NB)."""

    vecInvD: jax.Array
    vecGamma: jax.Array
    vecInvD_of_m: jax.Array
    vecGamma_of_m: jax.Array
    vecMu: jax.Array
    scaMessage: jax.Array
    scaPasses: jax.Array


class StateGradients(NamedTuple):
    """Gradients of the states that leave each block to the right, and of the initial state."""

    matDeltaC: jax.Array
    vecDeltaN: jax.Array
    scaQ: jax.Array
    matDeltaC_initial: jax.Array
    vecDeltaN_initial: jax.Array
    scaQ_initial: jax.Array


class Saved(NamedTuple):
    """What the backward pass starts from.

    Attributes:
        arrays, options: the inputs and the constants of the forward pass.
        matH, vecA: its results.
        states: its states, kept once every block.
        cotangents: the derivatives of the loss.
    """

    arrays: Arrays
    options: Options
    matH: jax.Array
    vecA: jax.Array
    states: States
    cotangents: Cotangents

    @property
    def blocks(self) -> int:
        """Blocks of a sequence."""
        return -(-self.arrays.sizes[2] // block_l(self.options.chunk_size))

    @property
    def scale(self) -> np.float32:
        """c = DHQK^-1/2."""
        return np.float32(self.arrays.sizes[3] ** -0.5)

    def programs(self, constants: dict[str, Any], *blocks: str) -> int:
        """One program for each head and each block of the axes named: L, QK, HV."""
        batch, heads, length, dhqk, dhhv = self.arrays.sizes
        sizes = {"L": length, "QK": dhqk, "HV": dhhv}
        return batch * heads * math.prod(-(-sizes[name] // constants[f"BLOCK_{name}"]) for name in blocks)


def mlstm_chunkwise_bw(saved: Saved, dtypes: Sequence[np.dtype]) -> tuple[jax.Array, ...]:
    """Run the backward kernels.

    Args:
        saved: what the forward pass left, and the cotangents.
        dtypes: those in which dq, dk, dv, di, df are returned.

    Returns:
        dq, dk, dv, di, df in the shapes of their inputs, and, if there is an initial state, dC_0, dn_0, dm_0
        in float32.
    """
    rows = _row_cotangents(saved)
    gradients = _state_gradients(saved, rows)
    matDeltaQ, matDeltaK, shares = _parallel_qk(saved, rows, gradients, dtypes)
    matDeltaV = _parallel_v(saved, rows, gradients, dtypes[2])
    deltas = (matDeltaQ, matDeltaK, matDeltaV, *_gates(saved, rows, gradients, shares, dtypes))
    if saved.arrays.matC_initial is None:
        return deltas
    return *deltas, *_initial_state(saved, rows, gradients)


def _row_cotangents(saved: Saved) -> Rows:
    arrays, options, states = saved.arrays, saved.options, saved.states
    *_, length, dhqk, dhhv = arrays.sizes
    tile = tiles("bw_rows", dhqk, dhhv, arrays.matQ.dtype.itemsize)
    constants = {"BLOCK_L": block_l(options.chunk_size), "BLOCK_HV": tile.block_hv}
    outputs = launch(
        mlstm_chunkwise_bw_rows,
        (
            *(saved.matH, saved.cotangents.matDeltaH, arrays.vecI, arrays.vecF, saved.vecA),
            *(states.vecM, states.vecMinner, entering_state(arrays)[2]),
            *(length, options.log_norm_val, np.float32(options.eps)),
        ),
        (*(arrays.float32(length),) * 5, *(arrays.float32(saved.blocks),) * 2),
        programs=saved.programs(constants, "L"),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        DHHV=dhhv,
        STABILIZE_CORRECTLY=options.stabilize_correctly,
        EXACT=options.normalizer_grad == "exact",
        **constants,
    )
    return Rows(*outputs)


def _state_gradients(saved: Saved, rows: Rows) -> StateGradients:
    states, cotangents = saved.states, saved.cotangents
    _, dC, dn, dm = cotangents
    message = jnp.zeros_like(dm)
    # The empty state comes from no token that a change of m could reach.
    empty = jnp.isneginf(states.scaM_last)
    if saved.options.normalizer_grad == "exact":
        through_states = jnp.sum(dC * states.matC_last, axis=(2, 3)) + jnp.sum(dn * states.vecN_last, axis=2)
        message = jnp.where(empty, 0.0, dm - through_states)
    # From the definition's m to m', relative to which D is held.
    to_m = jnp.exp(states.vecMinner[:, :, -1] - jnp.where(empty, 0.0, states.scaM_last))
    relative = (states.vecMinner, rows.vecInvD, rows.vecGamma)
    initial = (entering_state(saved.arrays)[3], jnp.zeros(dm.shape, jnp.int32))
    last = (dC * to_m[..., None, None], dn * to_m[..., None], message)
    return _walk_back(saved, rows, relative, initial, last, keep_states=True)


def _initial_state(saved: Saved, rows: Rows, gradients: StateGradients) -> tuple[jax.Array, ...]:
    arrays, states = saved.arrays, saved.states
    matC, vecN, scaM, inner = entering_state(arrays)
    through_states = jnp.sum(gradients.matDeltaC_initial * matC, axis=(2, 3))
    through_states += jnp.sum(gradients.vecDeltaN_initial * vecN, axis=2)
    scaDeltaM = through_states + gradients.scaQ_initial
    # m' leaves an empty initial state out: its gradient is relative to m.
    empty = jnp.isneginf(inner)
    relative = (states.vecM, rows.vecInvD_of_m, rows.vecGamma_of_m)
    initial = (scaM, 1 - empty.astype(jnp.int32))
    of_empty = _walk_back(saved, rows, relative, initial, (*saved.cotangents[1:3], scaM), keep_states=False)
    return (
        jnp.where(empty[..., None, None], of_empty.matDeltaC_initial, gradients.matDeltaC_initial),
        jnp.where(empty[..., None], of_empty.vecDeltaN_initial, gradients.vecDeltaN_initial),
        scaDeltaM,
    )


def _walk_back(
    saved: Saved,
    rows: Rows,
    relative: tuple[jax.Array, ...],
    initial: tuple[jax.Array, ...],
    last: tuple[jax.Array, ...],
    *,
    keep_states: bool,
) -> StateGradients:
    arrays = saved.arrays
    *_, length, dhqk, dhhv = arrays.sizes
    constants = arrays.launch_options("bw_recurrent", saved.options)
    kept = saved.blocks if keep_states else 1
    outputs = launch(
        mlstm_chunkwise_bw_recurrent,
        (
            *(arrays.matQ, saved.cotangents.matDeltaH, saved.states.vecBeta, *relative),
            *(rows.scaMessage, rows.scaPasses, *initial, *last),
            *(length, saved.scale),
        ),
        (
            arrays.operand(kept, dhqk, dhhv),
            arrays.float32(kept, dhqk),
            arrays.float32(kept),
            arrays.float32(dhqk, dhhv),
            arrays.float32(dhqk),
            arrays.float32(),
        ),
        programs=saved.programs(constants, "QK", "HV"),
        KEEP_STATES=keep_states,
        **constants,
    )
    return StateGradients(*outputs)


def _parallel_qk(
    saved: Saved, rows: Rows, gradients: StateGradients, dtypes: Sequence[np.dtype]
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    arrays, states = saved.arrays, saved.states
    batch, heads, length, dhqk, _ = arrays.sizes
    constants = arrays.launch_options("bw_parallel_qk", saved.options)
    shares = jax.ShapeDtypeStruct((-(-dhqk // constants["BLOCK_QK"]), batch, heads, length), jnp.float32)
    matDeltaQ, matDeltaK, share_i, share_phi = launch(
        mlstm_chunkwise_bw_parallel_qk,
        (
            *(arrays.matQ, arrays.matK, arrays.matV, saved.cotangents.matDeltaH, arrays.vecI, arrays.vecF),
            *(states.vecBeta, states.vecSigma, states.vecMinner, rows.vecInvD, rows.vecGamma),
            *(states.matC, states.vecN, states.scaMinner, gradients.matDeltaC, gradients.vecDeltaN),
            *(length, saved.scale, batch * heads * length),
        ),
        (
            jax.ShapeDtypeStruct(arrays.matQ.shape, dtypes[0]),
            jax.ShapeDtypeStruct(arrays.matK.shape, dtypes[1]),
            shares,
            shares,
        ),
        programs=saved.programs(constants, "L", "QK"),
        **constants,
    )
    return matDeltaQ, matDeltaK, (share_i, share_phi)


def _parallel_v(saved: Saved, rows: Rows, gradients: StateGradients, dtype: np.dtype) -> jax.Array:
    arrays, states = saved.arrays, saved.states
    constants = arrays.launch_options("bw_parallel_v", saved.options)
    (matDeltaV,) = launch(
        mlstm_chunkwise_bw_parallel_v,
        (
            *(arrays.matQ, arrays.matK, saved.cotangents.matDeltaH, arrays.vecI, arrays.vecF),
            *(states.vecSigma, states.vecMinner, rows.vecInvD, gradients.matDeltaC),
            *(arrays.sizes[2], saved.scale),
        ),
        (jax.ShapeDtypeStruct(arrays.matV.shape, dtype),),
        programs=saved.programs(constants, "L", "HV"),
        **constants,
    )
    return matDeltaV


def _gates(
    saved: Saved,
    rows: Rows,
    gradients: StateGradients,
    shares: tuple[jax.Array, jax.Array],
    dtypes: Sequence[np.dtype],
) -> tuple[jax.Array, ...]:
    arrays = saved.arrays
    constants = {"BLOCK_L": block_l(saved.options.chunk_size)}
    return launch(
        mlstm_chunkwise_bw_gates,
        (
            *(arrays.vecI, arrays.vecF, saved.states.vecM, rows.vecMu, entering_state(arrays)[2]),
            *(gradients.scaQ, *shares, arrays.sizes[2], arrays.vecI.size),
        ),
        (
            jax.ShapeDtypeStruct(arrays.vecI.shape, dtypes[3]),
            jax.ShapeDtypeStruct(arrays.vecF.shape, dtypes[4]),
        ),
        programs=saved.programs(constants, "L"),
        num_warps=1,
        num_stages=1,
        NUM_SHARES=shares[0].shape[0],
        **constants,
    )
