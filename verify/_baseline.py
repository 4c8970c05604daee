"""Baselines: what a subject reached on a device with a toolchain, in a text file that a reviewer can read.

    mlstm-verify baseline 1            the version of the format
    checksum 0f3b...                   BLAKE2b of all that follows
    reason: first release              and the subject, the conditions of the run, ...

    case ordinary:...:seed0 pass       by id, in order of the ids
     h a35887cfc6eb7cde 0.019 0.58 3.74 310 0
                                       output, digest, error/bound, RMS z, largest z, ulp, not finite

A file is named after the subject, the device and the toolchain; there is one for each.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from verify._errors import UsageError
from verify._recorded import CaseRecord, Level, Recorded
from verify._relation_cases import parse_case
from verify._verdict import Outcome

DIRECTORY = Path("reports/baselines")
SUFFIX = ".baseline"
_FIRST_LINE = "mlstm-verify baseline 1"
_TOOLCHAIN = ("jax", "jax-triton", "triton")
_OF_RECORD = ("subject", "started", "definition")


@dataclass(frozen=True)
class Baseline:
    """A baseline.

    Attributes:
        record: what was recorded.
        reason: why it was accepted.
        accepted: when, ISO 8601.
    """

    record: Recorded
    reason: str
    accepted: str


def file_name(record: Recorded) -> str:
    """The name of the baseline's file: subject, device and toolchain."""
    tools = [f"{name}-{record.conditions[name]}" for name in _TOOLCHAIN if name in record.conditions]
    device = record.conditions.get("device", "no JAX")
    parts = (record.subject, device, "-".join(tools) or f"numpy-{record.conditions.get('numpy', 'none')}")
    return "--".join(re.sub(r"[^\w.-]+", "-", part.replace(":", ".")) for part in parts) + SUFFIX


def accept(runs: Sequence[Recorded], reason: str, directory: Path, *, force: bool) -> Path:
    """Write the baseline of a subject.

    Args:
        runs: of one subject on one device with one toolchain; together they are the baseline.
        reason: why it is accepted.
        directory: where its file goes.
        force: whether a file that is there may be replaced.

    Returns:
        The file.

    Raises:
        UsageError: for runs that are unfinished, do not fit together or share cases, or a file that is there.
    """
    if not reason.strip() or "\n" in reason:
        raise UsageError(f"--reason is {reason!r}; expected one line of text.")
    record = _together(runs)
    path = directory / file_name(record)
    if path.exists() and not force:
        raise UsageError(f"{path} is there; --force replaces it.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(record, reason.strip()))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.") from error
    return path


def _together(runs: Sequence[Recorded]) -> Recorded:
    first, cases = runs[0], dict(runs[0].cases)
    for run in runs:
        if run.is_baseline:
            raise UsageError(f"{run.path} is a baseline; expected a run directory.")
        if len(run.cases) < run.planned:
            raise UsageError(f"{run.path} is unfinished: {len(run.cases)} of {run.planned} cases are recorded.")
    if not cases:
        raise UsageError(f"{first.path} has no case.")
    for run in runs[1:]:
        if (file_name(run), run.definition, run.conditions) != (file_name(first), first.definition, first.conditions):
            raise UsageError(f"{run.path} does not go with {first.path}: another subject, source, device or version.")
        # Tiers share cases: those of the corpus.
        for name in sorted(cases.keys() & run.cases.keys()):
            if _lines(name, cases[name]) != _lines(name, run.cases[name]):
                raise UsageError(f"{run.path} has case {name}, and not as {first.path} or another run has it.")
        cases |= run.cases
    return replace(first, cases=cases)


def _text(record: Recorded, reason: str) -> str:
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    header = {"reason": reason, "accepted": today, **{name: getattr(record, name) for name in _OF_RECORD}}
    lines = [f"{name}: {value}" for name, value in header.items()]
    lines += [f"{name} = {value}" for name, value in sorted(record.conditions.items())]
    lines.append("")
    for name, one in sorted(record.cases.items()):
        lines += _lines(name, one)
    body = "\n".join(lines) + "\n"
    return f"{_FIRST_LINE}\nchecksum {_checksum(body)}\n{body}"


def _lines(name: str, one: CaseRecord) -> list[str]:
    lines = [f"case {name} {one.outcome.value}"]
    for _, level in sorted(one.levels.items()):
        numbers = (level.ratio, level.rms_z, level.largest_z, level.ulp)
        told = " ".join(f"{number:.4g}" for number in numbers)
        lines.append(f" {level.output} {level.digest} {told} {level.nonfinite}")
    return lines


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """A baseline from its file.

    Raises:
        UsageError: with the file's name, if it is missing, damaged, edited, of another version, or no baseline.
    """
    try:
        # As it is: another end of line is another checksum.
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    first, _, rest = text.partition("\n")
    checksum, _, body = rest.partition("\n")
    if first != _FIRST_LINE:
        raise UsageError(f"{path} begins with {first[:60]!r}; this version reads {_FIRST_LINE!r}.")
    if checksum != f"checksum {_checksum(body)}":
        raise UsageError(f"{path} is damaged or was edited: its second line is not the checksum of the rest.")
    try:
        return _parse(path, body)
    except (ValueError, KeyError, IndexError) as error:
        raise UsageError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _parse(path: Path, body: str) -> Baseline:
    top, _, rows = body.partition("\n\n")
    header = dict(line.split(": ", 1) for line in top.splitlines() if ": " in line.partition(" = ")[0])
    conditions = dict(line.split(" = ", 1) for line in top.splitlines() if ": " not in line.partition(" = ")[0])
    cases = {one.id: one for one in _cases(rows.splitlines())}
    of_record = {name: header[name] for name in _OF_RECORD}
    record = Recorded(path, True, conditions=conditions, planned=len(cases), cases=cases, **of_record)
    return Baseline(record, header["reason"], header["accepted"])


def _cases(lines: Sequence[str]) -> Iterator[CaseRecord]:
    begins = [place for place, line in enumerate(lines) if line.startswith("case ")]
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        _, name, outcome = lines[begin].split(" ")
        levels = [_level(line.split()) for line in lines[begin + 1 : end]]
        yield CaseRecord(name, parse_case(name), Outcome(outcome), {level.output: level for level in levels})


def _level(words: Sequence[str]) -> Level:
    output, digest, *numbers, nonfinite = words
    ratio, rms_z, largest_z, ulp = (float(number) for number in numbers)
    return Level(output, digest, ratio, rms_z, largest_z, ulp, int(nonfinite))


def baselines(directory: Path) -> list[Baseline]:
    """All baselines of a directory, by the names of their files; as ``read_baseline`` raises."""
    return [read_baseline(path) for path in sorted(directory.glob(f"*{SUFFIX}"))]


def baseline_for(run: Recorded, directory: Path) -> Baseline:
    """The baseline that a run is to be held against: of its subject and device, of its toolchain if there is one.

    Raises:
        UsageError: if there is none; as ``read_baseline`` does.
    """
    there = baselines(directory)
    device = run.conditions.get("device")
    fitting = [
        one for one in there if one.record.subject == run.subject and one.record.conditions.get("device") == device
    ]
    if not fitting:
        told = "; ".join(f"{one.record.subject} on {one.record.conditions.get('device')}" for one in there) or "none"
        raise UsageError(f"not comparable: {directory} has no baseline of {run.subject} on {device}; it has: {told}.")
    return max(fitting, key=lambda one: (one.record.path.name == file_name(run), one.accepted))
