"""Forward kernel 3: every chunk's outputs from its entering state, in parallel.

For rows j of one block of a chunk, and sources s <= j of the same chunk (docs/method.md, section 3):

    T_{j,s} = sum_{s < r <= j} phi_r                  masked running sums, never differences
    W_{j,s} = exp(T_{j,s} + (i_s - m'_j))             selected before exp, and again after the product
    g_j     = exp(lambda_j + Lambda)                  of the state that enters the chunk
    N_j     = sum_s W_{j,s} c (q_j.k_s) v_s + c g_j C_k^T q_j
    a_j     = sum_s W_{j,s} c (q_j.k_s)     + c g_j q_j.n_k
    h_j     = N_j / d_j                               d_j from ``_denominator``

The diagonal block sums phi down the columns of a triangle. What comes from an earlier block b goes from stabilizer to
stabilizer, as the recurrence does; m'_b enters block b, and none of these exponents is above 0:

    lambda_j = beta_j + (m'_block - m'_j)             from the state that enters this block
    Lambda   = sum_b (beta_L + (m'_b - m'_{b+1}))     over the blocks between
    W_{j,s}  = exp(lambda_j + Lambda + (sigma_s + (i_s - m'_{b+1})))

The backward pass reads the states of every block. Were the exponents taken from m'_k of the chunk to m'_j at once, the
roundings of sums as large as m' would be in d_j, and not in the weights that are divided by it there.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import causal_dot, dot, finite_or_zero, log_sigmoid, to_storage
from kernels.triton_stablef._blocks import last_row, load_tile, pair_weights
from kernels.triton_stablef._denominator import denominator, threshold


@triton.jit
def leaving_stabilizer(scaMinner_states, idx_head, idx_block, S, BLOCK_L: tl.constexpr):
    """m'_{b+1}, as what is subtracted; 0 where no block follows."""
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    follows = idx_block + 1 < num_blocks
    return finite_or_zero(tl.load(scaMinner_states + idx_head * num_blocks + idx_block + 1, mask=follows, other=0.0))


@triton.jit
def log_decay(vecBeta, scaMinner_states, idx_head, idx_block, S, BLOCK_L: tl.constexpr):
    """beta_L + (m'_b - m'_{b+1}) of a whole block; anything where no block follows, whose rows are not stored."""
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    within = tl.minimum(idx_block, num_blocks - 1)
    entering = tl.load(scaMinner_states + idx_head * num_blocks + within)
    leaving = leaving_stabilizer(scaMinner_states, idx_head, idx_block, S, BLOCK_L)
    return tl.load(vecBeta + last_row(idx_head, within, S, BLOCK_L)) + (entering - leaving)


