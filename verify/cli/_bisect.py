"""``mlstm-verify bisect``: the first bad commit of a repository, or the bad points of an axis."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from verify._backend import BackendOption
from verify._bisection._commits import Code, CommitSearch, Question
from verify._bisection._environments import interpreters, parse_interpreters
from verify._bisection._log import JUDGED, PICTURE, SEARCH, Judged, Log, check_new, read_search
from verify._bisection._picture import draw
from verify._bisection._points import VERSIONED, Axis, check_points, judge_points, points
from verify._bisection._predicate import DEFAULT, Predicate, Shown
from verify._bisection._repository import Repository, interruptible
from verify._bisection._table import measured, print_commits, print_points
from verify._cache import ReferenceCache
from verify._case import Case
from verify._errors import UsageError
from verify._interpreter import find_interpreter
from verify._reference import Reference
from verify._relation_cases import parse_case
from verify._runner import or_fail
from verify._subject import DEFAULT_SUBJECT
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import given_limits

_SECONDS = 900.0


def bisect(
    repo: Annotated[
        Path | None, typer.Option(help="Checkout of the git repository to search; it is only read.")
    ] = None,
    good: Annotated[str | None, typer.Option(help="Commit that is good: an ancestor of the bad one.")] = None,
    bad: Annotated[str | None, typer.Option(help="Commit that is bad.")] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE,VALUE instead of --repo: versions or options; several make every combination."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help=f"module:callable with the seed's signature. Default: {DEFAULT_SUBJECT}.")
    ] = None,
    case: Annotated[str | None, typer.Option(help="Case id.")] = None,
    until: Annotated[
        str | None, typer.Option(help=f'What makes a commit a bad one, as in "z(df) > 8". Default: "{DEFAULT}".')
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            help="Directory in the repository that modules are imported from; may be repeated. Default: its root."
        ),
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(help="Package that must be the commit's, where the subject is beside it. Default: the subject's."),
    ] = None,
    build: Annotated[
        str | None, typer.Option(help="Command run in each commit's checkout before it is imported.")
    ] = None,
    first_parent: Annotated[bool, typer.Option("--first-parent", help="Count a merge as one commit.")] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Search though tracked files have changes, which are not judged.")
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(help="Another interpreter for the subject; beside --axis, VERSION=PATH, which may be repeated."),
    ] = None,
    backend: Annotated[
        BackendOption | None, typer.Option(help="Where Triton kernels run. Default: auto.", show_default=False)
    ] = None,
    timeout: Annotated[float | None, typer.Option(help=f"Seconds for the case. Default: {_SECONDS:g}.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB for the subject's process. Default: 80 % of what is available.")
    ] = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the log. Default: runs/TIME-bisect.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the search in this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
) -> None:
    """Find the first bad commit, version or option. Exit code 0: found, or no point is bad; 1: a point is bad, or
    only skipped commits are left."""
    given = {
        "repo": os.path.abspath(repo) if repo else None,
        "good": good,
        "bad": bad,
        "axis": axis,
        "subject": subject,
        "case": case,
        "until": until,
        "path": path,
        "package": package,
        "build": build,
        "first-parent": first_parent,
        "allow-dirty": allow_dirty,
        "python": [_absolute(text) for text in python or []],
        "backend": backend and backend.value,
        "timeout": timeout,
        "memory": memory,
        "out": str(out) if out else None,
    }
    with interruptible():
        if resume is None:
            search = _new(given)
            directory = out or Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-bisect"
            check_new(directory)
        else:
            if wrong := [f"--{name}" for name, value in given.items() if value not in (None, False, [])]:
                told = f"--resume {resume} goes on with that search; {', '.join(wrong)} cannot be given."
                raise UsageError(told)
            directory, search = resume, read_search(resume)
            if lost := [name for name in (*given, "beside") if name not in search]:
                raise UsageError(f"{resume / SEARCH} is damaged: its search has no {', '.join(lost)}.")
            if search["backend"] not in list(BackendOption):
                raise UsageError(f"{resume / SEARCH} is damaged: backend {search['backend']!r} is unknown.")
        way = _search_repository if search["repo"] else _search_axes
        raise typer.Exit(way(search, directory, open_cache(cache), as_json=as_json))


def _absolute(text: str) -> str:
    """A path, or the one in VERSION=PATH, wherever the search is gone on with."""
    version, equals, path = text.rpartition("=")
    return f"{version}{equals}{os.path.abspath(path)}"


def _new(given: dict[str, Any]) -> dict[str, Any]:
    """What is searched and asked, with defaults; UsageError for options that do not go together."""
    if bool(given["repo"]) == bool(given["axis"]):
        had = "both are given" if given["repo"] else "neither is given"
        raise UsageError(f"--repo searches commits and --axis versions and options; {had}; expected one of them.")
    needed = ("case", "good", "bad") if given["repo"] else ("case",)
    if missing := [f"--{name}" for name in needed if not given[name]]:
        raise UsageError(f"{', '.join(missing)} not given; expected {' and '.join(f'--{name}' for name in needed)}.")
    of_commits = ("good", "bad", "path", "package", "build", "first-parent", "allow-dirty")
    if given["axis"] and (wrong := [f"--{name}" for name in of_commits if given[name]]):
        raise UsageError(f"--axis has no commits; {', '.join(wrong)} cannot be given beside it.")
    return given | {
        "subject": given["subject"] or DEFAULT_SUBJECT,
        "until": DEFAULT if given["until"] is None else given["until"],
        "path": given["path"] or ["."],
        "backend": given["backend"] or BackendOption.auto.value,
        "timeout": _SECONDS if given["timeout"] is None else given["timeout"],
        # Where modules are that no commit has.
        "beside": os.getcwd() if given["package"] else None,
    }


def _question(search: dict[str, Any], cache: ReferenceCache, python: Path | None) -> Question:
    """Parsed, before anything starts."""
    case = parse_case(search["case"])
    if not all(search["subject"].partition(":")):
        raise UsageError(f"subject is {search['subject']!r}; expected module:callable, as in {DEFAULT_SUBJECT}.")

    @functools.cache
    def reference(case: Case) -> Reference:
        return or_fail(case, lambda: cache.fetch(case))[0]

    limits = given_limits(search["timeout"], search["memory"])()
    predicate = Predicate(search["until"], case)
    return Question(search["subject"], case, reference, predicate, BackendOption(search["backend"]), limits, python)


def _search_repository(search: dict[str, Any], directory: Path, cache: ReferenceCache, *, as_json: bool) -> int:
    if len(search["python"]) > 1:
        raise UsageError(f"--python is given {len(search['python'])} times; expected one interpreter for all commits.")
    question = _question(search, cache, find_interpreter(Path(search["python"][0])) if search["python"] else None)
    repository = Repository(Path(search["repo"]), allow_dirty=search["allow-dirty"])
    good, bad = repository.resolve("--good", search["good"]), repository.resolve("--bad", search["bad"])
    repository.check_order(good, bad)
    repository.check_room(good, bad)
    package = search["package"] or search["subject"].partition(":")[0].partition(".")[0]
    code = Code(search["path"], package, search["build"], Path(search["beside"]) if search["beside"] else None)
    # By their hashes: a branch may be elsewhere when the search is gone on with.
    search = search | {"good": good.hash, "bad": bad.hash}
    first_parent = search["first-parent"]
    with Log(directory, search, ["mlstm-verify", *sys.argv[1:]]) as log, repository.worktree(bad) as worktree:
        searched = CommitSearch(repository, good, bad, worktree, code, question, log, first_parent=first_parent)
        steps = ((f"{commit.short} {commit.subject}", judged) for commit, judged in searched.run())
        _watch(steps, question.predicate.shown, directory)
        left = searched.left
    commits = repository.between(good, bad, first_parent=first_parent)
    title = f"{question.subject}, {question.case.id}: {question.predicate.text}"
    (directory / PICTURE).write_text(draw(title, commits, log.judged, question.predicate.shown, left))
    visited = [log.judged[name] for name in commits if name in log.judged]
    found = log.judged[left[0]] if len(left) == 1 else None
    if as_json:
        document = {"directory": str(directory), "search": search, "first_bad": found and found.record, "left": left}
        print(json.dumps(document | {"commits": len(commits) - 1, "judged": [one.record for one in visited]}, indent=2))
    else:
        print_commits(_stdout(), visited, [repository.commit(name) for name in left], len(commits) - 1, question)
        _stdout().print(f"recorded in {directory}: {JUDGED}, {PICTURE}", soft_wrap=True)
    return 0 if found else 1


def _search_axes(search: dict[str, Any], directory: Path, cache: ReferenceCache, *, as_json: bool) -> int:
    axes = [Axis.parse(text) for text in search["axis"]]
    chosen = points(axes)
    versioned = next((axis for axis in axes if axis.name in VERSIONED), None)
    if versioned is None:
        if len(search["python"]) > 1 or any("=" in text for text in search["python"]):
            raise UsageError(f"--python {search['python'][0]}: no --axis is of versions; expected one PATH for all.")
        question = _question(search, cache, find_interpreter(Path(search["python"][0])) if search["python"] else None)
        found: dict[str, Path] = {}
    else:
        question = _question(search, cache, None)
        given = parse_interpreters(search["python"])
        found = interpreters(versioned.name, versioned.values, given, cache.directory.parent / "environments", _notice)
    check_points(chosen, question, found)
    with Log(directory, search, ["mlstm-verify", *sys.argv[1:]]) as log:
        steps = ((point.key, judged) for point, judged in judge_points(chosen, question, found, log))
        _watch(steps, question.predicate.shown, directory)
    judged = [log.judged[point.key] for point in chosen]
    if as_json:
        print(
            json.dumps({"directory": str(directory), "search": search, "judged": [j.record for j in judged]}, indent=2)
        )
    else:
        print_points(_stdout(), axes, judged, question)
        _stdout().print(f"recorded in {directory}: {JUDGED}", soft_wrap=True)
    return 1 if any(one.status == "bad" for one in judged) else 0


def _notice(text: str) -> None:
    print(f"notice: {text}", file=sys.stderr, flush=True)


def _stdout() -> Console:
    # A pipe has no width of its own; the table is made for 100 columns.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)


def _watch(steps: Iterable[tuple[str, Judged | None]], shown: Shown, directory: Path) -> None:
    """One line on stderr for each that is judged, or was before, and on a terminal what is in hand."""
    stderr = Console(stderr=True, highlight=False, markup=False)
    number, known = 0, True
    try:
        with stderr.status("") if stderr.is_terminal else contextlib.nullcontext() as status:
            for name, judged in steps:
                if judged is None:
                    known = False
                    if status is not None:
                        status.update(Text(f"judging {name}"))
                    continue
                number += 1
                took = "known" if known else _took(judged)
                why = f": {judged.reason}" if judged.status == "skip" else ""
                stderr.print(f"[{number}] {judged.status} {measured(judged, shown)} {took} {name}{why}", soft_wrap=True)
                known = True
    except KeyboardInterrupt:
        again = f"mlstm-verify bisect --resume {shlex.quote(str(directory))}"
        print(f"interrupted: {number} are judged and recorded; go on with: {again}", file=sys.stderr)
        raise


def _took(judged: Judged) -> str:
    twin = judged.record.get("same_tree_as")
    return f"same files as {twin[:10]}" if twin else f"{judged.record['seconds']:.1f}s"
