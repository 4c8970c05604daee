"""Which cases a command line selects: --tier, --case, --seed, -k and --no-gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from verify._case import Case, CaseError
from verify._errors import UsageError
from verify._relation_cases import parse_case
from verify._tiers import TIERS, each_once

# What the commands that select cases have in common.
TierOption = Annotated[str | None, typer.Option(help=f"Tier of cases: {', '.join(TIERS)}. Default: smoke.")]
CaseOption = Annotated[list[str] | None, typer.Option("--case", help="Case id, instead of a tier; may be repeated.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of a tier's cases. Default: 0.")]
ExpressionOption = Annotated[str | None, typer.Option("-k", help="Only ids that match: words, and, or, not, ( ).")]
GradientsOption = Annotated[
    bool, typer.Option("--gradients/--no-gradients", help="Gradients too, or the forward pass alone.")
]

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
# Of cases without an end so many may fail to match before none is expected to.
_MISSES = 10_000


def select_cases(
    tier: str, ids: Sequence[str], expression: str | None, *, gradients: bool = True, seed: int | None = None
) -> list[Case]:
    """The cases, in order.

    Args:
        tier: used if no ids are given.
        ids: case ids; one that is given again is one case.
        expression: parts of ids joined by and, or, not and parentheses; None keeps all.
        gradients: False makes the forward pass alone of every case that is selected.
        seed: of the tier's cases; None is 0. An id has its own.

    Raises:
        UsageError: for an unknown or endless tier, an id that does not parse, an expression that does not
            parse, a seed beside ids, or a selection that is empty.
    """
    if is_endless(tier) and not ids:
        raise UsageError(f"--tier {tier} has no end of cases; it is for mlstm-verify run, and list cases.")
    if ids and seed is not None:
        raise UsageError(f"--seed {seed} is for a tier; a case id ends with its own seed.")
    cases = list(each_once(parse_case(text) for text in ids)) or TIERS[tier].cases(seed or 0)
    if expression is not None:
        matches = Expression(expression)
        selected = [case for case in cases if matches(case.id)]
        if not selected:
            raise UsageError(f"-k {expression!r} selects none of {len(cases)} cases; see mlstm-verify list cases.")
        cases = selected
    if gradients:
        return cases
    forward = [alone for case in cases if (alone := _forward(case)) is not None]
    if not forward:
        raise UsageError(f"--no-gradients leaves none of {len(cases)} cases: {cases[0].id} needs gradients.")
    return list(each_once(forward))


def _forward(case: Case) -> Case | None:
    """The forward pass alone; None of a relation that says nothing about it."""
    try:
        return replace(case, cotangents="none")
    except CaseError:
        return None


def is_endless(tier: str) -> bool:
    """Whether the cases of a tier have no end; UsageError if there is no such tier."""
    if tier not in TIERS:
        raise UsageError(f"--tier is {tier!r}; expected one of {', '.join(TIERS)}.")
    return TIERS[tier].endless


def draw_cases(tier: str, expression: str | None, *, gradients: bool = True, seed: int | None = None) -> Iterator[Case]:
    """The cases of an endless tier as ``select_cases`` would have them.

    Raises:
        UsageError: for an expression that does not parse, at once, or that selects none of many cases.
    """
    matches = Expression(expression) if expression is not None else None

    def matching() -> Iterator[Case]:
        misses = 0
        for case in TIERS[tier].draw(seed or 0):
            if matches is None or matches(case.id):
                misses = 0
                yield case if gradients else replace(case, cotangents="none")
            elif (misses := misses + 1) == _MISSES:
                raise UsageError(f"-k {expression!r} selects none of {_MISSES} cases; see mlstm-verify list cases.")

    return each_once(matching())


def choose_shard(cases: list[Case], shard: str) -> list[Case]:
    """The I-th of N parts of the cases, ``I/N``: every N-th case, beginning with the I-th.

    Raises:
        UsageError: for a shard that does not parse or is out of range, or a part that is empty.
    """
    number, total = parse_shard(shard)
    chosen = cases[number - 1 :: total]
    if not chosen:
        raise UsageError(f"--shard {shard} selects none of {len(cases)} cases; expected N of at most {len(cases)}.")
    return chosen


def parse_shard(shard: str) -> tuple[int, int]:
    """(I, N) of ``I/N``; UsageError unless 1 <= I <= N."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard is {shard!r}; expected I/N with 1 <= I <= N, as in 2/3.")
    return int(match[1]), int(match[2])


class Expression:
    """``a and not (b or c)``, where a word holds if it is part of the text. Recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self("")

    def __call__(self, subject: str) -> bool:
        self.subject, self.rest = subject, list(self.tokens)
        value = self._or()
        if self.rest:
            raise self._error(self.rest[0])
        return value

    def _or(self) -> bool:
        value = self._and()
        while self.rest[:1] == ["or"]:
            self.rest.pop(0)
            value = self._and() or value
        return value

    def _and(self) -> bool:
        value = self._not()
        while self.rest[:1] == ["and"]:
            self.rest.pop(0)
            value = self._not() and value
        return value

    def _not(self) -> bool:
        if not self.rest:
            raise self._error("its end")
        token = self.rest.pop(0)
        if token == "not":
            return not self._not()
        if token == "(":
            value = self._or()
            if not self.rest or self.rest.pop(0) != ")":
                raise self._error("(")
            return value
        if token in ("and", "or", ")"):
            raise self._error(token)
        return token in self.subject

    def _error(self, token: str) -> UsageError:
        return UsageError(f"-k {self.text!r} does not parse at {token}; expected words joined by and, or, not, ( ).")
