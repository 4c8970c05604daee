"""Backward kernel 2: the recurrence over the gradients of the states, from the last block to the first.

D_{k+1} = dL/dC' and E_{k+1} = dL/dn' where block k hands its state on (docs/method.md, section 12), both relative
to the stabilizer there; c g_j / d_j, c g_j gamma_j and the decay come from ``_bw_rows``:

    D_k = exp(beta_L + (m'_k - m'_{k+1})) D_{k+1} + sum_j c g_j q_j x_j^T        x_j = dh_j / d_j
    E_k = exp(beta_L + (m'_k - m'_{k+1})) E_{k+1} + sum_j c g_j gamma_j q_j

and beside them the message Q along the path of m. The gradient of an empty initial state, which m' leaves
out, is made by a second pass relative to m, which skips all other heads and keeps no states. A kept D enters
nothing but dots and <D, C>, and is stored as their operand.

Each head has programs for blocks of D, and one more for every block of rows, which holds E and the message.
The row factors of a block are loaded one block ahead: a step is short, and would wait for them.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import decay_and_add, dot, to_storage
from kernels.triton_stablef._blocks import load_tile


@triton.jit
def load_factors(vecCarry, scaDecay, idx_head, idx_block, num_blocks, S, BLOCK_L: tl.constexpr):
    """The factor of each row of a block, 0 beyond the sequence, and the logarithm of the decay across it."""
    token = idx_block * BLOCK_L + tl.arange(0, BLOCK_L)
    carry = tl.load(vecCarry + idx_head * S + token, mask=token < S, other=0.0)
    return carry, tl.load(scaDecay + idx_head * num_blocks + idx_block)


@triton.jit
def mlstm_chunkwise_bw_recurrent(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matDeltaH,  # (B, NH, S, DHHV) storage dtype
    vecCarryX,  # (B, NH, S) float32
    vecCarryGamma,  # (B, NH, S) float32
    scaDecay,  # (B, NH, NB) float32
    scaMessage,  # (B, NH, NB) float32
    scaPasses,  # (B, NH, NB) float32
    scaSkip,  # (B, NH) int32, 1 for heads that are left out
    matDeltaC_last,  # (B, NH, DHQK, DHHV) float32, relative to m'_S
    vecDeltaN_last,  # (B, NH, DHQK) float32, relative to m'_S
    scaQ_last,  # (B, NH) float32, the message that enters from the right
    S,
    matDeltaC_states,  # (B, NH, NB, DHQK, DHHV), D_{k+1} of each block k
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
    idx_hv = pid % (num_hv + 1)
    idx_qk = (pid // (num_hv + 1)) % num_qk
    idx_head = (pid // ((num_hv + 1) * num_qk)).to(tl.int64)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    blocks = tl.where(tl.load(scaSkip + idx_head) != 0, 0, num_blocks)

    step = tl.arange(0, BLOCK_L)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    in_qk = qk < DHQK
    if idx_hv < num_hv:
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        in_hv = hv < DHHV
        in_state = in_qk[:, None] & in_hv[None, :]
        state_entries = qk[:, None] * DHHV + hv[None, :]
        matD = tl.load(matDeltaC_last + idx_head * (DHQK * DHHV) + state_entries, mask=in_state, other=0.0)
        carry, decay = load_factors(vecCarryX, scaDecay, idx_head, num_blocks - 1, num_blocks, S, BLOCK_L)
        for idx in range(blocks):
            idx_block = num_blocks - 1 - idx
            if KEEP_STATES:
                block = idx_head * num_blocks + idx_block
                stored = to_storage(matD, matDeltaC_states.dtype.element_ty, INTERPRET)
                tl.store(matDeltaC_states + block * (DHQK * DHHV) + state_entries, stored, mask=in_state)
            ahead = tl.maximum(idx_block - 1, 0)
            carry_ahead, decay_ahead = load_factors(vecCarryX, scaDecay, idx_head, ahead, num_blocks, S, BLOCK_L)
            token = idx_block * BLOCK_L + step
            row = idx_head * S + token
            q = load_tile(matQ, row, qk, token < S, in_qk, DHQK)
            x = load_tile(matDeltaH, row, hv, token < S, in_hv, DHHV).to(tl.float32) * carry[:, None]
            matD = decay_and_add(decay, matD, dot(tl.trans(q), x, OPERANDS, INTERPRET))
            carry, decay = carry_ahead, decay_ahead
        tl.store(matDeltaC_initial + idx_head * (DHQK * DHHV) + state_entries, matD, mask=in_state)
    else:
        vecE = tl.load(vecDeltaN_last + idx_head * DHQK + qk, mask=in_qk, other=0.0)
        message = tl.load(scaQ_last + idx_head)
        carry, decay = load_factors(vecCarryGamma, scaDecay, idx_head, num_blocks - 1, num_blocks, S, BLOCK_L)
        for idx in range(blocks):
            idx_block = num_blocks - 1 - idx
            block = idx_head * num_blocks + idx_block
            if KEEP_STATES:
                tl.store(vecDeltaN_states + block * DHQK + qk, vecE, mask=in_qk)
                if idx_qk == 0:
                    tl.store(scaQ_states + block, message)
            ahead = tl.maximum(idx_block - 1, 0)
            carry_ahead, decay_ahead = load_factors(vecCarryGamma, scaDecay, idx_head, ahead, num_blocks, S, BLOCK_L)
            token = idx_block * BLOCK_L + step
            q = load_tile(matQ, idx_head * S + token, qk, token < S, in_qk, DHQK).to(tl.float32)
            vecE = decay_and_add(decay, vecE, tl.sum(q * carry[:, None], axis=0))
            message = tl.load(scaMessage + block) + tl.where(tl.load(scaPasses + block) > 0.0, message, 0.0)
            carry, decay = carry_ahead, decay_ahead
        tl.store(vecDeltaN_initial + idx_head * DHQK + qk, vecE, mask=in_qk)
        if idx_qk == 0:
            tl.store(scaQ_initial + idx_head, message)
