"""``drift`` and ``baseline`` as a user meets them: exit codes, what is told, and every file that may be damaged."""

import json

import pytest

from tests.verify.recording import CASES, OUTPUTS, records, write_run
from verify._baseline import SUFFIX
from verify._run import SCHEMA
from verify.cli import main


@pytest.fixture
def verify(monkeypatch, capsys, tmp_path):
    # No file of the repository is read.
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["mlstm-verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call


def worse(case, output):
    return {"rms_z": 5.0, "ratio": 0.4, "digest": "1" * 32} if output == "df" and case.dtype == "bfloat16" else {}


@pytest.fixture
def base(tmp_path):
    return write_run(tmp_path / "base")


@pytest.fixture
def current(tmp_path):
    return write_run(tmp_path / "current", records(worse), triton="3.7.0")


def test_a_run_and_itself(verify, base):
    code, out, _ = verify("drift", base, base)
    assert code == 0
    assert f"{len(CASES)} cases in common, {len(CASES) * len(OUTPUTS)} outputs" in out
    assert f"{len(CASES) * len(OUTPUTS)} bitwise equal" in out
    assert "no regression" in out


def test_a_regression_is_named_with_its_pattern_and_its_cause(verify, base, current):
    code, out, _ = verify("drift", base, current)
    assert code == 1
    assert "toolchain: triton 3.6.0 -> 3.7.0" in out
    assert "only the toolchain changed" in out
    assert "df in 18 of 36 cases: dtype bfloat16" in out
    assert "error/bound 0.1 -> 0.4 (log2 +2.0), RMS z 0.7 -> 5 (log2 +2.8)" in out
    assert "18 regressions" in out
    code, out, _ = verify("drift", current, base)
    assert code == 0
    assert "moved, better" in out


def test_json_is_all_of_it(verify, base, current):
    code, out, _ = verify("drift", base, current, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["counts"] == {"bitwise equal": 90, "equal to rounding": 0, "moved": 18}
    assert document["patterns"]["moved"][0]["where"] == "dtype bfloat16"
    assert len(document["outputs"]) == 108
    assert sum(one["fails"] for one in document["regressions"]) == 18


def test_acknowledged_until_a_day(verify, base, current, tmp_path):
    known = tmp_path / "reports" / "acknowledged.toml"
    known.parent.mkdir()
    entry = '[[drift]]\ncase = "*:bfloat16:*"\noutput = "df"\nreason = "triton 3.7"\nexpires = {}-01-01\n'
    known.write_text(entry.format(9999))
    code, out, _ = verify("drift", base, current)
    assert code == 0
    assert "acknowledged until 9999-01-01: triton 3.7" in out
    known.write_text(entry.format(2020))
    code, out, _ = verify("drift", base, current)
    assert code == 1
    assert "the acknowledgement expired on 2020-01-01: triton 3.7" in out
    known.write_text("[[drift")
    code, _, err = verify("drift", base, current)
    assert code == 2
    assert "acknowledged.toml cannot be read" in err


def test_against_the_baseline(verify, base, current, tmp_path):
    code, out, _ = verify("baseline", "accept", base, "--reason", "first [release]")
    assert code == 0
    assert "36 pass" in out
    code, _, err = verify("baseline", "accept", base, "--reason", "again")
    assert code == 2
    assert "--force replaces it" in err
    assert verify("drift", base, "--against", "baseline")[0] == 0
    assert verify("drift", current, "--against", "baseline")[0] == 1
    code, _, err = verify("baseline", "list", "--baselines", "nothere")
    assert (code, err) == (2, "error: --baselines: there is no directory nothere.\n")
    code, out, _ = verify("baseline", "list")
    assert "36 pass; accepted" in out
    assert "first [release]" in out
    (path,) = (tmp_path / "reports" / "baselines").glob(f"*{SUFFIX}")
    assert verify("drift", path, current)[0] == 1
    code, out, _ = verify("baseline", "show", path)
    assert code == 0
    assert "triton" in out
    elsewhere = write_run(tmp_path / "elsewhere", device="NVIDIA H200")
    code, _, err = verify("drift", path, elsewhere)
    assert code == 2
    assert f"not comparable: {path} is a baseline of NVIDIA H100" in err


def test_a_series(verify, tmp_path):
    for number in range(1, 4):
        of = records(worse if number > 2 else lambda case, output: {})
        write_run(tmp_path / "runs" / str(number), of, f"2026-11-0{number}T00:00:00+00:00")
    code, out, _ = verify("drift", "--runs", "runs")
    assert code == 1
    assert "step at run 3 of 3: runs/3, 2026-11-03" in out
    document = json.loads(verify("drift", "--runs", "runs", "--json")[1])
    assert [step["run"] for step in document["steps"]] == [3]
    assert document["steps"][0]["worse"][0]["outputs"] == ["df"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "0 runs are given; expected BASE CURRENT"),
        (["a", "b", "c"], "3 runs are given; expected BASE CURRENT"),
        (["a", "b", "--against", "baseline"], "2 runs are given; expected CURRENT beside --against"),
        (["a", "--runs", "b"], "--runs b is a series of its own"),
        (["a", "b"], "b/manifest.json cannot be read"),
        (["base", "--against", "baseline"], "reports/baselines has no baseline of a:b on NVIDIA H100; it has: none"),
    ],
)
def test_wrong_usage(verify, base, arguments, told):
    code, _, err = verify("drift", *arguments)
    assert code == 2
    assert told in err


