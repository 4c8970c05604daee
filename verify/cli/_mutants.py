"""``mlstm-verify mutants``: small bugs planted in the project's own kernels, each of which a case must see."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from verify._backend import BackendOption
from verify._errors import UsageError
from verify._mutants import CATALOGUE, Mutant, Record, References, Trial, in_reach, kernels_digest, order, sampled
from verify._mutants._copy import check_places
from verify._mutants._text import print_mutants, print_out_of_reach
from verify._runner import worker_pool
from verify._tiers import each_once
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import given_limits
from verify.cli._progress import progress_bar
from verify.cli._selection import Expression, TierOption, is_endless, select_cases

# More workers than these seldom fit into the memory of a machine.
_MOST_JOBS = 8
Done = TypeVar("Done")


def mutants(
    tier: TierOption = None,
    k: Annotated[
        str | None, typer.Option("-k", help="Only mutants whose grade, place or name matches: words, and, or, not, ().")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many of them, drawn; none that is equivalent.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of --sample. Default: 0.")] = None,
    backend: Annotated[BackendOption, typer.Option(help="Where the kernels run.")] = BackendOption.auto,
    jobs: Annotated[
        int | None, typer.Option(min=1, help=f"Mutants at a time. Default: one a core, at most {_MOST_JOBS}.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for a case.")] = 300.0,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="JSON file of what became of each, written as it is known.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the file of an interrupted run.")] = None,
    list_cases: Annotated[
        bool, typer.Option("--list-cases", help="Print the case that each is run on first, and run nothing.")
    ] = False,
) -> None:
    """Plant bugs in copies of the kernels. Exit code 0: for each a case fails, and none without; 1: else."""
    tier = tier or "smoke"
    if is_endless(tier):
        raise UsageError(f"--tier {tier} has no end of cases: on it, a mutant that survives is never done.")
    cases = select_cases(tier, [], None)
    chosen = _choose(tier, k, sample, seed)
    if list_cases:
        for case in each_once(order(mutant, cases)[0] for mutant in chosen):
            print(case.id)
        return
    check_places(chosen)
    limits, store = given_limits(timeout, None)(), open_cache(cache)
    record = Record.open(out, resume, {"tier": tier, "backend": backend.value, "kernels": kernels_digest()})
    jobs = jobs or min(os.cpu_count() or 1, _MOST_JOBS)
    try:
        with worker_pool(jobs) as pool:
            _execute(Trial(cases, backend, limits, References(store, pool)), record, chosen, jobs)
    except KeyboardInterrupt:
        _say_how_to_go_on(record, chosen, tier)
        raise
    # A pipe has no width of its own; the table is made for 100 columns.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    print_mutants(console, record, chosen, tier)
    if k is None and sample is None:
        print_out_of_reach(console, tier)
    if record.path:
        console.print(f"recorded in {record.path}", soft_wrap=True)
    good = all(fate.status.good for fate in record.of(chosen)) and not record.control["failed"]
    raise typer.Exit(0 if good else 1)


def _choose(tier: str, expression: str | None, sample: int | None, seed: int | None) -> list[Mutant]:
    """The mutants to be run, of those that the tier can see."""
    if seed is not None and sample is None:
        raise UsageError(f"--seed {seed} is of --sample, which is not given.")
    chosen = [mutant for mutant in CATALOGUE if in_reach(mutant, tier)]
    if expression is not None:
        matches, total = Expression(expression), len(chosen)
        chosen = [mutant for mutant in chosen if matches(f"{mutant.grade} {mutant.place} {mutant.name}")]
        if not chosen:
            raise UsageError(f"-k {expression!r} selects none of {total} mutants of the tier {tier}.")
    if sample is not None:
        chosen = sampled(chosen, sample, seed or 0)
        if not chosen:
            raise UsageError(f"--sample {sample} has none to draw from: all that -k selects are equivalent.")
    return chosen


def _say_how_to_go_on(record: Record, chosen: Sequence[Mutant], tier: str) -> None:
    print_mutants(Console(highlight=False, markup=False, stderr=True), record, chosen, tier)
    resume = f"mlstm-verify mutants --tier {tier} --resume {shlex.quote(str(record.path))}"
    again = f"; go on with: {resume}" if record.path else ""
    print(f"interrupted: {len(record.of(chosen))} of {len(chosen)} mutants are done{again}", file=sys.stderr)


def _execute(trial: Trial, record: Record, chosen: Sequence[Mutant], jobs: int) -> None:
    try:
        _try_all(trial, record, chosen, jobs)
        record.control = _control(trial, [fate.case for fate in record.of(chosen)], jobs)
        record.write()
    finally:
        # Also where the interrupt came while no result was waited for.
        trial.stop()


def _try_all(trial: Trial, record: Record, chosen: Sequence[Mutant], jobs: int) -> None:
    todo = [mutant for mutant in chosen if mutant.name not in record.fates]
    with progress_bar() as progress:
        task = progress.add_task("", total=len(chosen), completed=len(chosen) - len(todo), case="")
        for fate in _in_threads(trial, [functools.partial(trial.fate, mutant) for mutant in todo], jobs):
            record.environment = trial.environment or record.environment
            record.add(fate)
            progress.update(task, advance=1, case=fate.name)
            told = f"{fate.status.value} {fate.seconds:.1f}s {fate.name}" + (f" by {fate.case}" if fate.case else "")
            if not progress.console.is_terminal:
                print(f"[{len(record.of(chosen))}/{len(chosen)}] {told}", file=sys.stderr, flush=True)
            elif not fate.status.good:
                progress.console.print(told, markup=False, soft_wrap=True)


def _control(trial: Trial, killed_by: Sequence[str], jobs: int) -> dict[str, Any]:
    """Kernels without a mutant on every case that killed one: how many cases, and which of them fail."""
    killers = set(killed_by)
    cases = [case for case in trial.cases if case.id in killers] or list(trial.cases[:1])
    parts = [cases[start::jobs] for start in range(min(jobs, len(cases)))]
    failures = _in_threads(trial, [functools.partial(trial.control, part) for part in parts], jobs)
    failed = {failure.case.id: failure.verdict.reason.partition("\n")[0] for failure in failures if failure}
    return {"cases": len(cases), "failed": failed}


def _in_threads(trial: Trial, tasks: Sequence[Callable[[], Done]], jobs: int) -> Iterator[Done]:
    """What the tasks return, as they are done; at an error, or Ctrl-C, what runs is stopped."""
    with ThreadPoolExecutor(min(jobs, len(tasks)) or 1) as threads:
        futures = [threads.submit(task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            trial.stop()
            raise
