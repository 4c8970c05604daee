"""Backward kernel 2: dq, dk and the shares of the gates, every chunk in parallel.

One program has one chunk and one block of the key dimension. For rows j and sources s <= j of the
chunk, entering state C_k and gradient dC_{k+1} of the leaving one (docs/method.md, section 12):

    P_{j,s} = c W_{j,s} (dh_j.v_s + y_j) / d'_j              y_j stands for -A_j s_j (dh_j.h_j)
    R_j     = (c g_j / d'_j) (C_k dh_j + y_j n_k)            U_s = omega_s (dC_{k+1} v_s + dn_{k+1})
    dq_j    = R_j + sum_{s <= j} P_{j,s} k_s                 dk_s = U_s + sum_{j >= s} P_{j,s} q_j

The log forget gate at j takes part in every pair of a source before j and a target at j or after it.
G_{j,s} = P_{j,s} (q_j.k_s), and only additions:

    dphi_j = sum_{s < j <= t} G_{t,s} + sum_{t >= j} q_t.R_t + sum_{s < j} k_s.U_s + Gamma (<dC_{k+1}, C_k> + dn_{k+1}.n_k)

A program adds up its own share of q_j.k_s and of the products with R, U and C; the shares of all
blocks are summed by the caller. The terms with s < j are running sums up to j - 1, so that they are
stored one token later: nothing is taken away from them.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import dot, finite_or_zero, log_sigmoid, to_storage


@triton.jit
def mlstm_chunkwise_bw_parallel_qk(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    matDH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32, m'_t
    vecInverse,  # (B, NH, S) float32, 1 / d'_t
    vecY,  # (B, NH, S) float32, -A_t s_t y_t
    scaMinner_initial,  # (B, NH) float32
    matC_states,  # (B, NH, NC, DHQK, DHHV) float32, entering
    vecN_states,  # (B, NH, NC, DHQK) float32, entering
    matDC_states,  # (B, NH, NC, DHQK, DHHV) float32, leaving
    vecDN_states,  # (B, NH, NC, DHQK) float32, leaving
    S,
    BNH,  # B * NH
    qk_scale,  # c = DHQK^-1/2
    matDQ,  # (B, NH, S, DHQK) dtype of the gradient
    matDK,  # (B, NH, S, DHQK) dtype of the gradient
    vecDI,  # (blocks of DHQK, B, NH, S) float32, share of k_t.dk_t
    vecDPhi_here,  # (blocks of DHQK, B, NH, S) float32, share of dphi_t
    vecDPhi_before,  # (blocks of DHQK, B, NH, S) float32, share of dphi_t from the sums over s < t
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_qk: tl.constexpr = (DHQK + BLOCK_QK - 1) // BLOCK_QK
    num_chunks = (S + CHUNK - 1) // CHUNK
    pid = tl.program_id(0)
    idx_qk = pid % num_qk
    idx_chunk = (pid // num_qk) % num_chunks
    idx_head = (pid // num_qk // num_chunks).to(tl.int64)
    chunk = idx_head * num_chunks + idx_chunk

    step = tl.arange(0, CHUNK)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    in_qk = qk < DHQK
    token = idx_chunk * CHUNK + step
    in_rows = token < S
    row = idx_head * S + token
    rows_qk = row[:, None] * DHQK + qk[None, :]
    in_rows_qk = in_rows[:, None] & in_qk[None, :]

    # Over the value dimension: dh_j.v_s, C_k dh_j, dC v_s, <dC, C>.
    pairs = tl.zeros((CHUNK, CHUNK), tl.float32)
    from_state = tl.zeros((CHUNK, BLOCK_QK), tl.float32)
    to_state = tl.zeros((CHUNK, BLOCK_QK), tl.float32)
    straddling = tl.zeros((BLOCK_QK,), tl.float32)
    for idx_hv in range((DHHV + BLOCK_HV - 1) // BLOCK_HV):
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        in_hv = hv < DHHV
        in_rows_hv = in_rows[:, None] & in_hv[None, :]
        in_state = in_qk[:, None] & in_hv[None, :]
        entries = chunk * (DHQK * DHHV) + qk[:, None] * DHHV + hv[None, :]
        dh = tl.load(matDH + row[:, None] * DHHV + hv[None, :], mask=in_rows_hv, other=0.0)
        v = tl.load(matV + row[:, None] * DHHV + hv[None, :], mask=in_rows_hv, other=0.0)
        matC = tl.load(matC_states + entries, mask=in_state, other=0.0)
        matDC = tl.load(matDC_states + entries, mask=in_state, other=0.0)
        pairs += dot(dh, tl.trans(v), OPERANDS, INTERPRET)
        from_state += dot(dh, tl.trans(matC), OPERANDS, INTERPRET)
        to_state += dot(v, tl.trans(matDC), OPERANDS, INTERPRET)
        straddling += tl.sum(matC * matDC, axis=1)
    n = tl.load(vecN_states + chunk * DHQK + qk, mask=in_qk, other=0.0)
    dn = tl.load(vecDN_states + chunk * DHQK + qk, mask=in_qk, other=0.0)
    y = tl.load(vecY + row, mask=in_rows, other=0.0)
    from_state += y[:, None] * n[None, :]
    to_state += dn[None, :]
    straddling += n * dn

    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    inner = finite_or_zero(tl.load(vecMinner + row, mask=in_rows, other=0.0))
    inverse = tl.load(vecInverse + row, mask=in_rows, other=0.0) * qk_scale
    inner_entering = tl.load(scaMinner_initial + idx_head)
    if idx_chunk > 0:
        inner_entering = tl.load(vecMinner + idx_head * S + idx_chunk * CHUNK - 1)
    last = tl.minimum((idx_chunk + 1) * CHUNK, S) - 1
    inner_leaving = finite_or_zero(tl.load(vecMinner + idx_head * S + last))

    beta = tl.cumsum(phi, axis=0)
    g = tl.exp(tl.where(in_rows, beta + (inner_entering - inner), float("-inf"))) * inverse
    has_next = (step + 1 < CHUNK) & (token + 1 < S)
    phi_next = log_sigmoid(tl.load(vecF + row + 1, mask=has_next, other=float("inf")))
    sigma = tl.cumsum(phi_next, axis=0, reverse=True)
    omega = tl.exp(sigma + (i - inner_leaving))
    from_state = from_state * g[:, None]
    to_state = to_state * omega[:, None]
    through = tl.exp(tl.sum(phi, axis=0) + (inner_entering - inner_leaving)) * tl.sum(straddling, axis=0)

    causal = step[None, :] <= step[:, None]
    triangle = tl.cumsum(tl.where(step[None, :] < step[:, None], phi[:, None], 0.0), axis=0)
    weights = tl.exp(tl.where(causal, triangle + (i[None, :] - inner[:, None]), float("-inf")))
    pairs = tl.where(causal, weights * ((pairs + y[:, None]) * inverse[:, None]), 0.0)

    q = tl.load(matQ + rows_qk, mask=in_rows_qk, other=0.0)
    k = tl.load(matK + rows_qk, mask=in_rows_qk, other=0.0)
    # A NaN in q_t is in P_{t,s} for s <= t already; a masked 0 times a NaN would reach later sources.
    q_finite = tl.where((q - q) == 0.0, q, 0.0)
    dq = from_state + dot(pairs, k, OPERANDS, INTERPRET)
    dk = to_state + dot(tl.trans(pairs), q_finite, OPERANDS, INTERPRET)
    tl.store(matDQ + rows_qk, to_storage(dq, matDQ.dtype.element_ty, INTERPRET), mask=in_rows_qk)
    tl.store(matDK + rows_qk, to_storage(dk, matDK.dtype.element_ty, INTERPRET), mask=in_rows_qk)

    product = dot(q, tl.trans(k), OPERANDS, INTERPRET)
    before = tl.where(step[None, :] < step[:, None], pairs * product, 0.0)
    sums = tl.cumsum(before, axis=1)
    across = tl.sum(tl.where(step[None, :] < step[:, None], sums, 0.0), axis=0)
    q = q.to(tl.float32)
    k = k.to(tl.float32)
    here = tl.cumsum(tl.sum(q * from_state, axis=1), axis=0, reverse=True) + through
    across += tl.cumsum(tl.sum(k * to_state, axis=1), axis=0)
    share = (idx_qk * BNH).to(tl.int64) * S + row
    tl.store(vecDI + share, tl.sum(k * dk, axis=1), mask=in_rows)
    tl.store(vecDPhi_here + share, here, mask=in_rows)
    tl.store(vecDPhi_before + share + 1, across, mask=has_next)
    tl.store(vecDPhi_before + share, tl.zeros((CHUNK,), tl.float32), mask=in_rows & (step == 0))
