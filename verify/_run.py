"""A run on disk: a directory with a manifest and one line a case.

    manifest.json   schema version, command line, environment, subject, planned case ids
    results.jsonl   one JSON object a case, appended and flushed as cases finish; results.jsonl.gz, packed by gzip, of
                    a run that is kept
    started.txt     instead of planned case ids, of a run whose cases are drawn as it goes: the id of every case that
                    was started, one a line
    *.parquet       tables made from these at the end (``verify._export``)

An interrupted run keeps every finished case, and can be gone on with. Floats are written with all
their digits; infinities and NaN as the strings "inf", "-inf", "nan".
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import json
import math
import typing
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from verify._cache import definition_digest
from verify._calibration import STATISTICS, thresholds
from verify._case import Case
from verify._curve import Curve
from verify._environment import describe_environment
from verify._errors import UsageError
from verify._measurement import Measurement
from verify._relation_cases import parse_case
from verify._runner import Result
from verify._verdict import Finding, Outcome, Verdict

# One more as soon as a record has another field than before: its readers want all of them.
SCHEMA = 3
MANIFEST, RESULTS, STARTED = "manifest.json", "results.jsonl", "started.txt"
PACKED = f"{RESULTS}.gz"

Made = TypeVar("Made")


def check_directory(directory: Path) -> None:
    """Raise UsageError if ``directory`` exists and is neither empty nor an earlier run."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--out {directory} is a file; expected a new directory or an earlier run.")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise UsageError(f"--out {directory} exists and is not a run (no {MANIFEST}); expected a new directory.")


class RunWriter:
    """Writes a run; a context manager. An earlier run in the same directory is replaced.

    Args:
        directory: where; made if it is not there.
        command: the command line.
        subject: its name.
        cases: what is planned; None if they are drawn as it goes: what is started is planned.
        shard: ``I/N`` if the cases are one of N parts of a run.
        environment: what the subject runs on; this process, unless given.

    Attributes:
        finished: the ids of the cases that are recorded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        command: Sequence[str],
        subject: str,
        cases: Sequence[Case] | None,
        shard: str | None = None,
        environment: dict[str, Any] | None = None,
    ) -> None:
        check_directory(directory)
        self.directory = directory
        self.finished: set[str] = set()
        self.manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": list(command),
            "subject": subject,
            "shard": shard,
            "definition": definition_digest(),
            "environment": environment or describe_environment(),
            "planned": None if cases is None else [case.id for case in cases],
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for table in directory.glob("*.parquet"):
                table.unlink()
            (directory / MANIFEST).write_text(json.dumps(self.manifest, indent=2) + "\n")
            self._lines = (directory / RESULTS).open("w")
            for stale in (STARTED, PACKED):
                (directory / stale).unlink(missing_ok=True)
            if cases is None:
                (directory / STARTED).touch()
        except OSError as error:
            raise UsageError(f"--out {directory} cannot be written: {error}.") from error

    @classmethod
    def resume(cls, directory: Path, environment: dict[str, Any] | None = None) -> RunWriter:
        """Go on with an interrupted run, whose finished cases stay as they are.

        Args:
            directory: of the run.
            environment: what the subject runs on; this process, unless given.

        Raises:
            UsageError: saying what of the run is not as it was: a damaged file, versions, device, source.
        """
        writer = cls.__new__(cls)
        writer.directory, writer.manifest = directory, read_manifest(directory)
        now = {
            **writer.manifest,
            "definition": definition_digest(),
            "environment": environment or describe_environment(),
        }
        if changed := differences(writer.manifest, now):
            raise UsageError(f"{directory / MANIFEST} is of a run under other conditions: {'; '.join(changed)}.")
        path = directory / RESULTS
        if results_of(directory) != path:
            raise UsageError(f"{results_of(directory)} is packed; gunzip it to go on with the run.")
        try:
            cut_torn_line(path)
            writer.finished = {result.case.id for result in read_results(directory)[1]}
            writer._lines = path.open("a")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}.") from error
        return writer

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._lines.close()

    def start(self, case: Case) -> None:
        """Note that a case is about to start, where that is what plans it."""
        if self.manifest["planned"] is None:
            with (self.directory / STARTED).open("a") as started:
                started.write(case.id + "\n")

    def append(self, result: Result) -> None:
        """Write one finished case and flush it."""
        self._lines.write(json.dumps(result_record(result), allow_nan=False) + "\n")
        self._lines.flush()
        self.finished.add(result.case.id)

    def put_in_order(self) -> None:
        """Bring the records, which may have come from many machines, into the order of the plan."""
        path = self.directory / RESULTS
        lines = path.read_text().splitlines(keepends=True)
        place = {name: number for number, name in enumerate(read_manifest(self.directory)["planned"])}
        ordered = sorted(lines, key=lambda line: place[json.loads(line)["case"]])
        if ordered != lines:
            part = path.with_suffix(".part")
            part.write_text("".join(ordered))
            part.replace(path)


def result_record(result: Result) -> dict[str, Any]:
    """A result as JSON values; ``read_results`` is the inverse."""
    record = {
        "case": result.case.id,
        "outcome": result.verdict.outcome.value,
        "reason": result.verdict.reason,
        "precision": result.verdict.precision,
        "worst": dataclasses.asdict(result.verdict.worst) if result.verdict.worst else None,
        "seconds": round(result.seconds, 3),
        "measurements": [dataclasses.asdict(measurement) for measurement in result.verdict.measurements],
    }
    return plain(record)


def plain(value: Any) -> Any:
    """JSON values: lists for tuples, and words for the floats that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _made(kind: type[Made], entry: dict[str, Any]) -> Made:
    return kind(**{name: _PARSE[hint](entry[name]) for name, hint in _HINTS[kind].items()})


