"""The process that a subject runs in: it imports JAX, if there is one, and the subject, and answers cases.

What it says goes through a pipe of its own. stdout and stderr are the subject's, and the parent reads them.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import os
import resource
import signal
import sys
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from verify._backend import BackendOption, choose_backend
from verify._case import Case
from verify._environment import describe_environment
from verify._errors import SuiteError, UsageError
from verify._subject import Signature, Subject, load_subject

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Started(Signature):
    """The first answer of a worker.

    Attributes:
        parameters: of the subject.
        environment: what the subject runs on.
        missing: which of jax and ml_dtypes its interpreter has not.
        files: of every module of the subject's package that it has imported, by name.
    """

    parameters: frozenset[str] | None
    environment: dict[str, Any]
    missing: frozenset[str]
    files: dict[str, str] = field(default_factory=dict)

    def lacks(self, case: Case) -> str | None:
        """As of any signature, and what the case needs of the interpreter."""
        if case.cotangents != "none" and "jax" in self.missing:
            return "its Python has no JAX, which gradients need (--no-gradients leaves them out)"
        if case.dtype == "bfloat16" and "ml_dtypes" in self.missing:
            return "its Python has no ml_dtypes, which bfloat16 needs"
        return super().lacks(case)


@dataclass(frozen=True)
class Canary:
    """Asks a worker whether JAX computes at all: None is a yes, a text says what is wrong."""


def work(descriptor: int, parent: int, subject: str, backend: BackendOption) -> None:
    """Answer what comes through the pipe, until it is closed.

    Args:
        descriptor: of the pipe.
        parent: the process that this one ends with.
        subject: its name.
        backend: where its kernels run.
    """
    _prepare(parent)
    # Not for the subject's own children: the pipe must be closed when this process is gone.
    os.set_inheritable(descriptor, False)
    channel = Connection(descriptor)
    try:
        loaded = _load(subject, backend)
        missing = frozenset(name for name in ("jax", "ml_dtypes") if importlib.util.find_spec(name) is None)
        channel.send(Started(loaded.parameters, describe_environment(), missing, _files_of(subject)))
    except Exception as error:
        channel.send(error if isinstance(error, UsageError) else SuiteError(traceback.format_exc()[-2000:]))
        return
    while True:
        try:
            request = channel.recv()
        except EOFError:
            return
        channel.send(_answer(request, loaded))


def _load(subject: str, backend: BackendOption) -> Subject:
    choose_backend(backend)
    return load_subject(subject)


def _files_of(subject: str) -> dict[str, str]:
    package = subject.partition(":")[0].partition(".")[0]
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    return {name: str(file) for name, module in modules.items() if (file := getattr(module, "__file__", None))}


def _answer(request: Any, subject: Subject) -> Any:
    if isinstance(request, Canary):
        return _sing()
    try:
        return subject.execute(*request)
    except KeyboardInterrupt as interrupt:
        return interrupt


def _sing() -> str | None:
    if importlib.util.find_spec("jax") is None:
        return None
    import jax.numpy as jnp

    try:
        total = float(jnp.sum(jnp.arange(8.0)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None if total == 28.0 else f"0 + 1 + ... + 7 gave {total}"


def _prepare(parent: int) -> None:
    # The kernel's signal, as no thread of this process runs while a subject hangs in C.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # A core file would be as large as all that JAX holds.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Says where in Python a signal struck.
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # What was printed before the process died must be out.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
