"""What a stage is: one array that a chunkwise mLSTM computes on the way, with a meaning of its own.

A subject exposes its stages by an attribute ``stages``: a function with the subject's parameters as far as they are
inputs or constants, and ``cotangents``, by output, or None. docs/bisecting.md has the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verify._errors import UsageError

# The index axes of a stage: ``chunk`` counts the states that are kept, ``block`` the blocks of gates.
Axes = tuple[str, ...]
_LEAD: Axes = ("batch", "head")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name, means: see there; the symbols are those of docs/method.md.
        axes: after batch and head.
        like: the output of the subject that is this quantity at another token, whose calibrated thresholds hold for
            it too; None if there is none, and the bound alone decides.
        backward: whether it is of the backward pass, which goes from the last token to the first.
    """

    name: str
    means: str
    axes: Axes
    like: str | None = None
    backward: bool = False

    @property
    def index_names(self) -> Axes:
        """What the indices of the array are called."""
        return _LEAD + self.axes


def _back(name: str, means: str, *axes: str, like: str | None = None) -> Stage:
    return Stage(name, means, axes, like, backward=True)


# In the order of the dataflow: what is out first has no cause before it.
STAGES = (
    Stage("beta", "sum of phi in a block up to step t", ("step",)),
    Stage("sigma", "sum of phi in a block after step t", ("step",)),
    Stage("best", "m_t of a block that enters empty", ("step",)),
    Stage("m_entering", "stabilizer that enters a block", ("block",), "m_last"),
    Stage("C_entering", "C that enters a chunk", ("chunk", "qk", "hv"), "C_last"),
    Stage("n_entering", "n that enters a chunk", ("chunk", "qk"), "n_last"),
    Stage("m", "stabilizer m_t", ("step",), "m"),
    Stage("a", "q.n: a_t", ("step",)),
    Stage("n", "normalizer d_t", ("step",), "n"),
    Stage("numerator", "h_t d_t", ("step", "hv"), "h"),
    Stage("h", "h_t", ("step", "hv"), "h"),
    Stage("C_last", "last C", ("qk", "hv"), "C_last"),
    Stage("n_last", "last n", ("qk",), "n_last"),
    Stage("m_last", "last m", (), "m_last"),
    _back("dC_last", "gradient of the last C", "qk", "hv", like="dC_0"),
    _back("dn_last", "gradient of the last n", "qk", like="dn_0"),
    _back("M_last", "message to m from the last state"),
    _back("inverse", "1 / d_t", "step"),
    _back("gamma", "gradient of a_t", "step"),
    _back("mu", "gradient of m_t at fixed exp(m) C", "step"),
    _back("carry_x", "c g_t / d_t", "step"),
    _back("carry_gamma", "c g_t gamma_t", "step"),
    _back("kept", "decay of dC across a block", "block"),
    _back("dC_leaving", "gradient of C that enters a block from behind", "block", "qk", "hv", like="dC_0"),
    _back("dn_leaving", "gradient of n that enters a block from behind", "block", "qk", like="dn_0"),
    _back("M_leaving", "message to m that enters a block from behind", "block"),
    _back("dq", "dq_t", "step", "qk", like="dq"),
    _back("dk", "dk_t", "step", "qk", like="dk"),
    _back("di_pairs", "di without the message to m", "step"),
    _back("dphi_pairs", "gradient of phi without the message to m", "step"),
    _back("dv", "dv_t", "step", "hv", like="dv"),
    _back("di", "di_t", "step", like="di"),
    _back("df", "df_t", "step", like="df"),
    _back("dC_0", "gradient of C_0", "qk", "hv", like="dC_0"),
    _back("dn_0", "gradient of n_0", "qk", like="dn_0"),
    _back("dm_0", "gradient of m_0", like="dm_0"),
)
BY_NAME = {stage.name: stage for stage in STAGES}
# The numbers m' that stages are relative to, which are free, and no stages.
FRAMES = ("inner", "inner_entering")


@dataclass(frozen=True)
class Stages:
    """What a subject exposed.

    Attributes:
        arrays: by name, stages and frames.
        chunk_size, block_size: tokens between two entries of an axis ``chunk``, ``block``.
        programs: by stage, the kernel and the axes of its grid; may be empty.
    """

    arrays: dict[str, np.ndarray]
    chunk_size: int
    block_size: int
    programs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, name: str, returned: Any) -> Stages:
        """What the function ``stages`` of a subject returned; with ``numerator``, if it has h and n.

        Raises:
            UsageError: if it is no such mapping.
        """
        told = f"the stages of subject {name!r}"
        if isinstance(returned, Mapping) and "error" in returned:
            raise UsageError(f"{told} cannot be had: {returned['error']}.")
        if not isinstance(returned, Mapping) or not {"arrays", "chunk_size"} <= set(returned):
            raise UsageError(f"{told} are no mapping with arrays and chunk_size, but {type(returned).__name__}.")
        arrays = {stage: np.asarray(array) for stage, array in returned["arrays"].items()}
        unknown = sorted(set(arrays) - set(BY_NAME) - set(FRAMES))
        if unknown:
            known = ", ".join((*BY_NAME, *FRAMES))
            raise UsageError(f"{told} have {', '.join(unknown)}; expected of {known}.")
        chunk_size = int(returned["chunk_size"])
        if {"h", "n"} <= set(arrays):
            with np.errstate(invalid="ignore", over="ignore"):
                arrays["numerator"] = arrays["h"].astype(np.float64) * arrays["n"][..., None].astype(np.float64)
        return cls(arrays, chunk_size, int(returned.get("block_size", chunk_size)), dict(returned.get("programs", {})))
