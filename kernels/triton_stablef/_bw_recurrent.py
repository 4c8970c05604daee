"""Backward kernel 1: the recurrence over the gradients of the chunk states, from the last chunk to the first.

For tokens j of one chunk, with phi = log sigmoid(f) and everything relative to m' (docs/method.md, section 12):

    beta_j = sum_{r <= j} phi_r                       running sums, never differences
    g_j    = exp(beta_j + (m'_k - m'_j))
    dC_k   = exp(beta_L + (m'_k - m'_{k+1})) dC_{k+1} + sum_j (c g_j / d'_j) q_j dh_j^T

and dn likewise with -A_j s_j y_j in the place of dh_j. What passes through the definition's m is one
number a token:

    M_j = mu_j + p_{j+1} M_{j+1}       p_j = 1 where phi_j + m_{j-1} >= i_j, else 0       M_j = 0 where m_j = -inf
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import decay_and_add, dot, finite_or_zero, log_sigmoid


@triton.jit
def _then_earlier(factor_late, sum_late, factor_early, sum_early):
    # Composition of two steps M -> sum + factor M, the later token first.
    return factor_early * factor_late, sum_early + factor_early * sum_late


@triton.jit
def _comes_from_m(vecI, vecF, vecM, scaM_initial, idx_head, token, S, mask):
    # p of each token: whether m is phi + m_{t-1} (ties included) or i
    row = idx_head * S + token
    f = tl.load(vecF + row, mask=mask, other=float("inf"))
    i = tl.load(vecI + row, mask=mask, other=float("-inf")).to(tl.float32)
    before = tl.load(vecM + row - 1, mask=mask & (token > 0), other=0.0)
    before = tl.where(token > 0, before, tl.load(scaM_initial + idx_head))
    return tl.where(log_sigmoid(f) + before >= i, 1.0, 0.0)


@triton.jit
def mlstm_chunkwise_bw_recurrent(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matDH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecM,  # (B, NH, S) float32, m_t
    vecMinner,  # (B, NH, S) float32, m'_t
    vecInverse,  # (B, NH, S) float32, 1 / d'_t
    vecY,  # (B, NH, S) float32, -A_t s_t y_t
    vecMu,  # (B, NH, S) float32, mu_t
    scaM_initial,  # (B, NH) float32
    scaMinner_initial,  # (B, NH) float32
    matDC_last,  # (B, NH, DHQK, DHHV) float32, relative to m' of the last token
    vecDN_last,  # (B, NH, DHQK) float32, likewise
    scaDM_last,  # (B, NH) float32, M_{S+1}
    S,
    qk_scale,  # c = DHQK^-1/2
    matDC_states,  # (B, NH, NC, DHQK, DHHV) float32, gradient of the state that leaves each chunk
    vecDN_states,  # (B, NH, NC, DHQK) float32
    vecThroughI,  # (B, NH, S) float32, (1 - p_t) M_t
    vecThroughF,  # (B, NH, S) float32, p_t M_t
    matDC_initial,  # (B, NH, DHQK, DHHV) float32, relative to m'_0
    vecDN_initial,  # (B, NH, DHQK) float32
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    STORE_STATES: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_qk: tl.constexpr = (DHQK + BLOCK_QK - 1) // BLOCK_QK
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_qk = (pid // num_hv) % num_qk
    idx_head = (pid // (num_hv * num_qk)).to(tl.int64)
    num_chunks = (S + CHUNK - 1) // CHUNK

    step = tl.arange(0, CHUNK)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_qk = qk < DHQK
    in_hv = hv < DHHV
    in_state = in_qk[:, None] & in_hv[None, :]
    state_entries = qk[:, None] * DHHV + hv[None, :]

    matDC = tl.load(matDC_last + idx_head * (DHQK * DHHV) + state_entries, mask=in_state, other=0.0)
    vecDN = tl.load(vecDN_last + idx_head * DHQK + qk, mask=in_qk, other=0.0)
    through_m = tl.load(scaDM_last + idx_head)
    inner_leaving = tl.load(vecMinner + idx_head * S + S - 1)

    for reversed_idx in range(num_chunks):
        idx_chunk = num_chunks - 1 - reversed_idx
        chunk = idx_head * num_chunks + idx_chunk
        if STORE_STATES:
            tl.store(matDC_states + chunk * (DHQK * DHHV) + state_entries, matDC, mask=in_state)
            if idx_hv == 0:
                tl.store(vecDN_states + chunk * DHQK + qk, vecDN, mask=in_qk)

        token = idx_chunk * CHUNK + step
        in_sequence = token < S
        row = idx_head * S + token
        # Padding is f = +inf, q = dh = 0: it changes no bit.
        phi = log_sigmoid(tl.load(vecF + row, mask=in_sequence, other=float("inf")))
        inner = finite_or_zero(tl.load(vecMinner + row, mask=in_sequence, other=0.0))
        inverse = tl.load(vecInverse + row, mask=in_sequence, other=0.0)
        inner_entering = tl.load(scaMinner_initial + idx_head)
        if idx_chunk > 0:
            inner_entering = tl.load(vecMinner + idx_head * S + idx_chunk * CHUNK - 1)

        beta = tl.cumsum(phi, axis=0)
        decays = tl.exp(tl.where(in_sequence, beta + (inner_entering - inner), float("-inf")))
        weights = decays * inverse * qk_scale
        q = tl.load(
            matQ + row[:, None] * DHQK + qk[None, :], mask=in_sequence[:, None] & in_qk[None, :], other=0.0
        ).to(tl.float32)
        dh = tl.load(matDH + row[:, None] * DHHV + hv[None, :], mask=in_sequence[:, None] & in_hv[None, :], other=0.0)
        y = tl.load(vecY + row, mask=in_sequence, other=0.0)
        weighted = q * weights[:, None]
        decay = tl.sum(phi, axis=0) + (inner_entering - finite_or_zero(inner_leaving))
        matDC = decay_and_add(decay, matDC, dot(tl.trans(weighted), dh, OPERANDS, INTERPRET))
        vecDN = decay_and_add(decay, vecDN, tl.sum(weighted * y[:, None], axis=0))
        inner_leaving = inner_entering

        if STORE_STATES:
            if (idx_hv == 0) & (idx_qk == 0):
                mu = tl.load(vecMu + row, mask=in_sequence, other=0.0)
                empty = tl.load(vecM + row, mask=in_sequence, other=0.0) == float("-inf")
                has_next = token + 1 < S
                p_next = _comes_from_m(vecI, vecF, vecM, scaM_initial, idx_head, token + 1, S, has_next)
                # Beyond the end, p = 1.
                factor = tl.where(empty, 0.0, tl.where(has_next, p_next, 1.0))
                factors, sums = tl.associative_scan(
                    (factor, tl.where(empty, 0.0, mu)), 0, _then_earlier, reverse=True
                )
                rows_m = sums + tl.where(factors == 0.0, 0.0, factors * through_m)
                p = _comes_from_m(vecI, vecF, vecM, scaM_initial, idx_head, token, S, in_sequence)
                tl.store(vecThroughI + row, (1.0 - p) * rows_m, mask=in_sequence)
                tl.store(vecThroughF + row, p * rows_m, mask=in_sequence)
                through_m = tl.sum(tl.where(step == 0, rows_m, 0.0), axis=0)

    tl.store(matDC_initial + idx_head * (DHQK * DHHV) + state_entries, matDC, mask=in_state)
    if idx_hv == 0:
        tl.store(vecDN_initial + idx_head * DHQK + qk, vecDN, mask=in_qk)
