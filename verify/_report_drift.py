"""What moved since another run, as every format of the report shows it: a sentence, remarks and tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriftTable:
    """A table of what moved.

    Attributes:
        title: what is in it.
        columns: headers.
        rows: worst first; each as long as the headers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DriftSection:
    """A comparison with a base, ready to be shown.

    Attributes:
        base: what it is compared with.
        sentence: what it comes to.
        notes: remarks, each a line: what of the conditions changed, what could not be compared.
        tables: see there.
    """

    base: str
    sentence: str
    notes: tuple[str, ...]
    tables: tuple[DriftTable, ...]
