"""A reading: what a subject is taken to compute of a case, and the reference that follows from it.

The reading without a departure is the contract. Its values are the oracle's; bounds and noise floor are computed
through the same departures, in the units of a precision, as ``verify._reference`` computes the suite's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from oracles import Arithmetic, Contract, Cotangents, Float64, Inputs, Precision
from verify._case import Case
from verify._diagnosis._forms import Form, Places
from verify._error_scales import Bounded, Orders
from verify._problem import GRADIENT_OF, Problem, make_problem
from verify._reference import OUTPUTS, REPLICATES, Reference

Numbers = dict[str, Any]
# What is done to the outputs and gradients, in the numbers of an arithmetic.
Change = Callable[[Arithmetic, Numbers], Numbers]
_OF_LAST = ("C_last", "n_last", "m_last")


@dataclass(frozen=True, eq=False)
class Reading:
    """What a subject is taken to compute.

    Attributes:
        case, problem: what is asked of it.
        inputs, contract, cotangents: what it computes with; cotangents None: the forward pass alone.
        places: what it does in the form.
        last_length: tokens that its last state has seen.
        changes: of what it returns, the last one first.
        slack: by output, by how much more than its precision a departure rounds it, relative to the whole output.
        coarseness: the unit roundoff of what a departure rounds inside; 0 without one.
    """

    case: Case
    problem: Problem
    inputs: Inputs
    contract: Contract
    cotangents: Cotangents | None
    places: Places
    last_length: int
    changes: tuple[Change, ...] = ()
    slack: Mapping[str, float] = field(default_factory=dict)
    coarseness: float = 0.0
    _known: dict[str, Bounded] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def of(cls, case: Case) -> Reading:
        """The contract."""
        problem = make_problem(case)
        cotangents = problem.exact_cotangents if case.cotangents != "none" else None
        return cls(case, problem, problem.inputs, problem.contract, cotangents, Places(), case.length)

    def with_inputs(self, change: Change | None = None, **arrays: Any) -> Reading:
        """With other inputs; ``change`` makes the gradients those of the inputs as they were given."""
        return self.changing(change, inputs=replace(self.inputs, **arrays))

    def at(self, **places: Any) -> Reading:
        """With something else at these places."""
        return replace(self, places=replace(self.places, **places))

    def changing(self, change: Change | None, *, slack: Mapping[str, float] | None = None, **fields: Any) -> Reading:
        """With one more change, before those that are there, and with other fields."""
        changes = self.changes if change is None else (change, *self.changes)
        merged = dict(self.slack)
        for name, unit in (slack or {}).items():
            merged[name] = merged.get(name, 0.0) + unit
        return replace(self, changes=changes, slack=merged, **fields)

    def by_chunks(self, arithmetic: Arithmetic) -> Numbers:
        """All outputs and gradients, by chunks."""
        return self._all(arithmetic, Form.by_chunks)

    def by_tokens(self, arithmetic: Arithmetic) -> Numbers:
        """The same token by token."""
        return self._all(arithmetic, Form.by_tokens)

    def values(self) -> dict[str, np.ndarray]:
        """All outputs and gradients in float64."""
        with np.errstate(all="ignore"):
            return {name: np.asarray(number) for name, number in self.by_chunks(Float64()).items()}

    def forward(self) -> Reading:
        """The same without gradients."""
        return replace(self, cotangents=None)

    def reference(self, precision: Precision, *, replicates: int = REPLICATES) -> Reference:
        """What a subject of this reading and this precision returns; without replicates no noise floor."""
        orders = Orders(self.by_chunks, self.by_tokens)
        with np.errstate(all="ignore"):
            if precision.name not in self._known:
                self._known[precision.name] = Bounded.of(orders, self.case, self.problem, precision)
            bounded = self._known[precision.name]
            bounds, noise = bounded.scales(orders, OUTPUTS, replicates)
        unknown = {name: ~(np.isfinite(bounded.values[name]) & np.isfinite(bound)) for name, bound in bounds.items()}
        kept = {name: where for name, where in unknown.items() if where.any()}
        return Reference.of(bounded, bounds, noise, kept)

    def _all(self, ar: Arithmetic, order: Callable[[Form, Cotangents | None], Numbers]) -> Numbers:
        numbers = self._of_two_lengths(ar, order)
        for change in self.changes:
            numbers = change(ar, dict(numbers))
        return numbers

    def _of_two_lengths(self, ar: Arithmetic, order: Callable[[Form, Cotangents | None], Numbers]) -> Numbers:
        length, cotangents = self.case.length, self.cotangents
        if self.last_length == length:
            return order(self._form(ar, self.inputs), cotangents)
        # The rows come from all tokens, the last state from fewer; what comes back through either adds up.
        first = self.inputs.tokens(0, self.last_length)
        first = replace(first, C_0=self.inputs.C_0, n_0=self.inputs.n_0, m_0=self.inputs.m_0)
        of_rows = None if cotangents is None else Cotangents(h=cotangents.h)
        of_last = None if cotangents is None else replace(cotangents, h=None)
        whole, short = order(self._form(ar, self.inputs), of_rows), order(self._form(ar, first), of_last)
        for name in _OF_LAST:
            whole[name] = short[name]
        for name in GRADIENT_OF.values() & whole.keys():
            whole[name] = whole[name] + _with_zeros(ar, name, short[name], length - self.last_length)
        return whole

    def _form(self, ar: Arithmetic, inputs: Inputs) -> Form:
        return Form(ar, inputs, self.contract, self.places, self.case.chunk_size)


def _with_zeros(ar: Arithmetic, name: str, number: Any, tokens: int) -> Any:
    """A gradient of the first tokens with zeros for the others."""
    if name in ("dC_0", "dn_0", "dm_0"):
        return number
    if name in ("di", "df"):
        return ar.concatenate([number, ar.array(np.zeros((*number.shape[:-1], tokens)))])
    zeros = ar.array(np.zeros((*number.shape[:-2], number.shape[-1], tokens)))
    return ar.transpose(ar.concatenate([ar.transpose(number), zeros]))
