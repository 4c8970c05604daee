"""What the kernels compute on the way, by name, for a tool that looks for the first of it that is wrong.

The same launches as of a call and of its VJP, one after the other; nothing here computes anything of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kernels._arguments import check_arguments, kernel_dtype
from kernels.triton_stablef._backward import Backward, Cotangents, Saved, run_backward
from kernels.triton_stablef._forward import Arrays, Forward, Options, mlstm_chunkwise_fw, run_recurrence
from kernels.triton_stablef._programs import backward_programs, forward_programs
from kernels.triton_stablef._tiles import block_l
from kernels.triton_stablef.triton_fwbw import cast_inputs


def mlstm_chunkwise_triton_stablef_stages(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    i: jax.Array,
    f: jax.Array,
    c_initial: jax.Array | None = None,
    n_initial: jax.Array | None = None,
    m_initial: jax.Array | None = None,
    *,
    cotangents: Mapping[str, jax.Array] | None = None,
    eps: float = 1e-6,
    chunk_size: int = 64,
    autocast_kernel_dtype: Any = jnp.float32,
    stabilize_correctly: bool = True,
    norm_val: float = 1.0,
    normalizer_grad: str = "exact",
    input_precision: str = "ieee",
) -> dict[str, Any]:
    """The stages of ``mlstm_chunkwise_triton_stablef``, which documents the arguments.

    Args:
        cotangents: dL/d of h, C_last, n_last, m_last, by name; those that are left out are zero. None: the
            forward pass alone.

    Returns:
        ``arrays``, the stages by name as docs/bisecting.md defines them; ``chunk_size``, the tokens between two
        entries of C_entering and n_entering; ``block_size``, those between two entries of the other stages of
        blocks; and ``programs``, where each stage is computed, see ``_programs``.

    Raises:
        ValueError: as the function itself.
    """
    options = Options(eps, chunk_size, stabilize_correctly, norm_val, input_precision, normalizer_grad)
    initial = (c_initial, n_initial, m_initial)
    check_arguments(*(q, k, v, i, f), *initial, **{name: getattr(options, name) for name in _CHECKED})
    given = tuple(jnp.asarray(array) for array in (q, k, v, i, f, *initial) if array is not None)
    arrays = Arrays(*cast_inputs(kernel_dtype(autocast_kernel_dtype), given))
    forward = mlstm_chunkwise_fw(arrays, options)
    stages = _of_forward(forward)
    programs = forward_programs(arrays, options)
    if cotangents is not None:
        saved = _saved(arrays, options, forward, cotangents)
        stages |= _of_backward(run_backward(saved, [array.dtype for array in given]))
        programs |= backward_programs(arrays, options)
    sizes = {"chunk_size": chunk_size, "block_size": block_l(chunk_size)}
    return {"arrays": stages, "programs": programs, **sizes}


_CHECKED = ("eps", "chunk_size", "norm_val", "input_precision", "normalizer_grad")


def _saved(arrays: Arrays, options: Options, forward: Forward, cotangents: Mapping[str, jax.Array]) -> Saved:
    states = forward.states
    block = block_l(options.chunk_size)
    if block != options.chunk_size:
        # As the backward pass does, whose chunks are blocks.
        states = run_recurrence(arrays, options, block)
    outputs = {
        "h": forward.matH,
        "C_last": states.matC_last,
        "n_last": states.vecN_last,
        "m_last": states.scaM_last,
    }
    given = Cotangents(
        *(jnp.asarray(cotangents.get(name, jnp.zeros_like(array)), array.dtype) for name, array in outputs.items())
    )
    return Saved(arrays, options, forward.matH, forward.vecA, forward.vecM, forward.vecMinner, states, given)


def _of_forward(forward: Forward) -> dict[str, jax.Array]:
    states = forward.states
    return {
        "beta": states.vecBeta,
        "sigma": states.vecSigma,
        "best": states.vecBest,
        "m_entering": states.scaM,
        "inner_entering": states.scaMinner,
        "C_entering": states.matC,
        "n_entering": states.vecN,
        "m": forward.vecM,
        "inner": forward.vecMinner,
        "a": forward.vecA,
        "n": forward.vecN,
        "h": forward.matH,
        "C_last": states.matC_last,
        "n_last": states.vecN_last,
        "m_last": states.scaM_last,
    }


def _of_backward(backward: Backward) -> dict[str, jax.Array]:
    rows, gradients = backward.rows, backward.gradients
    named = {
        **dict(zip(("dC_last", "dn_last", "M_last"), backward.last, strict=True)),
        "inverse": rows.vecInvD,
        "gamma": rows.vecGamma,
        "mu": rows.vecMu,
        "carry_x": rows.vecCarryX,
        "carry_gamma": rows.vecCarryGamma,
        "kept": jnp.exp(rows.scaDecay),
        "dC_leaving": gradients.matDeltaC,
        "dn_leaving": gradients.vecDeltaN,
        "M_leaving": gradients.scaQ,
        "di_pairs": jnp.sum(backward.shares[0], 0),
        "dphi_pairs": jnp.sum(backward.shares[1], 0),
        **dict(zip(("dq", "dk", "dv", "di", "df"), backward.deltas, strict=True)),
    }
    return named | dict(zip(("dC_0", "dn_0", "dm_0"), backward.initial, strict=False))
