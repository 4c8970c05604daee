"""``mlstm-verify search``: the case on which a subject is furthest off, for the corpus that every tier includes."""

from __future__ import annotations

import datetime
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from verify._backend import BackendOption
from verify._case import DTYPES
from verify._corpus import CORPUS, add_to_corpus, read_corpus
from verify._errors import UsageError
from verify._isolation import IsolatedSubject
from verify._self_test import self_test
from verify._subject import DEFAULT_SUBJECT, Subject
from verify.cli._opening import (
    BackendChoice,
    IsolateOption,
    MemoryOption,
    PythonOption,
    TimeoutOption,
    given_limits,
    open_subject,
)
from verify.cli._progress import progress_bar
from verify.cli._selection import GradientsOption

if TYPE_CHECKING:
    from verify._search._hunt import Hunt, Probe
    from verify._search._space import Space

_SHOWN = 5


def search(
    subject: Annotated[str, typer.Option(help="module:callable with the seed's signature.")] = DEFAULT_SUBJECT,
    minutes: Annotated[float, typer.Option(help="Until no more cases are drawn; simplifying comes after.")] = 10.0,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Cases that are drawn at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    length: Annotated[int, typer.Option(min=1, help="The most tokens of a case.")] = 128,
    dtype: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(DTYPES)}; may be repeated.")] = None,
    gradients: GradientsOption = True,
    add: Annotated[
        bool | None, typer.Option("--add/--no-add", help="Add the case to the corpus. Default: if it fails.")
    ] = None,
    corpus: Annotated[Path, typer.Option(help="The file that it is added to.")] = CORPUS,
    backend: BackendChoice = BackendOption.auto,
    isolate: Annotated[
        IsolateOption, typer.Option(help="The subject in a process of its own, in one for each case, or in this one.")
    ] = IsolateOption.worker,
    python: PythonOption = None,
    timeout: TimeoutOption = 900.0,
    memory: MemoryOption = None,
) -> None:
    """Search for the case with the largest error of a subject, simplify it, and add it to the corpus.

    Exit code 0: no case failed; 1: one did; 130: interrupted, nothing is added.
    """
    space = _space(length, dtype or list(DTYPES), gradients=gradients)
    if not minutes > 0.0:
        raise UsageError(f"--minutes is {minutes:g}; expected more than 0.")
    if corpus.exists():
        read_corpus(corpus)
    elif not corpus.parent.is_dir():
        raise UsageError(f"--corpus {corpus} is in no directory that is there.")
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    with open_subject(subject, backend, isolate, given_limits(timeout, memory), python) as loaded:
        for name in self_test():
            print(f"notice: the self-test leaves out {name}", file=sys.stderr)
        hunt, simplest = _hunt(loaded, space, seed, minutes, evaluations, console)
    _print(console, hunt, simplest, subject)
    failed = simplest.verdict.outcome.failed
    if failed if add is None else add:
        today = datetime.datetime.now(datetime.UTC).date()
        told = "added to" if add_to_corpus(simplest.case, f"{subject}: {_told(simplest)}; {today}", corpus) else "is in"
        console.print(f"{told} {corpus}", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def _space(length: int, dtypes: list[str], *, gradients: bool) -> Space:
    if importlib.util.find_spec("hypothesis") is None:
        raise UsageError("search needs Hypothesis, which is not installed: pip install 'mlstm-verify[search]'.")
    from verify._search._space import Space

    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UsageError(f"--dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    return Space(length, tuple(dtypes), gradients)


def _hunt(
    subject: Subject | IsolatedSubject,
    space: Space,
    seed: int,
    minutes: float,
    evaluations: int | None,
    console: Console,
) -> tuple[Hunt, Probe]:
    """The search at its end, and what became of the worst case."""
    from verify._search._hunt import Hunt

    with progress_bar() as progress:
        task = progress.add_task("", total=evaluations, case="")

        def notice(hunt: Hunt, worse: Probe | None) -> None:
            progress.update(task, completed=len(hunt.probes))
            if worse is None:
                return
            told = f"{worse.excess:.3g} times its threshold: {worse.case.id}"
            progress.update(task, case=told)
            if not progress.console.is_terminal:
                print(f"[{len(hunt.probes)}] {told}", file=sys.stderr, flush=True)

        hunt = Hunt(subject, space, seed=seed, seconds=60.0 * minutes, evaluations=evaluations, notice=notice)
        try:
            hunt.run()
            if hunt.worst is None:
                raise UsageError(f"--subject {subject.name} supports none of the cases that were drawn.")
            return hunt, hunt.simplify(hunt.worst)
        except KeyboardInterrupt:
            progress.stop()
            if hunt.worst is not None:
                console.print(f"interrupted after {len(hunt.probes)} cases; the worst so far: {_told(hunt.worst)}")
                console.print(hunt.worst.case.id, soft_wrap=True)
            raise typer.Exit(130) from None


def _told(probe: Probe) -> str:
    outcome, worst = probe.verdict.outcome.value, probe.verdict.worst
    if worst is None:
        return f"{outcome}: {probe.verdict.reason.partition(chr(10))[0][:100]}"
    if worst.check == "nonfinite":
        return f"{outcome}: {worst.output} is not finite"
    return f"{outcome}: {worst.check} of {worst.output} is {worst.excess:.3g} times its threshold"


def _print(console: Console, hunt: Hunt, simplest: Probe, subject: str) -> None:
    failed = [probe for probe in hunt.probes.values() if probe.verdict.outcome.failed]
    console.print(f"{len(hunt.probes)} cases, {len(failed)} failed; the worst of the worst regimes:")
    best: dict[str, Probe] = {}
    for probe in sorted(hunt.probes.values(), key=lambda each: -each.excess):
        best.setdefault(probe.case.regime.partition("@")[0], probe)
    for probe in list(best.values())[:_SHOWN]:
        console.print(f"{probe.excess:10.3g} {_told(probe)}")
        console.print(f"           {probe.case.id}", soft_wrap=True)
    console.print(f"the worst, simplified: {_told(simplest)}")
    console.print(f"mlstm-verify run --case {simplest.case.id} --subject {subject}", soft_wrap=True)
