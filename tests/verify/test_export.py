"""The tables of a run: all that the records have, the same bytes for the same records, damaged files named."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from verify import Case, Measurement, UsageError, Verdict
from verify._curve import Curve
from verify._export import TABLES, VERSION, make_tables, read_table, write_tables
from verify._run import MANIFEST, RESULTS, SCHEMA, result_record
from verify._runner import Result
from verify._verdict import Finding, Outcome
from verify.cli._export import export

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    Case(length=3, dhqk=4, dhhv=5, seed=2**60),
    Case(regime="forget@-10", initial="warm@-50", cotangents="all", dtype="bfloat16", stabilize_correctly=False),
    Case(length=2, norm_val=2.0),
]
CURVE = Curve(position=(1.0, 2.5), error=(1e-9, math.inf), noise=(math.nan, 0.25), bound=(0.5, 2.0))


def measurement(output="h", **others):
    values = {"str": "", "int": 0, "float": 0.0, "tuple[int, ...]": (0, 1), "dict[str, int]": {"nan": 2}}
    made = {field.name: values.get(field.type) for field in fields(Measurement)}
    return Measurement(**{**made, "output": output, **others})


def result(case, *measurements, outcome=Outcome.PASS, worst=None):
    return Result(case, Verdict(outcome, "as told", measurements, worst), 0.5)


RECORDED = [
    result(
        CASES[0],
        measurement(ratio=math.inf, worst=(0, 0, 2, 1), curve=CURVE),
        measurement("m_last", rms_z=math.nan),
        worst=Finding("h", "ratio", math.inf),
    ),
    result(CASES[1], outcome=Outcome.TIMEOUT),
    result(CASES[2], measurement(nonfinite=3, got=-math.inf)),
]


def manifest(cases=CASES, **others):
    environment = {"backend": "gpu", "device": "a GPU"}
    planned = [case.id for case in cases]
    of = {"schema": SCHEMA, "started": "2026-01-02T03:04:05+00:00", "subject": "s:f", "definition": "d", "shard": None}
    return {**of, "planned": planned, "environment": environment, **others}


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "a run"
    directory.mkdir()
    (directory / MANIFEST).write_text(json.dumps(manifest()))
    (directory / RESULTS).write_text("".join(json.dumps(result_record(result)) + "\n" for result in RECORDED))
    return directory


def rows(directory, name):
    return read_table(directory / f"{name}.parquet").to_pylist()


def test_a_case_is_a_row_of_its_fields(run):
    export(run)
    first, second, _ = rows(run, "results")
    assert first["case"] == CASES[0].id
    assert first["seed"] == 2**60
    assert (first["regime"], first["parameter"], first["initial"], first["m_0"]) == ("ordinary", None, "none", None)
    assert (second["regime"], second["parameter"], second["initial"], second["m_0"]) == ("forget", -10.0, "warm", -50.0)
    assert (second["outcome"], second["reason"], second["seconds"]) == ("timeout", "as told", 0.5)
    assert [first[f"worst_{name}"] for name in ("output", "check", "excess")] == ["h", "ratio", math.inf]
    assert second["worst_output"] is None
    assert (second["dtype"], second["mode"], second["cotangents"]) == ("bfloat16", "constant", "all")
    assert (second["subject"], second["shard"], second["device"]) == ("s:f", None, "a GPU")


def test_no_field_is_left_out():
    results, measurements = TABLES["results.parquet"], TABLES["measurements.parquet"]
    assert {field.name for field in fields(Case)} - {"stabilize_correctly"} <= set(results.names)
    assert {field.name for field in fields(Measurement)} - {"curve"} <= set(measurements.names)


def test_a_measurement_is_a_row_with_real_infinities(run):
    export(run)
    first, second, third = rows(run, "measurements")
    assert (first["case"], first["output"], first["ratio"], first["worst"]) == (
        CASES[0].id,
        "h",
        math.inf,
        [0, 0, 2, 1],
    )
    assert second["output"] == "m_last"
    assert math.isnan(second["rms_z"])
    assert (third["case"], third["nonfinite"], third["got"]) == (CASES[2].id, 3, -math.inf)


def test_a_curve_has_a_row_for_each_position(run):
    export(run)
    first, second = rows(run, "curves")
    of = {"case": CASES[0].id, "output": "h"}
    assert {**first, "noise": None} == {**of, "position": 1.0, "error": 1e-9, "noise": None, "bound": 0.5}
    assert math.isnan(first["noise"])
    assert second == {**of, "position": 2.5, "error": math.inf, "noise": 0.25, "bound": 2.0}


def test_a_run_without_a_result_has_empty_tables():
    tables = make_tables(manifest(), [])
    assert {name: (table.num_rows, table.schema) for name, table in tables.items()} == {
        name: (0, schema) for name, schema in TABLES.items()
    }


@given(st.permutations(RECORDED))
def test_equal_records_give_equal_bytes(tmp_path_factory, shuffled):
    written = []
    for results in (RECORDED, shuffled):
        directory = tmp_path_factory.mktemp("run")
        write_tables(directory, manifest(started="at another time"), results)
        written.append({path.name: path.read_bytes() for path in sorted(directory.iterdir())})
    assert written[0] == written[1]
    assert set(written[0]) == set(TABLES)


def test_a_killed_run_has_tables_too(run, capsys):
    lines = (run / RESULTS).read_text().splitlines(keepends=True)
    (run / RESULTS).write_text("".join(lines[:2]) + lines[2][:-30])
    export(run)
    assert [row["case"] for row in rows(run, "results")] == [CASES[0].id, CASES[1].id]
    told = capsys.readouterr()
    assert "results.parquet: 2 rows" in told.out
    assert f"1 planned cases are not recorded; go on with run --resume '{run}'\n" in told.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda line: line.replace('"timeout"', '"slow"'), ", line 2: .*outcome 'slow' is unknown; expected one of "),
        (lambda line: line.replace('"seconds"', '"hours"'), ", line 2: the record is damaged: it has no 'seconds'"),
        (lambda line: line.replace("forget@-10", "forget@-9"), " has case forget@-9.*, which was not planned"),
        (lambda line: "", " has case ordinary.* twice"),
        (lambda line: line.replace("0.5", '"long"'), ", line 2: the record is damaged: could not convert string to"),
        (
            lambda line: line.replace('"worst": null', '"worst": {"output": "h", "check": "rmz_z", "excess": 1}'),
            ", line 2: the record is damaged: check 'rmz_z' is unknown",
        ),
        (lambda line: line.replace("[]", "[3]"), ", line 2: the record is damaged: 'int' object"),
    ],
)
def test_a_damaged_record_is_named(run, change, told):
    lines = (run / RESULTS).read_text().splitlines()
    lines[1] = change(lines[1]) or lines[0]
    (run / RESULTS).write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=f"{RESULTS}{told}"):
        export(run)
    assert not list(run.glob("*.parquet*"))


def test_a_planned_case_that_is_none_is_named(run):
    text = (run / MANIFEST).read_text(), (run / RESULTS).read_text()
    for name, content in zip((MANIFEST, RESULTS), text, strict=True):
        (run / name).write_text(content.replace("forget@-10", "odd"))
    with pytest.raises(UsageError, match=f"{RESULTS}, line 2: the record is damaged: .*regime 'odd' is unknown"):
        export(run)


def test_another_file_and_another_version_are_refused(run):
    export(run)
    path = run / "results.parquet"
    table = read_table(path)
    for metadata, told in (({"mlstm_verify_tables": "99"}, "has version 99"), (None, "has no version")):
        parquet.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(UsageError, match=rf"results\.parquet {told} .*; this version reads {VERSION}"):
            read_table(path)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"", lambda b: b[:40] + b"\xff" * 40 + b[80:]])
def test_a_damaged_table_is_named(run, damage):
    export(run)
    path = run / "measurements.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"measurements\.parquet cannot be read: "):
        read_table(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"measurements\.parquet cannot be read: "):
        read_table(path)


def test_a_directory_that_cannot_be_written(run):
    (run / "results.parquet.partial").mkdir()
    with pytest.raises(UsageError, match=r"results\.parquet cannot be written"):
        export(run)


def test_every_column_is_documented():
    text = (ROOT / "docs" / "runs.md").read_text()
    for name, schema in TABLES.items():
        (section,) = re.findall(rf"## {re.escape(name)}\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
        documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE)))
        assert set(schema.names) <= set(documented)
    assert f"version {VERSION} of the tables" in text


def test_types_are_those_of_the_schema(run):
    export(run)
    for name, schema in TABLES.items():
        found = read_table(run / name).schema
        assert (found, found.metadata) == (schema, schema.metadata)
    assert pa.types.is_list(TABLES["measurements.parquet"].field("worst").type)
