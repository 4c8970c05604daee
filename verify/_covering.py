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


def covering_array(factors: Factors, strength: int, excluded: Mapping[str, Any]) -> list[Row]:
    """Rows that cover every combination of ``strength`` levels, but for the excluded.

    Args:
        factors: the levels by factor.
        strength: of how many factors every combination of levels occurs.
        excluded: a level of some factors, which no row has all of.
    """
    apart = [{"operator": "ne", "left": factor, "value": level} for factor, level in excluded.items()]
    rows = covertable.make(factors, strength=strength, constraints=[{"operator": "or", "conditions": apart}])
    return [{factor: row[factor] for factor in factors} for row in rows]


def combinations(factors: Factors, strength: int, excluded: Mapping[str, Any]) -> Iterator[Row]:
    """What ``covering_array`` covers: every combination of ``strength`` levels of different factors."""
    for names in itertools.combinations(factors, strength):
        for levels in itertools.product(*(factors[name] for name in names)):
            row = dict(zip(names, levels, strict=True))
            if not excluded.items() <= row.items():
                yield row
