"""The interpreter of a worker: this process's own, or another one with another JAX or Triton.

Another one needs NumPy and what the subject imports. It finds the suite's packages, and nothing else of this process's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from verify._backend import BackendOption
from verify._errors import UsageError

OLDEST = (3, 11)
_PROBE_SECONDS = 120.0
# Any Python understands it. The current directory is not where NumPy may come from.
_PROBE = """
import sys
print("Python %d %d" % sys.version_info[:2])
sys.stdout.flush()
sys.path = [entry for entry in sys.path if entry]
import numpy
print("NumPy " + numpy.__version__)
"""


def find_interpreter(path: Path) -> Path:
    """The absolute path of an interpreter that can be a worker's.

    Raises:
        UsageError: if there is none, or it is too old or has no NumPy.
    """
    expected = f"expected the path of a Python from {'.'.join(map(str, OLDEST))} on that has NumPy"
    if not path.exists():
        raise UsageError(f"--python {path} does not exist; {expected}.")
    if path.is_dir() or not os.access(path, os.X_OK):
        raise UsageError(f"--python {path} is not executable; {expected}.")
    # Not resolved: the link of a virtual environment is what makes it one.
    interpreter = Path(os.path.abspath(path))
    printed, error = _ask(interpreter)
    if "Python" not in printed:
        raise UsageError(f"--python {path} is no Python ({error}); {expected}.")
    version = tuple(int(part) for part in printed["Python"].split())
    if version < OLDEST:
        raise UsageError(f"--python {path} is Python {'.'.join(map(str, version))}; {expected}.")
    if "NumPy" not in printed:
        raise UsageError(f"--python {path} has no NumPy ({error}); {expected}.")
    return interpreter


def _ask(interpreter: Path) -> tuple[dict[str, str], str]:
    """What it prints when asked for versions, by its first word, and the last that it says of an error."""
    command = [str(interpreter), "-c", _PROBE]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, str(error)
    words = (line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines())
    told = done.stderr.decode(errors="replace").strip().splitlines()
    return {first: rest for first, _, rest in words}, told[-1] if told else f"it ended with exit code {done.returncode}"


def worker_command(
    interpreter: Path | None,
    descriptor: int,
    parent: int,
    subject: str,
    backend: BackendOption,
    before: Path | None = None,
) -> list[str]:
    """The command that starts a worker under an interpreter; None is this process's own.

    What is in the directory ``before`` is found before what this process would find; not under another interpreter.
    """
    assert interpreter is None or before is None
    if interpreter is not None:
        places = {name: _place(name) for name in ("kernels", "oracles", "verify")}
        script = Path(__file__).with_name("_start.py")
        words = json.dumps(places), descriptor, parent, subject, backend.value
        return [str(interpreter), "-P", str(script), *map(str, words)]
    work = f"work({descriptor}, {parent}, {subject!r}, BackendOption({backend.value!r}))"
    # Not by -m: modules must be found where this process finds them, and nowhere else.
    path = sys.path if before is None else [str(before), *sys.path]
    code = f"import sys; sys.path[:] = {path!r}; from verify._worker import BackendOption, work; {work}"
    return [sys.executable, "-P", "-c", code]


def _place(package: str) -> str:
    """The directory that a package is in; it is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return str(Path(str(spec.origin)).resolve().parents[1])
