"""A subject whose process ends in bfloat16 as a compiler's does that fails an assertion; correct in other dtypes."""

import os
import sys

from tests.subjects import float32

# What Python's faulthandler names is the file that a function says it is from.
_COMPILER = {"abort": os.abort}
exec(compile("def make_llir():\n    abort()\n", "/triton/backends/nvidia/compiler.py", "exec"), _COMPILER)


def mlstm(q, **others):
    if q.dtype == "bfloat16":
        print("python: llvm/lib/Vectorize.cpp:6072: Assertion `lanes' failed.", file=sys.stderr, flush=True)
        called(40)
    return float32.chunkwise(q, **others)


def called(depth):
    """From as deep as a compiler is called."""
    return called(depth - 1) if depth else _COMPILER["make_llir"]()
