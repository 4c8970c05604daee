"""Forward kernel 2: the recurrence over the states that enter the blocks of L tokens.

For the tokens s of a block (docs/method.md, section 3; beta, sigma and best come from ``_gates``):

    m'_s    = max(beta_s + m', best_s)                m'_next is that of the last token
    C_next  = exp(beta_L + (m' - m'_next)) C + sum_s exp(sigma_s + (i_s - m'_next)) k_s v_s^T

and n likewise with v = 1. Two stabilizers run side by side. m is the definition's, which counts an
initial state even when it is empty; it reaches the results only where eps and norm_val stand. m'
ignores an empty initial state, so that a large m_0 cannot underflow every token (docs/method.md,
section 1, stabilizer freedom). States are kept once every KEEP tokens; a kept C enters nothing but dots,
and is stored as their operand.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import decay_and_add, dot, finite_or_zero, to_storage


@triton.jit
def mlstm_chunkwise_fw_recurrent(
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecBeta,  # (B, NH, S) float32
    vecSigma,  # (B, NH, S) float32
    vecBest,  # (B, NH, S) float32
    matC_initial,  # (B, NH, DHQK, DHHV) float32
    vecN_initial,  # (B, NH, DHQK) float32
    scaM_initial,  # (B, NH) float32, the definition's m_0
    scaMinner_initial,  # (B, NH) float32, m_0, or -inf where the initial state is empty
    S,
    matC_states,  # (B, NH, NK, DHQK, DHHV), state that enters each stretch of KEEP tokens
    vecN_states,  # (B, NH, NK, DHQK) float32
    scaMinner_states,  # (B, NH, NK) float32
    vecM,  # (B, NH, S) float32, m_t
    vecMinner,  # (B, NH, S) float32, m'_t
    matC_last,  # (B, NH, DHQK, DHHV) float32
    vecN_last,  # (B, NH, DHQK) float32
    scaM_last,  # (B, NH) float32
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    KEEP: tl.constexpr,
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
    num_kept = (S + KEEP - 1) // KEEP

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

    for idx_block in range((S + BLOCK_L - 1) // BLOCK_L):
        token = idx_block * BLOCK_L + step
        in_sequence = token < S
        row = idx_head * S + token
        # Padding is f = +inf, i = -inf, k = v = 0: it changes no bit.
        last = idx_head * S + tl.minimum(idx_block * BLOCK_L + BLOCK_L, S) - 1
        total = tl.load(vecBeta + last)
        best = tl.load(vecBest + last)
        sigma = tl.load(vecSigma + row, mask=in_sequence, other=0.0)
        i = tl.load(vecI + row, mask=in_sequence, other=float("-inf")).to(tl.float32)

        if KEEP == BLOCK_L or (idx_block * BLOCK_L) % KEEP == 0:
            kept = idx_head * num_kept + idx_block * BLOCK_L // KEEP
            stored = to_storage(matC, matC_states.dtype.element_ty, INTERPRET)
            tl.store(matC_states + kept * (DHQK * DHHV) + state_entries, stored, mask=in_state)
            if idx_hv == 0:
                tl.store(vecN_states + kept * DHQK + qk, vecN, mask=in_qk)
                if idx_qk == 0:
                    tl.store(scaMinner_states + kept, inner)
        if (idx_hv == 0) & (idx_qk == 0):
            beta = tl.load(vecBeta + row, mask=in_sequence, other=0.0)
            rows_best = tl.load(vecBest + row, mask=in_sequence, other=0.0)
            tl.store(vecM + row, tl.maximum(beta + m, rows_best), mask=in_sequence)
            tl.store(vecMinner + row, tl.maximum(beta + inner, rows_best), mask=in_sequence)

        m = tl.maximum(total + m, best)
        inner_next = tl.maximum(total + inner, best)
        subtrahend = finite_or_zero(inner_next)
        omega = tl.exp(sigma + (i - subtrahend))
        decay = total + (inner - subtrahend)

        k = tl.load(matK + row[:, None] * DHQK + qk[None, :], mask=in_sequence[:, None] & in_qk[None, :], other=0.0)
        v = tl.load(matV + row[:, None] * DHHV + hv[None, :], mask=in_sequence[:, None] & in_hv[None, :], other=0.0)
        weighted = k.to(tl.float32) * omega[:, None]
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
