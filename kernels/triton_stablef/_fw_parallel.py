"""Forward kernel 2: every chunk's outputs from its entering state, in parallel.

For rows j of one block of a chunk, and sources s <= j of the same chunk (docs/method.md, section 3):

    T_{j,s} = sum_{s < r <= j} phi_r                  masked running sums, never differences
    W_{j,s} = exp(T_{j,s} + (i_s - m'_j))             selected before exp, and again after the product
    g_j     = exp(beta_j + (m'_k - m'_j))
    N_j     = sum_s W_{j,s} c (q_j.k_s) v_s + c g_j C_k^T q_j
    a_j     = sum_s W_{j,s} c (q_j.k_s)     + c g_j q_j.n_k
    d_j     = max(|a_j|, b_j) + eps exp(m_j - m'_j)   h_j = N_j / d_j
    b_j     = norm_val exp(-m'_j)  (stabilize_correctly)   or   norm_val exp(m_j - m'_j)

The diagonal block sums phi down the columns of a triangle. For an earlier block of the chunk,
T_{j,s} is (sum after s in that block) + (blocks between) + (sum up to j in this block).
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import dot, finite_or_zero, log_sigmoid, to_storage


@triton.jit
def _dot_qk(
    matQ,
    matK,
    row_q,
    row_k,
    in_q,
    in_k,
    DHQK: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # q_j.k_s for one block of rows and one block of sources
    product = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        q = tl.load(matQ + row_q[:, None] * DHQK + qk[None, :], mask=in_q[:, None] & (qk < DHQK)[None, :], other=0.0)
        k = tl.load(matK + row_k[:, None] * DHQK + qk[None, :], mask=in_k[:, None] & (qk < DHQK)[None, :], other=0.0)
        product += dot(q, tl.trans(k), OPERANDS, INTERPRET)
    return product


@triton.jit
def _causal_dot(weights, v, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr):
    # weights @ v for lower triangular weights. A masked 0 times a NaN would reach earlier rows, so
    # what is not finite in v is taken out of the product and put back where s <= j.
    v = v.to(tl.float32)
    finite = (v - v) == 0.0
    product = dot(weights, tl.where(finite, v, 0.0), OPERANDS, INTERPRET)
    poisoned = tl.where(finite, 0, 1)
    if tl.sum(tl.sum(poisoned, axis=1), axis=0) > 0:
        product = tl.where(tl.cumsum(poisoned, axis=0) > 0, float("nan"), product)
    return product


@triton.jit
def mlstm_chunkwise_fw_parallel(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    matC_states,  # (B, NH, NC, DHQK, DHHV) float32
    vecN_states,  # (B, NH, NC, DHQK) float32
    scaMinner_states,  # (B, NH, NC) float32
    vecM,  # (B, NH, S) float32
    vecMinner,  # (B, NH, S) float32
    S,
    qk_scale,  # c = DHQK^-1/2
    log_norm_val,  # log(norm_val), -inf for norm_val = 0
    eps,
    matH,  # (B, NH, S, DHHV) storage dtype
    vecN,  # (B, NH, S) float32, d_t relative to m_t
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    OPERANDS: tl.constexpr,
    STABILIZE_CORRECTLY: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    num_blocks: tl.constexpr = CHUNK // BLOCK_L
    num_chunks = (S + CHUNK - 1) // CHUNK
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_block = (pid // num_hv) % num_blocks
    idx_chunk = (pid // (num_hv * num_blocks)) % num_chunks
    idx_head = (pid // (num_hv * num_blocks) // num_chunks).to(tl.int64)

    step = tl.arange(0, BLOCK_L)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_hv = hv < DHHV
    token = idx_chunk * CHUNK + idx_block * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token

    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    m = tl.load(vecM + row, mask=in_rows, other=0.0)
    inner = finite_or_zero(tl.load(vecMinner + row, mask=in_rows, other=0.0))

    causal = step[None, :] <= step[:, None]
    triangle = tl.cumsum(tl.where(step[None, :] < step[:, None], phi[:, None], 0.0), axis=0)
    weights = tl.exp(tl.where(causal, triangle + (i[None, :] - inner[:, None]), float("-inf")))
    product = _dot_qk(matQ, matK, row, row, in_rows, in_rows, DHQK, BLOCK_L, BLOCK_QK, OPERANDS, INTERPRET)
    weights = tl.where(causal, weights * (product * qk_scale), 0.0)
    v = tl.load(matV + row[:, None] * DHHV + hv[None, :], mask=in_rows[:, None] & in_hv[None, :], other=0.0)
    numerator = _causal_dot(weights, v, OPERANDS, INTERPRET)
    a = tl.sum(weights, axis=1)

    prefix = tl.cumsum(phi, axis=0)
    for distance in range(idx_block):
        source = token - (distance + 1) * BLOCK_L
        # Every source of an earlier block lies inside the sequence if this block has a row there.
        in_source = source < S
        row_source = idx_head * S + source
        f = tl.load(vecF + row_source, mask=in_source, other=float("inf"))
        has_next = (step + 1 < BLOCK_L) & (source + 1 < S)
        f_next = tl.load(vecF + row_source + 1, mask=has_next, other=float("inf"))
        suffix = tl.cumsum(log_sigmoid(f_next), axis=0, reverse=True)
        i = tl.load(vecI + row_source, mask=in_source, other=float("-inf")).to(tl.float32)
        weights = tl.exp(prefix[:, None] + suffix[None, :] + (i[None, :] - inner[:, None]))
        product = _dot_qk(matQ, matK, row, row_source, in_rows, in_source, DHQK, BLOCK_L, BLOCK_QK, OPERANDS, INTERPRET)
        weights = weights * (product * qk_scale)
        v = tl.load(
            matV + row_source[:, None] * DHHV + hv[None, :], mask=in_source[:, None] & in_hv[None, :], other=0.0
        )
        numerator += dot(weights, v, OPERANDS, INTERPRET)
        a += tl.sum(weights, axis=1)
        prefix += tl.sum(log_sigmoid(f), axis=0)

    chunk = idx_head * num_chunks + idx_chunk
    carry = tl.exp(prefix + (tl.load(scaMinner_states + chunk) - inner)) * qk_scale
    carried = tl.zeros((BLOCK_L, BLOCK_HV), tl.float32)
    carried_a = tl.zeros((BLOCK_L,), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        in_qk = qk < DHQK
        q = tl.load(matQ + row[:, None] * DHQK + qk[None, :], mask=in_rows[:, None] & in_qk[None, :], other=0.0)
        state = tl.load(
            matC_states + chunk * (DHQK * DHHV) + qk[:, None] * DHHV + hv[None, :],
            mask=in_qk[:, None] & in_hv[None, :],
            other=0.0,
        )
        n = tl.load(vecN_states + chunk * DHQK + qk, mask=in_qk, other=0.0)
        carried += dot(q, state, OPERANDS, INTERPRET)
        carried_a += tl.sum(q.to(tl.float32) * n[None, :], axis=1)
    numerator += carried * carry[:, None]
    a += carried_a * carry

    # An overflow to inf is right here: h is 0 to float32 then.
    excess = tl.exp(m - inner)
    if STABILIZE_CORRECTLY:
        b = tl.exp(log_norm_val - inner)
        b_of_m = tl.exp(log_norm_val - finite_or_zero(m))
    else:
        b = tl.exp(log_norm_val + (m - inner))
        b_of_m = tl.exp(log_norm_val) + tl.zeros((BLOCK_L,), tl.float32)
    # The floor is FLT_MIN: 0 / 0 for q = 0 or an empty state is 0.
    d = tl.maximum(tl.maximum(tl.abs(a), b) + tl.where(eps > 0.0, eps * excess, 0.0), 1.1754944e-38)
    h = to_storage(numerator / d[:, None], matH.dtype.element_ty, INTERPRET)
    tl.store(matH + row[:, None] * DHHV + hv[None, :], h, mask=in_rows[:, None] & in_hv[None, :])
    if idx_hv == 0:
        a_of_m = tl.abs(a) * tl.exp(inner - finite_or_zero(m))
        tl.store(vecN + row, tl.maximum(a_of_m, b_of_m) + eps, mask=in_rows)
