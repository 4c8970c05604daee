"""Backward kernel 3: dv, every chunk in parallel.

For sources s and rows j >= s of one chunk, and the gradient dC_{k+1} of its leaving state (docs/method.md,
section 12):

    dv_s = sum_{j >= s} (W_{j,s} c (q_j.k_s) / d'_j) dh_j + omega_s dC_{k+1}^T k_s
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import dot, finite_or_zero, log_sigmoid, to_storage


@triton.jit
def mlstm_chunkwise_bw_parallel_v(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matDH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32, m'_t
    vecInverse,  # (B, NH, S) float32, 1 / d'_t
    matDC_states,  # (B, NH, NC, DHQK, DHHV) float32, leaving
    S,
    qk_scale,  # c = DHQK^-1/2
    matDV,  # (B, NH, S, DHHV) dtype of the gradient
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    num_chunks = (S + CHUNK - 1) // CHUNK
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_chunk = (pid // num_hv) % num_chunks
    idx_head = (pid // num_hv // num_chunks).to(tl.int64)
    chunk = idx_head * num_chunks + idx_chunk

    step = tl.arange(0, CHUNK)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_hv = hv < DHHV
    token = idx_chunk * CHUNK + step
    in_rows = token < S
    row = idx_head * S + token
    rows_hv = row[:, None] * DHHV + hv[None, :]
    in_rows_hv = in_rows[:, None] & in_hv[None, :]

    product = tl.zeros((CHUNK, CHUNK), tl.float32)
    to_state = tl.zeros((CHUNK, BLOCK_HV), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        in_qk = qk < DHQK
        in_rows_qk = in_rows[:, None] & in_qk[None, :]
        q = tl.load(matQ + row[:, None] * DHQK + qk[None, :], mask=in_rows_qk, other=0.0)
        k = tl.load(matK + row[:, None] * DHQK + qk[None, :], mask=in_rows_qk, other=0.0)
        entries = chunk * (DHQK * DHHV) + qk[:, None] * DHHV + hv[None, :]
        matDC = tl.load(matDC_states + entries, mask=in_qk[:, None] & in_hv[None, :], other=0.0)
        product += dot(q, tl.trans(k), OPERANDS, INTERPRET)
        to_state += dot(k, matDC, OPERANDS, INTERPRET)

    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    inner = finite_or_zero(tl.load(vecMinner + row, mask=in_rows, other=0.0))
    inverse = tl.load(vecInverse + row, mask=in_rows, other=0.0) * qk_scale
    last = tl.minimum((idx_chunk + 1) * CHUNK, S) - 1
    inner_leaving = finite_or_zero(tl.load(vecMinner + idx_head * S + last))
    has_next = (step + 1 < CHUNK) & (token + 1 < S)
    phi_next = log_sigmoid(tl.load(vecF + row + 1, mask=has_next, other=float("inf")))
    omega = tl.exp(tl.cumsum(phi_next, axis=0, reverse=True) + (i - inner_leaving))

    causal = step[None, :] <= step[:, None]
    triangle = tl.cumsum(tl.where(step[None, :] < step[:, None], phi[:, None], 0.0), axis=0)
    weights = tl.exp(tl.where(causal, triangle + (i[None, :] - inner[:, None]), float("-inf")))
    weights = tl.where(causal, weights * (product * inverse[:, None]), 0.0)
    dh = tl.load(matDH + rows_hv, mask=in_rows_hv, other=0.0)
    # A NaN in dh_t is in 1 / d'_t too; a masked 0 times a NaN would reach later sources.
    dh = tl.where((dh - dh) == 0.0, dh, 0.0)
    dv = to_state * omega[:, None] + dot(tl.trans(weights), dh, OPERANDS, INTERPRET)
    tl.store(matDV + rows_hv, to_storage(dv, matDV.dtype.element_ty, INTERPRET), mask=in_rows_hv)
