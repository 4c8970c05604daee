"""How a subject's worker differs from that of a plain run: where it looks for modules, and what is set for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """What is different.

    Attributes:
        places: directories in which modules are looked for before all others; the first is the worker's own directory.
        keywords: bound to the subject: values that have a literal in JSON.
        variables: of the worker's environment.
    """

    places: Sequence[str] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


PLAIN = Variant()
