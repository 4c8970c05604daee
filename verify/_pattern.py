"""The smallest description, by the fields of their ids, of which cases something happened to.

A description says for some fields which values they have, as in "regime forget; dtype bfloat16": the values of the
cases in question, so that it covers them all. What it costs is the number of values that it names, and the number of
other cases that it covers wrongly; the cheapest one is taken, of at most three fields, unless to list the cases costs
no more. Values may be named by what they are not, numbers also by a limit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from verify._case import Case
from verify._relation_cases import parse_case

# Regimes and initial states as a whole, and each parameter apart.
_FIELDS: tuple[tuple[str, Callable[[Case], Any]], ...] = (
    ("dtype", lambda case: case.dtype),
    ("mode", lambda case: case.mode),
    ("regime", lambda case: case.regime.partition("@")[0]),
    ("regime", lambda case: case.regime),
    ("length", lambda case: case.length),
    ("chunk size", lambda case: case.chunk_size),
    ("initial state", lambda case: case.initial.partition("@")[0]),
    ("initial state", lambda case: case.initial),
    ("cotangents", lambda case: case.cotangents),
    ("DHQK", lambda case: case.dhqk),
    ("DHHV", lambda case: case.dhhv),
    ("heads", lambda case: case.batch * case.heads),
    ("norm_val", lambda case: case.norm_val),
    ("eps", lambda case: case.eps),
)
_NAMES = ("relation", *(name for name, _ in _FIELDS))
_MOST_FIELDS = 3


@dataclass(frozen=True)
class Pattern:
    """Where it happened.

    Attributes:
        outputs: to which outputs.
        where: the description; ``everywhere`` if it names no field, ``scattered`` if none is shorter than a list, the
            case ids if they are one or two.
        happened: the number of cases to which it did, of each output.
        excepted: how many cases the description covers beside these.
        among: the number of cases that have the output.
    """

    outputs: tuple[str, ...]
    where: str
    happened: int
    excepted: int
    among: int


def patterns(happened: Iterable[tuple[str, str]], among: Iterable[tuple[str, str]]) -> tuple[Pattern, ...]:
    """The patterns of what happened, most cases first.

    Args:
        happened: (output, case id).
        among: all to which it could have happened, these included.
    """
    by_output, rest = _by_output(happened), _by_output(among)
    found: dict[tuple[str, int, int, int], list[str]] = {}
    for output, cases in by_output.items():
        key = _describe(frozenset(cases), frozenset(rest[output]) - frozenset(cases))
        found.setdefault(key, []).append(output)
    ordered = sorted(found.items(), key=lambda item: -item[0][1] * len(item[1]))
    return tuple(Pattern(tuple(outputs), *key) for key, outputs in ordered)


def _by_output(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for output, case in items:
        cases.setdefault(output, []).append(case)
    return cases


@functools.cache
def _values(case: str) -> tuple[Any, ...]:
    parsed = parse_case(case)
    return (case.rpartition("/")[0] or "none", *(value(parsed) for _, value in _FIELDS))


@dataclass(frozen=True)
class _Field:
    """What a description may say of one field.

    Attributes:
        text: it.
        cost: how many values that names.
        covers: which of the other cases have one of the values, a bit each.
    """

    text: str
    cost: int
    covers: int


@functools.cache
def _describe(cases: frozenset[str], others: frozenset[str]) -> tuple[str, int, int, int]:
    ordered = sorted(others)
    fields = [_field(place, sorted(cases), ordered) for place in range(len(_NAMES))]
    telling = [field for field in fields if field.covers.bit_count() < len(ordered)]
    choices = [choice for size in range(_MOST_FIELDS + 1) for choice in combinations(telling, size)]
    everything = (1 << len(ordered)) - 1

    def covered(choice: Sequence[_Field]) -> int:
        return functools.reduce(lambda bits, field: bits & field.covers, choice, everything).bit_count()

    def cost(choice: Sequence[_Field]) -> int:
        return sum(field.cost for field in choice) + covered(choice)

    best = min(choices, key=lambda choice: (cost(choice), covered(choice)))
    counts = len(cases), covered(best), len(cases) + len(others)
    if cost(best) >= len(cases):
        return ", ".join(sorted(cases)) if len(cases) <= 2 else "scattered", counts[0], 0, counts[2]
    return "; ".join(field.text for field in best) or "everywhere", *counts


def _field(place: int, cases: Sequence[str], others: Sequence[str]) -> _Field:
    values = {_values(case)[place] for case in cases}
    covers = sum(1 << bit for bit, case in enumerate(others) if _values(case)[place] in values)
    missing = {_values(case)[place] for case in others} - values
    text, cost = _name_values(values, missing)
    return _Field(f"{_NAMES[place]} {text}", cost, covers)


def _name_values(values: set[Any], missing: set[Any]) -> tuple[str, int]:
    if len(values) > 1 and missing and all(isinstance(value, int | float) for value in values | missing):
        if min(values) > max(missing):
            return f"{min(values):g} and more", 1
        if max(values) < min(missing):
            return f"{max(values):g} and less", 1
    if len(missing) < len(values):
        return f"not {_listed(missing)}", len(missing)
    return _listed(values), len(values)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, int | float) else value for value in sorted(values))


def as_items(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """(output, case id) of what has both."""
    return [(pair.output, pair.case) for pair in pairs]
