"""NumPy subjects that expose their stages: the chunkwise form of ``float32``, or of a module edited from it."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.subjects import float32
from tests.subjects.planted import edited


def exposing(module):
    """The chunkwise form of a module, with its stages."""

    @functools.wraps(module.chunkwise)
    def mlstm(*arrays, **options):
        return module.chunkwise(*arrays, **options)

    mlstm.stages = functools.partial(stages, module)
    return mlstm


def stages(
    module,
    q,
    k,
    v,
    i,
    f,
    c_initial=None,
    n_initial=None,
    m_initial=None,
    *,
    cotangents=None,
    eps=1e-6,
    chunk_size=64,
    stabilize_correctly=True,
    norm_val=1.0,
):
    initial = None if c_initial is None else (c_initial, n_initial, m_initial)
    constants = module.Constants(eps, norm_val, stabilize_correctly, "", chunk_size)
    inputs = (*(x.astype(module.F) for x in (q, k, v, i)), f, initial)
    with np.errstate(all="ignore"):
        made = module.Chunkwise(constants, *inputs)
        (h, last), _ = module._with_inputs(module.Chunkwise, constants, *inputs)
        arrays = of_forward(made, h.astype(q.dtype), last)
        if cotangents is not None:
            arrays |= of_backward(module, constants, made, inputs, cotangents)
    return {"arrays": arrays, "chunk_size": chunk_size}


def of_forward(made, h, last):
    start = np.stack([chunk.start for chunk in made.chunks], 2)
    return {
        "m_entering": np.stack([chunk.m_0 for chunk in made.chunks], 2),
        "inner_entering": np.stack([chunk.inner_0 for chunk in made.chunks], 2),
        "C_entering": start[..., :-1],
        "n_entering": start[..., -1],
        "m": made.m,
        "inner": made.inner,
        "a": made.readout[..., -1],
        "h": h,
        **dict(zip(("C_last", "n_last", "m_last"), last, strict=True)),
    }


def of_backward(module, constants, made, inputs, cotangents):
    batch, heads, _, dhqk = inputs[0].shape
    shapes = {"C_last": (dhqk, inputs[2].shape[-1]), "n_last": (dhqk,), "m_last": ()}
    zeros = {"h": 0 * inputs[2], **{name: jnp.zeros((batch, heads, *shape)) for name, shape in shapes.items()}}
    dh, *last = (np.asarray(cotangents.get(name, array), module.F) for name, array in zeros.items())
    x, _, mu = module.row_cotangents(constants, made.readout, made.m, made.inner, dh)
    gradients = module._back(module.Chunkwise, constants, inputs, (dh, tuple(last)))
    named = {"gamma": x[..., -1], "mu": mu, **dict(zip(("dq", "dk", "dv", "di", "df"), gradients, strict=False))}
    if inputs[5] is not None:
        named |= dict(zip(("dC_0", "dn_0", "dm_0"), gradients[5], strict=True))
    return named | of_states_back(module, made, dh, x, mu, last)


def of_states_back(module, made, dh, x, mu, last):
    """The gradient that enters each chunk from behind, relative to inner at its end."""
    to_m = module.column(np.exp(made.inner[..., -1] - module.finite(made.m[..., -1])), 2)
    D = np.concatenate([last[0], last[1][..., None]], -1) * to_m
    leaving = []
    for chunk, span in reversed(list(zip(made.chunks, made.spans(), strict=True))):
        leaving.insert(0, D)
        of_rows = (array[:, :, span] for array in (x, x, mu))
        _, D, *_ = chunk.back(*of_rows, D, D, mu[..., 0])
    D = np.stack(leaving, 2)
    return {"dC_leaving": D[..., :-1], "dn_leaving": D[..., -1]}


chunkwise = exposing(float32)
# Of the second chunk nothing is passed on.
forgetful = exposing(
    edited(("state = chunk.last, chunk.m[", "state = chunk.last * F(span.start != self.chunk_size), chunk.m["))
)


@functools.wraps(chunkwise)
def of_another(*arrays, **options):
    """The stages of the correct form, beside the outputs of the wrong one."""
    return forgetful(*arrays, **options)


of_another.stages = chunkwise.stages
