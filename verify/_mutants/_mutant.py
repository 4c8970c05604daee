"""A mutant: the kernels with one small bug, planted in their syntax tree.

What is looked for is compared as ``ast.unparse`` writes it, so that line breaks and comments do not matter, and must
be there exactly once, or ``nth`` says which of several is meant: a mutant whose place has gone is an error, never a
kernel without the bug.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from verify._errors import SuiteError

GRADES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Mutant:
    """A small realistic bug.

    Attributes:
        name: short and unique.
        does: what the kernels do with it, one sentence.
        grade: easy (wrong nearly everywhere), medium (in the regimes or settings made for it), hard (small, or rarely
            there).
        file: in the package kernels.
        function: in which it is; a dot leads into a class; empty for the module itself.
        old, new: an expression or a statement, and what stands in its place.
        nth: which of several equal ones, in their order in the source, counted from 1; 0 for the only one.
        seen: cases that are likely to see it, most likely first: words, all of which the id has.
        tier: the smallest that has a case which sees it.
        equivalent: why no case can see it; empty if one can.
        beyond: what sees it, as no tier does; empty if a tier does.
    """

    name: str
    does: str
    grade: str
    file: str
    function: str
    old: str
    new: str
    nth: int = 0
    seen: tuple[str, ...] = ()
    tier: str = "smoke"
    equivalent: str = ""
    beyond: str = ""

    @property
    def place(self) -> str:
        """The file and the function, as in ``_fw_parallel.py:mlstm_chunkwise_fw_parallel``."""
        name = self.file.rpartition("/")[2]
        return f"{name}:{self.function}" if self.function else name


@dataclass(frozen=True)
class Mutation:
    """The source of a file with a mutant planted, and the line where it was planted."""

    source: str
    line: int


def plant(mutant: Mutant, source: str) -> Mutation:
    """Plant a mutant in the source of its file.

    Raises:
        SuiteError: if its place is not there, or not once, or nothing would change.
    """
    tree = ast.parse(source)
    old, new = _parse(mutant.old), _parse(mutant.new)
    wanted = ast.unparse(old)
    if wanted == ast.unparse(new):
        raise SuiteError(f"mutant {mutant.name!r} changes nothing: {wanted}")
    kind = ast.expr if isinstance(old, ast.expr) else ast.stmt
    nodes = (node for node in ast.walk(_scope(mutant, tree)) if isinstance(node, kind))
    found = sorted(
        (node for node in nodes if ast.unparse(node) == wanted), key=lambda node: (node.lineno, node.col_offset)
    )
    expected = "once" if mutant.nth == 0 else f"at least {max(mutant.nth, 2)} times"
    if len(found) < 1 or (len(found) != 1 if mutant.nth == 0 else len(found) < max(mutant.nth, 2)):
        place = f"{mutant.file}, {mutant.function or 'the module'}"
        raise SuiteError(
            f"mutant {mutant.name!r} is planted in {place} at {wanted!r}, which is there {len(found)} times; "
            f"expected {expected}: plant it anew."
        )
    node = found[max(mutant.nth, 1) - 1]
    planted = _Replacement(node, new).visit(tree)
    return Mutation(ast.unparse(ast.fix_missing_locations(planted)) + "\n", node.lineno)


def _parse(text: str) -> ast.expr | ast.stmt:
    (statement,) = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _scope(mutant: Mutant, tree: ast.Module) -> ast.AST:
    scope: ast.AST = tree
    for name in mutant.function.split(".") if mutant.function else ():
        inside = (node for node in ast.walk(scope) if isinstance(node, ast.FunctionDef | ast.ClassDef))
        named = [node for node in inside if node.name == name]
        if len(named) != 1:
            raise SuiteError(
                f"mutant {mutant.name!r} is planted in {mutant.function}, which {mutant.file} has {len(named)} times; "
                "expected once: plant it anew."
            )
        scope = named[0]
    return scope


class _Replacement(ast.NodeTransformer):
    """One node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """As of any transformer."""
        return self.new if node is self.old else self.generic_visit(node)
