"""A subject that harms the process it runs in, by the length of the sequence; correct where that is in no way deadly.

What must be known from one process to the next is in files that the environment names.
"""

import ctypes
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.subjects.correct import mlstm

_calls = 0


def mark(name):
    """Make the file that the environment names, with this process's number; whether it was there."""
    path = Path(os.environ[name])
    existed = path.exists()
    path.write_text(str(os.getpid()))
    return existed


def abort(q):
    os.abort()


def segfault(q):
    ctypes.string_at(0)


def end(q):
    os._exit(3)


def end_the_first_time(q):
    if not mark("ENDED"):
        os._exit(7)


def hang(q):
    mark("HANGS")
    # Holds Python's lock: no thread of this process runs any more.
    ctypes.PyDLL(None).pause()


def hang_the_first_time(q):
    if not mark("HUNG"):
        ctypes.PyDLL(None).pause()


def allocate(q):
    held = []
    while True:
        held.append(np.ones(2**21))


def exhaust(q):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.")


def overwrite(q):
    ctypes.memset(q.unsafe_buffer_pointer(), 0, 4)


def give_away(q):
    q.delete()


def refuse_a_second_call(q):
    if _calls > 1:
        raise RuntimeError("called twice in one process")


def make_sick(q):
    mark("SICK")
    os._exit(8)


# By the number of tokens.
WAYS = {
    2: abort, 3: segfault, 4: end, 5: end_the_first_time, 6: hang, 7: allocate, 8: exhaust, 9: overwrite,
    10: give_away, 11: refuse_a_second_call, 12: refuse_a_second_call, 13: make_sick, 14: hang_the_first_time,
}  # fmt: skip

if os.path.exists(os.environ.get("SICK", "")):
    jnp.sum = None


def deadly(q, k, v, i, f):
    global _calls
    _calls += 1
    print("length", q.shape[2])
    h = mlstm(q, k, v, i, f)
    if q.shape[2] in WAYS:
        WAYS[q.shape[2]](q)
    return h


def overwrites_the_cotangent(**arguments):
    """As ``deadly`` overwrites q: the gradients are right, and dh is not what it was."""

    @jax.custom_vjp
    def spoil(h):
        return h

    def back(_, dh):
        dh = jnp.asarray(dh)
        copy = dh + 0
        ctypes.memset(dh.unsafe_buffer_pointer(), 0, 4)
        return (copy,)

    spoil.defvjp(lambda h: (h, None), back)
    returned = mlstm(**arguments)
    return (spoil(returned[0]), returned[1]) if isinstance(returned, tuple) else spoil(returned)