@triton.jit
def mlstm_chunkwise_fw_parallel(
    matQ,  # (B, NH, S, DHQK) storage dtype
    matK,  # (B, NH, S, DHQK) storage dtype
    matV,  # (B, NH, S, DHHV) storage dtype
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecBeta,  # (B, NH, S) float32
    vecSigma,  # (B, NH, S) float32
    vecBest,  # (B, NH, S) float32
    matC_states,  # (B, NH, NK, DHQK, DHHV)
    vecN_states,  # (B, NH, NK, DHQK) float32
    scaM_states,  # (B, NH, NB) float32
    scaMinner_states,  # (B, NH, NB) float32
    S,
    qk_scale,  # c = DHQK^-1/2
    norm_val,
    eps,
    matH,  # (B, NH, S, DHHV) storage dtype
    vecN,  # (B, NH, S) float32, d_t relative to m_t
    vecA,  # (B, NH, S) float32, a'_t = c q_t.n'_t relative to m'_t
    vecM,  # (B, NH, S) float32, m_t
    vecMinner,  # (B, NH, S) float32, m'_t
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    CHUNK: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    STABILIZE_CORRECTLY: tl.constexpr,
    OPERANDS: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    num_hv: tl.constexpr = (DHHV + BLOCK_HV - 1) // BLOCK_HV
    num_chunks = (S + CHUNK - 1) // CHUNK
    pid = tl.program_id(0)
    idx_hv = pid % num_hv
    idx_block = (pid // num_hv) % (CHUNK // BLOCK_L)
    idx_chunk = (pid // (num_hv * (CHUNK // BLOCK_L))) % num_chunks
    idx_head = (pid // (num_hv * (CHUNK // BLOCK_L)) // num_chunks).to(tl.int64)

    step = tl.arange(0, BLOCK_L)
    hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
    in_hv = hv < DHHV
    token = idx_chunk * CHUNK + idx_block * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token
    phi = log_sigmoid(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    i = tl.load(vecI + row, mask=in_rows, other=float("-inf")).to(tl.float32)
    up_to = tl.load(vecBeta + row, mask=in_rows, other=0.0)
    best = tl.load(vecBest + row, mask=in_rows, other=float("inf"))
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    # A block beyond the sequence has no states, and no rows either.
    first_block = idx_chunk * (CHUNK // BLOCK_L)
    block = idx_head * num_blocks + tl.minimum(first_block + idx_block, num_blocks - 1)
    m = tl.maximum(up_to + tl.load(scaM_states + block), best)
    entering = tl.load(scaMinner_states + block)
    inner = tl.maximum(up_to + entering, best)
    subtrahend = finite_or_zero(inner)
    from_entering = up_to + (entering - subtrahend)

    # The earlier blocks of the chunk are whole if this block has a row in the sequence.
    through = 0.0
    for earlier in range(first_block, first_block + idx_block):
        through += log_decay(vecBeta, scaMinner_states, idx_head, earlier, S, BLOCK_L)

    kept = idx_head * ((S + KEEP - 1) // KEEP) + idx_chunk * (CHUNK // KEEP)
    product = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
    carried = tl.zeros((BLOCK_L, BLOCK_HV), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        in_qk = qk < DHQK
        q = load_tile(matQ, row, qk, in_rows, in_qk, DHQK)
        k = load_tile(matK, row, qk, in_rows, in_qk, DHQK)
        state = load_tile(matC_states + kept * (DHQK * DHHV), qk, hv, in_qk, in_hv, DHHV)
        product += dot(q, tl.trans(k), OPERANDS, INTERPRET)
        carried += dot(q, state, OPERANDS, INTERPRET)
    # In a loop of its own: Triton 3.6 keeps one buffer too few of a tile that a pipelined loop gives to a dot and
    # to registers, and overwrites it while the dot still reads it.
    carried_a = tl.zeros((BLOCK_L,), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        n = tl.load(vecN_states + kept * DHQK + qk, mask=qk < DHQK, other=0.0)
        carried_a += tl.sum(load_tile(matQ, row, qk, in_rows, qk < DHQK, DHQK).to(tl.float32) * n[None, :], axis=1)
    carry = tl.exp(from_entering + through) * qk_scale
    numerator = carried * carry[:, None]
    a = carried_a * carry

    weights, seen = pair_weights(phi, i, subtrahend, step)
    weights = tl.where(seen, weights * (product * qk_scale), 0.0)
    numerator += causal_dot(weights, load_tile(matV, row, hv, in_rows, in_hv, DHHV), OPERANDS, INTERPRET)
    a += tl.sum(weights, axis=1)

    between = 0.0
    for distance in range(idx_block):
        source = token - (distance + 1) * BLOCK_L
        in_source = source < S
        row_source = idx_head * S + source
        suffix = tl.load(vecSigma + row_source, mask=in_source, other=0.0)
        i = tl.load(vecI + row_source, mask=in_source, other=float("-inf")).to(tl.float32)
        earlier = first_block + idx_block - distance - 1
        leaving = leaving_stabilizer(scaMinner_states, idx_head, earlier, S, BLOCK_L)
        weights = tl.exp((from_entering + between)[:, None] + (suffix + (i - leaving))[None, :])
        product = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
        for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
            qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
            q = load_tile(matQ, row, qk, in_rows, qk < DHQK, DHQK)
            k = load_tile(matK, row_source, qk, in_source, qk < DHQK, DHQK)
            product += dot(q, tl.trans(k), OPERANDS, INTERPRET)
        weights = weights * (product * qk_scale)
        numerator += dot(weights, load_tile(matV, row_source, hv, in_source, in_hv, DHHV), OPERANDS, INTERPRET)
        a += tl.sum(weights, axis=1)
        between += log_decay(vecBeta, scaMinner_states, idx_head, earlier, S, BLOCK_L)

    d = denominator(a, threshold(m, subtrahend, norm_val, STABILIZE_CORRECTLY), m, subtrahend, eps)
    h = to_storage(numerator / d[:, None], matH.dtype.element_ty, INTERPRET)
    tl.store(matH + row[:, None] * DHHV + hv[None, :], h, mask=in_rows[:, None] & in_hv[None, :])
    if idx_hv == 0:
        of_m = finite_or_zero(m)
        b_of_m = threshold(of_m, of_m, norm_val, STABILIZE_CORRECTLY)
        tl.store(vecN + row, tl.maximum(tl.abs(a) * tl.exp(inner - of_m), b_of_m) + eps, mask=in_rows)
        tl.store(vecA + row, a, mask=in_rows)
        tl.store(vecM + row, m, mask=in_rows)
        tl.store(vecMinner + row, inner, mask=in_rows)
