"""A subject in several isolated processes at once, each with a case of its own.

Most of the time of a run goes into compiling, or into Triton's interpreter: work of one core, of which there are more.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from verify._backend import BackendOption
from verify._cache import ReferenceCache
from verify._case import Case
from verify._isolation import IsolatedSubject
from verify._runner import Fetched, Result, needs_none, run_with, worker_pool
from verify._worker import Started

# References that may wait for the subject: they can be large.
_AHEAD = 4
# What JAX takes of a GPU's memory when it starts, unless told otherwise.
_SHARE = 0.75


class SideBySide:
    """A subject in several processes; a context manager, at whose end there is none.

    Args:
        open_one: starts the process of a number, from 0.
        count: how many.
        jobs: processes for references; 0 computes them in threads of this one.

    Attributes:
        name: of the subject.

    Raises:
        UsageError: as ``IsolatedSubject``.
    """

    def __init__(self, open_one: Callable[[int], IsolatedSubject], count: int, jobs: int) -> None:
        self._jobs = jobs
        # They start while the caller does something else.
        self._subjects = [open_one(number) for number in range(count)]
        self.name = self._subjects[0].name

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.ExitStack() as ends:
            for subject in self._subjects:
                ends.push(subject.__exit__)

    @functools.cached_property
    def started(self) -> Started:
        """What the first process said of the subject and of what it runs on."""
        return self._subjects[0].started

    def lacks(self, case: Case) -> str | None:
        """As of any signature."""
        return self.started.lacks(case)

    def adapt(self, case: Case) -> Case:
        """As of any signature."""
        return self.started.adapt(case)

    def run_cases(
        self, cases: Iterable[Case], cache: ReferenceCache, notice: Callable[[str], None]
    ) -> Iterator[tuple[Case, Result | None]]:
        """Run the cases: each is yielded before it may start, with None, and again with its result, as they end.

        Args:
            cases: what to run; an iterator may end when it sees fit.
            cache: where references are looked up, and kept.
            notice: told of every damaged file in the cache.
        """
        free: SimpleQueue[IsolatedSubject] = SimpleQueue()
        for subject in self._subjects:
            free.put(subject)
        room = len(self._subjects) + self._jobs + _AHEAD
        running: dict[Future[Result], Case] = {}
        references = worker_pool(self._jobs) if self._jobs else contextlib.nullcontext()
        with references as pool, ThreadPoolExecutor(len(self._subjects)) as threads:
            try:
                for case in itertools.chain(cases, [None]):
                    if case is not None:
                        yield case, None
                        running[threads.submit(_run_one, case, free, self._fetch(case, cache, pool), notice)] = case
                    while running and (case is None or len(running) >= room):
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            yield running.pop(future), future.result()
            except BaseException:
                for future in running:
                    future.cancel()
                for subject in self._subjects:
                    subject.stop()
                raise

    def _fetch(self, case: Case, cache: ReferenceCache, pool: Executor | None) -> Callable[[], Fetched] | None:
        if needs_none(case, self):
            return None
        return pool.submit(cache.fetch, case).result if pool else functools.partial(cache.fetch, case)


def _run_one(
    case: Case,
    free: SimpleQueue[IsolatedSubject],
    fetch: Callable[[], Fetched] | None,
    notice: Callable[[str], None],
) -> Result:
    subject = free.get()
    try:
        return run_with(case, subject, fetch, notice)
    finally:
        free.put(subject)


def gpus(backend: BackendOption) -> list[str]:
    """The GPUs that a subject may use, as CUDA_VISIBLE_DEVICES names them; none where the driver shows none."""
    if backend is BackendOption.interpret or shutil.which("nvidia-smi") is None:
        return []
    shown = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    found = [str(number) for number, _ in enumerate(shown.stdout.splitlines())] if shown.returncode == 0 else []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if given is None else [name for name in given.split(",") if name and found]


def variables(number: int, count: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment of one of ``count`` processes: its GPU, and its share of that GPU's memory."""
    if not devices or count == 1:
        return {}
    sharing = -(-count // len(devices))
    chosen = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
    if sharing == 1 or "XLA_PYTHON_CLIENT_PREALLOCATE" in os.environ:
        return chosen
    return {**chosen, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_SHARE / sharing:.3f}"}
