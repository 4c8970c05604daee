"""``mlstm-verify trace``: where a red case goes wrong first."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from verify._backend import BackendOption
from verify._errors import UsageError
from verify._relation_cases import RelationCase, parse_case
from verify._runner import or_fail
from verify._subject import DEFAULT_SUBJECT
from verify._trace._text import as_document, print_trace
from verify._trace._tracing import trace_case
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import (
    BackendChoice,
    IsolateOption,
    MemoryOption,
    PythonOption,
    TimeoutOption,
    given_limits,
    open_subject,
)
from verify.cli._run import clean_stdout


def trace(
    case: Annotated[str, typer.Option("--case", help="Id of the case, as a run prints it.")],
    subject: Annotated[str, typer.Option(help="module:callable with the seed's signature.")] = DEFAULT_SUBJECT,
    backend: BackendChoice = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each part, or in this one.")
    ] = IsolateOption.worker,
    python: PythonOption = None,
    timeout: TimeoutOption = 900.0,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
) -> None:
    """Find the first stage, chunk, step and channel where a red case is out. Exit code 0: it passes; 1: found."""
    parsed = parse_case(case)
    if isinstance(parsed, RelationCase):
        raise UsageError(f"--case {case} checks a relation, which has no oracle; trace the case {parsed.base.id}.")
    store, limits = open_cache(cache), given_limits(timeout, memory)
    clean = clean_stdout() if as_json else contextlib.nullcontext()
    with clean, open_subject(subject, backend, isolate, limits, python) as opened:
        reference, _, damage = or_fail(parsed, lambda: store.fetch(parsed))
        if damage:
            print(f"notice: {damage}", file=sys.stderr)
        traced = trace_case(parsed, opened, reference)
    if as_json:
        print(json.dumps(as_document(traced, subject), indent=2))
    else:
        # A pipe has no width of its own; the tables are made for 80 columns.
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
        print_trace(console, traced, subject)
    raise typer.Exit(1 if traced.verdict.outcome.failed else 0)
