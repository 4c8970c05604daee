"""Tile sizes, warps and stages of each kernel: the one table to tune."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """Rows of a step, columns of the key and the value dimension, and the launch options."""

    block_l: int
    block_qk: int
    block_hv: int
    num_warps: int
    num_stages: int


def tiles(chunk_size: int, dhqk: int, dhhv: int, itemsize: int) -> Tiles:
    """The tiles for a shape and an item size in bytes. Blocks are powers of two from 16 to 64.

    float32 dots run on the ordinary units and hold their operands in registers, so that tiles stay
    small; the 16-bit dtypes could take larger ones.
    """
    return Tiles(
        block_l=min(chunk_size, 64),
        block_qk=min(_power_of_two(dhqk), 64 if itemsize == 2 else 32),
        block_hv=min(_power_of_two(dhhv), 64),
        num_warps=4,
        num_stages=2 if itemsize == 2 else 1,
    )


def _power_of_two(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())
