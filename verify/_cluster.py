"""Cases and references over the workers of a Dask cluster that is there already.

A reference is a task for any worker, a case one for a worker with the resource ``GPU``. References travel, and are kept
here, as the content of the cache's files. What a lost worker was at is done elsewhere, by Dask itself.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, wait
from distributed.versions import VersionMismatchWarning

from verify._backend import BackendOption
from verify._cache import Found, ReferenceCache
from verify._case import Case
from verify._dask_worker import Conditions, SubjectPlugin, check_process, compute, run, source_digest, start
from verify._errors import SuiteError, UsageError
from verify._isolation import IsolatedSubject, Limits
from verify._relation_cases import RelationCase
from verify._run import differences
from verify._runner import Result
from verify._worker import Started

_GPU = "GPU"
_CONNECT_SECONDS = 5.0
# Workers may be on their way when the client comes.
_ARRIVAL_SECONDS = 5
_POLL_SECONDS = 5.0
# So long a cluster may be without workers before a run ends.
_WITHOUT_WORKERS_SECONDS = 300.0
# Cases beyond those that run: no worker waits for the client. Few, as Dask suspects all that a lost worker had.
_AHEAD = 2
# A reference may be large, which is no accident that Dask should warn of.
_CONFIG = {"distributed.admin.large-graph-warning-threshold": "1GB"}
_SAME = ("python", "dask", "distributed", "cloudpickle", "msgpack")
_INSTALLED = "in an environment with this project and its extra `cluster`"


class Cluster:
    """The connection to a cluster, whose processes all have the source and the versions of this one; a context manager.

    Args:
        address: of the scheduler.

    Raises:
        UsageError: if no scheduler answers, or a process has other versions or other source.
        SuiteError: if the self-test of a worker fails.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = _connect(address)
        try:
            self._check_versions()
            self._check_source()
        except BaseException:
            self.client.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def error(self, told: str) -> UsageError:
        """What is wrong with the cluster."""
        return UsageError(f"--scheduler {self.address}: {told}")

    def _check_versions(self) -> None:
        versions: Any = self.client.get_versions()
        here = versions["client"]["packages"]
        for name, theirs in {"the scheduler": versions["scheduler"], **versions["workers"]}.items():
            there = theirs["packages"]
            differ = [
                f"{package} is {there.get(package)}, here {here[package]}"
                for package in _SAME
                if there.get(package) != here[package]
            ]
            if differ:
                raise self.error(f"{name} has other versions than this process: {'; '.join(differ)}.")

    def _check_source(self) -> None:
        source = source_digest()
        try:
            same = self.client.run_on_scheduler(source_digest) == source
        except Exception as error:
            raise self.error(f"the scheduler cannot import this project ({error}); start it {_INSTALLED}.") from error
        if not same:
            raise self.error("the scheduler has another version of this project; expected the same source everywhere.")
        self.ask_workers(check_process, source)

    def ask_workers(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """What the function returns on each worker; an error says which worker it is from."""
        answers: dict[str, Any] = self.client.run(function, *arguments, on_error="return", **options)
        for address, answer in answers.items():
            if isinstance(answer, UsageError | SuiteError):
                raise type(answer)(f"--scheduler {self.address}: worker {address}: {answer}") from answer
            if isinstance(answer, Exception):
                told = f"worker {address}: {type(answer).__name__}: {answer}; start it {_INSTALLED}."
                raise self.error(told) from answer
        return answers

    def workers(self, resource: str | None = None) -> dict[str, Any]:
        """What the scheduler knows of each worker that has a resource, or of each, by its address."""
        # Of all of them, not of the first five.
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {name: known for name, known in workers.items() if resource is None or known["resources"].get(resource)}

    def gpu_workers(self) -> list[str]:
        """The workers with a GPU; UsageError if there is none, saying how to start one, or if one has several."""
        for _ in range(_ARRIVAL_SECONDS):
            if self.workers(_GPU):
                break
            time.sleep(1.0)
        found = self.workers(_GPU)
        if not found:
            command = f"dask worker {self.address} --resources {_GPU}=1 --nthreads 2"
            told = f"none of its {len(self.workers())} workers has the resource {_GPU}; this starts one, {_INSTALLED}"
            raise self.error(f"{told}: {command}")
        for name, known in found.items():
            if known["resources"][_GPU] != 1:
                told = f"worker {name} has {_GPU}={known['resources'][_GPU]:g}; expected one worker for each GPU"
                raise self.error(f"{told}, started with --resources {_GPU}=1 and its own CUDA_VISIBLE_DEVICES.")
        return list(found)

    def room(self) -> int:
        """How many cases may be under way."""
        workers = self.workers().values()
        return sum(known["nthreads"] for known in workers) + _AHEAD * max(1, len(workers))

    def reference(self, case: Case) -> Future:
        """The reference of a case, computed by some worker, as the content of a file."""
        return self.client.submit(compute, case, source_digest(), key=f"reference-{uuid.uuid4()}")

    def references(
        self, cases: Sequence[Case], cache: ReferenceCache, notice: Callable[[str], None]
    ) -> Iterator[tuple[Case, Found, str]]:
        """Compute the references that the cache has not, and keep them there.

        Args:
            cases: whose references are wanted.
            cache: on this machine.
            notice: told what the user should know.

        Yields:
            Each case when its reference is there, what was found, and what was wrong with a damaged file.

        Raises:
            SuiteError: if a reference cannot be computed.
        """
        tasks, computing = _Tasks(self, None, notice), dict[Future, tuple[Case, Found, str]]()
        for case in (*cases, None):
            if case is not None:
                content, found, damage = cache.read(case)
                if content is not None:
                    yield case, found, ""
                    continue
                computing[self.reference(case)] = case, found, f"{damage}; computed again" if damage else ""
            while computing and (case is None or len(computing) >= self.room()):
                for future in tasks.wait(computing):
                    told = computing.pop(future)
                    if (content := tasks.result(future, told[0])) is not None:
                        cache.write(told[0], content)
                        yield told
        tasks.finish()


def _connect(address: str) -> Client:
    try:
        with warnings.catch_warnings():
            # The cluster's versions are asked for at once.
            warnings.simplefilter("ignore", VersionMismatchWarning)
            return Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        told = f"no Dask scheduler answers ({error}); expected tcp://HOST:PORT"
        raise UsageError(f"--scheduler {address}: {told} of a scheduler, as `dask scheduler` starts one.") from error


class _Tasks:
    """The tasks of one run, as they come to their ends.

    Args:
        cluster: that does them.
        resource: that a worker must have to do them.
        notice: told what the user should know.
    """

    def __init__(self, cluster: Cluster, resource: str | None, notice: Callable[[str], None]) -> None:
        self._cluster, self._resource, self._notice = cluster, resource, notice
        self._given_up: list[Case] = []
        self._without_workers_since: float | None = None

    def wait(self, futures: Iterable[Future]) -> list[Future]:
        """Those of the futures that are done, at least one; SuiteError if the cluster is lost."""
        waiting = list(futures)
        while True:
            try:
                return list(wait(waiting, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                self._look_for_workers()
            except CancelledError as error:
                raise SuiteError(f"--scheduler {self._cluster.address}: the scheduler was lost") from error

    def _look_for_workers(self) -> None:
        try:
            workers = self._cluster.workers(self._resource)
        except OSError as error:
            raise SuiteError(f"--scheduler {self._cluster.address}: the scheduler was lost: {error}") from error
        if workers:
            self._without_workers_since = None
            return
        kind = f"workers with the resource {self._resource}" if self._resource else "workers"
        if self._without_workers_since is None:
            self._without_workers_since = time.monotonic()
            self._notice(f"the cluster has no {kind} any more; waiting for one")
        if time.monotonic() > self._without_workers_since + _WITHOUT_WORKERS_SECONDS:
            told = f"there were no {kind} for {_WITHOUT_WORKERS_SECONDS:g} seconds"
            raise SuiteError(f"--scheduler {self._cluster.address}: {told}")

    def result(self, future: Future, case: Case) -> Any:
        """What a task has returned, or None where Dask gave it up: too many workers were lost while they had it."""
        try:
            return future.result()
        except KilledWorker:
            self._given_up.append(case)
        except (UsageError, SuiteError):
            raise
        except Exception as error:
            raise SuiteError(f"case {case.id} on the cluster: {type(error).__name__}: {error}") from error
        finally:
            # What Dask keeps for somebody it computes again when the worker is lost, and this one is held on to here
            # until garbage is collected.
            future.release()
        return None

    def finish(self) -> None:
        """Raise SuiteError if tasks were given up: that workers were lost is no verdict on any case."""
        if self._given_up:
            names = ", ".join(dict.fromkeys(case.id for case in self._given_up))
            told = f"Dask gave up what it lost several workers with: {names}; their logs may say why they ended"
            raise SuiteError(f"--scheduler {self._cluster.address}: {told}")


class SubjectOnCluster:
    """A subject on the workers of a cluster that have a GPU; a context manager.

    Args:
        cluster: where.
        name: ``module:callable``.
        backend: where its kernels run.
        limits: makes, on a worker, what a case may take.
        alone: whether each case has a process of its own.
        python: its interpreter, a path on every worker; the worker's own, unless given.

    Attributes:
        cluster: as given.
        started: what every worker said of the subject and of what it runs on.

    Raises:
        UsageError: if no worker has a GPU, the subject cannot be imported, ``python`` is no interpreter on a worker, or
            workers are not alike.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        backend: BackendOption,
        limits: Callable[[], Limits],
        *,
        alone: bool = False,
        python: Path | None = None,
    ) -> None:
        self.name, self.cluster = name, cluster
        self._plugin = f"mlstm-verify-{uuid.uuid4()}"
        self._references: dict[Future, Case] = {}
        self._running: dict[Future, Case] = {}
        workers = cluster.gpu_workers()
        opener = functools.partial(_open_isolated, name, backend, limits, alone, python)
        cluster.client.register_plugin(SubjectPlugin(opener), name=self._plugin)
        try:
            self.started = self._start(workers)
        except BaseException:
            self._end()
            raise

    def _start(self, workers: Sequence[str]) -> Started:
        answers = self.cluster.ask_workers(start, plugin=self._plugin, workers=workers)
        first, *others = answers
        for other in others:
            told = [{"environment": answers[address].environment} for address in (first, other)]
            if changed := differences(*told):
                message = (
                    f"worker {other} is not as worker {first}: {'; '.join(changed)}; expected workers that are alike."
                )
                raise self.cluster.error(message)
        started: Started = answers[first]
        return started

    def __enter__(self) -> SubjectOnCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        # Where the scheduler is gone, the workers end their subjects themselves.
        with contextlib.suppress(OSError, TimeoutError, CancelledError):
            self.cluster.client.cancel([*self._references, *self._running], force=True)
            self.cluster.client.unregister_worker_plugin(self._plugin)

    def lacks(self, case: Case) -> str | None:
        """As of any signature."""
        return self.started.lacks(case)

    def adapt(self, case: Case) -> Case:
        """As of any signature."""
        return self.started.adapt(case)

    def run_cases(
        self, cases: Iterable[Case], cache: ReferenceCache, notice: Callable[[str], None]
    ) -> Iterator[tuple[Case, Result | None]]:
        """Run the cases: each is yielded before the cluster is given it, with None, and again with its result.

        Args:
            cases: what to run; an iterator may end when it sees fit.
            cache: on this machine, where references are looked up, and kept.
            notice: told what the user should know.

        Raises:
            SuiteError: if a reference cannot be computed, the cluster is lost, or nothing runs on a device any more.
        """
        tasks = _Tasks(self.cluster, _GPU, notice)
        for case in itertools.chain(cases, [None]):
            if case is not None:
                yield case, None
                self._submit(case, cache, notice)
            while self._running and (case is None or len(self._running) >= self.cluster.room()):
                for future in tasks.wait({**self._references, **self._running}):
                    if future in self._references:
                        of = self._references.pop(future)
                        if (content := tasks.result(future, of)) is not None:
                            cache.write(of, content)
                        continue
                    of = self._running.pop(future)
                    if (result := tasks.result(future, of)) is not None:
                        yield of, result
        tasks.finish()

    def _submit(self, case: Case, cache: ReferenceCache, notice: Callable[[str], None]) -> None:
        reference: bytes | Future | None = None
        if not isinstance(case, RelationCase) and not self.lacks(case):
            reference, _, damage = cache.read(case)
            if damage:
                notice(f"{damage}; computed again")
            if reference is None:
                reference = self.cluster.reference(case)
                self._references[reference] = case
        conditions = Conditions(source_digest(), self.started.environment)
        with dask.config.set(_CONFIG):
            future = self.cluster.client.submit(
                run, case, reference, self._plugin, conditions,
                key=f"case-{uuid.uuid4()}", resources={_GPU: 1}, priority=1,
            )  # fmt: skip
        self._running[future] = case


def _open_isolated(
    name: str, backend: BackendOption, limits: Callable[[], Limits], alone: bool, python: Path | None
) -> IsolatedSubject:
    return IsolatedSubject(name, backend, limits(), alone=alone, python=python)
