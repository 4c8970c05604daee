"""Backward kernel 3: dq, dk and what the pairs of one block say about the gates, one block of columns each.

For the tokens of one block k, with x_j = dh_j / d_j (docs/method.md, section 12):

    P_{j,s} = W_{j,s} (x_j.v_s + gamma_j)      R_j = C_k x_j + gamma_j n_k      U_s = D_{k+1} v_s + E_{k+1}
    dq_j    = c sum_s P_{j,s} k_s + c g_j R_j
    dk_s    = c sum_j P_{j,s} q_j + omega_s U_s                  omega_s = exp(sigma_s + (i_s - m'_{k+1}))

The gate gradients sum over pairs (target, source), and every pair is linear in q.k, so that each block of
columns of q and k has its own share. Nothing is subtracted:

    G_{j,s} = c (q_j.k_s) P_{j,s}              inside the block
    rho_j   = c g_j q_j.R_j                    an earlier source, this target
    ups_s   = omega_s k_s.U_s                  this source, a later target or the last state
    chi     = Gamma (<D_{k+1}, C_k> + E_{k+1}.n_k)               earlier source, later target
    di_s    = sum_j G_{j,s} + ups_s
    dphi_j  = sum_{s < j <= t} G_{t,s} + sum_{t >= j} rho_t + sum_{s < j} ups_s + chi
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import dot, finite_or_zero, log_sigmoid, to_storage
from kernels.triton_stablef._blocks import last_row, load_tile, pair_weights


@triton.jit
def mlstm_chunkwise_bw_parallel_qk(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    matDeltaH,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecSigma,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32
    vecInvD,  # (B, NH, S) float32
    vecGamma,  # (B, NH, S) float32
    vecCarryX,  # (B, NH, S) float32, c g_j / d_j
    vecCarryGamma,  # (B, NH, S) float32, c g_j gamma_j
    scaDecay,  # (B, NH, NB) float32, log Gamma
    matC_states,  # (B, NH, NB, DHQK, DHHV)
    vecN_states,  # (B, NH, NB, DHQK) float32
    matDeltaC_states,  # (B, NH, NB, DHQK, DHHV)
    vecDeltaN_states,  # (B, NH, NB, DHQK) float32
    S,
    qk_scale,
    share_stride,  # B NH S
    matDeltaQ,  # (B, NH, S, DHQK)
    matDeltaK,  # (B, NH, S, DHQK)
    vecShareI,  # (NUM_SHARES, B, NH, S) float32, of di
    vecSharePhi,  # (NUM_SHARES, B, NH, S) float32, of dphi
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_qk: tl.constexpr = (DHQK + BLOCK_QK - 1) // BLOCK_QK
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    pid = tl.program_id(0)
    idx_qk = pid % num_qk
    idx_block = (pid // num_qk) % num_blocks
    idx_head = (pid // num_qk // num_blocks).to(tl.int64)
    block = idx_head * num_blocks + idx_block

    step = tl.arange(0, BLOCK_L)
    qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
    in_qk = qk < DHQK
    token = idx_block * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token

    states = matC_states + block * (DHQK * DHHV)
    deltas = matDeltaC_states + block * (DHQK * DHHV)
    pairs = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
    from_state = tl.zeros((BLOCK_L, BLOCK_QK), tl.float32)
    to_state = tl.zeros((BLOCK_L, BLOCK_QK), tl.float32)
    for idx_hv in range((DHHV + BLOCK_HV - 1) // BLOCK_HV):
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        in_hv = hv < DHHV
        dh = load_tile(matDeltaH, row, hv, in_rows, in_hv, DHHV)
        v = load_tile(matV, row, hv, in_rows, in_hv, DHHV)
        state = load_tile(states, qk, hv, in_qk, in_hv, DHHV)
        delta = load_tile(deltas, qk, hv, in_qk, in_hv, DHHV)
        pairs += dot(dh, tl.trans(v), OPERANDS, INTERPRET)
        from_state += dot(dh, tl.trans(state), OPERANDS, INTERPRET)
        to_state += dot(v, tl.trans(delta), OPERANDS, INTERPRET)

    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    subtrahend = finite_or_zero(tl.load(vecMinner + row, mask=in_rows, other=float("inf")))
    inverse = tl.load(vecInvD + row, mask=in_rows, other=0.0)
    gamma = tl.load(vecGamma + row, mask=in_rows, other=0.0)
    n = tl.load(vecN_states + block * DHQK + qk, mask=in_qk, other=0.0)
    delta_n = tl.load(vecDeltaN_states + block * DHQK + qk, mask=in_qk, other=0.0)
    weights, seen = pair_weights(phi, i, subtrahend, step)
    pairs = tl.where(seen, weights * (pairs * inverse[:, None] + gamma[:, None]), 0.0)

    carry_x = tl.load(vecCarryX + row, mask=in_rows, other=0.0)
    carry_gamma = tl.load(vecCarryGamma + row, mask=in_rows, other=0.0)
    from_state = from_state * carry_x[:, None] + carry_gamma[:, None] * n[None, :]
    last = last_row(idx_head, idx_block, S, BLOCK_L)
    sigma = tl.load(vecSigma + row, mask=in_rows, other=0.0)
    omega = tl.exp(sigma + (i - finite_or_zero(tl.load(vecMinner + last))))
    to_state = (to_state + delta_n[None, :]) * omega[:, None]

    q = load_tile(matQ, row, qk, in_rows, in_qk, DHQK)
    k = load_tile(matK, row, qk, in_rows, in_qk, DHQK)
    # A masked 0 must not meet a NaN. One in k_t is in the pairs of the targets that see it; one in q_t is in 1 / d_t
    # and so in all pairs of this target.
    finite_k = tl.where(k - k == 0.0, k, 0.0)
    finite_q = tl.where((inverse == inverse)[:, None], q, 0.0)
    dq = dot(pairs, finite_k, OPERANDS, INTERPRET) * qk_scale + from_state
    dk = dot(tl.trans(pairs), finite_q, OPERANDS, INTERPRET) * qk_scale + to_state
    entries = row[:, None] * DHQK + qk[None, :]
    in_tile = in_rows[:, None] & in_qk[None, :]
    tl.store(matDeltaQ + entries, to_storage(dq, matDeltaQ.dtype.element_ty, INTERPRET), mask=in_tile)
    tl.store(matDeltaK + entries, to_storage(dk, matDeltaK.dtype.element_ty, INTERPRET), mask=in_tile)

    shares = dot(q, tl.trans(k), OPERANDS, INTERPRET) * qk_scale
    shares = tl.where(seen, shares * pairs, 0.0)
    rho = tl.sum(q.to(tl.float32) * from_state, axis=1)
    upsilon = tl.sum(k.to(tl.float32) * to_state, axis=1)
    # In a loop of its own, and not beside the dots, for the reason given in ``_fw_parallel``.
    straddling = delta_n * n
    for idx_hv in range((DHHV + BLOCK_HV - 1) // BLOCK_HV):
        hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
        state = load_tile(states, qk, hv, in_qk, hv < DHHV, DHHV).to(tl.float32)
        straddling += tl.sum(state * load_tile(deltas, qk, hv, in_qk, hv < DHHV, DHHV).to(tl.float32), axis=1)
    keep = tl.exp(tl.load(scaDecay + block))
    chi = tl.where(keep == 0.0, 0.0, keep * tl.sum(straddling, axis=0))
    # Sums over the targets t >= j, and then over the sources s < j.
    later = tl.cumsum(shares, axis=0, reverse=True) + upsilon[None, :]
    inside = tl.sum(tl.where(step[None, :] < step[:, None], later, 0.0), axis=1)
    share = idx_qk.to(tl.int64) * share_stride + row
    tl.store(vecShareI + share, tl.sum(shares, axis=0) + upsilon, mask=in_rows)
    tl.store(vecSharePhi + share, inside + tl.cumsum(rho, axis=0, reverse=True) + chi, mask=in_rows)
