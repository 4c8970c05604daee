"""Balls as narrow as asked for: a form is evaluated again with twice the bits until they are.

How many bits a case needs cannot be told beforehand: they are what cancels (q_t.n_t, a sum of gates next to
a large m) and what a decision between near numbers takes. Most are decided by more bits. Not decided by any
number of bits are equal numbers of which one is not exact: |a_t| = b_t with |a_t| = 2 exp(log sigmoid(0)), say.
A maximum of the two is narrow all the same, so the outputs are enclosed; a gradient has a derivative on either
side of the tie, its ball holds both, and the limit is reached. Equal numbers without rounding are decided: sums
of f = +inf (phi = 0) and gates that repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oracles._ball import Ball, Balls
from oracles._definition import Contract, Inputs


class EnclosureError(ArithmeticError):
    """Balls that are wider than asked for at the limit of the precision."""


def enclose(
    form: Callable[..., Any],
    inputs: Inputs,
    contract: Contract,
    *arguments: Any,
    relative: float = 2.0**-60,
    absolute: float = 2.0**-160,
    bits: int = 128,
    limit: int = 4096,
    **options: Any,
) -> tuple[Any, int]:
    """``form(Ball(bits), inputs, contract, *arguments, **options)`` with as many bits as it takes.

    Args:
        form: a form or a VJP, whose ``arguments`` are then the cotangents.
        relative, absolute: every radius becomes at most max(relative |midpoint|, absolute).
        bits: to begin with; doubled until all radii are small enough.
        limit: the most bits.

    Returns:
        What the form returns, in ``Balls``, and the bits.

    Raises:
        EnclosureError: naming the outputs that are too wide at the limit.
        ValueError: if bits is less than 53 or more than limit.
    """
    if bits > limit:
        raise ValueError(f"bits is {bits}; expected at most the limit of {limit}.")
    while True:
        ball = Ball(bits)
        outputs = form(ball, inputs, contract, *arguments, **options)
        too_wide = {name: balls[ball.is_wide(balls, relative, absolute)] for name, balls in outputs.items()}
        if not any(balls.x.size for balls in too_wide.values()):
            return outputs, bits
        if bits == limit:
            sizes = {name: balls.x.size for name, balls in outputs.items()}
            faults = [_fault(name, balls, sizes[name]) for name, balls in too_wide.items() if balls.x.size]
            raise EnclosureError(f"too wide at the limit of {limit} bits: {'; '.join(faults)}.")
        bits = min(2 * bits, limit)


def _fault(name: str, balls: Balls, total: int) -> str:
    # The widest is one of which nothing is known, if there is one.
    unknown = [x for x in balls.x if x.is_nan()]
    widest = unknown[0] if unknown else max(balls.x, key=lambda x: x.rad())
    return f"{name}, {balls.x.size} of {total} balls, the widest {widest.str(6)}"
