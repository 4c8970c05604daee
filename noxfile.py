"""Every entry point of CI and of a newcomer: ``nox -s verify``, ``nox -s tests``, ``nox --list``.

With ``--no-venv`` nothing is installed: the sessions use the packages that are there.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]


def _install(session: nox.Session, *extras: str) -> None:
    if session.virtualenv.venv_backend != "none":
        session.install("-e", f".[{','.join(extras)}]" if extras else ".")


def _backend_extras(session: nox.Session) -> list[str]:
    """The extra [gpu] where the driver shows a GPU, unless the interpreter is asked for."""
    if {"interpret", "--backend=interpret"} & set(session.posargs) or shutil.which("nvidia-smi") is None:
        return []
    shown = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return ["gpu"] if shown.returncode == 0 and shown.stdout.strip() else []


@nox.session
def verify(session: nox.Session) -> None:
    """The main job: the Triton kernels against the oracles, on the GPU if there is one. Takes the options of `run`."""
    _install(session, *_backend_extras(session))
    session.run("python", "-m", "verify", "run", *session.posargs)


@nox.session
def references(session: nox.Session) -> None:
    """The references of a tier ahead, on a machine without a GPU. Takes the options of `mlstm-verify references`."""
    _install(session)
    session.run("python", "-m", "verify", "references", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """A run as one file: ``nox -s report -- RUN -o report.html``. Takes the options of `mlstm-verify report`."""
    _install(session)
    session.run("python", "-m", "verify", "report", *session.posargs)


@nox.session
def drift(session: nox.Session) -> None:
    """What moved between two runs, or against a baseline. Takes the arguments of `drift`."""
    _install(session)
    session.run("python", "-m", "verify", "drift", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on all cores where there is no GPU to share. Arguments go to pytest."""
    gpu = _backend_extras(session)
    _install(session, "tests", *gpu)
    workers = () if gpu else ("-n", "auto")
    # One thread a worker: they share the cores.
    session.run("python", "-m", "pytest", *workers, *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session
def mutants(session: nox.Session) -> None:
    """Bugs planted in the kernels, which the suite must see: a sample of 20, or what the options of `mutants` say."""
    _install(session, *_backend_extras(session))
    session.run("python", "-m", "verify", "mutants", *(session.posargs or ["--sample", "20"]))


@nox.session
def bench(session: nox.Session) -> None:
    """pytest-benchmark figures of oracles and kernels, and on a GPU the table beside mlstm_kernels; no test."""
    _install(session, "tests", *_backend_extras(session))
    written = Path(session.create_tmp()) / "bench.json"
    options = ("--benchmark-only", "--benchmark-columns=median,iqr,rounds", "--benchmark-group-by=group")
    session.run("python", "-m", "pytest", "tests/bench", *options, f"--benchmark-json={written}", *session.posargs)
    session.run("python", "tests/bench/table.py", str(written))
    session.run("python", "tests/bench/oracle_table.py", str(written))


# Implementations known to be correct, and the dtypes that they have; none is better than its dtype, which would make
# the tails of the others thin.
_CORRECT = {
    "kernels:mlstm_chunkwise_triton_stablef": "",
    "kernels:mlstm_chunkwise_xla": "",
    "tests.subjects.float32:chunkwise": "",
    "tests.subjects.float32:recurrence": "float32 and ",
    "tests.subjects.float32:parallel": "float32 and ",
    "tests.subjects.float32:with_m_as_one_number": "float32 and ",
}


@nox.session
def calibrate(session: nox.Session) -> None:
    """The thresholds of the verdict anew, from runs of correct implementations. Arguments are seeds: 100 and on."""
    gpu = _backend_extras(session)
    _install(session, "tests", *gpu)
    seeds, runs = session.posargs or [str(seed) for seed in range(100, 108)], []
    for seed, tier in [*((seed, "smoke") for seed in seeds), (seeds[0], "standard")]:
        for subject, only in _CORRECT.items():
            # That tier is for those that have all dtypes, and too long for the interpreter.
            if tier == "standard" and (only or ("triton" in subject and not gpu)):
                continue
            runs.append(f"runs/calibration/{subject.replace(':', '.')}-{tier}-{seed}")
            # Relations have no measurements.
            options = ["--tier", tier, "--seed", seed, "--subject", subject, "-k", f"{only}not /", "--out", runs[-1]]
            # By thresholds that are about to be replaced a case may fail.
            session.run("python", "-m", "verify", "run", *options, success_codes=[0, 1])
    session.run("python", "-m", "verify", "calibrate", *runs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's linter and formatter, and the import contracts."""
    _install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    _install(session, "types")
    session.run("mypy")
