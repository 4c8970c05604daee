"""The tables of a run in Parquet, made from its manifest and its records and nothing else.

    results.parquet        one row a case
    measurements.parquet   one row a case and output
    curves.parquet         one row a case, output and position along the sequence

docs/runs.md has every column. Rows are in the order in which cases were planned, and nothing in a file says when or
where it was written: equal records give equal bytes.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from verify._case import Case
from verify._curve import Curve
from verify._errors import UsageError
from verify._measurement import Measurement
from verify._runner import Result

VERSION = 1
_VERSION_KEY = b"mlstm_verify_tables"
_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    tuple[int, ...]: pa.list_(pa.int64()),
    dict[str, int]: pa.map_(pa.string(), pa.int64()),
}
_CURVE = tuple(field.name for field in fields(Curve))

_SIZES = ("batch", "heads", "length", "dhqk", "dhhv", "chunk_size")
_OF_RUN = ("subject", "shard", "backend", "device")
_RESULTS = {
    **dict.fromkeys(("case", "relation", "regime"), pa.string()),
    "parameter": pa.float64(),
    **dict.fromkeys(_SIZES, pa.int64()),
    **dict.fromkeys(("dtype", "mode"), pa.string()),
    **dict.fromkeys(("norm_val", "eps"), pa.float64()),
    "initial": pa.string(),
    "m_0": pa.float64(),
    "cotangents": pa.string(),
    "seed": pa.int64(),
    **dict.fromkeys(("outcome", "reason", "precision", "worst_output", "worst_check"), pa.string()),
    "worst_excess": pa.float64(),
    "seconds": pa.float64(),
    **dict.fromkeys(_OF_RUN, pa.string()),
}


def _measured() -> dict[str, pa.DataType]:
    hints = typing.get_type_hints(Measurement)
    return {field.name: _TYPES[hints[field.name]] for field in fields(Measurement) if field.name != "curve"}


TABLES: dict[str, pa.Schema] = {
    f"{name}.parquet": pa.schema(columns, metadata={_VERSION_KEY: str(VERSION)})
    for name, columns in {
        "results": _RESULTS,
        "measurements": {"case": pa.string(), **_measured()},
        "curves": {
            **dict.fromkeys(("case", "output"), pa.string()),
            **dict.fromkeys(_CURVE, pa.float64()),
        },
    }.items()
}


def write_tables(directory: Path, manifest: dict[str, Any], results: Sequence[Result]) -> dict[Path, int]:
    """Write the tables of a run, or write them again.

    Args:
        directory: of the run.
        manifest, results: as ``read_results`` returns them.

    Returns:
        The files, and how many rows each has.

    Raises:
        UsageError: for a directory that cannot be written.
    """
    written = {}
    for name, table in make_tables(manifest, results).items():
        path, partial = directory / name, directory / f"{name}.partial"
        try:
            parquet.write_table(table, partial, compression="zstd")
            os.replace(partial, path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}.") from error
        written[path] = table.num_rows
    return written


def make_tables(manifest: dict[str, Any], results: Sequence[Result]) -> dict[str, pa.Table]:
    """The tables by the names of their files."""
    place = {case: number for number, case in enumerate(manifest["planned"])}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for result in sorted(results, key=lambda result: place[result.case.id]):
        for name, row in _rows(manifest, result):
            rows[name].append(row)
    return {name: pa.Table.from_pylist(rows[name], schema) for name, schema in TABLES.items()}


def _rows(manifest: dict[str, Any], result: Result) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, row); a table takes of a row what it has a column for."""
    case, verdict = {"case": result.case.id}, result.verdict
    worst = {f"worst_{name}": value for name, value in vars(verdict.worst).items()} if verdict.worst else {}
    judged = vars(verdict) | {"outcome": verdict.outcome.value, "seconds": result.seconds}
    yield "results.parquet", case | _of_case(result.case) | judged | worst | _of_run(manifest)
    for measured in verdict.measurements:
        yield "measurements.parquet", case | vars(measured) | {"kinds": sorted(measured.kinds.items())}
        curve = vars(measured.curve) if measured.curve else dict.fromkeys(_CURVE, ())
        for values in zip(*curve.values(), strict=True):
            yield "curves.parquet", case | {"output": measured.output} | dict(zip(curve, values, strict=True))


def _of_case(case: Case) -> dict[str, Any]:
    row = vars(case) | {"mode": case.mode}
    for name, parameter in (("regime", "parameter"), ("initial", "m_0")):
        row[name], _, value = row[name].partition("@")
        row[parameter] = float(value) if value else None
    return row


def _of_run(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest.get(name) or manifest["environment"].get(name) for name in _OF_RUN}


def read_table(path: Path) -> pa.Table:
    """A table that ``write_tables`` wrote.

    Raises:
        UsageError: with the file's name, if it is missing, damaged, another file, or of another version.
    """
    try:
        with parquet.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
            if version != str(VERSION).encode():
                found = "no version" if version is None else f"version {version.decode(errors='replace')}"
                raise UsageError(f"{path} has {found} of the tables of a run; this version reads {VERSION}.")
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
