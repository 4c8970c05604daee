"""Kernel 1: the sums of the gates inside each block of L tokens, which the other kernels read.

With phi = log sigmoid(f) (docs/method.md, section 3), for the tokens j of a block:

    beta_j  = sum_{r <= j} phi_r        sigma_j = sum_{r > j} phi_r, a suffix sum, no difference
    best_j  = max_{s <= j}(sum_{s < r <= j} phi_r + i_s)
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import advance, log_sigmoid


@triton.jit
def mlstm_chunkwise_gates(
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    S,
    vecBeta,  # (B, NH, S) float32
    vecSigma,  # (B, NH, S) float32
    vecBest,  # (B, NH, S) float32
    BLOCK_L: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    pid = tl.program_id(0)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    idx_head = (pid // num_blocks).to(tl.int64)
    step = tl.arange(0, BLOCK_L)
    token = (pid % num_blocks) * BLOCK_L + step
    in_sequence = token < S
    row = idx_head * S + token
    # Padding is f = +inf, i = -inf, k = v = 0: it changes no bit.
    f = tl.load(vecF + row, mask=in_sequence, other=float("inf"))
    i = tl.load(vecI + row, mask=in_sequence, other=float("-inf")).to(tl.float32)
    has_next = (step + 1 < BLOCK_L) & (token + 1 < S)
    f_next = tl.load(vecF + row + 1, mask=has_next, other=float("inf"))

    beta, best = tl.associative_scan((log_sigmoid(f), i), 0, advance)
    tl.store(vecBeta + row, beta, mask=in_sequence)
    tl.store(vecBest + row, best, mask=in_sequence)
    tl.store(vecSigma + row, tl.cumsum(log_sigmoid(f_next), axis=0, reverse=True), mask=in_sequence)
