"""The choice of the backend: it must act before JAX, Triton and the kernels are imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from enum import StrEnum

from verify._errors import UsageError


class BackendOption(StrEnum):
    """Where the kernels run."""

    auto = "auto"
    gpu = "gpu"
    interpret = "interpret"


def choose_backend(option: BackendOption) -> None:
    """Set the environment and import the kernels' launch module, which decides.

    Where there is no JAX, there is nothing to choose.

    Raises:
        UsageError: if a GPU is asked for and JAX sees none.
    """
    if importlib.util.find_spec("jax") is None:
        if option is BackendOption.gpu:
            raise UsageError(f"--backend is gpu, and {sys.executable} has no JAX.")
        return
    os.environ["MLSTM_KERNELS_BACKEND"] = option.value
    if option is BackendOption.interpret:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Cases have many shapes: half the GPU's memory taken at once would only hide an out-of-memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import kernels.launch  # noqa: F401
    except RuntimeError as error:
        # A BackendError: its class cannot be imported from a module that raises it while imported.
        raise UsageError(str(error)) from error
