"""The proof that a worker ran a commit's code: where its modules came from, and that they are the commit's, by hash.

A package that is installed, or imported from the user's own checkout, would give every commit the same verdict.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verify._bisection._repository import Commit, git

# They are the suite's in every worker, wherever that was installed from; kernels too, unless it is searched. What a
# worker is started with, the main module, is the suite's.
_SUITE = {"__main__", "__mp_main__", "verify", "oracles", "kernels"}


class ForeignCodeError(Exception):
    """What was imported is not the commit's, or not known to be."""


@dataclass(frozen=True)
class Imported:
    """What was imported from a commit.

    Attributes:
        file: of the subject's module, or of the first of the package, in the commit.
        blob: git's hash of its content; None of a file that the build made.
        modules: how many were imported from the commit, each with the content that the commit has.
        built: files among them that the commit does not have, and its build made.
    """

    file: str
    blob: str | None
    modules: int
    built: tuple[str, ...]


class Provenance:
    """The files of a commit that is checked out.

    Args:
        worktree: where it is.
        checkout: the user's own, from which nothing may come.
        commit: that it is a checkout of.
        built: whether a build has made files of its own.

    Raises:
        ForeignCodeError: if something else is checked out.
    """

    def __init__(self, worktree: Path, checkout: Path, commit: Commit, *, built: bool) -> None:
        self._worktree, self._checkout, self._built = worktree, checkout, built
        head = git(worktree, "rev-parse", "HEAD", "HEAD^{tree}").splitlines()
        if head != [commit.hash, commit.tree]:
            raise ForeignCodeError(f"commit {head[0]} with tree {head[1]} is checked out")
        listed = git(worktree, "ls-tree", "-r", "-z", "HEAD").removesuffix("\0").split("\0")
        # MODE TYPE HASH, a tab, PATH
        self._blobs = {path: words.split()[2] for words, _, path in (entry.partition("\t") for entry in listed)}

    def prove(self, package: str, module: str, imported: Mapping[str, str]) -> Imported:
        """What of the commit was imported.

        Args:
            package: every module of which must be the commit's.
            module: the subject's; it may be outside of the package, if that is in use.
            imported: the file of each module in the worker.

        Raises:
            ForeignCodeError: saying which module is not the commit's.
        """
        files = {name: os.path.realpath(file) for name, file in imported.items()}
        own = {name: file for name, file in files.items() if name == package or name.startswith(f"{package}.")}
        if not own:
            raise ForeignCodeError(f"package {package} was not imported, so that nothing of the commit was run")
        inside = {name: path for name, file in files.items() if (path := _below(file, self._worktree)) is not None}
        for name, file in own.items():
            if name not in inside:
                raise ForeignCodeError(f"module {name} was imported from {file}, which is not in the commit's worktree")
        self._check_checkout(files, inside, package)
        self._check_contents(inside)
        shown = inside[module] if module in inside else inside[min(own)]
        built = tuple(sorted({path for path in inside.values() if path not in self._blobs}))
        return Imported(shown, self._blobs.get(shown), len(inside), built)

    def _check_checkout(self, files: Mapping[str, str], inside: Mapping[str, str], package: str) -> None:
        """Nor may anything else come from the user's checkout that the commit has, such as a package beside it."""
        for name, file in files.items():
            if name in inside or name.partition(".")[0] in _SUITE - {package}:
                continue
            if _below(file, self._checkout) in self._blobs:
                raise ForeignCodeError(f"module {name} was imported from {file}, the checkout, and not from the commit")

    def _check_contents(self, inside: Mapping[str, str]) -> None:
        tracked = sorted({path for path in inside.values() if path in self._blobs})
        names = "".join(f"{path}\n" for path in tracked)
        hashes = git(self._worktree, "hash-object", "--stdin-paths", given=names).splitlines()
        for path, found in zip(tracked, hashes, strict=True):
            if found != self._blobs[path]:
                raise ForeignCodeError(f"{path} has hash {found}, and the commit has {self._blobs[path]}")
        if not self._built and (strange := sorted({path for path in inside.values() if path not in self._blobs})):
            raise ForeignCodeError(f"{strange[0]} was imported, which the commit does not have")


def _below(file: str, directory: Path) -> str | None:
    """The path in a directory, if it is there."""
    try:
        return str(Path(file).relative_to(directory.resolve()))
    except ValueError:
        return None
