"""Which errors say that a kernel does not compile: told by names, as neither Triton nor jax-triton need be there.

Triton       a class of triton.compiler; of triton.runtime.errors those of ptxas and of a GPU that is too small
jax-triton   any error raised inside one of its functions compile...
XLA          JaxRuntimeError, which is one class for everything, by its message
LLVM         ends the process: by the innermost frame of what Python's faulthandler writes then
"""

from __future__ import annotations

import re
import traceback

_TRITON = re.compile(r"triton\.compiler\..*|triton\.runtime\.errors\.(OutOfResources|PTXASError)")
_XLA = re.compile(
    r"compil|ptxas|\bPTX|_PTX|UNIMPLEMENTED|No registered implementation|No FFI handler|Shared memory size limit", re.I
)
_INNERMOST = re.compile(
    r"^Current thread .*\(most recent call first\):\n"
    r'  File "[^"\n]*/(triton/(compiler|backends)/|jax/_src/compiler\.py)',
    re.MULTILINE,
)


def died_in_compiler(written: str) -> bool:
    """Whether a process died where a compiler was called, by what it wrote last."""
    return _INNERMOST.search(written) is not None


def is_compile_error(error: BaseException) -> bool:
    """Whether a compiler raised the error."""
    classes = type(error).__mro__
    if any(_TRITON.fullmatch(f"{each.__module__}.{each.__qualname__}") for each in classes):
        return True
    if any(each.__name__ in ("JaxRuntimeError", "XlaRuntimeError") for each in classes):
        return _XLA.search(str(error)) is not None
    return any(
        frame.f_globals.get("__name__", "").startswith("jax_triton.") and frame.f_code.co_name.startswith("compile")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
