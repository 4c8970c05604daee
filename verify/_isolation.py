"""The subject in a process of its own: whatever it does to that process is an outcome, and the run goes on.

A worker (``verify._worker``) runs one case after the other. It is watched while it does, killed where it takes too
long or too much memory, and replaced when it is gone. The process here imports neither JAX nor the subject.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from verify._backend import BackendOption
from verify._case import Case
from verify._compile_errors import died_in_compiler
from verify._environment import describe_versions
from verify._errors import SuiteError, UsageError
from verify._interpreter import find_interpreter, worker_command
from verify._problem import Problem, make_problem
from verify._subject import Execution
from verify._variant import PLAIN, Variant
from verify._verdict import Outcome, Verdict
from verify._worker import Canary, Imported, Started

_START_SECONDS = 900.0
_CANARY_SECONDS = 120.0
# What holds a GPU may take its time to die.
_DEATH_SECONDS = 60.0
_OUTPUT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_TAIL = 2000
_KEPT = 2**16
_FRAMES = 8
# A case, its problem, and whether the stages are wanted.
Request = tuple[Case, Problem, bool]


def _default_memory() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(0.8 * 1024 * int(fields["MemAvailable"].split()[0]))


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Attributes:
        seconds: of wall-clock time.
        memory: resident bytes of the worker; 80 % of what is available now, unless given.

    Raises:
        UsageError: for a limit that is not positive.
    """

    seconds: float = 900.0
    memory: int = field(default_factory=_default_memory)

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(f"--timeout is {self.seconds:g}; expected more than 0 seconds.")
        if not self.memory > 0:
            raise UsageError(f"--memory is {self.memory / 2**30:g}; expected more than 0 GiB.")


class IsolatedSubject:
    """A subject in workers; a context manager, at whose end there is none.

    Args:
        name: ``module:callable``.
        backend: where its kernels run.
        limits: what a case may take.
        alone: whether each case has a worker of its own.
        python: the interpreter of the workers; this process's own, unless given.
        variant: what is different from a plain run.

    Raises:
        UsageError: if ``python`` is no interpreter that can be a worker's.
    """

    def __init__(
        self,
        name: str,
        backend: BackendOption,
        limits: Limits,
        *,
        alone: bool = False,
        python: Path | None = None,
        variant: Variant = PLAIN,
    ) -> None:
        self.name = name
        self._python = None if python is None else find_interpreter(python)
        self._limits, self._alone = limits, alone
        self._start = functools.partial(_Worker, name, backend, limits.memory, self._python, variant)
        # It imports JAX while the caller does something else; ``started`` waits.
        self._worker = self._start()
        self._used = self._stopped = False

    def __enter__(self) -> IsolatedSubject:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.end()

    def stop(self) -> None:
        """From another thread than ``execute``, which fails if it is not done. The context is left as ever."""
        self._stopped = True
        self._worker.kill()

    @functools.cached_property
    def started(self) -> Started:
        """What the first worker said of the subject and of what it runs on.

        Raises:
            UsageError: if the backend is not there or the subject cannot be imported.
            SuiteError: if the worker cannot start for another reason.
        """
        try:
            started = self._worker.greet()
        except _DeathError as death:
            raise UsageError(f"subject {self.name!r} cannot be imported: its worker {death}\n{death.tail}") from death
        if self._python is None:
            return started
        suite = {"interpreter": str(self._python), "suite": describe_versions()}
        return replace(started, environment=started.environment | suite)

    def accepts(self, name: str) -> bool:
        """As of any signature."""
        return self.started.accepts(name)

    def lacks(self, case: Case) -> str | None:
        """As of any signature."""
        return self.started.lacks(case)

    def adapt(self, case: Case) -> Case:
        """As of any signature."""
        return self.started.adapt(case)

    def imported(self) -> dict[str, str]:
        """The file of every module that the worker has imported, by name; empty if there is no worker any more."""
        if self._worker.gone:
            return {}
        try:
            files: dict[str, str] = self._worker.ask(Imported(), _CANARY_SECONDS)
        except _DeathError:
            return {}
        return files

    def execute(self, case: Case, problem: Problem | None = None, *, stages: bool = False) -> Execution:
        """Run the case. One whose worker died by itself is run again, alone in a fresh worker, before it is blamed.

        Args:
            case, problem, stages: as of a ``Subject``.

        Raises:
            SuiteError: if a fresh worker cannot start or compute.
        """
        # Drawn here: another interpreter's NumPy may draw other numbers.
        request = case, problem or make_problem(case), stages
        execution = self._try(request)
        how = self._worker.death
        if how is None:
            return execution
        return replace(self._try(request), note=f"tried once more alone, as its first worker {how}")

    def _try(self, request: Request) -> Execution:
        known = self.started
        if self._worker.gone or (self._alone and self._used):
            self._replace_worker(known)
        self._used = True
        start = time.perf_counter()
        try:
            answer = self._worker.ask(request, self._limits.seconds)
        except _DeathError as death:
            reason = f"its worker {death}\n{death.tail}".rstrip()
            return Execution({}, Verdict(death.outcome, reason), time.perf_counter() - start)
        if isinstance(answer, KeyboardInterrupt):
            raise answer
        execution: Execution = answer
        # An error may have broken the CUDA context: every later case would fail in this worker.
        if execution.failure is not None and self._worker.sing() is not None:
            self._worker.end()
        return execution

    def _replace_worker(self, known: Started) -> None:
        suspect = self._worker.gone
        self._worker.end()
        self._worker, self._used = self._start(), False
        # Asked after the start: ``stop`` has either killed this worker or is seen here.
        if self._stopped:
            self._worker.kill()
        try:
            started = self._worker.greet()
        except (_DeathError, UsageError) as error:
            raise SuiteError(f"a worker cannot be replaced: the fresh one: {error}") from error
        # Without its GPU, JAX would go on with the CPU.
        before, now = ([each.environment[key] for key in ("backend", "device")] for each in (known, started))
        if before != now:
            raise SuiteError(f"a worker cannot be replaced: it ran on {before}, the fresh one runs on {now}")
        wrong = self._worker.sing() if suspect else None
        if wrong is not None:
            raise SuiteError(f"after a worker died, nothing runs on {known.environment['device']} any more: {wrong}")


