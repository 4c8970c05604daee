"""The chunkwise mLSTM with the forget gate stabilised by log sigmoid ("stablef"), in Triton."""

from kernels.triton_stablef.triton_fwbw import mlstm_chunkwise_triton_stablef as mlstm_chunkwise_triton_stablef

__all__ = ["mlstm_chunkwise_triton_stablef"]
