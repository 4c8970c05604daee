"""``mlstm-verify references``: computes references ahead, on machines without a GPU."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from typing import Annotated

import typer
from rich.console import Console

from verify._cache import Found, ReferenceCache
from verify._case import Case
from verify._errors import UsageError
from verify._relation_cases import RelationCase
from verify._runner import or_fail, worker_pool
from verify.cli._cache import CacheOption, open_cache
from verify.cli._progress import print_notice, progress_bar
from verify.cli._scheduler import SchedulerOption, open_cluster
from verify.cli._selection import CaseOption, ExpressionOption, GradientsOption, SeedOption, TierOption, select_cases

_TOLD = {Found.CACHED: "was there", Found.MISSING: "computed", Found.DAMAGED: "computed again"}


def references(
    tier: TierOption = None,
    case: CaseOption = None,
    seed: SeedOption = None,
    k: ExpressionOption = None,
    gradients: GradientsOption = True,
    cache: CacheOption = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Compute the references of cases ahead, for `run --cache DIR` on a machine with a GPU. What is there stays."""
    selected = select_cases(tier or "smoke", case or [], k, gradients=gradients, seed=seed)
    cases = [each for each in selected if not isinstance(each, RelationCase)]
    if not cases:
        raise UsageError(f"none of the {len(selected)} selected cases has a reference: all are relations.")
    store = open_cache(cache)
    counts: Counter[Found] = Counter()
    with (
        open_cluster(scheduler, jobs) if scheduler else contextlib.nullcontext() as cluster,
        progress_bar() as progress,
    ):
        task = progress.add_task("", total=len(cases), case="")
        if cluster:
            fetched = cluster.references(cases, store, functools.partial(print_notice, progress))
        else:
            fetched = _fetch_all(cases, store, jobs or os.cpu_count() or 1)
        for done, found, damage in fetched:
            counts[found] += 1
            if damage:
                print_notice(progress, damage)
            progress.update(task, advance=1, case=done.id)
            if not progress.console.is_terminal:
                print(f"[{counts.total()}/{len(cases)}] {_TOLD[found]} {done.id}", file=sys.stderr, flush=True)
    size = sum(store.path(each).stat().st_size for each in cases) / 2**20
    told = f"{counts[Found.CACHED]} were there, {counts[Found.MISSING]} computed"
    if counts[Found.DAMAGED]:
        told += f", {counts[Found.DAMAGED]} damaged and computed again"
    Console(highlight=False).print(f"{len(cases)} references, {size:.1f} MiB: {told}")
    Console(highlight=False).print(f"in {store.directory}", soft_wrap=True)


def _fetch_all(cases: Sequence[Case], cache: ReferenceCache, jobs: int) -> Iterator[tuple[Case, Found, str]]:
    with worker_pool(min(jobs, len(cases))) as pool:
        futures = {pool.submit(_keep, cache, each): each for each in cases}
        for future in as_completed(futures):
            yield futures[future], *or_fail(futures[future], future.result)


def _keep(cache: ReferenceCache, case: Case) -> tuple[Found, str]:
    _, found, damage = cache.fetch(case)
    return found, damage
