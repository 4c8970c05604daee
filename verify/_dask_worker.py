"""What runs in the worker processes of a Dask cluster: references, and cases on a subject kept for a whole run.

The subject is in a process of its own, as in a run without a cluster: a kernel that dies takes no Dask worker along.
That process is started by the first case, ended with the run or with the Dask worker, and ended where no case comes
for some minutes: a client that was killed says no farewell.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distributed import Reschedule, Worker, WorkerPlugin, get_worker

from verify._cache import DamageError, check, pack, unpack
from verify._calibration import CALIBRATION
from verify._case import Case
from verify._errors import SuiteError, UsageError
from verify._isolation import IsolatedSubject
from verify._reference import Reference, compute_reference
from verify._run import differences
from verify._runner import Result, or_fail, run_case
from verify._worker import Started

_IDLE_SECONDS = 300.0

Answer = TypeVar("Answer")


@functools.cache
def source_digest() -> str:
    """A hash of this suite's source and calibration: what computes references, runs cases and judges them."""
    import oracles

    places = Path(__file__).parent, Path(oracles.__file__).parent
    sources = [CALIBRATION, *(path for place in places for path in sorted(place.glob("*.py")))]
    return hashlib.blake2b(b"".join(path.read_bytes() for path in sources), digest_size=16).hexdigest()


@functools.cache
def check_process(source: str) -> None:
    """Raise UsageError if this process has other source than the client, SuiteError if its self-test fails."""
    import threadpoolctl

    from verify._self_test import self_test

    if source_digest() != source:
        raise UsageError("it has another version of this project than the client; expected the same source everywhere")
    # The threads of Dask share the cores.
    threadpoolctl.threadpool_limits(1)
    self_test()


def compute(case: Case, source: str) -> bytes:
    """The task of a reference: as ``pack`` makes it."""
    with _named():
        check_process(source)
        return pack(or_fail(case, lambda: compute_reference(case)), case)


@dataclass(frozen=True)
class Conditions:
    """What a worker must be like to run cases of a run.

    Attributes:
        source: digest of the suite's.
        environment: what the subject runs on.
    """

    source: str
    environment: dict[str, Any]


def run(case: Case, reference: bytes | None, plugin: str, conditions: Conditions) -> Result:
    """The task of a case, on a worker that has the plugin of the run."""
    with _named():
        check_process(conditions.source)
        subject: SubjectPlugin = get_worker().plugins[plugin]  # type: ignore[assignment]
        return subject.run(case, reference, conditions.environment)


async def start(plugin: str, dask_worker: Worker) -> Started:
    """Start the subject of a run and say what it runs on; called by ``Client.run``."""
    subject: SubjectPlugin = dask_worker.plugins[plugin]  # type: ignore[assignment]
    return await asyncio.to_thread(subject.start)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Errors say which worker they are from."""
    try:
        yield
    except (UsageError, SuiteError) as error:
        raise type(error)(f"worker {get_worker().address}: {error}") from error


class SubjectPlugin(WorkerPlugin):
    """The subject of a run on every worker of a cluster.

    Args:
        opener: starts it, on a worker.
    """

    def __init__(self, opener: Callable[[], IsolatedSubject]) -> None:
        self._opener = opener

    def setup(self, worker: Worker) -> None:
        """On a worker, which this comes to as a copy. Nothing is started yet."""
        self._seat = _Seat(self._opener)

    async def teardown(self, worker: Worker) -> None:
        """End what was started; a case that is running is not finished."""
        await asyncio.to_thread(self._seat.end)

    def start(self) -> Started:
        """What the subject runs on."""
        return self._seat.call(lambda subject: subject.started)

    def run(self, case: Case, content: bytes | None, environment: dict[str, Any]) -> Result:
        """Run a case.

        Args:
            case: to run.
            content: its reference, packed; None if the subject cannot run it.
            environment: what the run's subjects run on.

        Raises:
            UsageError: if this worker's subject runs on something else.
            SuiteError: if this machine draws other arrays than that of the reference, and as ``run_case`` raises.
            Reschedule: if this worker is ending.
        """
        reference = None if content is None else _checked(content, case)

        def run_here(subject: IsolatedSubject) -> Result:
            here = {"environment": subject.started.environment}
            if changed := differences({"environment": environment}, here):
                raise UsageError(f"it is not as the workers that the run began with: {'; '.join(changed)}")
            return run_case(case, subject, reference)

        return self._seat.call(run_here)


def _checked(content: bytes, case: Case) -> Reference:
    try:
        check(content, case)
    except DamageError as damage:
        raise SuiteError(f"the reference of case {case.id} {damage}") from damage
    return unpack(content)


class _Seat:
    """Holds an isolated subject, and lets it be used by one caller at a time."""

    def __init__(self, opener: Callable[[], IsolatedSubject]) -> None:
        self._open = opener
        # One thread for all: a subject's process is killed when the thread that started it ends.
        self._thread = ThreadPoolExecutor(1)
        self._subject: IsolatedSubject | None = None
        self._ended = False
        self._timer = threading.Timer(0, self._leave)

    def call(self, function: Callable[[IsolatedSubject], Answer]) -> Answer:
        """What the function returns of the subject; Reschedule if it is ended meanwhile."""
        self._timer.cancel()
        try:
            return self._thread.submit(self._call, function).result()
        except Exception as error:
            if self._ended:
                raise Reschedule from error
            raise
        finally:
            self._timer = threading.Timer(_IDLE_SECONDS, self._leave)
            self._timer.daemon = True
            self._timer.start()

    def _call(self, function: Callable[[IsolatedSubject], Answer]) -> Answer:
        if self._subject is None:
            self._subject = self._open()
        # Asked after the start: ``end`` has either stopped this subject or is seen here.
        if self._ended:
            raise Reschedule
        return function(self._subject)

    def _leave(self) -> None:
        # Where it is ended, there is nothing left to end.
        with contextlib.suppress(RuntimeError):
            self._thread.submit(self._close)

    def _close(self) -> None:
        subject, self._subject = self._subject, None
        if subject is not None:
            subject.__exit__()

    def end(self) -> None:
        """End the subject, and the call that uses it."""
        self._ended = True
        self._timer.cancel()
        subject = self._subject
        if subject is not None:
            subject.stop()
        self._thread.submit(self._close).result()
        self._thread.shutdown()
