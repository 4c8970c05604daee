"""The other axes: versions of what the subject runs on, and options of the subject.

    triton=3.6.0,3.7.1        jax, jaxlib, triton, jax-triton, numpy, ml-dtypes: an interpreter for each version
    num_warps=2,4,8           num_warps, num_stages of the project's own kernels, by their environment variables
    chunk_size=16,64          of the case
    input_precision=ieee,tf32 any other name: a keyword of the subject

Options have no order in time, and versions are few: every point is judged, of several axes every combination.
"""

from __future__ import annotations

import ast
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verify._bisection._commits import Question
from verify._bisection._log import Judged, Log, facts_record
from verify._case import Case
from verify._errors import UsageError
from verify._variant import Variant

VERSIONED = ("jax", "jaxlib", "triton", "jax-triton", "numpy", "ml-dtypes")
# As kernels/triton_stablef/_tiles.py has them; this process does not import it.
VARIABLES = {"num_warps": "MLSTM_KERNELS_NUM_WARPS", "num_stages": "MLSTM_KERNELS_NUM_STAGES"}
_OF_CASE = ("eps", "norm_val", "stabilize_correctly", "autocast_kernel_dtype", "return_last_states")
_TAIL = 2000


@dataclass(frozen=True)
class Axis:
    """Values of one thing.

    Attributes:
        name: of a package, or of an option.
        values: as given.
    """

    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """``NAME=VALUE,VALUE``; UsageError if it has another form, a value twice, or belongs to the case."""
        name, equals, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not (name and equals and all(values)):
            raise UsageError(
                f"--axis is {text!r}; expected NAME=VALUE,VALUE, as in triton=3.6.0,3.7.1 or num_warps=4,8."
            )
        if len(set(values)) < len(values):
            raise UsageError(f"--axis {text} has a value twice.")
        if name in _OF_CASE:
            raise UsageError(f"--axis {text}: {name} is part of the case; expected another --case.")
        return cls(name, values)


@dataclass(frozen=True)
class Point:
    """One value of every axis."""

    values: Mapping[str, str]

    @property
    def key(self) -> str:
        """Its name in the log."""
        return " ".join(f"{name}={value}" for name, value in self.values.items())

    def case(self, case: Case) -> Case:
        """The case of this point."""
        chosen = self.values.get("chunk_size")
        if chosen is None:
            return case
        if not chosen.isdecimal():
            raise UsageError(f"--axis chunk_size: {chosen!r} is no size; expected whole numbers from 1.")
        return replace(case, chunk_size=int(chosen))

    def variant(self) -> Variant:
        """Of the worker."""
        variables = {VARIABLES[name]: value for name, value in self.values.items() if name in VARIABLES}
        others = {*VERSIONED, *VARIABLES, "chunk_size"}
        keywords = {name: _literal(value) for name, value in self.values.items() if name not in others}
        return Variant(keywords=keywords, variables=variables)


def _literal(text: str) -> Any:
    """A number, True, False or None; otherwise the text."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError):
        return text
    return value


def points(axes: Sequence[Axis]) -> list[Point]:
    """Every combination, the last axis changing first."""
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise UsageError(f"--axis has {', '.join(names)}; expected each name once.")
    versioned = [name for name in names if name in VERSIONED]
    if len(versioned) > 1:
        raise UsageError(
            f"--axis has {' and '.join(versioned)}; expected one axis of versions: each is an interpreter."
        )
    return [Point(dict(zip(names, values, strict=True))) for values in itertools.product(*(a.values for a in axes))]


def check_points(chosen: Sequence[Point], question: Question, interpreters: Mapping[str, Path]) -> None:
    """Start a worker of each interpreter, and run nothing.

    Raises:
        UsageError: if one has another version than its point, or not the subject, if the subject has not an option, or
            if an option is without effect here.
    """
    # In what else points differ, all of them are alike to the subject's signature.
    for point in {_asked(point, question, interpreters).python: point for point in chosen}.values():
        _check(point, _asked(point, question, interpreters))


def judge_points(
    chosen: Sequence[Point], question: Question, interpreters: Mapping[str, Path], log: Log
) -> Iterator[tuple[Point, Judged | None]]:
    """Each point before it is judged, with None, and again with its answer; what the log has is not judged again."""
    for point in chosen:
        if point.key not in log.judged:
            yield point, None
            log.append(_record(point, _asked(point, question, interpreters)))
        yield point, log.judged[point.key]


def _asked(point: Point, question: Question, interpreters: Mapping[str, Path]) -> Question:
    python = next((interpreters[value] for name, value in point.values.items() if name in VERSIONED), question.python)
    return replace(question, python=python, case=point.case(question.case))


def _check(point: Point, asked: Question) -> None:
    with asked.open(point.variant()) as isolated:
        try:
            environment = isolated.started.environment
        except UsageError as error:
            where = f"--python {asked.python}: " if asked.python else ""
            raise UsageError(f"{where}at {point.key}, {error}") from error
    for name, value in point.values.items():
        if name in VERSIONED and (found := environment["packages"].get(name)) != value:
            raise UsageError(f"--python {value}={asked.python} has {name} {found}; expected {name} {value}.")
        if name in VARIABLES and (wrong := _unheard(environment["backend"], asked.subject)):
            raise UsageError(f"--axis {name} changes nothing here: {wrong}.")


def _unheard(backend: str | None, subject: str) -> str | None:
    """Why the environment variables of the project's kernels are without effect, or None."""
    if subject.partition(":")[0].partition(".")[0] != "kernels":
        return f"it is an option of this project's kernels, and the subject is {subject}"
    return None if backend == "gpu" else f"it acts on a GPU alone, and the backend is {backend}"


def _record(point: Point, asked: Question) -> dict[str, Any]:
    start = time.perf_counter()
    with asked.open(point.variant()) as isolated:
        environment = isolated.started.environment
        facts, verdict = asked.facts(isolated)
        file = isolated.imported().get(asked.subject.partition(":")[0])
    status, reason = asked.answer(facts, verdict)
    return {
        "key": point.key,
        "point": dict(point.values),
        "status": status,
        "reason": reason,
        "details": verdict.reason[-_TAIL:],
        **facts_record(facts),
        "file": file,
        "environment": environment,
        "seconds": round(time.perf_counter() - start, 3),
    }
