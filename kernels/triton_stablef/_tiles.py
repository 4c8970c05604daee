"""Tile sizes, warps and stages of each kernel: the one table to tune.

A tile is what one program holds: BLOCK_L tokens by BLOCK_QK columns of the key dimension and BLOCK_HV of the
value dimension. Blocks are powers of two from 16; a dimension below its block gets the next power of two.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BLOCK_L = 64


@dataclass(frozen=True)
class Tiles:
    """Columns of the key and of the value dimension, and the launch options."""

    block_qk: int
    block_hv: int
    num_warps: int
    num_stages: int


# By kernel and item size in bytes: (largest DHQK, tiles), the first that fits. Measured on an H100 for 16-bit items
# (reports/README.md). float32 dots run on the ordinary units and hold their operands in registers, so that their
# tiles stay small.
TABLE = {
    ("fw_recurrent", 2): ((512, Tiles(64, 64, 4, 3)),),
    ("fw_recurrent", 4): ((512, Tiles(32, 64, 4, 1)),),
    ("fw_parallel", 2): ((512, Tiles(64, 128, 4, 3)),),
    ("fw_parallel", 4): ((512, Tiles(32, 64, 4, 1)),),
    ("bw_rows", 2): ((512, Tiles(16, 128, 2, 1)),),
    ("bw_rows", 4): ((512, Tiles(16, 64, 4, 1)),),
    ("bw_recurrent", 2): ((512, Tiles(64, 64, 4, 3)),),
    ("bw_recurrent", 4): ((512, Tiles(32, 64, 4, 1)),),
    ("bw_parallel_qk", 2): ((64, Tiles(64, 64, 4, 3)), (512, Tiles(128, 64, 8, 3))),
    ("bw_parallel_qk", 4): ((512, Tiles(32, 32, 4, 1)),),
    ("bw_parallel_v", 2): ((64, Tiles(64, 64, 4, 2)), (512, Tiles(64, 128, 8, 2))),
    ("bw_parallel_v", 4): ((512, Tiles(32, 32, 4, 1)),),
    ("inner", 4): ((512, Tiles(64, 64, 4, 1)),),
}


def tiles(kernel: str, dhqk: int, dhhv: int, itemsize: int) -> Tiles:
    """The tiles of a kernel for a shape and the item size of the storage dtype in bytes."""
    entry = next(tile for largest, tile in TABLE[kernel, itemsize] if dhqk <= largest)
    return Tiles(
        min(entry.block_qk, power_of_two(dhqk)),
        min(entry.block_hv, power_of_two(dhhv)),
        entry.num_warps,
        entry.num_stages,
    )


def block_l(chunk_size: int) -> int:
    """The tokens of a block: a chunk, or 64 of a longer one."""
    return min(chunk_size, MAX_BLOCK_L)


def power_of_two(size: int) -> int:
    """The least power of two that is at least ``size`` and 16."""
    return max(16, 1 << (size - 1).bit_length())
