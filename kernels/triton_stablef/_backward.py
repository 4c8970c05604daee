"""The backward pass: its kernels behind one function (docs/method.md, section 12).

It works on chunks of at most 64 tokens: a longer chunk is taken apart, which changes rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
from kernels.triton_stablef._inner import mlstm_chunkwise_inner
from kernels.triton_stablef._tiles import block_l, tiles


class Cotangents(NamedTuple):
    """dL/dh (B, NH, S, DHHV) in the storage dtype, and in float32 dL/d of the last state."""

    matDeltaH: jax.Array
    matDeltaC_last: jax.Array
    vecDeltaN_last: jax.Array
    scaDeltaM_last: jax.Array


class Rows(NamedTuple):
    """What dL/dh says of every row, (B, NH, S) float32, and of every block, (B, NH, NB); see ``_bw_rows``."""

    vecInvD: jax.Array
    vecGamma: jax.Array
    vecCarryX: jax.Array
    vecCarryGamma: jax.Array
    scaDecay: jax.Array
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
        matH, vecA, vecM, vecMinner: its results.
        states: its states, kept once every block.
        cotangents: the derivatives of the loss.
    """

    arrays: Arrays
    options: Options
    matH: jax.Array
    vecA: jax.Array
    vecM: jax.Array
    vecMinner: jax.Array
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


class Backward(NamedTuple):
    """What the backward pass computes, in the order in which it does.

    Attributes:
        rows: what the cotangents of h say of every row.
        last: of the last state, relative to m': dL/dC', dL/dn', and the message along the path of m.
        gradients: of the states.
        shares: what the pairs say of di and dphi, (NUM_SHARES, B, NH, S) float32 each; their sums do.
        deltas: dq, dk, dv, di, df.
        initial: dC_0, dn_0, dm_0, or nothing without an initial state.
    """

    rows: Rows
    last: tuple[jax.Array, jax.Array, jax.Array]
    gradients: StateGradients
    shares: tuple[jax.Array, jax.Array]
    deltas: tuple[jax.Array, ...]
    initial: tuple[jax.Array, ...]


def mlstm_chunkwise_bw(saved: Saved, dtypes: Sequence[np.dtype]) -> tuple[jax.Array, ...]:
    """Run the backward kernels.

    Args:
        saved: what the forward pass left, and the cotangents.
        dtypes: those in which dq, dk, dv, di, df are returned.

    Returns:
        dq, dk, dv, di, df in the shapes of their inputs, and, if there is an initial state, dC_0, dn_0, dm_0
        in float32.
    """
    backward = run_backward(saved, dtypes)
    return *backward.deltas, *backward.initial


def run_backward(saved: Saved, dtypes: Sequence[np.dtype]) -> Backward:
    """As ``mlstm_chunkwise_bw``, and what is computed on the way."""
    nobody = jnp.zeros(saved.arrays.matQ.shape[:2], jnp.int32)
    rows = _row_cotangents(saved, saved.vecMinner, saved.states.scaMinner, nobody)
    last = _last_gradients(saved)
    gradients = _walk_back(saved, rows, nobody, last, keep_states=True)
    matDeltaQ, matDeltaK, shares = _parallel_qk(saved, rows, gradients, dtypes)
    matDeltaV = _parallel_v(saved, rows, gradients, dtypes[2])
    deltas = (matDeltaQ, matDeltaK, matDeltaV, *_gates(saved, rows, gradients, shares, dtypes))
    initial = () if saved.arrays.matC_initial is None else _initial_gradients(saved, gradients)
    return Backward(rows, last, gradients, shares, deltas, initial)


def _row_cotangents(saved: Saved, vecStabilizer: jax.Array, scaStabilizer: jax.Array, skip: jax.Array) -> Rows:
    arrays, options = saved.arrays, saved.options
    *_, length, dhqk, dhhv = arrays.sizes
    tile = tiles("bw_rows", dhqk, dhhv, arrays.matQ.dtype.name)
    constants = {"BLOCK_L": block_l(options.chunk_size), "BLOCK_HV": tile.block_hv}
    outputs = launch(
        mlstm_chunkwise_bw_rows,
        (
            *(saved.matH, saved.cotangents.matDeltaH, arrays.vecI, arrays.vecF, saved.states.vecBeta),
            *(saved.vecA, saved.vecM, saved.vecMinner, vecStabilizer, scaStabilizer),
            *(arrays.m_0, skip),
            *(length, saved.scale, np.float32(options.norm_val), np.float32(options.eps)),
        ),
        (
            *(arrays.float32(length),) * 4,
            arrays.float32(saved.blocks),
            arrays.float32(length),
            *(arrays.float32(saved.blocks),) * 2,
        ),
        programs=arrays.programs(constants, "L"),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        DHHV=dhhv,
        STABILIZE_CORRECTLY=options.stabilize_correctly,
        EXACT=options.normalizer_grad == "exact",
        **constants,
    )
    return Rows(*outputs)


