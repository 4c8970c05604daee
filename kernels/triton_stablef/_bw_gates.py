"""Backward kernel 5: di and df of one block from the shares of the blocks of columns and the path of m.

    di_t = sum of shares + M_t - Q_t        df_t = (sum of shares + Q_t) sigma(-f_t)

M and Q are the messages along the path of m (``_bw_rows``): of M_t, either all goes on as Q_t or nothing.
"""

import triton
import triton.language as tl

from kernels.triton_stablef._arithmetic import sigmoid_of_minus, to_storage
from kernels.triton_stablef._bw_rows import messages, takes_from_before


@triton.jit
def mlstm_chunkwise_bw_gates(
    vecI,  # (B, NH, S) storage dtype
    vecF,  # (B, NH, S) float32
    vecM,  # (B, NH, S) float32
    vecMu,  # (B, NH, S) float32
    scaM_initial,  # (B, NH) float32
    scaQ_states,  # (B, NH, NB) float32
    vecShareI,  # (NUM_SHARES, B, NH, S) float32
    vecSharePhi,  # (NUM_SHARES, B, NH, S) float32
    S,
    share_stride,  # B NH S
    vecDeltaI,  # (B, NH, S)
    vecDeltaF,  # (B, NH, S)
    BLOCK_L: tl.constexpr,
    NUM_SHARES: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    pid = tl.program_id(0)
    num_blocks = (S + BLOCK_L - 1) // BLOCK_L
    idx_head = (pid // num_blocks).to(tl.int64)
    step = tl.arange(0, BLOCK_L)
    token = (pid % num_blocks) * BLOCK_L + step
    in_rows = token < S
    row = idx_head * S + token

    di = tl.zeros((BLOCK_L,), tl.float32)
    dphi = tl.zeros((BLOCK_L,), tl.float32)
    share = row
    for _ in range(NUM_SHARES):
        di += tl.load(vecShareI + share, mask=in_rows, other=0.0)
        dphi += tl.load(vecSharePhi + share, mask=in_rows, other=0.0)
        share += share_stride

    # Q_{t+1} from the steps of the tokens after t, and what enters the block.
    after = token + 1
    inside = (step + 1 < BLOCK_L) & (after < S)
    m = tl.load(vecM + row + 1, mask=inside, other=0.0)
    mu = tl.load(vecMu + row + 1, mask=inside, other=0.0)
    passes = takes_from_before(m, vecM, vecI, vecF, scaM_initial, idx_head, after, inside, S)
    message, passes = messages(mu, passes)
    entering = tl.load(scaQ_states + idx_head * num_blocks + pid % num_blocks)
    message += tl.where(passes > 0.0, entering, 0.0)

    m = tl.load(vecM + row, mask=in_rows, other=0.0)
    through_m = tl.load(vecMu + row, mask=in_rows, other=0.0) + message
    passes = takes_from_before(m, vecM, vecI, vecF, scaM_initial, idx_head, token, in_rows, S)
    di += tl.where(passes | (m == float("-inf")), 0.0, through_m)
    dphi += tl.where(passes, through_m, 0.0)
    df = dphi * sigmoid_of_minus(tl.load(vecF + row, mask=in_rows, other=float("inf")))
    tl.store(vecDeltaI + row, to_storage(di, vecDeltaI.dtype.element_ty, INTERPRET), mask=in_rows)
    tl.store(vecDeltaF + row, to_storage(df, vecDeltaF.dtype.element_ty, INTERPRET), mask=in_rows)
