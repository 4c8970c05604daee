"""The chunkwise mLSTM with the forget gate stabilised by log sigmoid ("stablef"), in Triton."""

from kernels.triton_stablef._stages import mlstm_chunkwise_triton_stablef_stages
from kernels.triton_stablef.triton_fwbw import mlstm_chunkwise_triton_stablef as mlstm_chunkwise_triton_stablef

# Who looks for the first wrong stage of a function finds its stages here (docs/bisecting.md).
mlstm_chunkwise_triton_stablef.stages = mlstm_chunkwise_triton_stablef_stages  # type: ignore[attr-defined]

__all__ = ["mlstm_chunkwise_triton_stablef"]
