"""The log of a search: a directory that a killed search goes on from.

    search.json     schema version, command line, what is searched, the question, versions
    judged.jsonl    one JSON object a commit, or a point of an axis, appended and flushed as soon as it is judged
    measure.svg     the measure over the commits that were visited

Nothing else is kept: git asks for the same commits in the same order again, and what is in the log is not judged twice.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify._bisection._predicate import STATISTICS, Facts
from verify._cache import definition_digest
from verify._environment import describe_versions
from verify._errors import UsageError
from verify._run import cut_torn_line, differences, plain
from verify._verdict import Outcome, Verdict

SCHEMA = 1
SEARCH, JUDGED, PICTURE = "search.json", "judged.jsonl", "measure.svg"


@dataclass(frozen=True)
class Judged:
    """A commit, or a point of an axis, and its answer.

    Attributes:
        key: hash of the commit, or the point.
        status: ``good``, ``bad`` or ``skip``.
        reason: of the status, one line.
        facts: that it rests on; None if the case was not run.
        record: all that is in the log.
    """

    key: str
    status: str
    reason: str
    facts: Facts | None
    record: dict[str, Any]


def facts_record(facts: Facts | None) -> dict[str, Any]:
    """The part of a record that facts are read from again."""
    if facts is None:
        return {"outcome": None, "measures": {}, "excess": None}
    return {"outcome": facts.outcome.value, "measures": facts.measures, "excess": facts.excess}


def facts_of(verdict: Verdict) -> Facts:
    """What a question may be about."""
    fields = ["normwise_bound", *dict.fromkeys(STATISTICS.values())]
    measures = {one.output: {name: float(getattr(one, name)) for name in fields} for one in verdict.measurements}
    return Facts(verdict.outcome, measures, verdict.worst.excess if verdict.worst else float("nan"))


def parse_judged(record: dict[str, Any]) -> Judged:
    """The inverse of a line; whatever a damaged record makes of it is raised as it comes."""
    facts = None
    if record["outcome"] is not None:
        measures = {
            output: {name: float(value) for name, value in fields.items()}
            for output, fields in record["measures"].items()
        }
        facts = Facts(Outcome(record["outcome"]), measures, float(record["excess"]))
    if record["status"] not in ("good", "bad", "skip"):
        raise ValueError(f"status {record['status']!r} is unknown")
    return Judged(record["key"], record["status"], record["reason"], facts, record)


def read_search(directory: Path) -> dict[str, Any]:
    """What is searched and asked in a directory.

    Raises:
        UsageError: if it has no search, a damaged one, or one by another oracle or other versions.
    """
    path = directory / SEARCH
    if not path.is_file():
        raise UsageError(f"--resume {directory} is no search: it has no {SEARCH}.")
    try:
        content = json.loads(path.read_text())
        search: dict[str, Any] = dict(content["search"])
        now = _conditions()
        changed = [name for name in now if content.get(name) != now[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if changed:
        told = f"{changed[0]} was {content.get(changed[0])}, is {now[changed[0]]}"
        raise UsageError(f"{path} is of a search under other conditions: {told}.")
    return search


def _conditions() -> dict[str, Any]:
    return {"schema": SCHEMA, "definition": definition_digest(), "versions": describe_versions()}


def check_new(directory: Path) -> None:
    """Raise UsageError if a directory is there and is not empty."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--out {directory} is a file; expected a new directory.")
    if directory.is_dir() and any(directory.iterdir()):
        hint = f"; --resume {directory} goes on with a search" if (directory / SEARCH).exists() else ""
        raise UsageError(f"--out {directory} is not empty; expected a new directory{hint}.")


class Log:
    """The files of a search; a context manager.

    Args:
        directory: where; made if it is not there. If it has a search, that is gone on with.
        search: what is searched and asked, JSON values.
        command: the command line.

    Attributes:
        directory: where.
        judged: by key, in the order of the log.

    Raises:
        UsageError: naming the file, if it cannot be read or written, or is damaged.
    """

    def __init__(self, directory: Path, search: Mapping[str, Any], command: Sequence[str]) -> None:
        self.directory, self.judged = directory, dict[str, Judged]()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not (directory / SEARCH).exists():
                started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                content = {**_conditions(), "started": started, "command": list(command), "search": search}
                (directory / SEARCH).write_text(json.dumps(content, indent=2) + "\n")
            self._read_judged()
            self._lines = (directory / JUDGED).open("a")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{directory} cannot be read or written: {error}.") from error

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def append(self, record: dict[str, Any]) -> Judged:
        """Write one line, and flush it."""
        record = plain(record)
        judged = parse_judged(record)
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        self.judged[judged.key] = judged
        return judged

    def same_tree(self, tree: str) -> Judged | None:
        """What was judged of a commit with the same content."""
        return next((one for one in self.judged.values() if one.record.get("tree") == tree), None)

    def check_environment(self, environment: dict[str, Any]) -> None:
        """Raise UsageError if something was judged in another environment of the subject."""
        known = [one.record["environment"] for one in self.judged.values() if one.record.get("environment")]
        # Of the suite's own versions nothing is said here: those in the file of the search have been compared.
        before, now = ({"environment": {**one, "suite": None}} for one in ((known or [environment])[-1], environment))
        if changed := differences(before, now):
            raise UsageError(f"{self.directory / JUDGED} is of another environment: {'; '.join(changed)}.")

    def _read_judged(self) -> None:
        path = self.directory / JUDGED
        cut_torn_line(path)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                judged = parse_judged(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                told = f"{type(error).__name__}: {error}"
                raise UsageError(f"{path}, line {number}: the record is damaged: {told}.") from error
            self.judged[judged.key] = judged
