"""The chunkwise and the recurrent form and their VJPs, with places where a departure may act.

Everything but the row of a token (denominator, and what is derived through it) and the way from chunk to chunk is the
oracle's. With ``Places()``, where nothing acts, the operations are the oracle's, one by one; a test holds them to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles import Arithmetic, Contract, Cotangents, Gradients, Inputs
from oracles._cotangents import Adjoint
from oracles._denominator import or_zero
from oracles._parallel import Segment
from oracles._parallel_vjp import SegmentBack
from oracles._recurrence import Recurrence, State, Tokens, Trail, by_blocks, join_tokens, stride_of
from oracles._recurrent_vjp import Returning, StepBack, gradients_of

Forgets = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Stored = Callable[[Arithmetic, Any], Any]


@dataclass(frozen=True)
class Places:
    """Where a departure may act, and what happens there by the definition.

    Attributes:
        eps: ``outside``: max(|a|, b) + eps; ``inside``: max(|a|, b, eps); ``unscaled``: outside, but eps itself is
            added to a denominator that is relative to another stabilizer than m.
        absolute: False: max(a, b) + eps.
        through_qn: whether the gradient of |q.n| is there.
        signed: False: it is that of q.n.
        through_m: whether the gradient of a row through m is there.
        through_m_last: whether that of the last state through m is.
        kappa_correct: whose gradient through m there is, the first mode's or the second's; None: that of the contract.
        eps_differentiated: False: what is inside the maximum is differentiated as if eps were outside.
        forgets: f -> (phi, the argument of the sigmoid in df), float64; None: (log sigmoid(f), -f).
        last: ``m``: the last state is relative to m; ``inner``, ``n inner``: it, or n alone, to the m' that leaves
            out the m_0 of an empty state; ``zero``: to 0.
        carry, carry_back: what is done to the state, and to its gradient, where a chunk ends; None: nothing.
    """

    eps: str = "outside"
    absolute: bool = True
    through_qn: bool = True
    signed: bool = True
    through_m: bool = True
    through_m_last: bool = True
    kappa_correct: bool | None = None
    eps_differentiated: bool = True
    forgets: Forgets | None = None
    last: str = "m"
    carry: Stored | None = None
    carry_back: Callable[[Arithmetic, Adjoint], Adjoint] | None = None


@dataclass(frozen=True)
class Form:
    """One computation: an arithmetic, what enters, and the places.

    Attributes:
        ar, inputs, contract, places: see there.
        chunk_size: L, where ``places.carry`` acts.
    """

    ar: Arithmetic
    inputs: Inputs
    contract: Contract
    places: Places
    chunk_size: int

    def by_chunks(self, cotangents: Cotangents | None) -> dict[str, Any]:
        """All outputs by chunks and, with cotangents, the gradients."""
        return _ByChunks(self).all(cotangents)

    def by_tokens(self, cotangents: Cotangents | None) -> dict[str, Any]:
        """The same token by token."""
        return _ByTokens(self).all(cotangents)

    def tokens(self, tokens: Tokens, first: int, stop: int | None) -> Tokens:
        """The tokens with this form's forget gates; stop None: token ``first`` alone, without an axis."""
        if self.places.forgets is None:
            return tokens
        f = self.inputs.f[..., first] if stop is None else self.inputs.f[..., first:stop]
        phi, slope = self.places.forgets(f)
        return Tokens(tokens.q, tokens.k, tokens.v, tokens.i, self.ar.array(phi), self.ar.array(slope))

    def carried(self, state: State, token: int) -> State:
        """The state as it leaves ``token`` for the next."""
        if self.places.carry is None or (token + 1) % self.chunk_size:
            return state
        return State(self.places.carry(self.ar, state.matrix), state.m, state.inner)

    def carried_back(self, adjoint: Adjoint, token: int) -> Adjoint:
        """What comes back to the state before ``token``."""
        if self.places.carry_back is None or not token or token % self.chunk_size:
            return adjoint
        return self.places.carry_back(self.ar, adjoint)

    def last_state(self, last: State) -> tuple[Any, Any]:
        """C_last and n_last."""
        relative = last.of_m(self.ar)
        C, n = relative[..., :-1], relative[..., -1]
        if self.places.last == "zero":
            to_zero = self.ar.exp(last.m)
            return self.ar.weigh(to_zero[..., None, None], C), self.ar.weigh(to_zero[..., None], n)
        if self.places.last != "m":
            n = last.matrix[..., -1]
        return last.matrix[..., :-1] if self.places.last == "inner" else C, n

    def outputs(self, readout: Any, m: Any, inner: Any) -> tuple[Any, Any, Any]:
        """h_t, d_t and m_t from [N'|a'] relative to ``inner``."""
        ar, a = self.ar, readout[..., -1]
        h = ar.output(ar.divide(readout[..., :-1], self._denominator(a, m, inner)[0][..., None]))
        return h, self._denominator(a * ar.exp(inner - or_zero(ar, m)), m, m)[0], m

    def _denominator(self, a: Any, m: Any, inner: Any) -> tuple[Any, Any, Any, Any]:
        """d', the size of a', b' with an eps that is inside, and that eps."""
        ar, contract = self.ar, self.contract
        b = self._threshold(m, inner)
        eps = self._times(ar.exp(m - or_zero(ar, inner)), contract.eps)
        if self.places.eps == "unscaled":
            eps = eps * ar.array(0.0) + ar.array(contract.eps)
        size = ar.absolute(a) if self.places.absolute else a
        if self.places.eps == "inside":
            b = ar.maximum(b, eps)
            return ar.maximum(size, b), size, b, eps
        return ar.maximum(size, b) + eps, size, b, eps

    def _threshold(self, m: Any, inner: Any) -> Any:
        ar = self.ar
        exponent = (ar.array(0.0) if self.contract.stabilize_correctly else m) - or_zero(ar, inner)
        return self._times(ar.exp(exponent), self.contract.norm_val)

    def _times(self, power: Any, constant: float) -> Any:
        return power * self.ar.array(constant) if constant else self.ar.array(0.0)

    def row_cotangents(self, readout: Any, m: Any, inner: Any, dh: Any) -> tuple[Any, Any, Any]:
        """As the oracle's: [x'|gamma'] relative to ``inner``, the same relative to m, and mu."""
        ar = self.ar
        shared = ar.freeze(m)
        x, _ = self._one_row(readout, m, inner, dh)
        relative_to_m = readout * ar.exp(inner - or_zero(ar, shared))[..., None]
        x_of_m, mu = self._one_row(relative_to_m, m, shared, dh)
        return x, x_of_m, mu

    def _one_row(self, readout: Any, m: Any, inner: Any, dh: Any) -> tuple[Any, Any]:
        ar, places, a = self.ar, self.places, readout[..., -1]
        zero, nothing = ar.array(0.0), ar.array(np.zeros(a.shape))
        d, size, b, eps = self._denominator(a, m, inner)
        if not places.eps_differentiated:
            b = self._threshold(m, inner)
        x = ar.divide(dh, d[..., None])
        y = ar.sum(dh * ar.output(ar.divide(readout[..., :-1], d[..., None])))
        gamma = mu = nothing
        if places.through_qn:
            sign = ar.sign(a) if places.signed and places.absolute else ar.array(1.0)
            gamma = zero - ar.below(b, size) * sign * ar.divide(y, d)
        if places.through_m:
            mu = ar.term(zero - self._through_m(d, size, b, eps) * y)
        empty = ar.is_empty(inner)
        row = ar.concatenate([x, gamma[..., None]])
        return ar.where(empty[..., None], zero, row), ar.where(empty, zero, mu)

    def _through_m(self, d: Any, size: Any, b: Any, eps: Any) -> Any:
        """kappa: the derivative of log d by m, at fixed exp(m) C and exp(m) n."""
        ar, correct = self.ar, self.places.kappa_correct
        constant = not (self.contract.stabilize_correctly if correct is None else correct)
        if self.places.eps == "inside" and self.places.eps_differentiated:
            # Of what the maximum is of, norm_val exp(-m) moves against m as a does; eps alone stays.
            return ar.at_least(b, size) if constant else ar.at_least(b, size) * ar.at_least(eps, b)
        kappa = ar.divide(ar.array(self.contract.eps), d)
        return ar.below(b, size) * kappa + ar.at_least(b, size) if constant else kappa

    def adjoint_of_last(self, cotangents: Cotangents, last: State) -> Adjoint:
        """What comes back to the last state."""
        return Adjoint.of_last(self.ar, self.inputs, cotangents, last, self.places.through_m_last)


