"""A case: the full description of one test. Its id is printable, parseable, and its name everywhere.

    regime : shape : dtype : mode : norm_val : eps : initial : cotangents : seed
    ordinary:B1-NH2-S65-QK64-HV64-L64:float32:correct:nv1.0:eps1e-06:none:vjp-all:seed0

mode is ``correct`` (b_t = norm_val exp(-m_t)) or ``constant`` (b_t = norm_val). cotangents is ``fw``,
the forward pass alone, or ``vjp-`` and the outputs that have a cotangent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from verify._errors import UsageError
from verify._initial_states import check_initial
from verify._regimes import check_regime

DTYPES = ("float32", "float16", "bfloat16")
MODES = {"correct": True, "constant": False}
# What of the outputs has a cotangent, and the word for it in the id.
COTANGENTS = {"none": "fw", "h": "vjp-h", "last": "vjp-last", "all": "vjp-all"}
_SHAPE = re.compile(r"B(\d+)-NH(\d+)-S(\d+)-QK(\d+)-HV(\d+)-L(\d+)")
_SIZES = ("batch", "heads", "length", "dhqk", "dhhv", "chunk_size")
_FIELDS = ("regime", "shape", "dtype", "mode", "norm_val", "eps", "initial", "cotangents", "seed")


class CaseError(UsageError):
    """A case id, or a field of a case, that cannot be."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        regime: gate regime, ``name`` or ``name@parameter``; see ``mlstm-verify list regimes``.
        batch, heads, length, dhqk, dhhv: B, NH, S, DHQK, DHHV, each at least 1.
        chunk_size: L, passed to the subject if its signature has it.
        dtype: float32, float16 or bfloat16.
        stabilize_correctly, norm_val, eps: the constants of the definition.
        initial: ``none``, ``warm@m_0`` (a state with content) or ``empty@m_0`` (zeros).
        cotangents: which outputs have a random cotangent, for which the gradients are computed: ``h``,
            the ``last`` state, ``all`` of these, or ``none``, the forward pass alone.
        seed: at least 0.

    Raises:
        CaseError: naming the field, what was given and what is allowed.
    """

    regime: str = "ordinary"
    batch: int = 1
    heads: int = 1
    length: int = 64
    dhqk: int = 64
    dhhv: int = 64
    chunk_size: int = 64
    dtype: str = "float32"
    stabilize_correctly: bool = True
    norm_val: float = 1.0
    eps: float = 1e-6
    initial: str = "none"
    cotangents: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        check_regime(self.regime)
        check_initial(self.initial)
        if self.dtype not in DTYPES:
            raise CaseError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}.")
        if self.cotangents not in COTANGENTS:
            raise CaseError(f"cotangents is {self.cotangents!r}; expected one of {', '.join(COTANGENTS)}.")
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise CaseError(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("norm_val", "eps"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise CaseError(f"{name} is {getattr(self, name)!r}; expected a finite number, at least 0.")
        if self.seed < 0:
            raise CaseError(f"seed is {self.seed}; expected at least 0.")
        # What the tables of a run hold.
        for name in (*_SIZES, "seed"):
            if getattr(self, name) >= 2**63:
                raise CaseError(f"{name} is {getattr(self, name)}; expected less than 2^63.")

    @property
    def shape(self) -> str:
        """The shape as it stands in the id."""
        sizes = f"B{self.batch}-NH{self.heads}-S{self.length}"
        return f"{sizes}-QK{self.dhqk}-HV{self.dhhv}-L{self.chunk_size}"

    @property
    def mode(self) -> str:
        """``correct`` or ``constant``."""
        return "correct" if self.stabilize_correctly else "constant"

    @property
    def id(self) -> str:
        """The name of this case; ``Case.parse`` is the inverse."""
        constants = f"nv{self.norm_val!r}:eps{self.eps!r}"
        ways = f"{self.initial}:{COTANGENTS[self.cotangents]}"
        return f"{self.regime}:{self.shape}:{self.dtype}:{self.mode}:{constants}:{ways}:seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that an id names.

        Raises:
            CaseError: saying which field of the id does not parse.
        """
        parts = text.split(":")
        if len(parts) != len(_FIELDS):
            layout = ":".join(_FIELDS)
            raise CaseError(f"case id {text!r} has {len(parts)} fields; expected {len(_FIELDS)}: {layout}.")
        regime, shape, dtype, mode, norm_val, eps, initial, way, seed = parts
        sizes = _SHAPE.fullmatch(shape)
        if sizes is None:
            raise _does_not_parse(text, "shape", shape, "B1-NH1-S64-QK64-HV64-L64")
        if mode not in MODES:
            raise _does_not_parse(text, "mode", mode, "correct or constant")
        cotangents = {word: name for name, word in COTANGENTS.items()}
        if way not in cotangents:
            raise _does_not_parse(text, "cotangents", way, "one of " + ", ".join(cotangents))
        batch, heads, length, dhqk, dhhv, chunk_size = (int(size) for size in sizes.groups())
        return cls(
            regime=regime,
            batch=batch,
            heads=heads,
            length=length,
            dhqk=dhqk,
            dhhv=dhhv,
            chunk_size=chunk_size,
            dtype=dtype,
            stabilize_correctly=MODES[mode],
            norm_val=_number(text, "norm_val", norm_val, "nv", float),
            eps=_number(text, "eps", eps, "eps", float),
            initial=initial,
            cotangents=cotangents[way],
            seed=_number(text, "seed", seed, "seed", int),
        )


_PATTERNS = {int: r"\d+", float: r"\d+(\.\d*)?(e[+-]?\d+)?"}
Number = TypeVar("Number", int, float)


def _number(text: str, field: str, part: str, prefix: str, kind: type[Number]) -> Number:
    match = re.fullmatch(f"{prefix}({_PATTERNS[kind]})", part, re.ASCII)
    if match is None:
        raise _does_not_parse(text, field, part, f"{prefix} and a number")
    return kind(match.group(1))


def _does_not_parse(text: str, field: str, part: str, expected: str) -> CaseError:
    return CaseError(f"case id {text!r}: {field} is {part!r}; expected {expected}.")
