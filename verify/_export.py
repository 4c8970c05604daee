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
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from verify._errors import UsageError
from verify._measurement import Measurement
from verify._relation_cases import parse_case
from verify._run import check_plan, results_of

VERSION = 1
_VERSION_KEY = b"mlstm_verify_tables"
_INDEX = pa.list_(pa.int64())
_COUNTS = pa.map_(pa.string(), pa.int64())
_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    tuple[int, ...]: _INDEX,
    dict[str, int]: _COUNTS,
}
_CONVERT: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): str,
    pa.int64(): int,
    pa.float64(): float,
    _INDEX: list,
    _COUNTS: lambda counts: sorted(counts.items()),
}
_CURVE = ("position", "error", "noise", "bound")

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


def write_tables(directory: Path, manifest: dict[str, Any], records: list[dict[str, Any]]) -> dict[Path, int]:
    """Write the tables of a run, or write them again.

    Args:
        directory: of the run.
        manifest, records: as ``read_run`` returns them.

    Returns:
        The files, and how many rows each has.

    Raises:
        UsageError: for a record that does not fit the tables, or a directory that cannot be written.
    """
    written = {}
    for name, table in make_tables(directory, manifest, records).items():
        path, partial = directory / name, directory / f"{name}.partial"
        try:
            parquet.write_table(table, partial, compression="zstd")
            os.replace(partial, path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}.") from error
        written[path] = table.num_rows
    return written


def make_tables(directory: Path, manifest: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, pa.Table]:
    """The tables by the names of their files; ``directory`` is for messages. As ``write_tables`` raises."""
    place = {case: number for number, case in enumerate(manifest["planned"])}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    check_plan(results_of(directory), manifest, records)
    for record in sorted(records, key=lambda record: place[record["case"]]):
        try:
            for name, row in _rows(manifest, record):
                rows[name].append(_converted(TABLES[name], row))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"{results_of(directory)}: the record of case {record['case']} is damaged: {told}."
            ) from error
    return {name: pa.Table.from_pylist(rows[name], schema) for name, schema in TABLES.items()}


def _rows(manifest: dict[str, Any], record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    worst = {f"worst_{name}": value for name, value in (record.get("worst") or {}).items()}
    yield "results.parquet", _of_case(record["case"]) | record | worst | _of_run(manifest)
    for measurement in record["measurements"]:
        of = {"case": record["case"], "output": measurement["output"]}
        yield "measurements.parquet", of | measurement
        curve = measurement.get("curve") or {name: [] for name in _CURVE}
        for values in zip(*(curve[name] for name in _CURVE), strict=True):
            yield "curves.parquet", of | dict(zip(_CURVE, values, strict=True))


def _of_case(text: str) -> dict[str, Any]:
    case = parse_case(text)
    row = {field.name: getattr(case, field.name) for field in fields(case)} | {"mode": case.mode}
    for name, parameter in (("regime", "parameter"), ("initial", "m_0")):
        row[name], _, value = row[name].partition("@")
        row[parameter] = value or None
    return row


def _of_run(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest.get(name) or manifest["environment"].get(name) for name in _OF_RUN}


def _converted(schema: pa.Schema, row: dict[str, Any]) -> dict[str, Any]:
    """The row's cells by column: None where a record has none, floats for the words "inf", "-inf" and "nan"."""
    given = {column.name: (row.get(column.name), _CONVERT[column.type]) for column in schema}
    return {name: None if value is None else convert(value) for name, (value, convert) in given.items()}


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
