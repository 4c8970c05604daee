"""Forward kernel 1: the recurrence over chunk states.

For tokens s of a step of L consecutive tokens, with phi = log sigmoid(f) (docs/method.md, section 3):

    sigma_s = sum_{r > s} phi_r                       suffix sums, never differences of prefix sums
    m'_next = max(beta_L + m', max_s(sigma_s + i_s))
    C_next  = exp(beta_L + (m' - m'_next)) C + sum_s exp(sigma_s + (i_s - m'_next)) k_s v_s^T

and n likewise with v = 1. Two stabilizers run side by side. m is the definition's, which counts an
initial state even when it is empty; it reaches the results only where eps and norm_val stand. m'
ignores an empty initial state, so that a large m_0 cannot underflow every token (docs/method.md,
section 1, stabilizer freedom). A chunk of more than 64 tokens is walked in steps of 64; only its first state
is stored.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import advance, decay_and_add, dot, finite_or_zero, log_sigmoid


@triton.jit
def mlstm_chunkwise_fw_recurrent(
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    matC_initial,  # (B, NH, DHQK, DHHV) float32
    vecN_initial,  # (B, NH, DHQK) float32
    scaM_initial,  # (B, NH) float32, the definition's m_0
    scaMinner_initial,  # (B, NH) float32, m_0, or -inf where the initial state is empty
    S,
    matC_states,  # (B, NH, NC, DHQK, DHHV) float32, state that enters each chunk
    vecN_states,  # (B, NH, NC, DHQK) float32
    scaMinner_states,  # (B, NH, NC) float32
    vecM,  # (B, NH, S) float32, m_t
    vecMinner,  # (B, NH, S) float32, m'_t
    matC_last,  # (B, NH, DHQK, DHHV) float32
    vecN_last,  # (B, NH, DHQK) float32
    scaM_last,  # (B, NH) float32
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_qk: tl.constexpr = (DHQK + BLOCK_QK - 1) // BLOCK_QK
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_qk = (pid // num_hv) % num_qk
    idx_head = (pid // (num_hv * num_qk)).to(tl.int64)
    num_chunks = (S + CHUNK - 1) // CHUNK

    step = tl.arange(0, BLOCK_L)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_qk = qk < DHQK
    in_hv = hv < DHHV
    in_state = in_qk[:, None] & in_hv[None, :]
    state_entries = qk[:, None] * DHHV + hv[None, :]

    matC = tl.load(matC_initial + idx_head * (DHQK * DHHV) + state_entries, mask=in_state, other=0.0)
    vecN = tl.load(vecN_initial + idx_head * DHQK + qk, mask=in_qk, other=0.0)
    m = tl.load(scaM_initial + idx_head)
    inner = tl.load(scaMinner_initial + idx_head)

    for idx_chunk in range(num_chunks):
        chunk = idx_head * num_chunks + idx_chunk
        tl.store(matC_states + chunk * (DHQK * DHHV) + state_entries, matC, mask=in_state)
        if idx_hv == 0:
            tl.store(vecN_states + chunk * DHQK + qk, vecN, mask=in_qk)
            if idx_qk == 0:
                tl.store(scaMinner_states + chunk, inner)

        for idx_block in range(CHUNK // BLOCK_L):
            token = idx_chunk * CHUNK + idx_block * BLOCK_L + step
            in_sequence = token < S
            row = idx_head * S + token
            # Padding is f = +inf, i = -inf, k = v = 0: it changes no bit.
            f = tl.load(vecF + row, mask=in_sequence, other=float("inf"))
            i = tl.load(vecI + row, mask=in_sequence, other=float("-inf")).to(tl.float32)
            has_next = (step + 1 < BLOCK_L) & (token + 1 < S)
            f_next = tl.load(vecF + row + 1, mask=has_next, other=float("inf"))

            beta, best = tl.associative_scan((log_sigmoid(f), i), 0, advance)
            rows_m = tl.maximum(beta + m, best)
            rows_inner = tl.maximum(beta + inner, best)
            if (idx_hv == 0) & (idx_qk == 0):
                tl.store(vecM + row, rows_m, mask=in_sequence)
                tl.store(vecMinner + row, rows_inner, mask=in_sequence)

            is_last = step == BLOCK_L - 1
            m = tl.sum(tl.where(is_last, rows_m, 0.0), axis=0)
            inner_next = tl.sum(tl.where(is_last, rows_inner, 0.0), axis=0)
            total = tl.sum(tl.where(is_last, beta, 0.0), axis=0)
            subtrahend = finite_or_zero(inner_next)
            sigma = tl.cumsum(log_sigmoid(f_next), axis=0, reverse=True)
            omega = tl.exp(sigma + (i - subtrahend))
            decay = total + (inner - subtrahend)

            k = tl.load(
                matK + row[:, None] * DHQK + qk[None, :], mask=in_sequence[:, None] & in_qk[None, :], other=0.0
            ).to(tl.float32)
            v = tl.load(matV + row[:, None] * DHHV + hv[None, :], mask=in_sequence[:, None] & in_hv[None, :], other=0.0)
            weighted = k * omega[:, None]
            matC = decay_and_add(decay, matC, dot(tl.trans(weighted), v, OPERANDS, INTERPRET))
            vecN = decay_and_add(decay, vecN, tl.sum(weighted, axis=0))
            inner = inner_next

    # The last state is given relative to the definition's m: C = C' exp(m' - m).
    to_m = tl.exp(inner - finite_or_zero(m))
    tl.store(matC_last + idx_head * (DHQK * DHHV) + state_entries, matC * to_m, mask=in_state)
    if idx_hv == 0:
        tl.store(vecN_last + idx_head * DHQK + qk, vecN * to_m, mask=in_qk)
        if idx_qk == 0:
            tl.store(scaM_last + idx_head, m)
