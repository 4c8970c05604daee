"""Subjects that are wrong, or odd, each in one way."""

import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from kernels.xla_chunkwise import mlstm_chunkwise_xla
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


def returns_nothing(q, k, v, i, f):
    mlstm(q, k, v, i, f)


def returns_no_state(*, return_last_states=False, **arguments):
    return mlstm(**arguments), None


def returns_half_a_state(*, return_last_states=False, **arguments):
    h, last = mlstm(**arguments, return_last_states=True)
    return h, last[:2]


def returns_text(q, k, v, i, f):
    return "done"


def raises(q, k, v, i, f):
    raise MemoryError("no [bold] room for " + "x" * 10_000)


def raises_half_a_character(q, k, v, i, f):
    """As Python names a file whose name is no UTF-8."""
    raise OSError("no kernel in \udcff.ptx")


def exits(q, k, v, i, f):
    sys.exit(0)


class WordlessError(Exception):
    def __str__(self):
        raise ValueError("no words")


def raises_without_words(q, k, v, i, f):
    raise WordlessError


class Cancelled(BaseException):
    """As asyncio's, no Exception."""


def is_cancelled(q, k, v, i, f):
    raise Cancelled("by nobody")


class Unsigned:
    """A callable of which Python cannot tell the signature."""

    __signature__ = "none"

    def __call__(self, q, k, v, i, f):
        return mlstm(q, k, v, i, f)


unsigned = Unsigned()


def bare(q, k, v, i, f):
    """Correct, with the smallest signature there is."""
    return jnp.asarray(mlstm(q, k, v, i, f))


def bare_vjp(q, k, v, i, f):
    """As ``bare``, and differentiable."""
    return mlstm(q, k, v, i, f)


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


detached = functools.partial(mlstm_chunkwise_xla, normalizer_grad="detached")


@jax.custom_vjp
def _with_a_larger_gradient(x):
    return x


_with_a_larger_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (1.5 * gradient,))


def detached_with_another_df(*, f, **arguments):
    """As detached, and df is wrong in yet another way."""
    return detached(f=_with_a_larger_gradient(f), **arguments)


def with_other_gradients(change):
    """``mlstm`` with ``change`` applied to the gradients of q, k, v, i, f and the initial state."""

    def subject(q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None, return_last_states=False):
        def outputs(*arrays):
            return mlstm(*arrays, return_last_states=return_last_states)

        def back(arrays, cotangents):
            return change(*jax.vjp(outputs, *arrays)[1](cotangents))

        differentiable = jax.custom_vjp(outputs)
        differentiable.defvjp(lambda *arrays: (outputs(*arrays), arrays), back)
        return differentiable(q, k, v, i, f, c_initial, n_initial, m_initial)

    return subject


@with_other_gradients
def shifts_df(dq, dk, dv, di, df, *of_initial):
    """df is that of the next token."""
    return dq, dk, dv, di, jnp.roll(df, -1, axis=-1), *of_initial


@with_other_gradients
def nan_in_dk(dq, dk, *others):
    return dq, dk.at[..., 3, 1].set(jnp.nan), *others


@with_other_gradients
def float32_dq(dq, *others):
    return dq.astype(jnp.float32), *others


@with_other_gradients
def one_token_less_of_dv(dq, dk, dv, *others):
    return dq, dk, dv[:, :, :-1], *others


def ignores_dC_last(*, return_last_states=False, **arguments):
    """No gradient comes back through the last C."""
    h, (C, n, m) = mlstm(**arguments, return_last_states=True)
    return (h, (jax.lax.stop_gradient(C), n, m)) if return_last_states else h


def not_differentiable(*, return_last_states=False, **arguments):
    """Correct, but NumPy's."""
    arguments = {name: np.asarray(x) if hasattr(x, "shape") else x for name, x in arguments.items()}
    return mlstm(**arguments, return_last_states=return_last_states)


def no_q(k, v, i, f):
    return v


not_callable = 3
