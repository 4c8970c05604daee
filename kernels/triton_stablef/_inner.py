"""Kernel of the inner products of states, <A, C> + a.n for each head: the gradient of a factor of both."""

import triton
import triton.language as tl

from kernels.triton_stablef._blocks import load_tile


@triton.jit
def mlstm_chunkwise_inner(
    matA,  # (B, NH, DHQK, DHHV) float32
    vecA,  # (B, NH, DHQK) float32
    matC,  # (B, NH, DHQK, DHHV) float32
    vecN,  # (B, NH, DHQK) float32
    scaInner,  # (B, NH) float32
    DHQK: tl.constexpr,
    DHHV: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_HV: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    idx_head = tl.program_id(0).to(tl.int64)
    rows = tl.zeros((BLOCK_QK,), tl.float32)
    for idx_qk in range((DHQK + BLOCK_QK - 1) // BLOCK_QK):
        qk = idx_qk * BLOCK_QK + tl.arange(0, BLOCK_QK)
        in_qk = qk < DHQK
        a = tl.load(vecA + idx_head * DHQK + qk, mask=in_qk, other=0.0)
        rows += a * tl.load(vecN + idx_head * DHQK + qk, mask=in_qk, other=0.0)
        for idx_hv in range((DHHV + BLOCK_HV - 1) // BLOCK_HV):
            hv = idx_hv * BLOCK_HV + tl.arange(0, BLOCK_HV)
            state = idx_head * (DHQK * DHHV)
            tile = load_tile(matA + state, qk, hv, in_qk, hv < DHHV, DHHV)
            rows += tl.sum(tile * load_tile(matC + state, qk, hv, in_qk, hv < DHHV, DHHV), axis=1)
    tl.store(scaInner + idx_head, tl.sum(rows, axis=0))
