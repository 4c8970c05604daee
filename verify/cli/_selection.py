"""Which cases a command line selects: --tier, --case, -k and --no-gradients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from verify._case import Case
from verify._errors import UsageError
from verify._relation_cases import parse_case
from verify._tiers import TIERS

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")


def select_cases(tier: str, ids: Sequence[str], expression: str | None, *, gradients: bool = True) -> list[Case]:
    """The cases, in order.

    Args:
        tier: used if no ids are given.
        ids: case ids.
        expression: parts of ids joined by and, or, not and parentheses; None keeps all.
        gradients: False makes the forward pass alone of every case that is selected.

    Raises:
        UsageError: for an unknown tier, an id that does not parse, an expression that does not
            parse, or a selection that is empty.
    """
    if tier not in TIERS:
        raise UsageError(f"--tier is {tier!r}; expected one of {', '.join(TIERS)}.")
    cases = [parse_case(text) for text in ids] or TIERS[tier].cases()
    if expression is not None:
        matches = _Expression(expression)
        selected = [case for case in cases if matches(case.id)]
        if not selected:
            raise UsageError(f"-k {expression!r} selects none of {len(cases)} cases; see mlstm-verify list cases.")
        cases = selected
    if gradients:
        return cases
    # A relation of gradients has no forward pass alone.
    forward = [replace(case, cotangents="none") for case in cases if "gradient_causality/" not in case.id]
    if not forward:
        raise UsageError(f"--no-gradients leaves none of {len(cases)} cases: gradient_causality needs gradients.")
    return list(dict.fromkeys(forward))


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


class _Expression:
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
