"""What moved since another run, as every format of the report shows it: a sentence, remarks and a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriftSection:
    """A comparison with a base, ready to be shown.

    Attributes:
        base: what it is compared with.
        sentence: what it comes to.
        notes: remarks, each a line: what of the conditions changed, patterns, what could not be compared.
        columns: headers of the table.
        rows: of the table, worst first; each as long as the headers.
    """

    base: str
    sentence: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
