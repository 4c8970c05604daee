"""Backward kernel 4: dv, one block of tokens and of columns each (docs/method.md, section 12).

dv_s = sum_{j >= s} W_{j,s} c (q_j.k_s) x_j + omega_s D_{k+1}^T k_s
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import dot, finite_or_zero, log_sigmoid, to_storage
from kernels.triton_stablef._blocks import last_row, load_tile, pair_weights


@triton.jit
def mlstm_chunkwise_bw_parallel_v(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matDeltaH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecSigma,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32
    vecInvD,  # (B, NH, S) float32
    matDeltaC_states,  # (B, NH, NB, DHQK, DHHV)
    S,
    qk_scale,
    matDeltaV,  # (B, NH, S, DHHV)
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_block = (pid // num_hv) % num_blocks
    idx_head = (pid // num_hv // num_blocks).to(tl.int64)
    block = idx_head * num_blocks + idx_block

    step = tl.arange(0, BLOCK_L)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_hv = hv < DHHV
    token = idx_block * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token

    product = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
    to_state = tl.zeros((BLOCK_L, BLOCK_HV), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        in_qk = qk < DHQK
        q = load_tile(matQ, row, qk, in_rows, in_qk, DHQK)
        k = load_tile(matK, row, qk, in_rows, in_qk, DHQK)
        delta = load_tile(matDeltaC_states + block * (DHQK * DHHV), qk, hv, in_qk, in_hv, DHHV)
        product += dot(q, tl.trans(k), OPERANDS, INTERPRET)
        to_state += dot(k, delta, OPERANDS, INTERPRET)

    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    sigma = tl.load(vecSigma + row, mask=in_rows, other=0.0)
    subtrahend = finite_or_zero(tl.load(vecMinner + row, mask=in_rows, other=float("inf")))
    inverse = tl.load(vecInvD + row, mask=in_rows, other=0.0)
    last = last_row(idx_head, idx_block, S, BLOCK_L)
    omega = tl.exp(sigma + (i - finite_or_zero(tl.load(vecMinner + last))))

    weights, seen = pair_weights(phi, i, subtrahend, step)
    weights = tl.where(seen, weights * (product * (inverse * qk_scale)[:, None]), 0.0)
    dh = load_tile(matDeltaH, row, hv, in_rows, in_hv, DHHV)
    # A NaN of token t is in 1 / d_t, and so in its weights; a masked 0 must not meet it in dh_t as well.
    dh = tl.where((inverse == inverse)[:, None], dh, 0.0)
    dv = dot(tl.trans(weights), dh, OPERANDS, INTERPRET) + to_state * omega[:, None]
    dv = to_storage(dv, matDeltaV.dtype.element_ty, INTERPRET)
    tl.store(matDeltaV + row[:, None] * DHHV + hv[None, :], dv, mask=in_rows[:, None] & in_hv[None, :])
