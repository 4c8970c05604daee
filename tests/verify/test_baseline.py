"""Baselines: small, read back as they were accepted, never overwritten unasked; damage is named."""

import pytest

from tests.verify.recording import CASES, OUTPUTS, records, write_run
from verify import Case, UsageError
from verify._baseline import accept, baseline_for, baselines, file_name, read_baseline
from verify._drift import Kind, compare
from verify._recorded import recorded_run


@pytest.fixture
def run(tmp_path):
    return recorded_run(write_run(tmp_path / "run", records(lambda case, output: {"rms_z": 0.123456789})))


@pytest.fixture
def path(tmp_path, run):
    return accept([run], "first", tmp_path / "baselines", force=False)


def test_a_run_is_bitwise_equal_to_its_baseline(run, path):
    baseline = read_baseline(path)
    assert (baseline.reason, baseline.record.subject) == ("first", "a:b")
    assert baseline.record.conditions == run.conditions
    compared = compare(baseline.record, run)
    assert len(compared.of_kind(Kind.EQUAL)) == len(CASES) * len(OUTPUTS)
    assert not compared.axes


def test_its_lines_are_sorted_and_few(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("case ")]
    assert lines == sorted(lines)
    # 417 cases with 14 outputs each would be 300 kB.
    assert path.stat().st_size / len(CASES) / len(OUTPUTS) < 100


def test_runs_of_several_dtypes_are_one_baseline(tmp_path):
    cases = [[Case(dtype=dtype)] for dtype in ("float32", "bfloat16")]
    runs = [recorded_run(write_run(tmp_path / str(k), records(cases=of))) for k, of in enumerate(cases)]
    assert len(read_baseline(accept(runs, "both", tmp_path, force=False)).record.cases) == 2
    # As tiers share cases.
    assert len(read_baseline(accept([*runs, runs[1]], "one twice", tmp_path, force=True)).record.cases) == 2
    changed = records(lambda case, output: {"digest": "1" * 32}, cases=cases[1])
    with pytest.raises(UsageError, match=r"changed has case .*, and not as .*1 or another run has it"):
        accept([runs[1], recorded_run(write_run(tmp_path / "changed", changed))], "other bits", tmp_path, force=True)
    other = recorded_run(write_run(tmp_path / "other", triton="3.7.0"))
    with pytest.raises(UsageError, match=r"other does not go with .*0: another subject, source, device or version"):
        accept([runs[0], other], "mixed", tmp_path, force=True)


def test_nothing_is_overwritten_unasked(run, path):
    with pytest.raises(UsageError, match=f"{path.name} is there; --force replaces it"):
        accept([run], "second", path.parent, force=False)
    accept([run], "second", path.parent, force=True)
    assert read_baseline(path).reason == "second"


@pytest.mark.parametrize("reason", ["", " ", "two\nlines"])
def test_a_reason_is_one_line(run, tmp_path, reason):
    with pytest.raises(UsageError, match=r"--reason is .*; expected one line"):
        accept([run], reason, tmp_path, force=False)


def test_unfinished_runs_and_baselines_are_refused(tmp_path, run, path):
    results = run.path / "results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="run is unfinished: 35 of 36 cases are recorded"):
        accept([recorded_run(run.path)], "why", tmp_path, force=True)
    with pytest.raises(UsageError, match="is a baseline; expected a run"):
        accept([read_baseline(path).record], "why", tmp_path, force=True)


def test_the_baseline_for_a_run_is_of_its_device(tmp_path, run, path):
    newer = recorded_run(write_run(tmp_path / "newer", triton="3.7.0"))
    assert file_name(newer) != file_name(run)
    assert baseline_for(newer, path.parent).record.path == path
    own = accept([newer], "own", path.parent, force=False)
    assert baseline_for(newer, path.parent).record.path == own
    assert baseline_for(run, path.parent).record.path == path
    assert len(baselines(path.parent)) == 2
    elsewhere = recorded_run(write_run(tmp_path / "elsewhere", device="NVIDIA H200"))
    with pytest.raises(UsageError, match="has no baseline of a:b on NVIDIA H200; it has: a:b on NVIDIA H100"):
        baseline_for(elsewhere, path.parent)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[:-30], "is damaged or was edited"),
        (lambda content: content.replace(b"0.1235", b"0.1234", 1), "is damaged or was edited"),
        (lambda content: content.replace(b"\n", b"\r\n"), "begins with"),
        (lambda content: content[:100] + b"\xff" + content[101:], "cannot be read"),
        (lambda content: content.replace(b"baseline 1", b"baseline 2", 1), "begins with 'mlstm-verify baseline 2'"),
        (lambda content: b"", "begins with ''"),
    ],
)
def test_damage_is_named(path, damage, told):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=f"{path.name} {told}"):
        read_baseline(path)


def test_a_baseline_that_is_gone_is_named(path):
    path.unlink()
    with pytest.raises(UsageError, match=f"{path.name} cannot be read"):
        read_baseline(path)
