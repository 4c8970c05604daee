"""Subjects that depart from the contract in one way or in several, and what ``diagnose`` is to find of them.

All are the chunkwise form of ``float32``: with the edits of ``planted``, with some of its own, or wrapped so that JAX
differentiates what is done to the arguments and to what is returned.
"""

import functools
from dataclasses import dataclass
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes

from tests.subjects import float32
from tests.subjects.planted import PLANTED, edited
from tests.subjects.planted_around import of_arguments, of_results


@dataclass(frozen=True)
class Departing:
    """A subject and its diagnosis: the precision, and words that each departure has, of one departure each."""

    function: Any
    departures: tuple[str, ...]
    precision: str = "float32"


def planted(*names):
    """The chunkwise form with the edits of these planted subjects."""
    return edited(*(edit for name in names for edit in PLANTED[name].edits)).chunkwise


@of_arguments
def without_scale(q, **_):
    return {"q": q * q.shape[-1] ** 0.5}


@of_arguments
def scaled_in_state(q, k, **_):
    return {"q": q * q.shape[-1] ** 0.5, "k": k * k.shape[-1] ** -0.5}


@of_arguments
def tokens_in_bfloat16(q, k, v, **_):
    return {name: x.astype(jnp.bfloat16).astype(x.dtype) for name, x in {"q": q, "k": k, "v": v}.items()}


@of_arguments
def f_in_bfloat16(f, **_):
    return {"f": f.astype(ml_dtypes.bfloat16).astype(f.dtype)}


@of_arguments
def i_in_float16(i, **_):
    return {"i": i.astype(jnp.float16).astype(i.dtype)}


@of_arguments
def m_0_in_base_2(m_initial=None, **_):
    return {} if m_initial is None else {"m_initial": m_initial * jnp.float32(log(2.0))}


@of_arguments
def sigmoid_twice(f, **_):
    return {"f": jax.nn.log_sigmoid(f)}


@of_arguments
def ignores_forget_gates(f, **_):
    return {"f": jnp.inf + 0 * f}


@of_arguments
def ignores_state(c_initial=None, n_initial=None, m_initial=None, **_):
    if c_initial is None:
        return {}
    return {"c_initial": 0 * c_initial, "n_initial": 0 * n_initial, "m_initial": 0 * m_initial}


@of_arguments
def ignores_eps(**_):
    return {"eps": 0.0}


@of_arguments
def always_scales_norm_val(**_):
    return {"stabilize_correctly": True}


@of_results
def m_in_base_2(h, last, **_):
    return h, last if last is None else (*last[:2], last[2] * jnp.float32(1 / log(2.0)))


def wrapped(*faults, base=float32.chunkwise):
    """``base`` inside all of these faults."""
    return functools.reduce(lambda subject, fault: fault(subject), faults, base)


# What NX-AI's float32 kernels do, as docs/bisecting.md has it.
_DETACHED, _TF32 = "normalizer held constant", "dots in TF32"
_SUMS = """sums = np.sum(made.q * dq, -1) - np.sum(made.k * dk, -1)
    dphi = np.cumsum(sums[..., ::-1], -1)[..., ::-1]
    """
_DF = "df = dphi * np.exp(-np.maximum(made.f, 0)) / (1 + np.exp(-abs(made.f)))"
_AS_NX_AI = (
    *PLANTED[_DETACHED].edits,
    *PLANTED[_TF32].edits,
    ("dlast = np.concatenate([dC, dn[..., None]], -1)", "dlast = np.concatenate([dC, 0 * dn[..., None]], -1)"),
    ("in_jax(D[..., -1]), in_jax(dm_0)", "in_jax(0 * D[..., -1]), in_jax(0 * dm_0)"),
    (_DF, _SUMS + _DF),
)

detached = planted(_DETACHED)
DEPARTING = {
    **{
        name: Departing(planted(name), words)
        for name, words in {
            _DETACHED: ("detached",),
            "no initial m": ("m_0 is -inf",),
            "last state not brought to m": ("the last state is relative to another m",),
            "n_last not brought to m": ("n_last is relative",),
            "eps without exp(m - m')": ("eps is not scaled",),
            "log forgets in bfloat16": ("log sigmoid(f) is cast to bfloat16",),
            "state in bfloat16 between chunks": ("states are kept in bfloat16",),
            "mode constant differentiated as correct": ("mode constant is differentiated as correct",),
            "cotangent of the last C ignored": ("cotangent of C_last",),
            "dm_0 missing": ("dm_0 is 0",),
            "sign of q.n forgotten": ("the sign of q.n",),
            "M stops at chunk edges": ("stabilizer's gradient stops",),
            "df as a difference of sums": ("difference of cumulative sums",),
        }.items()
    },
    "norm_val is 1": Departing(planted("norm_val is 1"), ("norm_val is taken for 1",)),
    "in TF32": Departing(planted(_TF32), (), "tf32"),
    "twice log sigmoid": Departing(wrapped(sigmoid_twice), ("log sigmoid is applied twice",)),
    "no forgetting": Departing(wrapped(ignores_forget_gates), ("the forget gate is ignored",)),
    "no state": Departing(wrapped(ignores_state), ("the initial state is ignored",)),
    "no eps": Departing(wrapped(ignores_eps), ("eps is ignored",)),
    "m in base 2": Departing(wrapped(m_in_base_2), ("m is returned in units of log 2",)),
    "always scaled": Departing(wrapped(always_scales_norm_val), ("in the mode constant too",)),
    # Pairs.
    "eps inside, gradient outside": Departing(
        planted("eps inside the maximum"), ("eps is inside", "gradient is that of an eps outside")
    ),
    "never scaled, gradient as asked": Departing(
        planted("norm_val without exp(-m)"),
        ("norm_val is not scaled", "gradient through m is that of the mode asked for"),
    ),
    "detached in TF32": Departing(planted(_DETACHED, _TF32), ("detached",), "tf32"),
    "detached, m in base 2": Departing(wrapped(m_in_base_2, base=planted(_DETACHED)), ("detached", "units of log 2")),
    "no scale, m_0 in base 2": Departing(
        wrapped(without_scale, m_0_in_base_2), ("scale DHQK^-1/2 is missing", "m_0 is read in units of log 2")
    ),
    "scale in the state, no eps": Departing(
        wrapped(scaled_in_state, ignores_eps), ("the scale is on the keys", "eps is ignored")
    ),
    "tokens in bfloat16, twice log sigmoid": Departing(
        wrapped(tokens_in_bfloat16, sigmoid_twice), ("q, k and v are cast to bfloat16", "log sigmoid is applied twice")
    ),
    "f in bfloat16, no dn_0": Departing(
        wrapped(f_in_bfloat16, base=planted("dn_0 missing")), ("f is cast to bfloat16", "dn_0 is 0")
    ),
    "i in float16, norm_val 1": Departing(
        wrapped(i_in_float16, base=planted("norm_val is 1")), ("i is cast to float16", "norm_val is taken for 1")
    ),
    "h in bfloat16": Departing(
        PLANTED["h in bfloat16"].function, ("h is rounded to bfloat16", "cotangent of h is rounded to bfloat16")
    ),
    # More than two.
    "as NX-AI's": Departing(
        edited(*_AS_NX_AI).chunkwise,
        # dn_0 is 0 too, which follows: nothing comes back to n.
        ("detached", "dm_0 is 0", "cotangent of n_last", "cumulative sum of q.dq - k.dk"),
        "tf32",
    ),
}
