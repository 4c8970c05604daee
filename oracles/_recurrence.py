"""The recurrence over tokens, one step at a time, and what every form shares with it: tokens, states, the way back.

The state is [C | n], a matrix with one column more than v, since n is C for v = 1. It is held
relative to m', which follows the recurrence of m but starts at -inf where the initial state is
empty: m_0 alone must not underflow the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

import numpy as np

from oracles._arithmetic import Arithmetic
from oracles._definition import Inputs
from oracles._denominator import or_zero

# Tokens that are held in the arithmetic's numbers at a time.
BLOCK = 64
# Numbers of states that a walk keeps: in 17 ways each, 0.3 GiB.
KEPT = 2**21


@dataclass(frozen=True)
class State:
    """What a token hands to the next: [C' | n'], the definition's m and the stabilizer m' (``inner``)."""

    matrix: Any
    m: Any
    inner: Any

    @classmethod
    def initial(cls, ar: Arithmetic, inputs: Inputs) -> State:
        """The initial state."""
        matrix, m_0 = inputs.initial_state()
        inner = np.where(inputs.is_empty(), -np.inf, m_0)
        return cls(ar.array(matrix), ar.array(m_0), ar.freeze(ar.array(inner)))

    def of_m(self, ar: Arithmetic) -> Any:
        """[C | n], relative to the definition's m."""
        to_m = ar.exp(self.inner - or_zero(ar, ar.freeze(self.m)))
        return ar.weigh(to_m[..., None, None], self.matrix)


@dataclass(frozen=True)
class Tokens:
    """q, k, [v|1], i, phi and -f of successive tokens or, without the axis S, of one, in an arithmetic's numbers."""

    q: Any
    k: Any
    v: Any
    i: Any
    phi: Any
    minus_f: Any

    @classmethod
    def of(cls, ar: Arithmetic, inputs: Inputs, first: int, stop: int) -> Tokens:
        """The tokens first..stop - 1; no others are converted."""
        piece = inputs.tokens(first, stop)
        q, k, v = ar.array(piece.q), ar.array(piece.k), ar.array(piece.v_and_one())
        return cls(q, k, v, ar.array(piece.i), ar.log_sigmoid(ar.array(piece.f)), ar.array(-piece.f))

    def __getitem__(self, t: int) -> Tokens:
        q, k, v = (array[..., t, :] for array in (self.q, self.k, self.v))
        return Tokens(q, k, v, self.i[..., t], self.phi[..., t], self.minus_f[..., t])


class Recurrence:
    """The step from token to token; t counts from 0."""

    def __init__(self, ar: Arithmetic, inputs: Inputs) -> None:
        self.ar = ar
        self.inputs = inputs
        self.length, dhqk, _ = inputs.sizes
        self.c = ar.rsqrt(dhqk)
        self._block = -1

    def token(self, t: int) -> Tokens:
        """Token t."""
        if t // BLOCK != self._block:
            self._block = t // BLOCK
            first = self._block * BLOCK
            self._tokens = Tokens.of(self.ar, self.inputs, first, min(first + BLOCK, self.length))
        return self._tokens[t % BLOCK]

    def advance(self, before: State, t: int) -> State:
        """The state after token t."""
        ar, token = self.ar, self.token(t)
        m = ar.maximum(token.phi + before.m, token.i)
        inner = ar.freeze(ar.maximum(token.phi + before.inner, token.i))
        update = ar.outer(self.take_in(inner, token)[..., None] * token.k, token.v)
        kept = ar.weigh(self.forget(before.inner, inner, token)[..., None, None], before.matrix)
        return State(kept + update, m, inner)

    def forget(self, before: Any, after: Any, token: Tokens) -> Any:
        """F'_t = exp(phi_t + m'_{t-1} - m'_t), for two stabilizers."""
        return self.ar.exp(token.phi + (before - or_zero(self.ar, after)))

    def take_in(self, after: Any, token: Tokens) -> Any:
        """I'_t = exp(i_t - m'_t)."""
        return self.ar.exp(token.i - or_zero(self.ar, after))

    def read(self, after: State, t: int) -> tuple[Any, Any, Any]:
        """What token t reads: [N' | a']_t = c [C' | n']^T q_t, m_t and m'_t."""
        readout = self.ar.matmul(self.token(t).q[..., None, :], after.matrix)[..., 0, :] * self.c
        return readout, after.m, after.inner


class Trail:
    """The states of a walk, forth and then back.

    Only every ``stride``-th is kept; those between are computed again on the way back, by ``advance``, which gets a
    state and the number of the step.
    """

    def __init__(self, start: State, advance: Callable[[State, int], State], stride: int) -> None:
        self.advance, self.stride = advance, stride
        self.kept, self.last, self.count = list[State](), start, 0

    def go(self, after: State) -> None:
        """One step on, to this state."""
        if self.count % self.stride == 0:
            self.kept.append(self.last)
        self.last, self.count = after, self.count + 1

    def back(self) -> Iterator[tuple[int, State, State]]:
        """(step, the state before it, the state after it), the last step first."""
        after = self.last
        for first in reversed(range(0, self.count, self.stride)):
            states = [self.kept[first // self.stride]]
            for step in range(first, min(first + self.stride, self.count) - 1):
                states.append(self.advance(states[-1], step))
            while states:
                before = states.pop()
                yield first + len(states), before, after
                after = before


def stride_of(inputs: Inputs, count: int) -> int:
    """Of a walk of ``count`` steps: 1 if all of its states may be kept, else about sqrt(count)."""
    _, dhqk, dhhv = inputs.sizes
    return 1 if count * prod(inputs.lead) * dhqk * (dhhv + 1) <= KEPT else isqrt(count - 1) + 1


def by_blocks(
    ar: Arithmetic, tokens: Sequence[tuple[Any, ...]], lead: int, function: Callable[..., tuple[Any, ...]]
) -> list[Any]:
    """What ``function`` makes of tokens, BLOCK of them at a time: operations on many cost little more than on one.

    Args:
        tokens: the numbers of each, scalars (...) and vectors (..., D).
        lead: how many axes "..." are.
        function: it gets them with an axis of tokens, (..., L) and (..., L, D), and returns a tuple of such.

    Returns:
        The parts of that tuple, joined along the tokens.
    """
    blocks = []
    for first in range(0, len(tokens), BLOCK):
        columns = zip(*tokens[first : first + BLOCK], strict=True)
        blocks.append(function(*(ar.stack(parts, lead - len(parts[0].shape) - 1) for parts in columns)))
    return [
        ar.concatenate(parts) if len(parts[0].shape) == lead + 1 else join_tokens(ar, parts)
        for parts in zip(*blocks, strict=True)
    ]


def join_tokens(ar: Arithmetic, parts: Sequence[Any]) -> Any:
    """Arrays (..., L, D) joined along the tokens."""
    return ar.transpose(ar.concatenate([ar.transpose(part) for part in parts]))
