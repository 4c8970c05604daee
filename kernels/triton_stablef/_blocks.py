"""Device functions of one block of tokens: where it ends, its tiles of a matrix, and the weights of its pairs."""

import triton
import triton.language as tl


@triton.jit
def last_row(idx_head, idx_block, S, BLOCK_L: tl.constexpr):
    """The row of the last token of a block, which may be short."""
    return idx_head * S + tl.minimum(idx_block * BLOCK_L + BLOCK_L, S) - 1


@triton.jit
def load_tile(matrix, row, column, in_rows, in_columns, WIDTH: tl.constexpr):
    """A tile of a matrix with WIDTH columns, 0 outside."""
    return tl.load(
        matrix + row[:, None] * WIDTH + column[None, :], mask=in_rows[:, None] & in_columns[None, :], other=0.0
    )


@triton.jit
def pair_weights(phi, i, subtrahend, step):
    """W of one block, (target, source): 0 above the diagonal, and where m' = inf: rows beyond the sequence."""
    seen = step[None, :] <= step[:, None]
    triangle = tl.cumsum(tl.where(step[None, :] < step[:, None], phi[:, None], 0.0), axis=0)
    return tl.exp(tl.where(seen, triangle + (i[None, :] - subtrahend[:, None]), float("-inf"))), seen
