"""Subjects that do harm to the process they run in, each case in its own way; with seed 0 they are correct.

The way is said by the cotangents, the length, or an environment variable: what a subject sees of a case.
"""

import contextlib
import ctypes
import os
import time
from pathlib import Path

import numpy as np

from tests.subjects.correct import mlstm


def _abort(q):
    print("printed before the abort")
    os.abort()


def _segfault(q):
    ctypes.string_at(0)


def _exit(q):
    os._exit(3)


def _hang(q):
    while True:
        time.sleep(1)


def _hoard(q):
    held = []
    while True:
        held.append(np.ones(2**23))


def _overwrite(q):
    ctypes.memset(q.unsafe_buffer_pointer(), 0, 4)


def _interrupt(q):
    # The whole process group of the run, as a terminal does.
    os.kill(os.getppid(), 2)
    time.sleep(60)


def _die_once(q):
    # Exists from the second call on.
    with contextlib.suppress(FileExistsError):
        Path(os.environ["DIED_ONCE"]).touch(exist_ok=False)
        os._exit(7)


def _give_away(q):
    q.delete()


def _lose_memory(q):
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")


# By the number of tokens.
WAYS = {
    2: _abort,
    3: _segfault,
    4: _exit,
    5: _hang,
    6: _hoard,
    7: _overwrite,
    8: _die_once,
    9: _interrupt,
    10: _give_away,
    11: _lose_memory,
}


def deadly(q, k, v, i, f):
    """Correct where its length is in no way deadly."""
    h = mlstm(q, k, v, i, f)
    WAYS.get(q.shape[2], lambda q: None)(q)
    return h
