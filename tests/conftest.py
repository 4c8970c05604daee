"""The header says what the tests run on; references are cached for one session, not in the user's directory."""

import importlib.metadata
import os

import pytest

_SHOWN = ("jax", "triton", "numpy", "mpmath", "python-flint")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_session(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def pytest_report_header():
    import jax

    from kernels import BACKEND

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    return f"backend: {BACKEND} on {jax.devices()[0].device_kind}; {versions}"
