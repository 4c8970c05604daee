"""What changed between two records beside the outputs: source, toolchain, device, cases.

What moved can be laid to one of them only if the others stayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from verify._recorded import DEVICE, SOURCE, Recorded


@dataclass(frozen=True)
class Axis:
    """One condition that changed.

    Attributes:
        name: of a package, ``commit``, ``device``, ...
        belongs_to: ``source``, ``toolchain``, ``device`` or ``cases``.
        before, after: what it was and is; ``none`` if it was not there.
    """

    name: str
    belongs_to: str
    before: str
    after: str


def changed_axes(base: Recorded, current: Recorded) -> tuple[Axis, ...]:
    """What of the conditions of two records is not the same; a record of one subject has one source."""
    before, after = ({"subject": record.subject, **record.conditions} for record in (base, current))
    names = [name for name in {**before, **after} if name != "dirty" and before.get(name) != after.get(name)]
    axes = [Axis(name, _belongs_to(name), before.get(name, "none"), after.get(name, "none")) for name in names]
    return tuple(sorted(axes, key=lambda axis: (axis.belongs_to, axis.name)))


def _belongs_to(name: str) -> str:
    if name in DEVICE:
        return "device"
    return "source" if name in (*SOURCE, "subject") else "toolchain"


def attribution(axes: Iterable[Axis], *, uncommitted: bool, moved: bool) -> str:
    """What a move may be laid to, as a sentence.

    Args:
        axes: what changed.
        uncommitted: whether a record is of a source with uncommitted changes, which no manifest has.
        moved: whether any bit did.
    """
    kinds = list(dict.fromkeys(axis.belongs_to for axis in axes))
    if len(kinds) > 1:
        together = f"{', '.join(kinds[:-1])} and {kinds[-1]} changed"
        return f"{together}: which of them moved an output cannot be told apart." if moved else f"{together}."
    if not kinds:
        if not moved:
            return "nothing changed."
        cause = "uncommitted changes, or a subject that does not repeat itself"
        return f"nothing changed that a manifest records: what moved came from {cause}."
    beside = ", if the uncommitted changes did not" if uncommitted and "source" not in kinds and moved else ""
    return f"only the {kinds[0]} changed{beside}."


def is_uncommitted(*records: Recorded) -> bool:
    """Whether any of them is of a source with uncommitted changes."""
    return any(record.conditions.get("dirty") for record in records)
