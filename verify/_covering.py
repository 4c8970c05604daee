"""Covering arrays: few rows in which every pair, or every triple, of levels of different factors occurs.

A fault that shows only where two settings meet is found by strength 2, one that takes three by strength 3. The rows
come from covertable, whose greedy search is deterministic.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import covertable

Factors = Mapping[str, Sequence[Any]]
Row = dict[str, Any]


def covering_array(factors: Factors, strength: int, excluded: Sequence[Row]) -> list[Row]:
    """Rows that cover every combination of ``strength`` levels, but for the excluded.

    Args:
        factors: the levels by factor.
        strength: of how many factors every combination of levels occurs.
        excluded: each a level of some factors, which no row has all of.
    """
    constraints = [
        {"operator": "or", "conditions": [{"operator": "ne", "left": factor, "value": row[factor]} for factor in row]}
        for row in excluded
    ]
    rows = covertable.make(factors, strength=strength, constraints=constraints)
    return [{factor: row[factor] for factor in factors} for row in rows]


def combinations(factors: Factors, strength: int, excluded: Sequence[Row]) -> Iterator[Row]:
    """What ``covering_array`` covers: every combination of ``strength`` levels of different factors."""
    for names in itertools.combinations(factors, strength):
        for levels in itertools.product(*(factors[name] for name in names)):
            row = dict(zip(names, levels, strict=True))
            if not any(apart.items() <= row.items() for apart in excluded):
                yield row