@pytest.mark.parametrize("file", ["manifest.json", "results.jsonl"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:50] + bytes([content[50] ^ 0x80]) + content[51:],
        lambda content: content.replace(b'"', b"'", 1),
        lambda content: b"[]\n",
        None,
    ],
)
def test_damaged_runs_are_named(verify, base, current, file, damage):
    path = current / file
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    code, _, err = verify("drift", base, current)
    assert code == 2
    assert f"current/{file}" in err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"ratio": 0.1', '"ratio": "x"', "could not convert string to float"),
        ('"rms_z": 0.7, ', "", "it has no 'rms_z'"),
        ('"output": "df"', '"output": "g"', "output 'g' is unknown"),
        ('"digest": "', '"digest": 1, "x": "', "expected a string, got 1"),
        ("seed0", "seedX", "expected seed and a number"),
        ("seed1", "seed0", "twice"),
        ('"pass"', '"passed"', "outcome 'passed' is unknown"),
    ],
)
def test_damaged_records_are_named(verify, base, current, old, new, told):
    path = current / "results.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace("S70", "S64").replace(old, new) if told == "twice" else text.replace(old, new, 1))
    code, _, err = verify("drift", base, current)
    assert code == 2
    assert "current/results.jsonl" in err
    assert told in err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"started": "2026', '"started": "x026', "started is no time"),
        ('"definition"', '"definitiom"', "it has no definition"),
        ('"environment": {', '"environment": 1, "x": {', "it has no environment"),
    ],
)
def test_damaged_manifests_are_named(verify, base, current, old, new, told):
    path = current / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code, _, err = verify("drift", base, current)
    assert code == 2
    assert "current/manifest.json" in err
    assert told in err


def test_an_unfinished_run_is_told(verify, base, current):
    path = current / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    _, out, _ = verify("drift", base, current)
    assert "1 case in the base alone" in out
    assert "current is unfinished: 35 of 36 cases are recorded" in out


READERS = (
    "drift base current",
    "drift current base",
    "drift --runs .",
    "drift current --against baseline",
    "baseline accept current --reason new",
    "report current -o out",
    "export current",
    "merge base current --out out",
    "calibrate current --out out",
)


@pytest.mark.parametrize("arguments", [*READERS, "run --resume current"])
def test_a_run_of_another_schema_is_named(verify, base, current, tmp_path, arguments):
    path = current / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA - 1}))
    code, out, err = verify(*arguments.split())
    assert code == 2
    assert err == f"error: current/manifest.json has schema {SCHEMA - 1}; this version reads {SCHEMA}.\n"
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", READERS)
def test_every_reader_names_the_line_of_a_damaged_record(verify, current, tmp_path, base, arguments):
    path = current / "results.jsonl"
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, second.replace('"ratio": 0.1', '"ratio": "x"'), *rest]))
    code, out, err = verify(*arguments.split())
    assert code == 2
    assert err.startswith("error: current/results.jsonl, line 2: the record is damaged: could not convert string")
    assert out == ""
    assert not (tmp_path / "out").exists()
