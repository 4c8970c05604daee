"""What another interpreter than the suite's runs as a script, to become a worker.

    PYTHON -P verify/_start.py PLACES DESCRIPTOR PARENT SUBJECT BACKEND VARIANT

PLACES is JSON, the directory of each package of the suite. Only these are found there: what is installed beside them
is for the suite's own interpreter. VARIANT is JSON, the fields of a ``Variant``.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec, PathFinder


class Packages:
    """Finds packages in the directories of a table; all others are left to the interpreter's own path."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """As ``sys.meta_path`` asks."""
        return PathFinder.find_spec(name, [self._places[name]]) if name in self._places else None


def start(places: str, descriptor: str, parent: str, subject: str, backend: str, variant: str) -> None:
    """Find the suite, and work for it."""
    sys.meta_path.insert(0, Packages(json.loads(places)))
    from verify._backend import BackendOption
    from verify._variant import Variant
    from verify._worker import work

    work(int(descriptor), int(parent), subject, BackendOption(backend), Variant(**json.loads(variant)))


if __name__ == "__main__":
    start(*sys.argv[1:])
