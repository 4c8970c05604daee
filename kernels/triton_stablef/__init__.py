"""The chunkwise mLSTM with the forget gate stabilised by log sigmoid ("stablef"), in Triton."""

from kernels.triton_stablef._forward import mlstm_chunkwise_fw as mlstm_chunkwise_fw
from kernels.triton_stablef.triton_fwbw import mlstm_chunkwise_triton_stablef as mlstm_chunkwise_triton_stablef

__all__ = ["mlstm_chunkwise_fw", "mlstm_chunkwise_triton_stablef"]