class _DeathError(Exception):
    """How a worker died; ``tail`` is the end of what it wrote."""

    def __init__(self, outcome: Outcome, how: str, tail: str) -> None:
        super().__init__(how)
        self.outcome, self.tail = outcome, tail


class _Worker:
    """A worker process.

    Attributes:
        death: how it died, if that was by itself.
    """

    def __init__(
        self, subject: str, backend: BackendOption, memory: int, python: Path | None, variant: Variant
    ) -> None:
        self.death: str | None = None
        self._memory = memory
        self._killed: tuple[Outcome, str] | None = None
        self._channel, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            worker_command(python, theirs.fileno(), os.getpid(), subject, backend, variant),
            cwd=next(iter(variant.places), None),
            env={**os.environ, **variant.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            # Ctrl-C is for this process, which ends the worker and all that the subject has started.
            start_new_session=True,
        )
        theirs.close()
        self._output = _Output(self._process.stdout)

    @property
    def gone(self) -> bool:
        """Whether it has ended, or been killed."""
        if self._killed is not None or self._process.returncode is not None:
            return True
        # Left to be waited for: as long as it is not, no other process has its number.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def greet(self) -> Started:
        """Its first answer; UsageError or SuiteError if that is an error, _DeathError if there is none."""
        answer = self._receive(_START_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        started: Started = answer
        return started

    def sing(self) -> str | None:
        """Why it cannot compute, or None."""
        try:
            wrong: str | None = self.ask(Canary(), _CANARY_SECONDS)
        except _DeathError as death:
            return f"the worker {death}"
        return wrong

    def ask(self, request: Request | Canary | Imported, seconds: float) -> Any:
        """Its answer to a request; _DeathError if there is none."""
        self._output.forget()
        return self._receive(seconds, request)

    def _receive(self, seconds: float, request: Request | Canary | Imported | None = None) -> Any:
        with self._watched(seconds):
            # Where it is gone, receiving says so.
            with contextlib.suppress(OSError):
                if request is not None:
                    self._channel.send(request)
            try:
                return self._channel.recv()
            except Exception as error:
                unreadable = None if isinstance(error, EOFError | OSError) else error
        self._wait()
        if self._killed is not None:
            outcome, how = self._killed
        else:
            outcome, how = Outcome.CRASH, self._how_it_ended()
            if unreadable is not None:
                how = f"sent what cannot be read ({type(unreadable).__name__}: {unreadable})"
        self.end()
        written = self._output.written()
        if outcome is Outcome.CRASH and died_in_compiler(written):
            outcome, how = Outcome.COMPILE_ERROR, f"{how} in a compiler"
        if self._killed is None:
            self.death = how
        raise _DeathError(outcome, how, _shortened(written))

    @contextlib.contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done, seconds), daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()

    def _watch(self, done: threading.Event, seconds: float) -> None:
        """Kill it where it takes too much; where it is gone, close the pipe for who receives."""
        deadline = time.monotonic() + seconds
        while not done.wait(_POLL_SECONDS):
            held = _resident(self._process.pid)
            if held > self._memory:
                limit = f"--memory {self._memory / 2**30:.3g}"
                self._killed = Outcome.OUT_OF_MEMORY, f"held {held / 2**30:.3g} GiB and was killed ({limit})"
            elif time.monotonic() > deadline:
                self._killed = Outcome.TIMEOUT, f"was not done in {seconds:g} seconds and was killed"
            elif not self.gone:
                continue
            self.kill()
            # What the subject has started may hold the other end.
            with socket.socket(fileno=os.dup(self._channel.fileno())) as pipe:
                pipe.shutdown(socket.SHUT_RDWR)
            return

    def kill(self) -> None:
        """Kill it and all that it has started, if it is there."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEATH_SECONDS if self._killed else _DEATH_SECONDS / 10)

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is None:
            return "closed its pipe to the suite"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"died of {name}{' (as the system kills what takes the last memory)' if name == 'SIGKILL' else ''}"

    def end(self) -> None:
        """Kill it and all that it has started, if it is there; SuiteError if it does not die."""
        self.kill()
        try:
            self._process.wait(_DEATH_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SuiteError(f"worker {self._process.pid} was killed and does not die") from error
        self._channel.close()
        # A daemon that the subject has started may still hold it open.
        self._output.join(_OUTPUT_SECONDS)


class _Output(threading.Thread):
    """What a worker writes, passed on to stderr; the end of it is kept."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert pipe is not None
        self._pipe, self._kept, self._lock = pipe, b"", threading.Lock()
        self.start()

    def run(self) -> None:
        """Until the worker, and all that it has started, has ended."""
        while True:
            wait([self._pipe.fileno()])
            if not self._pass_on():
                break
        with self._lock:
            self._pipe.close()

    def _pass_on(self) -> bool:
        """Read what is there, without waiting; False at the end."""
        with self._lock:
            if self._pipe.closed or not wait([self._pipe.fileno()], 0):
                return not self._pipe.closed
            chunk = os.read(self._pipe.fileno(), _KEPT)
            self._kept = (self._kept + chunk)[-_KEPT:]
            # The worker must not wait for ever where stderr is closed.
            with contextlib.suppress(OSError), open(2, "wb", closefd=False) as stderr:
                stderr.write(chunk)
            return bool(chunk)

    def forget(self) -> None:
        """What comes now belongs to another case. What came before may still be in the pipe, which one read empties."""
        self._pass_on()
        with self._lock:
            self._kept = b""

    def written(self) -> str:
        """The end of it."""
        with self._lock:
            return self._kept.decode(errors="replace")


def _shortened(text: str) -> str:
    """The last characters, of faulthandler's long lists the first frames alone, so that what came before is there."""
    text = re.sub(r"^Extension modules: .*\n", "", text, flags=re.MULTILINE)
    return re.sub(rf"((?:^  File .*\n){{{_FRAMES}}})(?:^  File .*\n)+", r"\1  ...\n", text, flags=re.MULTILINE)[-_TAIL:]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
