"""Subjects each of which breaks a relation: nearly right, but for one thing that no single result need show."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from tests.subjects.float32 import Parallel, recurrence
from tests.subjects.wrong import with_other_gradients


def changed(of_arguments=lambda **arguments: arguments, of_h=lambda h, options: h):
    """``recurrence`` with its arguments or its h changed."""

    @functools.wraps(recurrence)
    def subject(*, return_last_states=False, chunk_size=64, **arguments):
        h, last = recurrence(**of_arguments(**arguments), return_last_states=True)
        h = of_h(h, {"chunk_size": chunk_size})
        return (h, last) if return_last_states else h

    return subject


class _LooksAhead(Parallel):
    """Its stabilizer is the largest of all tokens, also of those to come: the same h, rounded otherwise."""

    def largest(self, m_0):
        m, origin = super().largest(m_0)
        return np.broadcast_to(np.max(m, -1, keepdims=True), m.shape), origin


def looks_ahead(q, k, v, i, f):
    return recurrence(q, k, v, i, f, form=_LooksAhead)


def _edges(h, options):
    at_edge = np.arange(h.shape[2]) % options["chunk_size"] == 0
    return h * jnp.where(at_edge, 1 + 1e-4, 1.0).astype(h.dtype)[:, None]


def _without_m_0(m_initial=None, **others):
    return others if m_initial is None else {"m_initial": 0 * m_initial, **others}


_calls = itertools.count()

mixes_the_future = changed(of_h=lambda h, _: h + 0.0 * h[:, :, -1:])
mixes_batch = changed(of_h=lambda h, _: h.at[0].add(1e-6 * h[-1]))
mixes_heads = changed(of_h=lambda h, _: h.at[:, 0].add(1e-6 * h[:, -1]))
masked_product_over_heads = changed(of_h=lambda h, _: h + 0.0 * jnp.sum(h, 1, keepdims=True))
counts_its_calls = changed(of_h=lambda h, _: h * (1 + 1e-6 * next(_calls)))
forgets_in_padding = changed(lambda f, **others: {"f": jnp.minimum(f, 8.0), **others})
writes_in_padding = changed(lambda i, **others: {"i": jnp.where(jnp.isneginf(i), 5.0, i), **others})
drops_m_0 = changed(_without_m_0)
wrong_at_edges = changed(of_h=_edges)
clips_v = changed(lambda v, **others: {"v": jnp.clip(v, -2.0, 2.0), **others})
clips_h = changed(of_h=lambda h, _: jnp.clip(h, -0.5, 0.5))
clips_i = changed(lambda i, **others: {"i": jnp.minimum(i, 30.0), **others})
loses_a_token = changed(of_h=lambda h, _: h[:, :, 1:])
nan_in_h = changed(of_h=lambda h, _: h.at[..., 0].set(jnp.nan))


_memory: dict[tuple[int, ...], np.ndarray] = {}


def counts_its_calls_in_one_array(q, k, v, i, f):
    """Returns the same array at every call, with other numbers."""
    h = np.asarray(counts_its_calls(q=q, k=k, v=v, i=i, f=f))
    memory = _memory.setdefault(h.shape, np.empty_like(h))
    memory[...] = h
    return memory


@functools.wraps(recurrence)
def forgets_h_without_last_states(*, return_last_states=False, **arguments):
    """Right where the last state is asked for."""
    h, last = recurrence(**arguments, return_last_states=True)
    return (h, last) if return_last_states else 0.999 * h


@with_other_gradients
def nan_in_every_gradient(*gradients):
    return [None if gradient is None else jnp.nan * gradient for gradient in gradients]


@with_other_gradients
def gradient_of_the_token_before(dq, dk, *others):
    """dk has a little of dk of the token before."""
    return dq, dk + 1e-6 * jnp.roll(dk, 1, axis=2), *others
