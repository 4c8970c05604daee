"""What became of the mutants of a run: in memory, and in a file that has all that is known at any moment.

The file is one JSON document: ``conditions`` (tier, backend, a hash of the kernels), ``environment``, ``done``,
``control`` (how many cases, and which of them fail without a mutant), and ``mutants``, each with what was planted where
and its fate. Floats that JSON does not have are the words "inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verify._errors import UsageError
from verify._mutants._catalogue import CATALOGUE
from verify._mutants._mutant import Mutant
from verify._mutants._trial import Fate, Status
from verify._run import plain

# What of a mutant makes it another one.
_PLANTED = ("does", "grade", "file", "function", "old", "new", "nth")


@dataclasses.dataclass
class Record:
    """What is known.

    Attributes:
        path: of the file, or None.
        conditions: under which it holds.
        fates: by the mutant's name.
        control: empty until it was run.
        environment: what the workers run on, empty until one has started.
    """

    path: Path | None
    conditions: dict[str, Any]
    fates: dict[str, Fate] = dataclasses.field(default_factory=dict)
    control: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, out: Path | None, resume: Path | None, conditions: dict[str, Any]) -> Record:
        """A new one in the file ``out``, or that of an interrupted run in ``resume``.

        Raises:
            UsageError: for both, a file that is there or cannot be, or one that cannot be gone on with.
        """
        if resume is not None:
            if out is not None:
                raise UsageError(f"--resume {resume} goes on with that file; --out {out} cannot be given.")
            return cls._read(resume, conditions)
        if out is not None and out.exists():
            raise UsageError(f"--out {out} exists; --resume {out} goes on with it.")
        if out is not None and not out.absolute().parent.is_dir():
            raise UsageError(f"--out {out} would be in {out.absolute().parent}, which is no directory.")
        made = cls(out, conditions)
        # Hours may pass before the first mutant is known.
        made.write()
        return made

    @classmethod
    def _read(cls, path: Path, conditions: dict[str, Any]) -> Record:
        try:
            document = json.loads(path.read_text())
            changed = [name for name, value in conditions.items() if document["conditions"][name] != value]
            known = [(entry["planted"], _fate(entry["fate"])) for entry in document["mutants"]]
            environment = dict(document["environment"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"--resume {path} is no file of mutants: {type(error).__name__}: {error}.") from error
        if changed:
            raise UsageError(f"--resume {path} is of another {', '.join(changed)}; run the mutants anew.")
        planted = {mutant.name: _planted(mutant) for mutant in CATALOGUE}
        # One that has changed since is run again.
        fates = {fate.name: fate for was, fate in known if planted.get(fate.name) == was}
        return cls(path, conditions, fates, environment=environment)

    def add(self, fate: Fate) -> None:
        """Of one mutant more; what was said of the control holds no longer."""
        self.fates[fate.name], self.control = fate, {}
        self.write()

    def of(self, chosen: Sequence[Mutant]) -> list[Fate]:
        """Of these mutants, as far as known."""
        return [self.fates[mutant.name] for mutant in chosen if mutant.name in self.fates]

    def write(self) -> None:
        """All of it, at once, in the place of what the file had; UsageError if it cannot be."""
        if self.path is None:
            return
        document = {
            "conditions": self.conditions,
            "environment": self.environment,
            "done": bool(self.control),
            "control": self.control,
            "mutants": [
                {"planted": _planted(mutant), "fate": dataclasses.asdict(self.fates[mutant.name])}
                for mutant in CATALOGUE
                if mutant.name in self.fates
            ],
        }
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            part.write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n")
            part.replace(self.path)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error}.") from error


def _planted(mutant: Mutant) -> dict[str, Any]:
    return {name: getattr(mutant, name) for name in _PLANTED}


def _fate(entry: dict[str, Any]) -> Fate:
    return Fate(**{**entry, "status": Status(entry["status"]), "excess": float(entry["excess"])})
