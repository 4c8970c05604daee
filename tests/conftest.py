"""The header says what the tests run on."""

import importlib.metadata


def pytest_report_header():
    import jax

    from kernels import BACKEND

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "triton", "numpy", "mpmath"))
    return f"backend: {BACKEND} on {jax.devices()[0].device_kind}; {versions}"
