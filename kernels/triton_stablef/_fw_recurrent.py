"""Forward kernel 2: the recurrence over the states that enter the blocks of L tokens.

For the tokens s of a block (docs/method.md, section 3; beta, sigma and best come from ``_gates``):

    m'_next = max(beta_L + m', best_L)
    C_next  = exp(beta_L + (m' - m'_next)) C + sum_s exp(sigma_s + (i_s - m'_next)) k_s v_s^T

and n likewise with v = 1. Two stabilizers run side by side. m is the definition's, which counts an
initial state even when it is empty; it reaches the results only where eps and norm_val stand. m'
ignores an empty initial state, so that a large m_0 cannot underflow every token (docs/method.md,
section 1, stabilizer freedom). States are kept once every KEEP tokens, stabilizers once every block; a kept C
enters nothing but dots and <D, C> of the backward pass, and is stored as their operand.

Each head has programs for blocks of C, and one more for every block of rows, which holds n. The gates of a
block are loaded one block ahead: a step is short, and would wait for them.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import decay_and_add, dot, finite_or_zero, to_storage
from kernels.triton_stablef._blocks import last_row, load_tile


@triton.jit
def load_gates(vecI, vecBeta, vecSigma, vecBest, idx_head, idx_block, S, BLOCK_L: tl.constexpr):
    """beta_L, best_L, and sigma_s, i_s of a block. Padding is f = +inf, i = -inf: it changes no bit."""
    token = idx_block * BLOCK_L + tl.arange(0, BLOCK_L)
    row = idx_head * S + token
    last = last_row(idx_head, idx_block, S, BLOCK_L)
    sigma = tl.load(vecSigma + row, mask=token < S, other=0.0)
    i = tl.load(vecI + row, mask=token < S, other=float("-inf")).to(tl.float32)
    return tl.load(vecBeta + last), tl.load(vecBest + last), sigma, i


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
    scaM_states,  # (B, NH, NB) float32, m that enters each block
    scaMinner_states,  # (B, NH, NB) float32, m'
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
    idx_hv = pid % (num_hv + 1)
    idx_qk = (pid // (num_hv + 1)) % num_qk
    idx_head = (pid // ((num_hv + 1) * num_qk)).to(tl.int64)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    num_kept = (S + KEEP - 1) // KEEP

    step = tl.arange(0, BLOCK_L)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    in_qk = qk < DHQK
    m = tl.load(scaM_initial + idx_head)
    inner = tl.load(scaMinner_initial + idx_head)
    total, best, sigma, i = load_gates(vecI, vecBeta, vecSigma, vecBest, idx_head, 0, S, BLOCK_L)

    if idx_hv < num_hv:
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        in_hv = hv < DHHV
        in_state = in_qk[:, None] & in_hv[None, :]
        state_entries = qk[:, None] * DHHV + hv[None, :]
        matC = tl.load(matC_initial + idx_head * (DHQK * DHHV) + state_entries, mask=in_state, other=0.0)
        for idx_block in range(num_blocks):
            if KEEP == BLOCK_L or (idx_block * BLOCK_L) % KEEP == 0:
                kept = idx_head * num_kept + idx_block * BLOCK_L // KEEP
                stored = to_storage(matC, matC_states.dtype.element_ty, INTERPRET)
                tl.store(matC_states + kept * (DHQK * DHHV) + state_entries, stored, mask=in_state)
            ahead = tl.minimum(idx_block + 1, num_blocks - 1)
            ahead_gates = load_gates(vecI, vecBeta, vecSigma, vecBest, idx_head, ahead, S, BLOCK_L)
            token = idx_block * BLOCK_L + step
            row = idx_head * S + token
            k = load_tile(matK, row, qk, token < S, in_qk, DHQK)
            v = load_tile(matV, row, hv, token < S, in_hv, DHHV)

            m = tl.maximum(total + m, best)
            inner_next = tl.maximum(total + inner, best)
            subtrahend = finite_or_zero(inner_next)
            weighted = k.to(tl.float32) * tl.exp(sigma + (i - subtrahend))[:, None]
            update = dot(tl.trans(weighted), v, OPERANDS, INTERPRET)
            matC = decay_and_add(total + (inner - subtrahend), matC, update)
            inner = inner_next
            total, best, sigma, i = ahead_gates
        # The last state is given relative to the definition's m: C = C' exp(m' - m).
        to_m = tl.exp(inner - finite_or_zero(m))
        tl.store(matC_last + idx_head * (DHQK * DHHV) + state_entries, matC * to_m, mask=in_state)
    else:
        vecN = tl.load(vecN_initial + idx_head * DHQK + qk, mask=in_qk, other=0.0)
        for idx_block in range(num_blocks):
            if KEEP == BLOCK_L or (idx_block * BLOCK_L) % KEEP == 0:
                kept = idx_head * num_kept + idx_block * BLOCK_L // KEEP
                tl.store(vecN_states + kept * DHQK + qk, vecN, mask=in_qk)
            if idx_qk == 0:
                tl.store(scaM_states + idx_head * num_blocks + idx_block, m)
                tl.store(scaMinner_states + idx_head * num_blocks + idx_block, inner)
            ahead = tl.minimum(idx_block + 1, num_blocks - 1)
            ahead_gates = load_gates(vecI, vecBeta, vecSigma, vecBest, idx_head, ahead, S, BLOCK_L)
            token = idx_block * BLOCK_L + step
            k = load_tile(matK, idx_head * S + token, qk, token < S, in_qk, DHQK)

            m = tl.maximum(total + m, best)
            inner_next = tl.maximum(total + inner, best)
            subtrahend = finite_or_zero(inner_next)
            weighted = k.to(tl.float32) * tl.exp(sigma + (i - subtrahend))[:, None]
            vecN = decay_and_add(total + (inner - subtrahend), vecN, tl.sum(weighted, axis=0))
            inner = inner_next
            total, best, sigma, i = ahead_gates
        tl.store(vecN_last + idx_head * DHQK + qk, vecN * tl.exp(inner - finite_or_zero(m)), mask=in_qk)
        if idx_qk == 0:
            tl.store(scaM_last + idx_head, m)
