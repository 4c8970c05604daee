"""The header says what the tests run on; references are cached in pytest's own directory, not in the user's."""

import importlib.metadata
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

_SHOWN = ("jax", "triton", "numpy", "mpmath", "python-flint")

# How long an example takes is a matter of the machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell that starts the suite in the background lets it ignore Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(pytestconfig, tmp_path_factory):
    # All workers of pytest-xdist share it, and the next session finds it: a reference is named by what defines it.
    kept = pytestconfig.pluginmanager.hasplugin("cacheprovider")
    os.environ["XDG_CACHE_HOME"] = str(pytestconfig.cache.mkdir("xdg") if kept else tmp_path_factory.mktemp("cache"))


def pytest_report_header():
    import jax

    from kernels import BACKEND

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    return f"backend: {BACKEND} on {jax.devices()[0].device_kind}; {versions}"
