"""An input to a subject that no case need draw: arrays of its own, and a case that describes them.

The case has the arrays' sizes, the constants and the dtype; its regime and seed only say what the arrays came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verify._case import Case
from verify._problem import Problem, make_problem
from verify._reference import REPLICATES, Reference, compute_reference

AXES = ("batch", "heads", "length", "dhqk", "dhhv")
STATE = ("c_initial", "n_initial", "m_initial")
# Of every input, cotangent, output and gradient.
_TOKEN, _STATE = ("batch", "heads", "length"), ("batch", "heads")
_LAYOUT = {
    **dict.fromkeys(("q", "k", "dq", "dk"), (*_TOKEN, "dhqk")),
    **dict.fromkeys(("v", "h", "dv"), (*_TOKEN, "dhhv")),
    **dict.fromkeys(("i", "f", "di", "df", "n", "m"), _TOKEN),
    **dict.fromkeys(("c_initial", "C_last", "dC_0"), (*_STATE, "dhqk", "dhhv")),
    **dict.fromkeys(("n_initial", "n_last", "dn_0"), (*_STATE, "dhqk")),
    **dict.fromkeys(("m_initial", "m_last", "dm_0"), _STATE),
}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """What a subject is given.

    Attributes:
        case: its sizes, constants and dtype are those of the arrays.
        problem: the arrays.
    """

    case: Case
    problem: Problem

    @classmethod
    def of(cls, case: Case) -> Input:
        """The input that a case draws."""
        return cls(case, make_problem(case))

    def size(self, axis: str) -> int:
        """How long an axis, one of ``AXES``, is."""
        size: int = getattr(self.case, axis)
        return size

    def take(self, axis: str, kept: Sequence[int]) -> Input:
        """What lies at these indices of an axis, in this order."""
        sizes: dict[str, Any] = {axis: len(kept)}
        case = replace(self.case, **sizes)
        return replace(self, case=case, problem=replace(
            self.problem,
            arrays=_taken(self.problem.arrays, axis, kept),
            cotangents=_taken(self.problem.cotangents, axis, kept),
        ))  # fmt: skip

    def constants(self, **constants: Any) -> Input:
        """The same with other constants: norm_val or eps."""
        contract = replace(self.problem.contract, **constants)
        return Input(replace(self.case, **constants), replace(self.problem, contract=contract))

    def chunks(self, chunk_size: int) -> Input:
        """The same in chunks of another size."""
        return replace(self, case=replace(self.case, chunk_size=chunk_size))

    def array(self, name: str) -> np.ndarray:
        """An input by its name, a cotangent by ``d`` and the name of its output: dh, dC_last."""
        arrays = self.problem.arrays
        return arrays[name] if name in arrays else self.problem.cotangents[name.removeprefix("d")]

    @property
    def names(self) -> list[str]:
        """Of all arrays, as ``array`` knows them."""
        return [*self.problem.arrays, *(f"d{name}" for name in self.problem.cotangents)]

    def but(self, **arrays: np.ndarray) -> Input:
        """The same with these arrays, by the names of ``array``, rounded to the dtype of what they replace."""
        inputs, cotangents = dict(self.problem.arrays), dict(self.problem.cotangents)
        for name, array in arrays.items():
            group, key = (inputs, name) if name in inputs else (cotangents, name.removeprefix("d"))
            group[key] = np.asarray(array).astype(group[key].dtype)
        return replace(self, problem=replace(self.problem, arrays=inputs, cotangents=cotangents))

    def without(self, *names: str) -> Input:
        """The same without these arrays: the whole initial state, or cotangents."""
        arrays = {name: array for name, array in self.problem.arrays.items() if name not in names}
        cotangents = {name: array for name, array in self.problem.cotangents.items() if f"d{name}" not in names}
        case = replace(
            self.case,
            initial=self.case.initial if "m_initial" in arrays else "none",
            cotangents=_word(self.case, cotangents),
        )
        return Input(case, replace(self.problem, arrays=arrays, cotangents=cotangents))

    @property
    def elements(self) -> int:
        """Numbers in all arrays together."""
        return sum(self.array(name).size for name in self.names)

    @property
    def digest(self) -> str:
        """Of all that a subject gets."""
        told = hashlib.blake2b(repr((self.case, self.problem.contract)).encode(), digest_size=16)
        for name in self.names:
            told.update(name.encode() + np.ascontiguousarray(self.array(name)).tobytes())
        return told.hexdigest()

    def reference(self, replicates: int = REPLICATES) -> Reference:
        """What ``compute_reference`` says of these arrays."""
        return compute_reference(self.case, replicates=replicates, problem=self.problem)


def place_of(output: str, index: Sequence[int]) -> Mapping[str, int]:
    """The index of an element of an output, by axis."""
    return dict(zip(_LAYOUT[output], index, strict=True))


def _taken(arrays: Arrays, axis: str, kept: Sequence[int]) -> Arrays:
    return {
        name: np.take(array, kept, _LAYOUT[name].index(axis)) if axis in _LAYOUT[name] else array
        for name, array in arrays.items()
    }


def _word(case: Case, cotangents: Arrays) -> str:
    if not cotangents:
        return "none"
    if "h" not in cotangents:
        return "last"
    return "h" if len(cotangents) == 1 else case.cotangents
