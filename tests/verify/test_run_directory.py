"""A run on disk: flushed case by case, read back exactly, damaged files named."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verify import Case, UsageError, load_subject, run_case
from verify._run import MANIFEST, PACKED, RESULTS, SCHEMA, RunWriter, check_directory, read_results, result_record

ROOT = Path(__file__).resolve().parents[2]
CASES = [Case(length=length, dhqk=4, dhhv=4) for length in (3, 5)]


@pytest.fixture
def results():
    subject = load_subject("tests.subjects.wrong:nan_at_the_end")
    return [run_case(case, subject) for case in CASES]


@pytest.fixture
def run(tmp_path, results):
    with RunWriter(tmp_path / "run", command=["mlstm-verify", "run"], subject="s:f", cases=CASES) as writer:
        for result in results:
            writer.append(result)
    return tmp_path / "run"


def as_kept(results):
    return [replace(result, seconds=round(result.seconds, 3)) for result in results]


def test_manifest_says_what_was_run(run):
    manifest, _ = read_results(run)
    assert manifest["planned"] == [case.id for case in CASES]
    assert manifest["command"] == ["mlstm-verify", "run"]
    environment = manifest["environment"]
    assert environment["packages"]["numpy"] == np.__version__
    assert set(environment) >= {"python", "platform", "backend", "device", "driver", "commit", "dirty"}


def test_records_are_read_back_as_written(run, results):
    assert read_results(run)[1] == as_kept(results)
    assert json.loads((run / RESULTS).read_text().splitlines()[0])["measurements"][0]["got"] == "nan"


def test_finished_cases_are_on_disk_before_the_run_ends(tmp_path, results):
    with RunWriter(tmp_path / "run", command=[], subject="s:f", cases=CASES) as writer:
        writer.append(results[0])
        assert [result.case for result in read_results(tmp_path / "run")[1]] == CASES[:1]


@pytest.mark.parametrize("file", [MANIFEST, RESULTS])
def test_truncated_file_is_named(run, file):
    text = (run / file).read_text()
    (run / file).write_text(text[: len(text) - 20])
    with pytest.raises(UsageError, match=rf"{file}, line \d+: no JSON"):
        read_results(run)


@pytest.mark.parametrize("file", [MANIFEST, RESULTS])
def test_missing_and_binary_files_are_named(run, file):
    (run / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=f"{file} cannot be read"):
        read_results(run)
    (run / file).unlink()
    with pytest.raises(UsageError, match=f"{file} cannot be read"):
        read_results(run)


@pytest.fixture
def packed(run):
    content = gzip.compress((run / RESULTS).read_bytes())
    (run / RESULTS).unlink()
    (run / PACKED).write_bytes(content)
    return run


def test_packed_records_are_read_back_as_written(packed, results):
    assert read_results(packed)[1] == as_kept(results)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:40] + b"x" + content[41:]])
def test_damaged_pack_is_named(packed, damage):
    (packed / PACKED).write_bytes(damage((packed / PACKED).read_bytes()))
    with pytest.raises(UsageError, match=f"{PACKED} cannot be read"):
        read_results(packed)


def test_packed_run_is_not_gone_on_with_but_replaced(packed, results):
    with pytest.raises(UsageError, match="is packed"):
        RunWriter.resume(packed)
    with RunWriter(packed, command=[], subject="s:f", cases=CASES[:1]) as writer:
        writer.append(results[0])
    assert len(read_results(packed)[1]) == 1
    assert not (packed / PACKED).exists()


@pytest.mark.parametrize("kept", sorted(path.parent.name for path in ROOT.glob(f"reports/*/{MANIFEST}")))
def test_records_of_this_schema_have_the_fields_of_this_version(kept):
    # If this fails because a record has other fields now, SCHEMA goes up.
    path = ROOT / "reports" / kept
    lines = gzip.decompress((path / PACKED).read_bytes()).decode().splitlines()
    assert [json.dumps(result_record(result)) for result in read_results(path)[1]] == lines


def test_the_schema_is_documented():
    assert f"version {SCHEMA} of the records" in (ROOT / "docs" / "runs.md").read_text()


def test_other_schema_is_refused(run):
    manifest = json.loads((run / MANIFEST).read_text())
    (run / MANIFEST).write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(UsageError, match=f"has schema 99; this version reads {SCHEMA}"):
        read_results(run)


def test_line_that_is_no_object_is_refused(run):
    (run / RESULTS).write_text("[1]\n")
    with pytest.raises(UsageError, match="line 1: expected a JSON object, got a list"):
        read_results(run)


@pytest.mark.parametrize("torn", ["", '{"case": "torn'])
def test_going_on_never_empties_the_records(run, monkeypatch, torn):
    whole = (run / RESULTS).read_text()
    (run / RESULTS).write_text(whole + torn)

    def killed_while_it_writes(path, content):
        path.open("w").close()
        raise OSError("killed")

    monkeypatch.setattr(Path, "write_bytes", killed_while_it_writes)
    with RunWriter.resume(run) as writer:
        assert writer.finished == {case.id for case in CASES}
    assert (run / RESULTS).read_text() == whole


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("command", [3]),
        ("planned", [[CASES[0].id]]),
        ("shard", 1),
        ("packages", "none"),
        ("packages", {"jax": 1}),
        ("commit", ["abc"]),
        ("device", None),
    ],
)
def test_a_manifest_of_other_types_is_damaged(run, part, value):
    manifest = json.loads((run / MANIFEST).read_text())
    if part == "device":
        del manifest["environment"]["device"]
    else:
        (manifest if part in manifest else manifest["environment"])[part] = value
    (run / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=f"{MANIFEST} is damaged: {part} is missing or of another type"):
        read_results(run)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"normwise_bound": ', '"normwise_bound": -', "normwise_bound is -"),
        ('"noise": [', '"noise": [0.5, ', "a curve has parts of several lengths"),
    ],
)
def test_a_measurement_that_cannot_be_is_damage(run, old, new, told):
    text = (run / RESULTS).read_text()
    damaged = re.sub(rf"{re.escape(old)}(?=[\d])", new, text, count=1)
    assert damaged != text
    (run / RESULTS).write_text(damaged)
    with pytest.raises(UsageError, match=f"{RESULTS}, line 1: the record is damaged: {told}"):
        read_results(run)


def test_directories_that_may_be_written(tmp_path, run):
    check_directory(run)
    check_directory(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_directory(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file"):
        check_directory(tmp_path / "file")
    (tmp_path / "empty" / "other").write_text("")
    with pytest.raises(UsageError, match="exists and is not a run"):
        check_directory(tmp_path / "empty")