_HINTS: dict[type, dict[str, Any]] = {
    kind: typing.get_type_hints(kind) for kind in (Verdict, Finding, Measurement, Curve)
}


def _or_none(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _outcome(word: Any) -> Outcome:
    outcomes = {outcome.value: outcome for outcome in Outcome}
    if word not in outcomes:
        raise ValueError(f"outcome {word!r} is unknown; expected one of {', '.join(outcomes)}")
    return outcomes[word]


def _measurement(entry: dict[str, Any]) -> Measurement:
    measured = _made(Measurement, entry)
    if measured.output not in thresholds()["rms_z"]:
        raise ValueError(f"output {measured.output!r} is unknown")
    for name in ("normwise", "componentwise", "ratio", "rms_z", "largest_z", "normwise_bound"):
        if getattr(measured, name) < 0.0:
            raise ValueError(f"{name} is {getattr(measured, name):g}")
    return measured


def _finding(entry: dict[str, Any]) -> Finding:
    found = _made(Finding, entry)
    if found.check not in ("nonfinite", "ratio", *STATISTICS):
        raise ValueError(f"check {found.check!r} is unknown")
    return found


def _curve(entry: dict[str, Any]) -> Curve:
    curve = _made(Curve, entry)
    if len({len(part) for part in vars(curve).values()}) > 1:
        raise ValueError("a curve has parts of several lengths")
    return curve


_PARSE: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: int,
    float: float,
    str | None: _or_none(_text),
    Outcome: _outcome,
    tuple[int, ...]: lambda numbers: tuple(map(int, numbers)),
    tuple[float, ...]: lambda numbers: tuple(map(float, numbers)),
    dict[str, int]: lambda counts: {_text(name): int(count) for name, count in counts.items()},
    Finding | None: _or_none(_finding),
    Curve | None: _or_none(_curve),
    tuple[Measurement, ...]: lambda entries: tuple(map(_measurement, entries)),
}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of the conditions of two runs, by their manifests, is not the same: subject, source, versions, device."""
    changed = []
    for old, new in zip(_conditions(before), _conditions(now), strict=True):
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        changed += [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names]
    return changed


def _conditions(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    environment = {**manifest["environment"], **{key: manifest.get(key) for key in ("subject", "definition")}}
    # A run directory inside the repository makes it dirty; the same versions may be anywhere.
    for irrelevant in ("dirty", "interpreter"):
        environment.pop(irrelevant, None)
    return environment, environment.pop("packages", {})


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a run, with what was started as planned if nothing else was; as ``read_results`` raises."""
    path = directory / MANIFEST
    manifest = _parse(path, _read(path))
    if manifest.get("schema") != SCHEMA:
        raise UsageError(f"{path} has schema {manifest.get('schema')!r}; this version reads {SCHEMA}.")
    missing = [key for key, kind in _OF_MANIFEST.items() if not isinstance(manifest.get(key, ...), kind)]
    if missing:
        raise UsageError(f"{path} is no manifest: it has no {', '.join(missing)}.")
    if damaged := _misfits(manifest):
        raise UsageError(f"{path} is damaged: {', '.join(damaged)} is missing or of another type.")
    try:
        datetime.datetime.fromisoformat(manifest["started"])
    except ValueError as error:
        raise UsageError(f"{path}: started is no time: {error}.") from error
    if manifest["planned"] is None:
        manifest["planned"] = _read(directory / STARTED).splitlines()
    return manifest


