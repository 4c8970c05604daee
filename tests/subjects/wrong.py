"""Subjects that are wrong, or odd, each in one way."""

import os

import jax.numpy as jnp
import numpy as np

from tests.subjects.correct import mlstm


def ignores_exp_m(*, stabilize_correctly=True, **arguments):
    """The denominator has norm_val where it should have norm_val exp(-m)."""
    return mlstm(**arguments, stabilize_correctly=False)


def loses_the_last_state(*, return_last_states=False, **arguments):
    """Returns h where a state was asked for."""
    return mlstm(**arguments)


def nan_at_the_end(q, k, v, i, f):
    h = np.array(mlstm(q, k, v, i, f))
    h[..., -1, 0] = np.nan
    return h


def float64_result(q, k, v, i, f):
    return np.asarray(mlstm(q, k, v, i, f), np.float64)


def one_token_less(q, k, v, i, f):
    return mlstm(q, k, v, i, f)[:, :, :-1]


def raises(q, k, v, i, f):
    raise MemoryError("no [bold] room for " + "x" * 10_000)


def bare(q, k, v, i, f):
    """Correct, with the smallest signature there is."""
    return jnp.asarray(mlstm(q, k, v, i, f))


def chatty(q, k, v, i, f):
    """Correct, and prints to stdout in two ways."""
    print("printed by the subject")
    os.write(1, b"written by the subject\n")
    return mlstm(q, k, v, i, f)


def interrupted_at_33(q, k, v, i, f):
    """As if the user had pressed Ctrl-C in the case with S = 33."""
    if q.shape[2] == 33:
        raise KeyboardInterrupt
    return mlstm(q, k, v, i, f)


def no_q(k, v, i, f):
    return v


not_callable = 3
