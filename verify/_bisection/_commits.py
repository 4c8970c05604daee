"""The first bad commit: every commit that git asks for, checked out, imported in a worker, and judged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verify._backend import BackendOption
from verify._bisection._halving import Halving
from verify._bisection._log import Judged, Log, facts_of, facts_record
from verify._bisection._predicate import Facts, Predicate
from verify._bisection._provenance import ForeignCodeError, Imported, Provenance
from verify._bisection._repository import Commit, GitError, Repository, git
from verify._case import Case
from verify._errors import UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._reference import Reference
from verify._variant import Variant
from verify._verdict import Outcome, Verdict, judge

_TAIL = 2000


@dataclass(frozen=True)
class Question:
    """What is asked of every commit.

    Attributes:
        subject: ``module:callable``.
        case: that it runs.
        reference: of a case.
        predicate: what makes it a bad one.
        backend, limits, python: as of any isolated subject.
    """

    subject: str
    case: Case
    reference: Callable[[Case], Reference]
    predicate: Predicate
    backend: BackendOption
    limits: Limits
    python: Path | None

    def open(self, variant: Variant) -> IsolatedSubject:
        """The subject in a worker of its own."""
        return IsolatedSubject(self.subject, self.backend, self.limits, python=self.python, variant=variant)

    def facts(self, isolated: IsolatedSubject) -> tuple[Facts, Verdict]:
        """Run the case, and judge it."""
        lacking = isolated.lacks(self.case)
        if lacking is not None:
            verdict = Verdict(Outcome.UNSUPPORTED, lacking)
        else:
            execution = isolated.execute(self.case)
            # Without what ``run_case`` explains of a failure, which takes other references.
            verdict = (
                execution.failure or execution.found or judge(self.case, execution.outputs, self.reference(self.case))
            )
        return facts_of(verdict), verdict

    def answer(self, facts: Facts, verdict: Verdict) -> tuple[str, str]:
        """(status, reason) of these facts."""
        first = verdict.reason.partition("\n")[0]
        bad = self.predicate(facts)
        if bad is None:
            return "skip", f"{facts.outcome.value}, which does not answer {self.predicate.text!r}: {first}"
        return ("bad" if bad else "good"), first


@dataclass(frozen=True)
class Code:
    """Where a commit has the code that is imported.

    Attributes:
        paths: directories in the repository that modules are looked for in, the first one first.
        package: every module of which must be the commit's.
        build: a command that is run in the checkout first; None for none.
        beside: a directory for modules that no commit has, such as an adapter; None for none.
    """

    paths: Sequence[str]
    package: str
    build: str | None = None
    beside: Path | None = None


class _Skip(Exception):  # noqa: N818 (no error of the suite's)
    """Why a commit cannot be judged; ``details`` are for the log."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class CommitSearch:
    """A search in a repository, in a worktree.

    Args:
        repository, good, bad: what is searched, from where to where.
        worktree: of the suite's own.
        code, question, log: see there.
        first_parent: whether merges count as one commit.
    """

    def __init__(
        self,
        repository: Repository,
        good: Commit,
        bad: Commit,
        worktree: Path,
        code: Code,
        question: Question,
        log: Log,
        *,
        first_parent: bool = False,
    ) -> None:
        self._repository, self._good, self._bad, self._worktree = repository, good, bad, worktree
        self._code, self._question, self._log = code, question, log
        self._halving = Halving(worktree, good, bad, first_parent=first_parent)
        self._environment_checked = False

    @property
    def left(self) -> list[str]:
        """The hashes that the first bad commit is among."""
        return self._halving.left

    def run(self) -> Iterator[tuple[Commit, Judged | None]]:
        """Each commit before it is judged, with None, and again with its answer; no more at the end.

        Raises:
            UsageError: if the commits to begin with are not a good one and a bad one.
        """
        yield from self._judged(self._good)
        first = self._log.judged[self._good.hash]
        if first.status == "skip":
            raise UsageError(f"--good {self._good.short} cannot be judged: {first.reason}")
        yield from self._judged(self._bad)
        self._check_ends(first, self._log.judged[self._bad.hash])
        while (name := self._halving.next()) is not None:
            yield from self._judged(self._repository.commit(name))
            self._halving.mark(self._log.judged[name].status, name)

    def _check_ends(self, good: Judged, bad: Judged) -> None:
        asked = f"by {self._question.predicate.text!r}"
        one, other = f"--good {self._good.short}", f"--bad {self._bad.short}"
        if bad.status == "skip":
            raise UsageError(f"{other} cannot be judged: {bad.reason}")
        if good.status == "bad" and bad.status == "good":
            hint = "give --until the question whose answer becomes yes"
            raise UsageError(f"{one} is bad and {other} is good {asked}: the wrong way round. For a fix, {hint}.")
        if good.status == "bad":
            raise UsageError(f"{one} is bad already, {asked}: {good.reason}. Choose an earlier one.")
        if bad.status == "good":
            raise UsageError(f"{other} is not bad, {asked}: {bad.reason}.")

    def _judged(self, commit: Commit) -> Iterator[tuple[Commit, Judged | None]]:
        """As ``run``, one commit, which is looked up before it is judged."""
        if commit.hash not in self._log.judged:
            yield commit, None
            self._log.append(self._record(commit))
        yield commit, self._log.judged[commit.hash]

    def _record(self, commit: Commit) -> dict[str, Any]:
        head = {"key": commit.hash, **asdict(commit)}
        twin = self._log.same_tree(commit.tree)
        if twin is not None:
            return {**twin.record, **head, "same_tree_as": twin.key, "seconds": 0.0}
        start = time.perf_counter()
        try:
            record = self._try(commit)
        except _Skip as skip:
            record = {"status": "skip", "reason": str(skip), "details": skip.details, **facts_record(None)}
        return {**head, **record, "same_tree_as": None, "seconds": round(time.perf_counter() - start, 3)}

    def _try(self, commit: Commit) -> dict[str, Any]:
        self._check_out(commit)
        self._build()
        try:
            provenance = Provenance(self._worktree, self._repository.root, commit, built=self._code.build is not None)
            with self._question.open(self._variant()) as isolated:
                environment = self._start(isolated)
                imported = self._prove(provenance, isolated.imported())
                facts, verdict = self._question.facts(isolated)
                # What was imported late counts too; a worker that died while it ran the case cannot be asked.
                if late := isolated.imported():
                    imported = self._prove(provenance, late)
        except ForeignCodeError as error:
            raise _Skip(f"not known to be the commit's code: {error}") from error
        status, reason = self._question.answer(facts, verdict)
        return {
            "status": status,
            "reason": reason,
            "details": verdict.reason[-_TAIL:],
            **facts_record(facts),
            "imported": asdict(imported),
            "environment": environment,
        }

    def _check_out(self, commit: Commit) -> None:
        try:
            git(self._worktree, "checkout", "--quiet", "--force", "--detach", commit.hash)
            # What an earlier commit, or its build, has left.
            git(self._worktree, "clean", "-ffdxq")
        except GitError as error:
            raise _Skip(f"does not check out: {str(error).splitlines()[-1]}", str(error)) from error

    def _build(self) -> None:
        if self._code.build is None:
            return
        done = subprocess.run(
            self._code.build, shell=True, cwd=self._worktree, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        if done.returncode != 0:
            told = f"does not build: {self._code.build!r} ended with exit code {done.returncode}"
            raise _Skip(told, done.stdout[-_TAIL:])

    def _variant(self) -> Variant:
        places = [str(place) for path in self._code.paths if (place := (self._worktree / path).resolve()).is_dir()]
        if not places:
            raise _Skip(f"has no directory {' nor '.join(self._code.paths)}")
        if self._code.beside is not None:
            places.append(str(self._code.beside))
        # Files of two commits may have one size and one second: what was compiled of one would be taken for the other.
        return Variant(places, variables={"PYTHONDONTWRITEBYTECODE": "1"})

    def _start(self, isolated: IsolatedSubject) -> dict[str, Any]:
        try:
            environment = isolated.started.environment
        except UsageError as error:
            first = str(error).splitlines()[0]
            told = first.partition("cannot be imported: ")[2] or first
            raise _Skip(f"does not import: {told}", str(error)[-_TAIL:]) from error
        if not self._environment_checked:
            self._log.check_environment(environment)
            self._environment_checked = True
        return environment

    def _prove(self, provenance: Provenance, imported: dict[str, str]) -> Imported:
        return provenance.prove(self._code.package, self._question.subject.partition(":")[0], imported)