_OF_MANIFEST: dict[str, Any] = {
    **dict.fromkeys(("started", "subject", "definition"), str),
    "environment": dict,
    "planned": list | None,
}
_OF_ENVIRONMENT = ("backend", "device", "driver", "commit", "platform", "python", "interpreter")


def _misfits(manifest: dict[str, Any]) -> list[str]:
    """What should hold texts, or nothing, and does not; or is not there."""
    environment = manifest["environment"]
    packages = environment.get("packages", {})
    wrong = [name for name in ("backend", "device") if name not in environment]
    wrong += [name for name in _OF_ENVIRONMENT if not isinstance(environment.get(name), str | None)]
    if not isinstance(packages, dict) or not all(isinstance(version, str | None) for version in packages.values()):
        wrong.append("packages")
    if not isinstance(manifest.get("shard"), str | None):
        wrong.append("shard")
    for name in ("planned", "command"):
        texts = manifest.get(name) or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            wrong.append(name)
    return wrong


def read_results(directory: Path, *, unfinished: bool = False) -> tuple[dict[str, Any], list[Result]]:
    """(manifest, results) of a run.

    Args:
        directory: of the run.
        unfinished: whether it may have been killed: a last line without its end is then left out.

    Raises:
        UsageError: with the file's name, if a file is missing, damaged or of another schema version; of a record with
            its line too.
    """
    manifest, path = read_manifest(directory), results_of(directory)
    text = _read(path)
    lines = text[: text.rfind("\n") + 1 if unfinished else None].splitlines()
    results = [_result(path, line, number) for number, line in enumerate(lines, 1)]
    planned, recorded = set(manifest["planned"]), set()
    for name in (result.case.id for result in results):
        if name not in planned or name in recorded:
            wrong = " twice" if name in recorded else ", which was not planned"
            raise UsageError(f"{path} has case {name}{wrong}.")
        recorded.add(name)
    return manifest, results


def _result(path: Path, text: str, line: int) -> Result:
    record = _parse(path, text, line)
    try:
        return Result(parse_case(record["case"]), _made(Verdict, record), float(record["seconds"]))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path}, line {line}: the record is damaged: {told.rstrip('.')}.") from error


def cut_torn_line(path: Path) -> None:
    """Cut off a line that was being written at a kill; in place, as another may come. Makes the file if need be."""
    with path.open("a+b") as lines:
        lines.seek(0)
        lines.truncate(lines.read().rfind(b"\n") + 1)


def results_of(directory: Path) -> Path:
    """The records of a run; a run that is kept may have them packed by gzip."""
    plain_text, packed = directory / RESULTS, directory / PACKED
    return packed if packed.exists() and not plain_text.exists() else plain_text


def _read(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


def _parse(path: Path, text: str, line: int = 1) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {line + error.lineno - 1}: no JSON: {error.msg}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}, line {line}: expected a JSON object, got a {type(value).__name__}.")
    return value
