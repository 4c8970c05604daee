"""Backward kernel 2: the recurrence over the gradients of the states, from the last block to the first.

D = dL/dC' and E = dL/dn' as they leave block k to the right (docs/method.md, section 12), both relative to
the stabilizer there:

    D_k = exp(beta_L + (m'_k - m'_{k+1})) D_{k+1} + sum_j c g_j q_j x_j^T        g_j = exp(beta_j + (m'_k - m'_j))
    E_k = exp(beta_L + (m'_k - m'_{k+1})) E_{k+1} + sum_j c g_j gamma_j q_j      x_j = dh_j / d_j

and beside them the message Q along the path of m (``_bw_rows``). m' is any stabilizer; the gradient of an
empty initial state, which m' leaves out, is made by a second pass relative to m, which skips all other heads
and keeps no states. A kept D enters nothing but dots and <D, C>, and is stored as their operand.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import decay_and_add, dot, finite_or_zero, to_storage
from kernels.triton_stablef._fw_parallel import load_tile


@triton.jit
def mlstm_chunkwise_bw_recurrent(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matDeltaH,  # (B, NH, S, DHHV) storage dtype
    vecBeta,  # (B, NH, S) float32
    vecStabilizer,  # (B, NH, S) float32, m'_t
    vecInvD,  # (B, NH, S) float32, 1 / d'_t
    vecGamma,  # (B, NH, S) float32
    scaMessage,  # (B, NH, NB) float32
    scaPasses,  # (B, NH, NB) float32
    scaStabilizer_initial,  # (B, NH) float32, m'_0
    scaSkip,  # (B, NH) int32, 1 for heads that are left out
    matDeltaC_last,  # (B, NH, DHQK, DHHV) float32, relative to m'_S
    vecDeltaN_last,  # (B, NH, DHQK) float32, relative to m'_S
    scaQ_last,  # (B, NH) float32, the message that enters from the right
    S,
    qk_scale,
    matDeltaC_states,  # (B, NH, NB, DHQK, DHHV), D that leaves each block to the right
    vecDeltaN_states,  # (B, NH, NB, DHQK) float32
    scaQ_states,  # (B, NH, NB) float32, the message that enters each block from the right
    matDeltaC_initial,  # (B, NH, DHQK, DHHV) float32
    vecDeltaN_initial,  # (B, NH, DHQK) float32
    scaQ_initial,  # (B, NH) float32
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    KEEP_STATES: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_qk: tl.constexpr = (DHQK + BLOCK_QK - 1) // BLOCK_QK
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_qk = (pid // num_hv) % num_qk
    idx_head = (pid // (num_hv * num_qk)).to(tl.int64)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L

    step = tl.arange(0, BLOCK_L)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_qk = qk < DHQK
    in_hv = hv < DHHV
    in_state = in_qk[:, None] & in_hv[None, :]
    state_entries = qk[:, None] * DHHV + hv[None, :]

    matD = tl.load(matDeltaC_last + idx_head * (DHQK * DHHV) + state_entries, mask=in_state, other=0.0)
    vecE = tl.load(vecDeltaN_last + idx_head * DHQK + qk, mask=in_qk, other=0.0)
    message = tl.load(scaQ_last + idx_head)
    initial = tl.load(scaStabilizer_initial + idx_head)
    later = tl.load(vecStabilizer + idx_head * S + S - 1)
    blocks = tl.where(tl.load(scaSkip + idx_head) != 0, 0, num_blocks)

    for idx in range(blocks):
        idx_block = num_blocks - 1 - idx
        block = idx_head * num_blocks + idx_block
        if KEEP_STATES:
            stored = to_storage(matD, matDeltaC_states.dtype.element_ty, INTERPRET)
            tl.store(matDeltaC_states + block * (DHQK * DHHV) + state_entries, stored, mask=in_state)
            if idx_hv == 0:
                tl.store(vecDeltaN_states + block * DHQK + qk, vecE, mask=in_qk)
                if idx_qk == 0:
                    tl.store(scaQ_states + block, message)

        token = idx_block * BLOCK_L + step
        in_rows = token < S
        row = idx_head * S + token
        last = idx_head * S + tl.minimum(idx_block * BLOCK_L + BLOCK_L, S) - 1
        total = tl.load(vecBeta + last)
        beta = tl.load(vecBeta + row, mask=in_rows, other=0.0)
        # m' = inf for rows beyond the sequence: nothing reaches them.
        stabilizer = finite_or_zero(tl.load(vecStabilizer + row, mask=in_rows, other=float("inf")))
        inverse = tl.load(vecInvD + row, mask=in_rows, other=0.0)
        gamma = tl.load(vecGamma + row, mask=in_rows, other=0.0)
        entering = initial
        if idx_block > 0:
            entering = tl.load(vecStabilizer + idx_head * S + idx_block * BLOCK_L - 1)

        decay = total + (entering - finite_or_zero(later))
        carry = tl.exp(beta + (entering - stabilizer)) * qk_scale
        q = load_tile(matQ, row, qk, in_rows, in_qk, DHQK).to(tl.float32)
        dh = load_tile(matDeltaH, row, hv, in_rows, in_hv, DHHV)
        # What does not see the entering state must not meet an overflow of 1 / d.
        weighted = q * tl.where(carry == 0.0, 0.0, carry * inverse)[:, None]
        matD = decay_and_add(decay, matD, dot(tl.trans(weighted), dh, OPERANDS, INTERPRET))
        through_n = q * tl.where(carry == 0.0, 0.0, carry * gamma)[:, None]
        vecE = decay_and_add(decay, vecE, tl.sum(through_n, axis=0))
        later = entering
        if KEEP_STATES:
            passes = tl.load(scaPasses + block)
            message = tl.load(scaMessage + block) + tl.where(passes > 0.0, message, 0.0)

    tl.store(matDeltaC_initial + idx_head * (DHQK * DHHV) + state_entries, matD, mask=in_state)
    if idx_hv == 0:
        tl.store(vecDeltaN_initial + idx_head * DHQK + qk, vecE, mask=in_qk)
        if idx_qk == 0:
            tl.store(scaQ_initial + idx_head, message)
