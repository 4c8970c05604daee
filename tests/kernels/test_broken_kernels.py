"""The checker is checked: kernels broken in their source make the run exit with 1 and name the case.

Each fault is planted in a copy of the package kernels/, and the command line is run on the copy.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECURRENT = "triton_stablef/_fw_recurrent.py"
PARALLEL = "triton_stablef/_fw_parallel.py"
FORWARD = "triton_stablef/_forward.py"

# name: (file, text, its replacement, cases of the smoke tier that are run)
FAULTS = {
    "exp(-m) dropped from the denominator": (
        PARALLEL,
        "b = tl.exp(log_norm_val - inner)",
        "b = tl.exp(log_norm_val + 0.0 * inner)",
        "soft_capped or init",
    ),
    "initial m forgotten": (
        FORWARD,
        "return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)",
        "return matC, vecN, 0.0 * scaM, jnp.where(occupied, 0.0 * scaM, -jnp.inf)",
        "warm@50 or empty@1000",
    ),
    "max of log f for the cumulative sum": (
        RECURRENT,
        "rows_m = tl.maximum(beta + m, best)",
        "rows_m = tl.maximum(log_sigmoid(f) + m, best)",
        "soft_capped or warm",
    ),
    "padding let into the last state": (
        RECURRENT,
        'f = tl.load(vecF + row, mask=in_sequence, other=float("inf"))',
        "f = tl.load(vecF + row, mask=in_sequence, other=0.0)",
        "ordinary and S33",
    ),
    "TF32 dots in float32": (
        FORWARD,
        '"OPERANDS": _OPERANDS.get(matQ.dtype.name, input_precision)',
        '"OPERANDS": _OPERANDS.get(matQ.dtype.name, "tf32")',
        "ordinary and float32 and S70",
    ),
    "off by one in the decay": (
        RECURRENT,
        "has_next = (step + 1 < BLOCK_L) & (token + 1 < S)",
        "has_next = (step + 2 < BLOCK_L) & (token + 1 < S)",
        "ordinary and S70",
    ),
    "n scaled by 1.001": (
        RECURRENT,
        "tl.sum(weighted, axis=0)",
        "tl.sum(weighted, axis=0) * 1.001",
        "ordinary and S70",
    ),
    "m_0 of an empty initial state kept inside": (
        FORWARD,
        "return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)",
        "return matC, vecN, scaM, scaM",
        "empty@1000 and nv0.0",
    ),
    "last state not brought to the definition's m": (
        RECURRENT,
        "to_m = tl.exp(inner - finite_or_zero(m))",
        "to_m = tl.exp(inner - finite_or_zero(inner))",
        "input_gates@-20",
    ),
}


def run_copy(tmp_path: Path, fault: tuple[str, str, str] | None, expression: str) -> subprocess.CompletedProcess:
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    if fault is not None:
        file, text, replacement = fault
        path = tmp_path / "kernels" / file
        source = path.read_text()
        assert source.count(text) >= 1, f"{file} no longer has {text!r}: plant the fault anew"
        path.write_text(source.replace(text, replacement))
    # The copy is found first, verify and oracles behind it.
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from verify.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "-k", expression, "--jobs", "0", "--out", str(tmp_path / "run")]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_seen(name, tmp_path):
    *fault, expression = FAULTS[name]
    done = run_copy(tmp_path, tuple(fault), expression)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "inaccurate" in done.stdout
    assert "repeat it:\nmlstm-verify run --case " in done.stdout


def test_copy_without_a_fault_passes(tmp_path):
    done = run_copy(tmp_path, None, " or ".join(f"({expression})" for *_, expression in FAULTS.values()))
    assert done.returncode == 0, done.stdout + done.stderr
