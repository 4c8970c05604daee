"""The kernels under test that this project ships: chunkwise mLSTM for JAX, in Triton and in plain JAX.

Importing this package chooses the backend (see ``kernels.launch``) before any kernel is
decorated, so that the same source runs on a GPU and in Triton's interpreter.
"""

from kernels.launch import BACKEND as BACKEND
from kernels.triton_stablef import mlstm_chunkwise_triton_stablef as mlstm_chunkwise_triton_stablef
from kernels.xla_chunkwise import mlstm_chunkwise_xla as mlstm_chunkwise_xla

__all__ = ["BACKEND", "mlstm_chunkwise_triton_stablef", "mlstm_chunkwise_xla"]
