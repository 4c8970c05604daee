"""The kernels under test that this project ships: chunkwise mLSTM for JAX, in Triton and in plain JAX.

Importing this package chooses the backend (see ``kernels.launch``) before any kernel is
decorated, so that the same source runs on a GPU and in Triton's interpreter. Triton itself is imported
with the kernels in it: those in plain JAX do without.
"""

from typing import TYPE_CHECKING, Any

from kernels.launch import BACKEND as BACKEND
from kernels.xla_chunkwise import mlstm_chunkwise_xla as mlstm_chunkwise_xla

if TYPE_CHECKING:
    from kernels.triton_stablef import mlstm_chunkwise_triton_stablef as mlstm_chunkwise_triton_stablef

__all__ = ["BACKEND", "mlstm_chunkwise_triton_stablef", "mlstm_chunkwise_xla"]


def __getattr__(name: str) -> Any:
    if name != "mlstm_chunkwise_triton_stablef":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kernels.triton_stablef import mlstm_chunkwise_triton_stablef

    return mlstm_chunkwise_triton_stablef
