"""A subject whose process ends in bfloat16 as a compiler's does that fails an assertion; correct in other dtypes."""

import os
import sys

from tests.subjects import float32


def mlstm(q, **others):
    if q.dtype == "bfloat16":
        print("python: llvm/lib/Vectorize.cpp:6072: Assertion `lanes' failed.", file=sys.stderr, flush=True)
        os.abort()
    return float32.chunkwise(q, **others)
