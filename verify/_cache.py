"""References on disk: computed once on any machine, found by what they are made of.

A file is one line of JSON and a NumPy archive. Its name is a hash of the case, of the source that defines the
mathematics, the arrays and the arithmetics, and of the size of the noise sample: what was computed by another
definition is not found. The line holds hashes of the archive and of the arrays of the problem, so that damage, and
a machine that draws other arrays, are seen. Files are written apart and renamed: readers and writers need no lock.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import secrets
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from verify._case import Case
from verify._errors import UsageError
from verify._problem import make_problem
from verify._reference import REPLICATES, Reference, compute_reference

SUFFIX = ".reference"


class Found(Enum):
    """What the cache had of a case."""

    CACHED = "cached"
    MISSING = "missing"
    DAMAGED = "damaged"


def default_directory() -> Path:
    """The user's cache directory for references, as the platform has it."""
    import platformdirs

    return platformdirs.user_cache_path("mlstm-verify") / "references"


@dataclass(frozen=True)
class ReferenceCache:
    """The references in a directory.

    Raises:
        UsageError: if the directory cannot be made.
    """

    directory: Path

    def __post_init__(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--cache {self.directory} cannot be made a directory: {error}.") from error

    def path(self, case: Case) -> Path:
        """Where the reference of a case is, or would be."""
        key = json.dumps([case.id, REPLICATES, definition_digest()])
        return self.directory / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}{SUFFIX}"

    def load(self, case: Case) -> tuple[Reference | None, Found, str]:
        """The reference of a case, or None; what was found; and of a damaged file, its name and what is wrong."""
        content, found, damage = self.read(case)
        return None if content is None else unpack(content), found, damage

    def read(self, case: Case) -> tuple[bytes | None, Found, str]:
        """As ``load``, the content of the file, checked."""
        path = self.path(case)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None, Found.MISSING, ""
        except OSError as error:
            return None, Found.DAMAGED, f"{path} cannot be read: {error}"
        try:
            check(content, case)
        except DamageError as damage:
            return None, Found.DAMAGED, f"{path} {damage}"
        return content, Found.CACHED, ""

    def fetch(self, case: Case) -> tuple[Reference, Found, str]:
        """As ``load``; what is not there, or damaged, is computed and written."""
        reference, found, damage = self.load(case)
        if reference is None:
            reference = compute_reference(case)
            self.write(case, pack(reference, case))
        return reference, found, f"{damage}; computed again" if damage else ""

    def write(self, case: Case, content: bytes) -> None:
        """Keep what ``pack`` made of the reference of a case."""
        path = self.path(case)
        part = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise UsageError(f"--cache {self.directory} cannot be written: {error}.") from error


class DamageError(Exception):
    """What is wrong with a file."""


def pack(reference: Reference, case: Case) -> bytes:
    """The reference of a case as the content of a file."""
    arrays: dict[str, Any] = {} if reference.rows is None else {"rows": reference.rows}
    for part in _PARTS:
        arrays |= {f"{part}/{name}": array for name, array in getattr(reference, part).items()}
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    content = archive.getvalue()
    line = {"case": case.id, "problem": _problem_digest(case), "archive": _digest(content)}
    return json.dumps(line).encode() + b"\n" + content


def check(content: bytes, case: Case) -> None:
    """Raise DamageError if the content of a file is not the reference of this case on this machine."""
    line, _, archive = content.partition(b"\n")
    try:
        header = json.loads(line)
        said = [header[key] for key in ("case", "problem", "archive")]
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError("has no readable first line") from error
    if said[2] != _digest(archive):
        raise DamageError("is damaged: its content has another checksum than its first line says")
    if said[0] != case.id:
        raise DamageError(f"is of another case, {said[0]}")
    if said[1] != _problem_digest(case):
        raise DamageError("is of other arrays than this machine draws for the case")


def unpack(content: bytes) -> Reference:
    """The reference in the content of a file, which ``check`` has seen."""
    archive = content.partition(b"\n")[2]
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    rows = None
    with np.load(io.BytesIO(archive)) as arrays:
        for key in arrays.files:
            part, _, name = key.partition("/")
            if part == "rows":
                rows = arrays[key]
            else:
                parts[part][name] = arrays[key]
    return Reference(**parts, rows=rows)


_PARTS = [entry.name for entry in fields(Reference) if entry.name != "rows"]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _problem_digest(case: Case) -> str:
    problem = make_problem(case)
    arrays = [*problem.arrays.values(), *problem.cotangents.values()]
    return _digest(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


@functools.cache
def definition_digest() -> str:
    """A hash of the source of the oracles and of what makes a case's arrays and reference."""
    import oracles

    here = Path(__file__).parent
    drawn = ("_problem", "_regimes", "_initial_states", "_probes", "_error_scales", "_reference")
    sources = [*sorted(Path(oracles.__file__).parent.glob("*.py")), *(here / f"{name}.py" for name in drawn)]
    return _digest(b"".join(path.read_bytes() for path in sources))
