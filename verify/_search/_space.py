"""The cases that are searched, as Hypothesis draws them; and what is simpler than a case.

Cases are short, since the same error shows on a short one as a rule, and more of them can be tried in the time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from verify._case import COTANGENTS, Case
from verify._digits import three_digits
from verify._regimes import REGIMES
from verify._tiers import EXCLUDED

_DIMS = (16, 32)
_CHUNKS = (16, 32, 64)
_SEEDS = 1000
_POWERS = tuple(2**power for power in range(20))
# In which a case may become simpler, those first that save the most time.
WAYS = (
    *("length", "batch", "heads", "dhqk", "dhhv", "chunk_size", "cotangents", "initial", "norm_val", "eps"),
    *("stabilize_correctly", "regime", "dtype", "seed"),
)
_SIZES = WAYS[:6]
# Of regimes whose parameter is a distance, not a level of gates.
_SMALL = ("kink",)


@dataclass(frozen=True)
class Space:
    """Bounds of the search.

    Attributes:
        length: the most tokens.
        dtypes: of the cases.
        gradients: False searches the forward pass alone.
    """

    length: int
    dtypes: tuple[str, ...]
    gradients: bool


def cases_of(space: Space) -> st.SearchStrategy[Case]:
    """Cases inside of a space."""

    @st.composite
    def cases(draw: Any) -> Case:
        norm_val = draw(st.sampled_from((1.0, 0.0)) | _numbers(-3, 3))
        eps = draw(st.sampled_from((1e-6, 0.0)) | _numbers(-8, 0))
        regime = draw(_regimes())
        fields = {"norm_val": norm_val, "eps": eps, "regime": regime.partition("@")[0]}
        # 0 / 0, about which no reference says anything.
        assume(not any(all(fields[key] == level for key, level in row.items()) for row in EXCLUDED))
        return Case(
            regime=regime,
            heads=draw(st.sampled_from((1, 2))),
            length=draw(_lengths(space.length)),
            dhqk=draw(st.sampled_from(_DIMS)),
            dhhv=draw(st.sampled_from(_DIMS)),
            chunk_size=draw(st.sampled_from(_CHUNKS)),
            dtype=draw(st.sampled_from(space.dtypes)),
            stabilize_correctly=draw(st.booleans()),
            norm_val=norm_val,
            eps=eps,
            initial=draw(_initial_states()),
            cotangents=draw(st.sampled_from(tuple(COTANGENTS))) if space.gradients else "none",
            seed=draw(st.integers(0, _SEEDS - 1)),
        )

    return cases()


def _numbers(least: int, most: int) -> st.SearchStrategy[float]:
    """Positive numbers of three digits, from 10^least to 10^most, as many of each size."""
    return st.integers(100 * least, 100 * most).map(lambda exponent: three_digits(10.0 ** (exponent / 100)))


def _lengths(most: int) -> st.SearchStrategy[int]:
    # As many of each size; the chunk's edge is one of them.
    return st.integers(0, 16 * (most.bit_length() - 1)).map(lambda step: min(most, round(2.0 ** (step / 16))))


def _regimes() -> st.SearchStrategy[str]:
    names = []
    for name, regime in REGIMES.items():
        if not regime.parameters:
            names.append(st.just(name))
            continue
        numbers = _numbers(-8, -1) if name in _SMALL else _levels()
        names.append(numbers.map(functools.partial(_named, name)))
    return st.one_of(names)


def _named(name: str, number: float) -> str:
    return f"{name}@{number:g}"


def _levels() -> st.SearchStrategy[float]:
    return st.tuples(st.sampled_from((1.0, -1.0)), _numbers(-1, 3)).map(lambda pair: pair[0] * pair[1])


def _initial_states() -> st.SearchStrategy[str]:
    state = st.tuples(st.sampled_from(("warm", "empty")), _levels()).map(lambda pair: f"{pair[0]}@{pair[1]:g}")
    return st.just("none") | state


def simpler(case: Case, way: str) -> Iterator[Case]:
    """Cases like this one that are simpler in one of ``WAYS``, the simplest first."""
    cotangents = list(COTANGENTS)
    values: dict[str, Sequence[Any]] = {
        "length": _POWERS,
        "batch": (1,),
        "heads": (1,),
        "dhqk": _DIMS,
        "dhhv": _DIMS,
        "chunk_size": _CHUNKS,
        "initial": ("none", *_rounded(case.initial)),
        "cotangents": cotangents[: cotangents.index(case.cotangents)],
        "norm_val": (1.0,),
        "eps": (1e-6,),
        "stabilize_correctly": (True,),
        "regime": ("ordinary", *_rounded(case.regime)),
        "dtype": ("float32",),
        "seed": (0,),
    }
    now = getattr(case, way)
    for value in values[way]:
        if value == now or (way in _SIZES and value >= now):
            return
        yield replace(case, **{way: value})


def _rounded(text: str) -> list[str]:
    """A name with its parameter in fewer digits, the fewest first."""
    name, at, value = text.partition("@")
    return [f"{name}@{float(f'{float(value):.{digits}g}'):g}" for digits in (1, 2)] if at else []
