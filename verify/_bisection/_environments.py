"""An interpreter for a version: one that is given, or a virtual environment with that version, made once and kept."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from verify._errors import UsageError
from verify._interpreter import find_interpreter

# What a worker, and a kernel of Triton, needs; all of them in the versions that this interpreter has.
_PACKAGES = ("numpy", "ml-dtypes", "jax", "jaxlib", "triton", "jax-triton")
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def parse_interpreters(given: Sequence[str]) -> dict[str, Path]:
    """The interpreters of ``VERSION=PATH`` by version; UsageError for another form, a version twice, or no Python."""
    found: dict[str, Path] = {}
    for text in given:
        version, equals, path = text.partition("=")
        if not (version and equals and path):
            raise UsageError(
                f"--python is {text!r}; expected VERSION=PATH, as in 3.6.0=venv/bin/python, beside --axis."
            )
        if version in found:
            raise UsageError(f"--python has version {version} twice.")
        found[version] = find_interpreter(Path(path))
    return found


def interpreters(
    name: str, versions: Sequence[str], given: Mapping[str, Path], directory: Path, notice: Callable[[str], None]
) -> dict[str, Path]:
    """One for each version of a package: as given, or made in a directory, of which ``notice`` is told.

    Raises:
        UsageError: for a given one that no version asks for, or if pip cannot install a version.
    """
    strange = [version for version in given if version not in versions]
    if strange:
        raise UsageError(f"--python {strange[0]}=... is no version of --axis {name}={','.join(versions)}.")
    return {version: given.get(version) or _made(name, version, directory, notice) for version in versions}


def requirements(name: str, version: str) -> list[str]:
    """What pip installs: the packages of this interpreter, but for one of another version."""
    installed = {package: _version(package) for package in _PACKAGES}
    if name in ("jax", "jaxlib"):
        # They go together; pip finds the other one.
        installed |= {"jax": None, "jaxlib": None}
    plugin = next((package for package in _PLUGINS if _version(package)), None)
    extra = "" if plugin is None else f"[{plugin.split('-')[1]}]"
    chosen = {package: found for package, found in installed.items() if found} | {name: version}
    return [f"{package}{extra if package == 'jax' else ''}=={chosen[package]}" for package in sorted(chosen)]


def _made(name: str, version: str, directory: Path, notice: Callable[[str], None]) -> Path:
    place = directory / f"{name}-{version}-python{sys.version_info.major}.{sys.version_info.minor}"
    python = place / "bin" / "python"
    done = place / "done"
    if done.exists() and done.read_text() == "\n".join(requirements(name, version)):
        return python
    notice(f"making an environment for {name} {version} in {place}, which takes minutes and gigabytes")
    shutil.rmtree(place, ignore_errors=True)
    try:
        venv.create(place, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"no environment for {name} {version} can be made in {place}: {error}.") from error
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*command, *requirements(name, version)], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if installed.returncode != 0:
        told = (installed.stderr.strip() or "pip failed").splitlines()[-1]
        hint = f"--python {version}=PATH gives an interpreter that has it"
        raise UsageError(f"--axis {name}: pip cannot install {name} {version}: {told}. {hint}.")
    # Written last: an environment that was not finished is made anew.
    done.write_text("\n".join(requirements(name, version)))
    return python


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
