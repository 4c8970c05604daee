"""The question that is asked of every commit: an expression over the outcome of a case and what was measured.

    outcome != pass                     the default
    z(df) > 8                           z is the largest z; also rms_z, ratio, normwise, componentwise, nonfinite
    excess > 1                          of the statistic nearest to its threshold, as the verdict has it
    outcome == crash or ratio(h) > 1

Python's grammar, of which these parts are known: and, or, not, comparisons, parentheses, numbers, outcomes. An answer
is yes, no, or unknown (None), by Kleene's rules: a subject that crashed has no z, and one that was not run is no pass
and no failure.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from verify._case import Case
from verify._errors import UsageError
from verify._problem import GRADIENT_OF
from verify._relation_cases import RelationCase
from verify._verdict import Outcome

DEFAULT = "outcome != pass"
# Names of statistics in an expression, and of the fields of a ``Measurement``.
STATISTICS = {
    "z": "largest_z",
    **{name: name for name in ("rms_z", "largest_z", "ratio", "normwise", "componentwise", "nonfinite")},
}
_OUTPUTS = ("h", "C_last", "n_last", "m_last", "n", "m")
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_EXAMPLES = 'expected an expression as "z(df) > 8", "ratio(h) > 1" or "outcome == crash"'


@dataclass(frozen=True)
class Facts:
    """What is known of a commit.

    Attributes:
        outcome: of the case.
        measures: by output, the fields of its ``Measurement``; empty if nothing was measured.
        excess: of the verdict's finding; NaN without one.
    """

    outcome: Outcome
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    excess: float = math.nan


Answer = Callable[[Facts], bool | None]
Value = Callable[[Facts], float]


@dataclass(frozen=True)
class Shown:
    """The number that tells most about the answer.

    Attributes:
        name: as it stands in the expression.
        value: of a commit; NaN if it has none.
        threshold: that it is compared with; None if with no number.
    """

    name: str
    value: Value
    threshold: float | None


class Predicate:
    """A parsed expression.

    Args:
        text: see the head of this module.
        case: whose outputs may be named.

    Attributes:
        text: as given.
        shown: what a picture shows.

    Raises:
        UsageError: saying where the text does not parse, or what of it is unknown.
    """

    def __init__(self, text: str, case: Case) -> None:
        self.text, self._outputs = text, _outputs(case)
        self.shown = Shown("excess", lambda facts: facts.excess, 1.0)
        self._chosen = False
        try:
            # Names of outcomes are none of Python's; what replaces them is as long, so that columns stay.
            parsed = ast.parse(_NOT_NAMES.sub(lambda match: _as_name(match[0]), text), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = getattr(error, "offset", None) or len(text) + 1
            raise self._wrong(column, getattr(error, "msg", None) or str(error)) from error
        self._answer = self._condition(parsed.body)

    def __call__(self, facts: Facts) -> bool | None:
        """Whether the commit is a bad one; None if that cannot be said."""
        return self._answer(facts)

    def _wrong(self, column: int, what: str) -> UsageError:
        # A caret below the place, as Python's own messages have it.
        shown = f"\n    {self.text}\n    {' ' * (column - 1)}^"
        return UsageError(f"--until {self.text!r} does not parse at column {column}: {what}; {_EXAMPLES}.{shown}")

    def _unknown(self, node: ast.expr, what: str) -> UsageError:
        # Python counts bytes.
        column = len(self.text.encode()[: node.col_offset].decode(errors="replace")) + 1
        return self._wrong(column, what)

    def _condition(self, node: ast.expr) -> Answer:
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value) for value in node.values]
            return _joined(parts, decisive=isinstance(node.op, ast.Or))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand)
            return lambda facts: None if (answer := inner(facts)) is None else not answer
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return _joined([self._comparison(node, *pair) for pair in pairs], decisive=False)
        raise self._unknown(node, f"{ast.unparse(node)} is no condition")

    def _comparison(self, whole: ast.expr, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> Answer:
        if isinstance(left, ast.Name) and left.id == "outcome":
            return self._of_outcome(whole, sign, right)
        if type(sign) not in _COMPARE:
            raise self._unknown(whole, f"{ast.unparse(whole)} compares in a way that is unknown")
        compare, one, other = _COMPARE[type(sign)], self._number(left), self._number(right)
        self._choose(whole, left, right)

        def answer(facts: Facts) -> bool | None:
            values = one(facts), other(facts)
            return None if any(map(math.isnan, values)) else compare(*values)

        return answer

    def _choose(self, whole: ast.expr, left: ast.expr, right: ast.expr) -> None:
        """The first measure that is compared is what is shown."""
        measured = [side for side in (left, right) if _literal(side) is None]
        if not measured:
            raise self._unknown(whole, f"{ast.unparse(whole)} is the same for every commit")
        if not self._chosen:
            (other,) = {left, right} - {measured[0]}
            self._chosen = True
            self.shown = Shown(ast.unparse(measured[0]), self._number(measured[0]), _literal(other))

    def _of_outcome(self, whole: ast.expr, sign: ast.cmpop, right: ast.expr) -> Answer:
        several = isinstance(sign, ast.In | ast.NotIn)
        if not several and not isinstance(sign, ast.Eq | ast.NotEq):
            raise self._unknown(whole, "an outcome is compared with ==, !=, in or not in")
        names = right.elts if several and isinstance(right, ast.Tuple | ast.List | ast.Set) else [right]
        named = {self._outcome(name) for name in names}
        wanted = isinstance(sign, ast.Eq | ast.In)

        def answer(facts: Facts) -> bool | None:
            found = facts.outcome in named
            # What was not run, or cannot be decided, is not said to differ from what was.
            open_ones = {Outcome.UNSUPPORTED} | ({Outcome.REFERENCE_UNCERTAIN} if Outcome.PASS in named else set())
            return None if not found and facts.outcome in open_ones else found is wanted

        return answer

    def _outcome(self, node: ast.expr) -> Outcome:
        text = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
        try:
            return Outcome(str(text).lower().replace("_", "-"))
        except ValueError:
            known = ", ".join(outcome.value for outcome in Outcome)
            raise self._unknown(node, f"{ast.unparse(node)} is no outcome ({known})") from None

    def _number(self, node: ast.expr) -> Value:
        literal = _literal(node)
        if literal is not None:
            return lambda facts: literal
        if isinstance(node, ast.Name) and node.id == "excess":
            return lambda facts: facts.excess
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._measure(node, node.func.id, node.args)
        known = ", ".join(f"{name}(OUTPUT)" for name in STATISTICS)
        raise self._unknown(node, f"{ast.unparse(node)} is neither a number nor one of {known}, excess, outcome")

    def _measure(self, node: ast.Call, name: str, arguments: Sequence[ast.expr]) -> Value:
        if name not in STATISTICS:
            raise self._unknown(node, f"{name} is no statistic ({', '.join(STATISTICS)})")
        if len(arguments) != 1 or not isinstance(arguments[0], ast.Name) or arguments[0].id not in self._outputs:
            had = ", ".join(self._outputs) or "none, as it is a relation"
            raise self._unknown(node, f"{ast.unparse(node)} is of no output of the case ({had})")
        output, key = arguments[0].id, STATISTICS[name]
        return lambda facts: facts.measures.get(output, {}).get(key, math.nan)


_NOT_NAMES = re.compile("|".join(["\\bpass\\b", *(re.escape(one.value) for one in Outcome if "-" in one.value)]))


def _as_name(text: str) -> str:
    return text.upper() if text == "pass" else text.replace("-", "_")


def _literal(node: ast.expr) -> float | None:
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1.0 if isinstance(node.op, ast.USub) else 1.0), node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return sign * float(node.value)  # type: ignore[arg-type]  # it is one of these types
    return None


def _joined(parts: list[Answer], *, decisive: bool) -> Answer:
    """And (``decisive`` False) or or (True) of three-valued answers: one decisive answer is enough."""

    def answers(facts: Facts) -> Iterator[bool | None]:
        return (part(facts) for part in parts)

    def answer(facts: Facts) -> bool | None:
        found = set(answers(facts))
        return decisive if decisive in found else None if None in found else not decisive

    return answer


def _outputs(case: Case) -> tuple[str, ...]:
    """The outputs that a case may have measurements of."""
    if isinstance(case, RelationCase):
        return ()
    if case.cotangents == "none":
        return _OUTPUTS
    gradients = [name for name in GRADIENT_OF.values() if case.initial != "none" or not name.endswith("_0")]
    return (*_OUTPUTS, *gradients)
