"""The repository that is searched, by the command git. The user's checkout, its index and its branches are only read.

A commit is checked out in a worktree of the suite's own, in the directory for temporary files. Git keeps the state of a
search, ``refs/bisect``, for each worktree apart, so that it goes when the worktree goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from verify._errors import SuiteError, UsageError

PREFIX = "mlstm-verify-bisect-"
# Beside the worktree: locked by the process that owns it, and by nobody when that was killed.
_OWNER, _CHECKOUT = "owner", "commit"
# Neither hooks nor what watches files may run for the suite's worktree, nor may the user's pack files change.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "advice.detachedHead=false",
)
# What a process that a hook has started would hand on.
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
# A file takes whole blocks of a disk.
_BLOCK = 4096
_NO_SPACE = "No space left on device"


class GitError(Exception):
    """What git said when it could not do something."""


def git(directory: Path, *arguments: str, given: str | None = None) -> str:
    """What git prints in a directory, without the last newline.

    Raises:
        GitError: if it fails.
        UsageError: if there is no git.
        SuiteError: if the disk is full.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    # Its messages in English, no question asked, and the index of the user's checkout left as it is by a look at it.
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    command = ["git", "-C", str(directory), *settings, *arguments]
    try:
        # Ctrl-C is for this process, which cleans up: git must not stop half way.
        done = subprocess.run(
            command, input=given or "", capture_output=True, env=environment, start_new_session=True, check=False,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UsageError("there is no git on PATH, which bisect needs.") from error
    if done.returncode == 0:
        return done.stdout.removesuffix("\n")
    told = done.stderr.strip() or done.stdout.strip() or f"it ended with exit code {done.returncode}"
    if _NO_SPACE in told:
        raise SuiteError(f"git {arguments[0]} in {directory}: {told}")
    raise GitError(told)


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes:
        hash, tree: their names, 40 digits (64 in a repository of SHA-256).
        date: of the author, ISO 8601.
        author, subject: as written.
    """

    hash: str
    tree: str
    date: str
    author: str
    subject: str

    @property
    def short(self) -> str:
        """The first digits."""
        return self.hash[:10]


class Repository:
    """A git repository with a checkout.

    Args:
        path: anywhere in the checkout.
        allow_dirty: whether tracked files may have changes, which belong to no commit.

    Attributes:
        root: of the checkout.

    Raises:
        UsageError: if it is none, is bare, or is dirty.
    """

    def __init__(self, path: Path, *, allow_dirty: bool = False) -> None:
        if not path.is_dir():
            raise UsageError(f"--repo {path} is no directory; expected the checkout of a git repository.")
        try:
            bare = git(path, "rev-parse", "--is-bare-repository") == "true"
        except GitError as error:
            raise UsageError(f"--repo {path} is no git repository: {error}.") from error
        if bare:
            raise UsageError(f"--repo {path} is bare, it has no checkout; expected one, as git clone {path} makes it.")
        try:
            self.root = Path(git(path, "rev-parse", "--show-toplevel"))
        except GitError as error:
            raise UsageError(f"--repo {path} is inside of a repository's own directory: {error}.") from error
        changed = git(self.root, "status", "--porcelain", "--untracked-files=no").splitlines()
        if changed and not allow_dirty:
            names = ", ".join(line[3:] for line in changed[:3]) + (", ..." if len(changed) > 3 else "")
            told = f"{len(changed)} tracked files have changes ({names}), which are part of no commit and not judged"
            raise UsageError(f"--repo {path} is dirty: {told}. Commit or stash them, or give --allow-dirty.")

    def resolve(self, option: str, revision: str) -> Commit:
        """The commit that an option names; UsageError if it names none."""
        told = f"{option} {revision!r} names no commit of {self.root}"
        if revision.startswith("-"):
            raise UsageError(f"{told}; expected a branch, a tag or a hash.")
        try:
            name = git(self.root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        except GitError as error:
            shallow = git(self.root, "rev-parse", "--is-shallow-repository") == "true"
            hint = "; its history is cut off: git fetch --unshallow" if shallow else ""
            raise UsageError(f"{told}{hint}; expected a branch, a tag or a hash.") from error
        return self.commit(name)

    def commit(self, name: str) -> Commit:
        """The commit of a hash."""
        shown = git(
            self.root, "show", "--no-patch", "--no-show-signature", "--format=%H%x00%T%x00%aI%x00%an%x00%s", name
        )
        return Commit(*shown.split("\0"))

    def check_order(self, good: Commit, bad: Commit) -> None:
        """Raise UsageError unless the one is another one's ancestor."""
        told = f"--good {good.short} and --bad {bad.short}"
        if good.hash == bad.hash:
            raise UsageError(f"{told} are the same commit; expected an earlier and a later one.")
        if self._is_ancestor(bad, good):
            raise UsageError(f"{told} are the wrong way round: the bad one is an ancestor of the good one.")
        if not self._is_ancestor(good, bad):
            raise UsageError(f"{told} are on branches apart: the good one is no ancestor of the bad one.")

    def _is_ancestor(self, old: Commit, new: Commit) -> bool:
        try:
            git(self.root, "merge-base", "--is-ancestor", old.hash, new.hash)
        except GitError:
            return False
        return True

    def between(self, good: Commit, bad: Commit, *, first_parent: bool = False) -> list[str]:
        """The hashes from the good one to the bad one, both with them, ancestors first."""
        ways = ["--first-parent"] if first_parent else []
        listed = git(self.root, "rev-list", "--topo-order", "--reverse", *ways, f"{good.hash}..{bad.hash}")
        return [good.hash, *listed.splitlines()]

    def check_room(self, *commits: Commit) -> None:
        """Raise UsageError if there is no room for a checkout of the largest of these."""
        needed = max(map(self._size, commits))
        directory = tempfile.gettempdir()
        free = shutil.disk_usage(directory).free
        if free < needed:
            told = f"a checkout takes {_mebibytes(needed)}, and {directory} has {_mebibytes(free)} free"
            raise UsageError(f"--repo {self.root} has no room for a worktree: {told}; TMPDIR names another directory.")

    def _size(self, commit: Commit) -> int:
        lines = git(self.root, "ls-tree", "-r", "--long", commit.hash).splitlines()
        sizes = [line.split(maxsplit=4)[3] for line in lines]
        return sum(-(-int(size) // _BLOCK) * _BLOCK for size in sizes if size.isdigit())

    @contextlib.contextmanager
    def worktree(self, commit: Commit) -> Iterator[Path]:
        """A worktree for as long as the context lasts, whatever ends it; those of processes that were killed go too."""
        self._remove_abandoned()
        directory = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
        try:
            with (directory / _OWNER).open("w") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX)
                git(self.root, "worktree", "add", "--quiet", "--detach", str(directory / _CHECKOUT), commit.hash)
                yield directory / _CHECKOUT
        except GitError as error:
            raise SuiteError(f"git in {self.root}: {error}") from error
        finally:
            with _undisturbed():
                self._remove(directory)

    def _remove(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        # Git's note of it, which the directory need not be there for. Twice: locked or not.
        with contextlib.suppress(GitError):
            git(self.root, "worktree", "remove", "--force", "--force", str(directory / _CHECKOUT))

    def _remove_abandoned(self) -> None:
        listed = git(self.root, "worktree", "list", "--porcelain").splitlines()
        places = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
        for place in places:
            if place.name == _CHECKOUT and place.parent.name.startswith(PREFIX) and _abandoned(place.parent / _OWNER):
                self._remove(place.parent)


def _abandoned(owner: Path) -> bool:
    """Whether no process holds the lock."""
    try:
        with owner.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal of these waits until what is done here is done."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda which, _: arrived.append(which)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for which in arrived:
            signal.raise_signal(which)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """What ends a process without a word, SIGTERM and a closed terminal, ends this context as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
