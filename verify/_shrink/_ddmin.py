"""Delta debugging: a subset that still fails, and does no more without any one of its elements.

Source: A. Zeller, R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE Transactions on Software
Engineering 28(2), 2002, figure 4 (ddmin).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def ddmin(items: Sequence[Item], fails: Callable[[list[Item]], bool], *, empty: bool = False) -> list[Item]:
    """The elements of a 1-minimal subset that fails, in order.

    Args:
        items: which fail all together.
        fails: whether a subset does; asked for smaller and smaller ones.
        empty: whether the empty subset may be asked for.
    """
    kept, parts = list(items), 2
    if empty and kept and fails([]):
        return []
    while len(kept) >= 2:
        edges = [len(kept) * part // parts for part in range(parts + 1)]
        spans = list(itertools.pairwise(edges))
        subsets = [(kept[first:stop], 2) for first, stop in spans]
        complements = [(kept[:first] + kept[stop:], max(parts - 1, 2)) for first, stop in spans]
        # In two parts each is the other's complement.
        for subset, next_parts in subsets + (complements if parts > 2 else []):
            if fails(subset):
                kept, parts = subset, next_parts
                break
        else:
            if parts >= len(kept):
                break
            parts = min(2 * parts, len(kept))
    return kept
