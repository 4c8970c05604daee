"""Which program of which kernel computes an element of a stage, as data.

A stage has the name of its kernel and the axes of the kernel's grid, slowest first, each as

    (name, count, coordinate, size, period)        index = coordinate mod period // size

where the coordinate is ``head`` (batch NH + head), ``token``, ``qk`` or ``hv`` (columns), or the index itself where it
is the same for the whole stage; None where every index has a share in it. A period of 0 is none. The number of the
program is the index along the axes in mixed radix:

    pid = (...(index_0 count_1 + index_1) count_2 + index_2...)

The counts and sizes are those that ``_forward`` and ``_backward`` launch with; the kernels take a pid apart so.
"""

from __future__ import annotations

from typing import Any

from kernels.triton_stablef._forward import Arrays, Options
from kernels.triton_stablef._tiles import block_l

Axis = tuple[str, int, str | int | None, int, int]


def _program(kernel: str, *axes: Axis) -> dict[str, Any]:
    return {"kernel": kernel, "axes": axes}


def _jax(where: str) -> dict[str, Any]:
    return {"kernel": f"no kernel: {where}", "axes": ()}


class _Grid:
    """The axes of the grids of one call."""

    def __init__(self, arrays: Arrays, options: Options) -> None:
        self.arrays, self.options = arrays, options
        batch, heads, self.length, self.dhqk, self.dhhv = arrays.sizes
        self.head: Axis = ("head", batch * heads, "head", 1, 0)
        size = block_l(options.chunk_size)
        self.block: Axis = ("block", -(-self.length // size), "token", size, 0)

    def columns(self, kernel: str) -> tuple[Axis, Axis]:
        """Blocks of qk and of hv."""
        constants = self.arrays.launch_options(kernel, self.options)
        qk, hv = constants["BLOCK_QK"], constants["BLOCK_HV"]
        return ("qk", -(-self.dhqk // qk), "qk", qk, 0), ("hv", -(-self.dhhv // hv), "hv", hv, 0)

    def of_states(self, kernel: str) -> tuple[tuple[Axis, ...], tuple[Axis, ...], tuple[Axis, ...]]:
        """The grids of blocks of C, of blocks of n, and of m: a recurrence has one program more than blocks of hv."""
        (_, qks, *_), (_, hvs, *_) = qk, hv = self.columns(kernel)
        beside: Axis = ("hv", hvs + 1, hvs, 1, 0)
        of_c = (self.head, qk, ("hv", hvs + 1, *hv[2:]))
        return of_c, (self.head, qk, beside), (self.head, ("qk", qks, 0, 1, 0), beside)


def forward_programs(arrays: Arrays, options: Options) -> dict[str, dict[str, Any]]:
    """By stage, of the forward pass."""
    grid = _Grid(arrays, options)
    gates = _program("mlstm_chunkwise_gates", grid.head, grid.block)
    of_c, of_n, of_m = (_program("mlstm_chunkwise_fw_recurrent", *axes) for axes in grid.of_states("fw_recurrent"))
    chunk, block = options.chunk_size, block_l(options.chunk_size)
    chunks: Axis = ("chunk", -(-grid.length // chunk), "token", chunk, 0)
    blocks: Axis = ("block of the chunk", chunk // block, "token", block, chunk)
    _, hv = grid.columns("fw_parallel")
    of_h = _program("mlstm_chunkwise_fw_parallel", grid.head, chunks, blocks, hv)
    of_rows = _program("mlstm_chunkwise_fw_parallel", grid.head, chunks, blocks, ("hv", hv[1], 0, 1, 0))
    return {
        **dict.fromkeys(("beta", "sigma", "best"), gates),
        **dict.fromkeys(("m_entering", "m_last"), of_m),
        **dict.fromkeys(("n_entering", "n_last"), of_n),
        **dict.fromkeys(("C_entering", "C_last"), of_c),
        **dict.fromkeys(("m", "a", "n"), of_rows),
        **dict.fromkeys(("numerator", "h"), of_h),
    }


def backward_programs(arrays: Arrays, options: Options) -> dict[str, dict[str, Any]]:
    """By stage, of the backward pass."""
    grid = _Grid(arrays, options)
    rows = _program("mlstm_chunkwise_bw_rows", grid.head, grid.block)
    of_d, of_e, of_m = (_program("mlstm_chunkwise_bw_recurrent", *axes) for axes in grid.of_states("bw_recurrent"))
    qk, _ = grid.columns("bw_parallel_qk")
    pairs = _program("mlstm_chunkwise_bw_parallel_qk", grid.head, grid.block, qk)
    shares = _program("mlstm_chunkwise_bw_parallel_qk", grid.head, grid.block, ("qk", qk[1], None, 1, 0))
    _, hv = grid.columns("bw_parallel_v")
    gates = _program("mlstm_chunkwise_bw_gates", grid.head, grid.block)
    inner = _program("mlstm_chunkwise_inner", grid.head)
    return {
        **dict.fromkeys(("dC_last", "dn_last"), _jax("_last_gradients of _backward.py")),
        "M_last": inner,
        **dict.fromkeys(("inverse", "gamma", "mu", "carry_x", "carry_gamma", "kept"), rows),
        **dict.fromkeys(("dC_leaving", "dC_0"), of_d),
        **dict.fromkeys(("dn_leaving", "dn_0"), of_e),
        "M_leaving": of_m,
        **dict.fromkeys(("dq", "dk"), pairs),
        **dict.fromkeys(("di_pairs", "dphi_pairs"), shares),
        "dv": _program("mlstm_chunkwise_bw_parallel_v", grid.head, grid.block, hv),
        **dict.fromkeys(("di", "df"), gates),
        "dm_0": inner,
    }