class _ByChunks:
    """The form over one segment after the other."""

    def __init__(self, form: Form) -> None:
        self.form, self.ar, length = form, form.ar, form.inputs.sizes[0]
        self.starts = range(0, length, form.chunk_size)

    def all(self, cotangents: Cotangents | None) -> dict[str, Any]:
        form, ar = self.form, self.ar
        trail, rows = Trail(State.initial(ar, form.inputs), self._advance, 1), []
        for number in range(len(self.starts)):
            segment = self._segment(trail.last, number)
            rows.append(form.outputs(segment.readout, segment.m, segment.inner))
            trail.go(self._carried(segment, number))
        h, d, m = zip(*rows, strict=True)
        C_last, n_last = form.last_state(trail.last)
        made = {"h": join_tokens(ar, h), "n": ar.concatenate(d), "m": ar.concatenate(m)}
        made |= {"C_last": C_last, "n_last": n_last, "m_last": trail.last.m}
        return made if cotangents is None else made | self._back(trail, cotangents)

    def _segment(self, start: State, number: int) -> Segment:
        first = self.starts[number]
        stop = min(first + self.form.chunk_size, self.form.inputs.sizes[0])
        tokens = Tokens.of(self.ar, self.form.inputs, first, stop)
        return Segment(self.ar, self.form.tokens(tokens, first, stop), start)

    def _advance(self, state: State, number: int) -> State:
        return self._carried(self._segment(state, number), number)

    def _carried(self, segment: Segment, number: int) -> State:
        last = min(self.starts[number] + self.form.chunk_size, self.form.inputs.sizes[0]) - 1
        return self.form.carried(segment.last(), last)

    def _back(self, trail: Trail, cotangents: Cotangents) -> dict[str, Any]:
        form, ar = self.form, self.ar
        dh, _, _ = cotangents.filled(form.inputs)
        adjoint, made = form.adjoint_of_last(cotangents, trail.last), []
        for number, before, _ in trail.back():
            first = self.starts[number]
            segment = self._segment(before, number)
            back = _SegmentBack(segment, form, ar.array(dh[..., first : first + form.chunk_size, :]), adjoint)
            made.append(back.rows())
            adjoint = form.carried_back(back.before(), first)
        *vectors, di, df = zip(*reversed(made), strict=True)
        dq, dk, dv = (join_tokens(ar, parts) for parts in vectors)
        gradients = Gradients(dq, dk, dv, ar.concatenate(di), ar.concatenate(df))
        return dict(adjoint.with_initial(ar, form.inputs, State.initial(ar, form.inputs), gradients).items())


