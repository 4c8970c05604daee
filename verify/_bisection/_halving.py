"""Which commit is asked next: ``git bisect`` itself, in the suite's own worktree, which it does not check out.

What has no verdict is skipped, and git tries another commit some way off. All is read from git's refs, none of it from
what git prints.
"""

from __future__ import annotations

from pathlib import Path

from verify._bisection._repository import Commit, GitError, git


class Halving:
    """A search between a good commit and a bad one.

    Args:
        worktree: in which git keeps the state of the search.
        good, bad: where it begins.
        first_parent: whether merges count as one commit.
    """

    def __init__(self, worktree: Path, good: Commit, bad: Commit, *, first_parent: bool = False) -> None:
        self._worktree = worktree
        self._ways = ["--first-parent"] if first_parent else []
        self._bisect("start", "--no-checkout", *self._ways, bad.hash, good.hash)

    def _bisect(self, *words: str) -> None:
        try:
            git(self._worktree, "bisect", *words)
        except GitError:
            # Exit code 2: skipped commits are all that is left.
            if self.next() is not None:
                raise

    @property
    def left(self) -> list[str]:
        """The commits that may still be the first bad one; at the end it is alone, or beside skipped ones."""
        bad, goods = self._marked("bad"), self._marked("good-*")
        return git(self._worktree, "rev-list", *self._ways, *bad, "--not", *goods).splitlines()

    def next(self) -> str | None:
        """The hash of the commit to judge; None at the end."""
        open_ones = set(self.left) - set(self._marked("bad")) - set(self._marked("skip-*"))
        return git(self._worktree, "rev-parse", "--verify", "BISECT_HEAD") if open_ones else None

    def mark(self, status: str, commit: str) -> None:
        """Say that a commit is ``good`` or ``bad``, or that it is a ``skip``."""
        self._bisect(status, commit)

    def _marked(self, pattern: str) -> list[str]:
        return git(self._worktree, "for-each-ref", "--format=%(objectname)", f"refs/bisect/{pattern}").splitlines()
