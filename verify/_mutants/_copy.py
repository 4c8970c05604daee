"""A copy of the package kernels in a temporary directory, with a mutant planted; and whether a worker imported it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from verify._errors import SuiteError
from verify._mutants._mutant import Mutant, plant


def kernels_directory() -> Path:
    """Where the package kernels is; it is not imported."""
    spec = importlib.util.find_spec("kernels")
    assert spec is not None
    return Path(str(spec.origin)).resolve().parent


def kernels_digest() -> str:
    """A hash of the source of the package kernels."""
    digest, directory = hashlib.blake2b(digest_size=16), kernels_directory()
    for path in sorted(directory.rglob("*.py")):
        digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def check_places(mutants: Iterable[Mutant]) -> None:
    """Raise SuiteError, before anything runs, if one of them cannot be planted."""
    for mutant in mutants:
        plant(mutant, (kernels_directory() / mutant.file).read_text())


@contextlib.contextmanager
def copied(mutant: Mutant | None) -> Iterator[Path]:
    """A directory with a copy of the package kernels, gone at the end; None is a copy without a mutant.

    Raises:
        SuiteError: if the mutant cannot be planted.
    """
    with tempfile.TemporaryDirectory(prefix="mlstm-mutant-") as name:
        copy = Path(name).resolve() / "kernels"
        shutil.copytree(kernels_directory(), copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = copy / mutant.file
            path.write_text(plant(mutant, path.read_text()).source)
        yield copy.parent


def check_imported(files: Mapping[str, str], directory: Path, mutant: Mutant | None) -> None:
    """Raise SuiteError unless a worker has its kernels from this directory, the mutant's file among them.

    Args:
        files: of all modules that the worker has imported, by name.
        directory: of the copy.
        mutant: what is planted in it.
    """
    files = {name: file for name, file in files.items() if name.partition(".")[0] == "kernels"}
    elsewhere = {name: file for name, file in files.items() if not Path(file).resolve().is_relative_to(directory)}
    if elsewhere or "kernels" not in files:
        name, file = next(iter(elsewhere.items()), ("kernels", "nothing"))
        raise SuiteError(f"a worker imported {name} from {file}; expected the copy in {directory}")
    wanted = directory / "kernels" / (mutant.file if mutant else "__init__.py")
    if wanted not in {Path(file).resolve() for file in files.values()}:
        raise SuiteError(f"a worker did not import {wanted}, in which mutant {mutant.name if mutant else ''!r} is")
