"""Backward kernel 1: what dL/dh_t says about N_t, a_t and m_t, row by row (docs/method.md, section 12).

    y_t     = dh_t.h_t              x_t = dh_t / d_t, of which only 1 / d_t is kept
    gamma_t = -sign(a_t) y_t / d_t  if |a_t| > b_t, else 0        the cotangent of a_t
    mu_t    = -kappa_t y_t                                        the cotangent of m_t at fixed exp(m) C
    kappa_t = eps / d_t, but 1 if |a_t| <= b_t = norm_val (mode `constant`)

and how much of it the state that enters the block gets, g_t = exp(beta_t + (m'_k - m'_t)). All this is
relative to a stabilizer m': that of the states, or m itself for an initial state that is empty.

The cotangent of m runs back along the tokens as a message: with p_t = 1 where m_t comes from m_{t-1}
(ties included) and 0 where it is i_t or the state is empty,

    M_t = mu_t + Q_{t+1}            Q_t = p_t M_t

M_t - Q_t goes to i_t and Q_t to phi_t. A block as a whole does Q_first = A + B Q_next with B = 0 or 1.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import finite_or_zero, log_sigmoid
from kernels.triton_stablef._blocks import last_row, load_tile
from kernels.triton_stablef._denominator import FLOOR, denominator, threshold


@triton.jit
def pass_on(message_later, passes_later, message, passes):
    """Composition of two steps Q -> message + passes Q, passes being 0 or 1; a later NaN stops where it should."""
    through = tl.where(passes > 0.0, message_later, 0.0)
    return message + through, passes * passes_later


@triton.jit
def takes_from_before(m, vecM, vecI, vecF, scaM_initial, idx_head, token, inside, S):
    """p_t: where m_t comes from m_{t-1}; True outside, False in the empty state."""
    row = idx_head * S + token
    before = tl.load(vecM + row - 1, mask=inside & (token > 0), other=0.0)
    before = tl.where(token > 0, before, tl.load(scaM_initial + idx_head))
    f = tl.load(vecF + row, mask=inside, other=float("inf"))
    i = tl.load(vecI + row, mask=inside, other=float("-inf")).to(tl.float32)
    return ((log_sigmoid(f) + before >= i) & (m != float("-inf"))) | (inside == 0)


@triton.jit
def messages(mu, passes):
    """(message, passes) of all steps from each token to the last of the block, as one step each."""
    step = (tl.where(passes, mu, 0.0), tl.where(passes, 1.0, 0.0))
    return tl.associative_scan(step, 0, pass_on, reverse=True)


@triton.jit
def mlstm_chunkwise_bw_rows(
    matH,  # (B, NH, S, DHHV) storage dtype
    matDeltaH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecBeta,  # (B, NH, S) float32
    vecA,  # (B, NH, S) float32, a_t relative to m'_t
    vecM,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32
    vecStabilizer,  # (B, NH, S) float32, m' or m
    scaStabilizer_states,  # (B, NH, NB) float32, the same as it enters each block
    scaM_initial,  # (B, NH) float32
    scaSkip,  # (B, NH) int32, 1 for heads that are left out
    S,
    qk_scale,
    norm_val,
    eps,
    vecInvD,  # (B, NH, S) float32, 1 / d_t, 0 where the row passes no gradient
    vecGamma,  # (B, NH, S) float32
    vecCarryX,  # (B, NH, S) float32, c g_t / d_t
    vecCarryGamma,  # (B, NH, S) float32, c g_t gamma_t
    scaDecay,  # (B, NH, NB) float32, beta_L + (m'_k - m'_{k+1})
    vecMu,  # (B, NH, S) float32
    scaMessage,  # (B, NH, NB) float32, A of each block
    scaPasses,  # (B, NH, NB) float32, B of each block
    DHHV: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    STABILIZE_CORRECTLY: tl.constexpr,
    EXACT: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    pid = tl.program_id(0)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    idx_head = (pid // num_blocks).to(tl.int64)
    block = idx_head * num_blocks + pid % num_blocks
    step = tl.arange(0, BLOCK_L)
    token = (pid % num_blocks) * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token
    y = tl.zeros((BLOCK_L,), tl.float32)
    for idx_hv in range(tl.where(tl.load(scaSkip + idx_head) != 0, 0, (DHHV + BLOCK_HV - 1) // BLOCK_HV)):
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        h = load_tile(matH, row, hv, in_rows, hv < DHHV, DHHV).to(tl.float32)
        dh = load_tile(matDeltaH, row, hv, in_rows, hv < DHHV, DHHV).to(tl.float32)
        y += tl.sum(h * dh, axis=1)

    m = tl.load(vecM + row, mask=in_rows, other=0.0)
    stabilizer = tl.load(vecStabilizer + row, mask=in_rows, other=float("inf"))
    relative, of_m = finite_or_zero(stabilizer), finite_or_zero(m)
    inner = tl.load(vecMinner + row, mask=in_rows, other=0.0)
    a_of_inner = tl.load(vecA + row, mask=in_rows, other=0.0)
    a = a_of_inner * tl.exp(inner - relative)
    b = threshold(m, relative, norm_val, STABILIZE_CORRECTLY)
    d = denominator(a, b, m, relative, eps)
    # A row that reads an empty state, or whose d is 0 to float32, passes no gradient: 1 / FLOOR must not meet
    # its zero weights. A NaN in h or dh is in y, and must not be lost in a maximum.
    poison = tl.where(y == y, 0.0, float("nan"))
    inverse = tl.where((stabilizer > float("-inf")) & (d > FLOOR), 1.0 / d, 0.0) + poison
    gamma = tl.zeros((BLOCK_L,), tl.float32)
    mu = gamma
    if EXACT:
        above = tl.abs(a) > b
        gamma = tl.where(above, tl.where(a > 0.0, -y, y), 0.0) * inverse
        # eps / d has no overflow relative to m.
        a_of_m = a_of_inner * tl.exp(inner - of_m)
        d_of_m = denominator(a_of_m, threshold(m, of_m, norm_val, STABILIZE_CORRECTLY), m, of_m, eps)
        kappa = eps / d_of_m
        if not STABILIZE_CORRECTLY:
            kappa = tl.where(above, kappa, 1.0)
        mu = tl.where(m == float("-inf"), 0.0, -kappa * y)

    entering = tl.load(scaStabilizer_states + block)
    carry = tl.exp(tl.load(vecBeta + row, mask=in_rows, other=0.0) + (entering - relative)) * qk_scale
    # What does not see the entering state must not meet an overflow of 1 / d.
    sees = carry != 0.0
    tl.store(vecInvD + row, inverse, mask=in_rows)
    tl.store(vecGamma + row, gamma, mask=in_rows)
    tl.store(vecCarryX + row, tl.where(sees, carry * inverse, 0.0), mask=in_rows)
    tl.store(vecCarryGamma + row, tl.where(sees, carry * gamma, 0.0), mask=in_rows)
    tl.store(vecMu + row, mu, mask=in_rows)
    last = last_row(idx_head, pid % num_blocks, S, BLOCK_L)
    leaving = finite_or_zero(tl.load(vecStabilizer + last))
    tl.store(scaDecay + block, tl.load(vecBeta + last) + (entering - leaving))

    passes = takes_from_before(m, vecM, vecI, vecF, scaM_initial, idx_head, token, in_rows, S)
    message, passes = messages(mu, passes)
    first = step == 0
    tl.store(scaMessage + block, tl.sum(tl.where(first, message, 0.0), axis=0))
    tl.store(scaPasses + block, tl.sum(tl.where(first, passes, 0.0), axis=0))