class _SegmentBack(SegmentBack):
    """The oracle's way back over a segment, with the rows of a form."""

    def __init__(self, segment: Segment, form: Form, dh: Any, after: Adjoint) -> None:
        self.ar, self.segment, self.after = segment.ar, segment, after
        self.x, self.x_of_m, mu = form.row_cotangents(segment.readout, segment.m, segment.inner, dh)
        self.to_i, self.to_phi = self._through_m(mu)


class _Recurrence(Recurrence):
    """The oracle's recurrence, with the forget gates of a form."""

    def __init__(self, form: Form) -> None:
        super().__init__(form.ar, form.inputs)
        self.form = form

    def token(self, t: int) -> Tokens:
        return self.form.tokens(super().token(t), t, None)


class _ByTokens:
    """The form token by token."""

    def __init__(self, form: Form) -> None:
        self.form, self.ar, self.tokens = form, form.ar, _Recurrence(form)

    def all(self, cotangents: Cotangents | None) -> dict[str, Any]:
        form, ar, tokens = self.form, self.ar, self.tokens
        # The state that a token leaves, not yet what its successor reads.
        start = State.initial(ar, form.inputs)
        trail, read = Trail(start, self._advance, stride_of(form.inputs, tokens.length)), []
        for t in range(tokens.length):
            trail.go(self._advance(trail.last, t))
            read.append(tokens.read(trail.last, t))
        h, d, m = by_blocks(ar, read, len(form.inputs.lead), form.outputs)
        last = form.carried(trail.last, tokens.length - 1)
        C_last, n_last = form.last_state(last)
        made = {"h": h, "n": d, "m": m, "C_last": C_last, "n_last": n_last, "m_last": last.m}
        return made if cotangents is None else made | self._back(trail, read, last, cotangents)

    def _back(self, trail: Trail, read: list[tuple[Any, ...]], last: State, cotangents: Cotangents) -> dict[str, Any]:
        form, ar, tokens, lead = self.form, self.ar, self.tokens, len(self.form.inputs.lead)
        returning = Returning(ar, lead, read, cotangents.filled(form.inputs)[0], form.row_cotangents)
        adjoint, made = form.adjoint_of_last(cotangents, last), []
        for t, before, after in trail.back():
            step = StepBack(tokens, t, self._read(before, t), after, returning.row(t), adjoint)
            made.append(step.sums())
            adjoint = form.carried_back(step.leaving(), t)
        gradients = gradients_of(ar, tokens.c, made[::-1], lead)
        return dict(adjoint.with_initial(ar, form.inputs, State.initial(ar, form.inputs), gradients).items())

    def _read(self, before: State, t: int) -> State:
        return self.form.carried(before, t - 1) if t else before

    def _advance(self, before: State, t: int) -> State:
        return self.tokens.advance(self._read(before, t), t)