def _last_gradients(saved: Saved) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Of the last C' and n', relative to m', and the message along the path of m.
    states = saved.states
    _, dC, dn, dm = saved.cotangents
    message = jnp.zeros_like(dm)
    # The empty state comes from no token that a change of m could reach.
    empty = jnp.isneginf(states.scaM_last)
    if saved.options.normalizer_grad == "exact":
        message = jnp.where(empty, 0.0, dm - _inner(dC, dn, states.matC_last, states.vecN_last))
    to_m = jnp.exp(saved.vecMinner[:, :, -1] - jnp.where(empty, 0.0, states.scaM_last))
    return dC * to_m[..., None, None], dn * to_m[..., None], message


def _initial_gradients(saved: Saved, gradients: StateGradients) -> tuple[jax.Array, ...]:
    matC, vecN, scaM, inner = entering_state(saved.arrays)
    through_states = _inner(gradients.matDeltaC_initial, gradients.vecDeltaN_initial, matC, vecN)
    # m' leaves an empty initial state out: its gradient is relative to m.
    empty = jnp.isneginf(inner)
    others = 1 - empty.astype(jnp.int32)
    rows = _row_cotangents(saved, saved.vecM, saved.states.scaM, others)
    # The message is not wanted here.
    last = (saved.cotangents.matDeltaC_last, saved.cotangents.vecDeltaN_last, jnp.zeros_like(scaM))
    of_empty = _walk_back(saved, rows, others, last, keep_states=False)
    return (
        jnp.where(empty[..., None, None], of_empty.matDeltaC_initial, gradients.matDeltaC_initial),
        jnp.where(empty[..., None], of_empty.vecDeltaN_initial, gradients.vecDeltaN_initial),
        through_states + gradients.scaQ_initial,
    )


def _inner(matA: jax.Array, vecA: jax.Array, matC: jax.Array, vecN: jax.Array) -> jax.Array:
    # Not jnp.sum: the order of its sum, and with it the last bit, depends on what it is compiled with.
    batch, heads, dhqk, dhhv = matA.shape
    tile = tiles("inner", dhqk, dhhv, matA.dtype.name)
    (inner,) = launch(
        mlstm_chunkwise_inner,
        (matA, vecA, matC, vecN),
        (jax.ShapeDtypeStruct((batch, heads), jnp.float32),),
        programs=batch * heads,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        DHQK=dhqk,
        DHHV=dhhv,
        BLOCK_QK=tile.block_qk,
        BLOCK_HV=tile.block_hv,
    )
    return inner


def _walk_back(
    saved: Saved, rows: Rows, skip: jax.Array, last: tuple[jax.Array, ...], *, keep_states: bool
) -> StateGradients:
    arrays = saved.arrays
    *_, length, dhqk, dhhv = arrays.sizes
    constants = arrays.launch_options("bw_recurrent", saved.options)
    kept = saved.blocks if keep_states else 1  # nothing is stored there
    outputs = launch(
        mlstm_chunkwise_bw_recurrent,
        (
            *(arrays.matQ, saved.cotangents.matDeltaH, rows.vecCarryX, rows.vecCarryGamma, rows.scaDecay),
            *(rows.scaMessage, rows.scaPasses, skip, *last, length),
        ),
        (
            arrays.operand(kept, dhqk, dhhv),
            arrays.float32(kept, dhqk),
            arrays.float32(kept),
            arrays.float32(dhqk, dhhv),
            arrays.float32(dhqk),
            arrays.float32(),
        ),
        # Blocks of D, and of E beside them.
        programs=arrays.programs(constants, "QK", "HV") + arrays.programs(constants, "QK"),
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
            *(states.vecSigma, saved.vecMinner, rows.vecInvD, rows.vecGamma, rows.vecCarryX),
            *(rows.vecCarryGamma, rows.scaDecay, states.matC, states.vecN, gradients.matDeltaC, gradients.vecDeltaN),
            *(length, saved.scale, batch * heads * length),
        ),
        (
            jax.ShapeDtypeStruct(arrays.matQ.shape, dtypes[0]),
            jax.ShapeDtypeStruct(arrays.matK.shape, dtypes[1]),
            shares,
            shares,
        ),
        programs=arrays.programs(constants, "L", "QK"),
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
            *(states.vecSigma, saved.vecMinner, rows.vecInvD, gradients.matDeltaC),
            *(arrays.sizes[2], saved.scale),
        ),
        (jax.ShapeDtypeStruct(arrays.matV.shape, dtype),),
        programs=arrays.programs(constants, "L", "HV"),
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
            *(arrays.vecI, arrays.vecF, saved.vecM, rows.vecMu, arrays.m_0),
            *(gradients.scaQ, *shares, arrays.sizes[2], arrays.vecI.size),
        ),
        (
            jax.ShapeDtypeStruct(arrays.vecI.shape, dtypes[3]),
            jax.ShapeDtypeStruct(arrays.vecF.shape, dtypes[4]),
        ),
        programs=arrays.programs(constants, "L"),
        num_warps=1,
        num_stages=1,
        NUM_SHARES=shares[0].shape[0],
        **constants,
    )
