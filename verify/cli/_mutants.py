"""``mlstm-verify mutants``: small bugs planted in the project's own kernels, each of which a case must see."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify._backend import BackendOption
from verify._case import Case
from verify._errors import SuiteError, UsageError
from verify._mutants import CATALOGUE, Fate, Mutant, References, Status, Trial, kernels_digest, order, sampled
from verify._runner import worker_pool
from verify._tiers import TIERS, each_once
from verify.cli._cache import CacheOption, open_cache
from verify.cli._opening import given_limits
from verify.cli._progress import progress_bar
from verify.cli._selection import Expression, TierOption, is_endless, select_cases

# More workers than these seldom fit into the memory of a GPU, or of a machine.
_MOST_JOBS = 8
_STYLES = {Status.KILLED: "green", Status.EQUIVALENT: "yellow"}
Done = TypeVar("Done")


def mutants(
    tier: TierOption = None,
    k: Annotated[
        str | None, typer.Option("-k", help="Only mutants whose name, grade or place matches: words, and, or, not, ( ).")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many of them, drawn; none that is equivalent.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of --sample. Default: 0.")] = None,
    backend: Annotated[BackendOption, typer.Option(help="Where the kernels run.")] = BackendOption.auto,
    jobs: Annotated[
        int | None, typer.Option(min=1, help=f"Mutants at a time. Default: one a core, at most {_MOST_JOBS}.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for a case.")] = 300.0,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="JSON file of what became of them, written as it becomes known.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the file of an interrupted run.")] = None,
    list_cases: Annotated[
        bool, typer.Option("--list-cases", help="Print the case that each is run on first, and run nothing.")
    ] = False,
) -> None:
    """Plant bugs in copies of the kernels; some case must fail for each. Exit code 0: so it is; 1: one survived."""
    tier = tier or "smoke"
    if is_endless(tier):
        raise UsageError(f"--tier {tier} has no end of cases; a mutant that survives would never be done.")
    cases = select_cases(tier, [], None)
    chosen = _choose(tier, k, sample, seed)
    if list_cases:
        for case in each_once(first for mutant in chosen for first in order(mutant, cases)[:1]):
            print(case.id)
        return
    record = _Record.open(out, resume, {"tier": tier, "backend": backend.value, "kernels": kernels_digest()})
    jobs = jobs or min(os.cpu_count() or 1, _MOST_JOBS)
    limits = given_limits(timeout, None)()
    store = open_cache(cache)
    with worker_pool(jobs) as pool:
        trial = Trial(cases, backend, limits, References(store, pool))
        try:
            _try_all(trial, chosen, record, jobs)
            record.control = _control(trial, record.killers(chosen), jobs)
        except KeyboardInterrupt:
            _print(record, chosen, tier)
            told = f"interrupted: {len(record.of(chosen))} of {len(chosen)} mutants are done"
            again = f"; go on with --resume {record.path}" if record.path else ""
            print(f"{told}{again}", file=sys.stderr)
            raise
        record.write(trial.environment, done=True)
    _print(record, chosen, tier)
    good = all(fate.status.good for fate in record.of(chosen)) and not record.control["failed"]
    raise typer.Exit(0 if good else 1)


def _choose(tier: str, expression: str | None, sample: int | None, seed: int | None) -> list[Mutant]:
    """The mutants that are run: those that the tier can see, unless left out."""
    if seed is not None and sample is None:
        raise UsageError(f"--seed {seed} is of --sample, which is not given.")
    chosen = [mutant for mutant in CATALOGUE if _in_reach(mutant, tier)]
    if expression is not None:
        matches, total = Expression(expression), len(chosen)
        chosen = [mutant for mutant in chosen if matches(f"{mutant.grade} {mutant.place} {mutant.name}")]
        if not chosen:
            raise UsageError(f"-k {expression!r} selects none of {total} mutants.")
    if sample is not None:
        chosen = sampled(chosen, sample, seed or 0)
        if not chosen:
            raise UsageError(f"--sample {sample} has none to draw from: what -k selects is equivalent.")
    return chosen


def _in_reach(mutant: Mutant, tier: str) -> bool:
    names = list(TIERS)
    return not mutant.beyond and names.index(mutant.tier) <= names.index(tier)


@dataclasses.dataclass
class _Record:
    """What is known: in memory, and in the file, if there is one."""

    path: Path | None
    conditions: dict[str, Any]
    fates: dict[str, Fate]
    control: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, out: Path | None, resume: Path | None, conditions: dict[str, Any]) -> _Record:
        """A new one, or that of an interrupted run; UsageError if that cannot be gone on with."""
        if resume is None:
            if out is not None and out.exists():
                raise UsageError(f"--out {out} exists; --resume {out} goes on with it.")
            if out is not None and not out.absolute().parent.is_dir():
                raise UsageError(f"--out {out} is in no directory.")
            return cls(out, conditions, {})
        if out is not None:
            raise UsageError(f"--resume {resume} goes on with that file; --out {out} cannot be given.")
        try:
            document = json.loads(resume.read_text())
            fates = [Fate(**{**each, "status": Status(each["status"])}) for each in document["mutants"]]
            changed = [name for name, value in conditions.items() if document["conditions"][name] != value]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--resume {resume} is no file of mutants: {type(error).__name__}: {error}.") from error
        if changed:
            raise UsageError(f"--resume {resume} is of another {', '.join(changed)}; run anew.")
        planted = {mutant.name: mutant for mutant in CATALOGUE}
        known = {fate.name: fate for fate in fates if document["planted"].get(fate.name) == _planted(planted, fate)}
        return cls(resume, conditions, known)

    def add(self, fate: Fate) -> None:
        """Of one mutant more."""
        self.fates[fate.name] = fate
        self.write({}, done=False)

    def of(self, chosen: Sequence[Mutant]) -> list[Fate]:
        """Of these, as far as known."""
        return [self.fates[mutant.name] for mutant in chosen if mutant.name in self.fates]

    def killers(self, chosen: Sequence[Mutant]) -> list[str]:
        """The ids of the cases that failed, each once; that of the first, if none did."""
        return list(dict.fromkeys(fate.case for fate in self.of(chosen) if fate.case))

    def write(self, environment: dict[str, Any], *, done: bool) -> None:
        """All of it, in the place of what was there."""
        if self.path is None:
            return
        planted = {mutant.name: mutant for mutant in CATALOGUE}
        document = {
            "conditions": self.conditions,
            "environment": environment,
            "done": done,
            "control": self.control,
            "planted": {name: _planted(planted, fate) for name, fate in self.fates.items()},
            "mutants": [dataclasses.asdict(fate) for fate in self.fates.values()],
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n")
        part.replace(self.path)


def _planted(catalogue: dict[str, Mutant], fate: Fate) -> list[str]:
    mutant = catalogue[fate.name]
    return [mutant.file, mutant.function, mutant.old, mutant.new, str(mutant.nth)]


def _try_all(trial: Trial, chosen: Sequence[Mutant], record: _Record, jobs: int) -> None:
    todo = [mutant for mutant in chosen if mutant.name not in record.fates]
    with progress_bar() as progress:
        task = progress.add_task("", total=len(chosen), completed=len(chosen) - len(todo), case="")
        for fate in _in_threads(trial, [functools.partial(trial.fate, mutant) for mutant in todo], jobs):
            record.add(fate)
            progress.update(task, advance=1, case=fate.name)
            told = f"{fate.status.value} {fate.seconds:.1f}s {fate.name}" + (f" by {fate.case}" if fate.case else "")
            if not progress.console.is_terminal:
                print(f"[{len(record.of(chosen))}/{len(chosen)}] {told}", file=sys.stderr, flush=True)
            elif not fate.status.good:
                progress.console.print(told, markup=False, soft_wrap=True)


def _control(trial: Trial, killers: Sequence[str], jobs: int) -> dict[str, Any]:
    """Kernels without a mutant on every case that failed with one; which of these cases they fail."""
    cases = [case for case in trial.cases if case.id in set(killers)] or list(trial.cases[:1])
    parts = [cases[start::jobs] for start in range(min(jobs, len(cases)))]
    failures = _in_threads(trial, [functools.partial(trial.control, part) for part in parts], jobs)
    failed = {failure.case.id: failure.verdict.reason.partition("\n")[0] for failure in failures if failure}
    return {"cases": len(cases), "failed": failed}


def _in_threads(trial: Trial, tasks: Sequence[Callable[[], Done]], jobs: int) -> Iterator[Done]:
    """What the tasks return, as they are done; at an error, or Ctrl-C, what runs is stopped."""
    with ThreadPoolExecutor(max(1, min(jobs, len(tasks)))) as threads:
        futures = [threads.submit(task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            trial.stop()
            raise


def _print(record: _Record, chosen: Sequence[Mutant], tier: str) -> None:
    """What became of each, in the order of the catalogue, and what it comes to."""
    # A pipe has no width of its own; the table is made for 100 columns.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    fates = record.of(chosen)
    console.print(_table(fates))
    counts = Counter(fate.status for fate in fates)
    told = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    console.print(f"\n{len(chosen)} mutants, {len(fates)} run on the tier {tier}: {told or 'none'}")
    by_name = {mutant.name: mutant for mutant in chosen}
    for fate in fates:
        if fate.status is not Status.KILLED:
            console.print(_remark(fate, by_name[fate.name], tier))
    if len(chosen) > 1:
        _print_out_of_reach(console, tier)
    _print_control(console, record.control)


def _table(fates: Sequence[Fate]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("mutant", overflow="fold")
    table.add_column("fate", no_wrap=True)
    table.add_column("check", overflow="fold")
    table.add_column("/threshold", justify="right", no_wrap=True)
    table.add_column("case", overflow="fold")
    for fate in fates:
        status = Text(fate.status.value, style=_STYLES.get(fate.status, "bold red"))
        excess = "-" if math.isnan(fate.excess) else f"{fate.excess:.2g}"
        table.add_row(fate.name, status, fate.check or "-", excess, fate.case or "-")
    return table


def _remark(fate: Fate, mutant: Mutant, tier: str) -> str:
    place = f"{mutant.name} ({mutant.place}): {mutant.does}"
    if fate.status is Status.SURVIVED:
        likely = ", or ".join(repr(words) for words in mutant.seen) or "any"
        return f"survived: {place} None of {fate.cases} cases of the tier {tier} sees it; expected to: {likely}."
    if fate.status is Status.EQUIVALENT:
        return f"equivalent: {place} {mutant.equivalent} ({fate.cases} cases pass.)"
    if fate.status is Status.NOT_EQUIVALENT:
        return f"a defect of the catalogue: {place} It says: {mutant.equivalent} But {fate.case} fails: {fate.reason}"
    return f"a defect of the catalogue: {place} It does not run: {fate.reason}"


def _print_out_of_reach(console: Console, tier: str) -> None:
    for mutant in CATALOGUE:
        if not _in_reach(mutant, tier):
            needs = mutant.beyond or f"the tier {mutant.tier}"
            console.print(f"not run: {mutant.name} ({mutant.place}) needs {needs}", style="dim")


def _print_control(console: Console, control: dict[str, Any]) -> None:
    if not control:
        console.print("the control, kernels without a mutant, was not run: no kill is certain yet", style="yellow")
    elif control["failed"]:
        console.print("the control FAILS, so that no kill by these cases counts:", style="bold red")
        for case, reason in control["failed"].items():
            console.print(f"{case}: {reason}", soft_wrap=True)
    else:
        console.print(f"control: kernels without a mutant pass the {control['cases']} cases that killed")
