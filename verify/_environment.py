"""What a run depends on beside the case and the subject: versions, device, commit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "mlstm-verify", "jax", "jaxlib", "jax-triton", "triton", "numpy", "ml-dtypes", "mpmath", "mlstm-kernels",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Versions, device, backend and commit, as JSON values; None for what is not there."""
    backend, device = _backend_and_device()
    commit = _git("rev-parse", "HEAD")
    return {
        **describe_versions(),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())),
        "backend": backend,
        "device": device,
        "driver": _driver() if backend == "gpu" else None,
        # A CI image often holds the source without its history.
        "commit": commit or os.environ.get("GITHUB_SHA"),
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
    }


def describe_versions() -> dict[str, Any]:
    """Of this interpreter and its packages; None for what is not there."""
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in _PACKAGES}}


def _backend_and_device() -> tuple[str | None, str | None]:
    if importlib.util.find_spec("jax") is None:
        return None, None
    import jax

    from kernels.launch import BACKEND

    return BACKEND, jax.devices()[0].device_kind


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    # A line for each GPU, all with the one driver of the machine.
    shown = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return shown.splitlines()[0] if shown else None


def _git(*arguments: str) -> str | None:
    # The commit of this suite, wherever it is run from.
    return _output(["git", "-C", str(Path(__file__).resolve().parent), *arguments])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
