"""Tile sizes, warps and stages of each kernel: the one table to tune.

A tile is what one program holds: BLOCK_L tokens by BLOCK_QK columns of the key dimension and BLOCK_HV of the
value dimension. Blocks are powers of two from 16; a dimension below its block gets the next power of two.

The environment variables MLSTM_KERNELS_NUM_WARPS (a power of two to 32) and MLSTM_KERNELS_NUM_STAGES (1 to 8) are for
hunting bugs of a compiler: a number there replaces the table's, for all kernels. They are read when a kernel is traced,
change nothing but how it is compiled for a GPU, and are not for use otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

MAX_BLOCK_L = 64
NUM_WARPS, NUM_STAGES = "MLSTM_KERNELS_NUM_WARPS", "MLSTM_KERNELS_NUM_STAGES"
# Powers of two to 32; more stages than 8 no GPU has shared memory for.
_ALLOWED = {NUM_WARPS: (1, 2, 4, 8, 16, 32), NUM_STAGES: tuple(range(1, 9))}


@dataclass(frozen=True)
class Tiles:
    """Columns of the key and of the value dimension, and the launch options."""

    block_qk: int
    block_hv: int
    num_warps: int
    num_stages: int


_ANY = 512
# By kernel and storage dtype: (largest DHQK, tiles), the first that fits. Those of bfloat16 were measured on an H100.
# float32 dots run on the ordinary units and hold their operands in registers; float16 enters dots as TF32, at twice the
# shared memory.
TABLE = {
    ("fw_recurrent", "bfloat16"): ((_ANY, Tiles(64, 64, 4, 3)),),
    ("fw_recurrent", "float16"): ((_ANY, Tiles(64, 64, 4, 2)),),
    ("fw_recurrent", "float32"): ((_ANY, Tiles(32, 64, 4, 1)),),
    ("fw_parallel", "bfloat16"): ((_ANY, Tiles(64, 128, 4, 3)),),
    ("fw_parallel", "float16"): ((_ANY, Tiles(64, 64, 8, 2)),),
    ("fw_parallel", "float32"): ((_ANY, Tiles(32, 64, 8, 1)),),
    ("bw_rows", "bfloat16"): ((_ANY, Tiles(16, 128, 2, 1)),),
    ("bw_rows", "float16"): ((_ANY, Tiles(16, 128, 2, 1)),),
    ("bw_rows", "float32"): ((_ANY, Tiles(16, 64, 4, 1)),),
    ("bw_recurrent", "bfloat16"): ((_ANY, Tiles(64, 64, 4, 3)),),
    ("bw_recurrent", "float16"): ((_ANY, Tiles(64, 64, 4, 2)),),
    ("bw_recurrent", "float32"): ((_ANY, Tiles(32, 64, 4, 1)),),
    ("bw_parallel_qk", "bfloat16"): ((64, Tiles(64, 64, 4, 3)), (_ANY, Tiles(128, 64, 8, 3))),
    ("bw_parallel_qk", "float16"): ((_ANY, Tiles(64, 64, 8, 2)),),
    ("bw_parallel_qk", "float32"): ((_ANY, Tiles(32, 32, 8, 1)),),
    ("bw_parallel_v", "bfloat16"): ((64, Tiles(64, 64, 4, 2)), (_ANY, Tiles(64, 128, 8, 2))),
    ("bw_parallel_v", "float16"): ((_ANY, Tiles(64, 64, 4, 2)),),
    ("bw_parallel_v", "float32"): ((_ANY, Tiles(32, 32, 4, 1)),),
    ("inner", "float32"): ((_ANY, Tiles(64, 64, 4, 1)),),
}


def tiles(kernel: str, dhqk: int, dhhv: int, dtype: str) -> Tiles:
    """The tiles of a kernel for a shape and a storage dtype, by name.

    Raises:
        ValueError: for an environment variable that is no number of warps, or of stages.
    """
    entry = next(tile for largest, tile in TABLE[kernel, dtype] if dhqk <= largest)
    return Tiles(
        min(entry.block_qk, power_of_two(dhqk)),
        min(entry.block_hv, power_of_two(dhhv)),
        _chosen(NUM_WARPS, entry.num_warps),
        _chosen(NUM_STAGES, entry.num_stages),
    )


def _chosen(variable: str, tuned: int) -> int:
    text = os.environ.get(variable)
    if text is None:
        return tuned
    if text not in map(str, _ALLOWED[variable]):
        raise ValueError(f"{variable} is {text!r}; expected one of {', '.join(map(str, _ALLOWED[variable]))}.")
    return int(text)


def block_l(chunk_size: int) -> int:
    """The tokens of a block: a chunk, or 64 of a longer one."""
    return min(chunk_size, MAX_BLOCK_L)


def power_of_two(size: int) -> int:
    """The least power of two that is at least ``size`` and 16."""
    return max(16, 1 << (size - 1).bit_length())
