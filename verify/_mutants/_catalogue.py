"""The catalogue: all mutants by name, in the order of the kernels."""

from __future__ import annotations

import random
from collections.abc import Sequence

from verify._mutants import _of_backward, _of_device_functions, _of_forward, _of_host, _of_pairs
from verify._mutants._mutant import Mutant
from verify._tiers import TIERS

CATALOGUE: tuple[Mutant, ...] = (
    *_of_device_functions.MUTANTS,
    *_of_forward.MUTANTS,
    *_of_backward.MUTANTS,
    *_of_pairs.MUTANTS,
    *_of_host.MUTANTS,
)


def sampled(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """That many of them, none equivalent, drawn with a seed, in the order of the catalogue."""
    killable = [mutant for mutant in mutants if not mutant.equivalent]
    chosen = {mutant.name for mutant in random.Random(seed).sample(killable, min(size, len(killable)))}
    return [mutant for mutant in killable if mutant.name in chosen]


def in_reach(mutant: Mutant, tier: str) -> bool:
    """Whether a case of the tier is meant to see it, or none could."""
    names = list(TIERS)
    return not mutant.beyond and names.index(mutant.tier) <= names.index(tier)
