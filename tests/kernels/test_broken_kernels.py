"""The checker is checked: kernels broken in their source make the run exit with 1 and name the case.

Each fault is planted in a copy of the package kernels/, and the command line is run on the copy. Without a fault these
cases pass: tests/test_matrix.py has them all.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GATES = "triton_stablef/_gates.py"
RECURRENT = "triton_stablef/_fw_recurrent.py"
PARALLEL = "triton_stablef/_fw_parallel.py"
FORWARD = "triton_stablef/_forward.py"
DENOMINATOR = "triton_stablef/_denominator.py"
ROWS = "triton_stablef/_bw_rows.py"
PAIRS = "triton_stablef/_bw_parallel_qk.py"
BACKWARD = "triton_stablef/_backward.py"

# name: (file, text, its replacement, cases of the smoke tier that are run)
FAULTS = {
    "exp(-m) dropped from the denominator": (
        DENOMINATOR,
        "exponent = 0.0 - subtrahend",
        "exponent = 0.0 * subtrahend",
        "init and correct",
    ),
    "initial m forgotten": (
        FORWARD,
        "return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)",
        "return matC, vecN, 0.0 * scaM, jnp.where(occupied, 0.0 * scaM, -jnp.inf)",
        "warm@50 and correct",
    ),
    "max of log f for the cumulative sum": (
        PARALLEL,
        "m = tl.maximum(up_to + tl.load(scaM_states + block), best)",
        "m = tl.maximum(phi + tl.load(scaM_states + block), best)",
        "soft_capped and constant",
    ),
    "padding let into the last state": (
        GATES,
        'f_next = tl.load(vecF + row + 1, mask=has_next, other=float("inf"))',
        "f_next = tl.load(vecF + row + 1, mask=has_next, other=0.0)",
        "ordinary and S33 and none:vjp-all and float32",
    ),
    "TF32 dots in float32": (
        FORWARD,
        '"OPERANDS": _OPERANDS.get(self.matQ.dtype.name, options.input_precision)',
        '"OPERANDS": _OPERANDS.get(self.matQ.dtype.name, "tf32")',
        "forget@-10 and correct",
    ),
    "off by one in the decay": (
        GATES,
        "has_next = (step + 1 < BLOCK_L) & (token + 1 < S)",
        "has_next = (step + 2 < BLOCK_L) & (token + 1 < S)",
        "ordinary and S70 and correct and none:vjp-all and not /",
    ),
    "n scaled by 1.001": (
        RECURRENT,
        "tl.sum(weighted, axis=0)",
        "tl.sum(weighted, axis=0) * 1.001",
        "ordinary and S70 and correct and none:vjp-all and not /",
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
        "input_gates@-20 and correct and nv1.0:eps1e",
    ),
    "no gradient of the normalizer": (
        ROWS,
        "gamma = tl.where(above, tl.where(a > 0.0, -y, y), 0.0) * inverse",
        "gamma = 0.0 * inverse",
        "ordinary and S70 and correct and none:vjp-all and not /",
    ),
    "sign of q.n forgotten": (
        ROWS,
        "tl.where(a > 0.0, -y, y)",
        "-y",
        "ordinary and S70 and correct and none:vjp-all and not /",
    ),
    "df off by one": (
        PAIRS,
        "tl.where(step[None, :] < step[:, None], later, 0.0)",
        "tl.where(step[None, :] <= step[:, None], later, 0.0)",
        "forget@-10 and correct",
    ),
    "di without the later chunks": (
        PAIRS,
        "tl.store(vecShareI + share, tl.sum(shares, axis=0) + upsilon, mask=in_rows)",
        "tl.store(vecShareI + share, tl.sum(shares, axis=0), mask=in_rows)",
        "forget@10 and correct",
    ),
    "cotangent of the last C ignored": (
        BACKWARD,
        "return dC * to_m[..., None, None], dn * to_m[..., None], message",
        "return 0.0 * dC, dn * to_m[..., None], message",
        "vjp-last and none:vjp",
    ),
    "cotangent of the last m ignored": (
        BACKWARD,
        "message = jnp.where(empty, 0.0, dm - _inner(",
        "message = jnp.where(empty, 0.0, 0.0 * dm - _inner(",
        "ordinary and S70 and correct and none:vjp-all and not /",
    ),
    "df as a difference of reverse sums": (
        PAIRS,
        "inside + tl.cumsum(rho, axis=0, reverse=True) + chi",
        "tl.cumsum(tl.sum(shares, axis=1) + rho - tl.sum(shares, axis=0) - upsilon, axis=0, reverse=True)"
        " + tl.sum(upsilon, axis=0) + chi",
        "forget@-60 and correct",
    ),
}


def run_copy(tmp_path: Path, fault: tuple[str, str, str], expression: str) -> subprocess.CompletedProcess:
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    file, text, replacement = fault
    path = tmp_path / "kernels" / file
    source = path.read_text()
    assert source.count(text) >= 1, f"{file} no longer has {text!r}: plant the fault anew"
    path.write_text(source.replace(text, replacement))
    # The copy is found first, verify and oracles behind it.
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from verify.cli import main; main()"
    options = ["-k", expression, "--jobs", "0", "--isolate", "none", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", code, "run", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_seen(name, tmp_path):
    *fault, expression = FAULTS[name]
    done = run_copy(tmp_path, tuple(fault), expression)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "inaccurate" in done.stdout
    assert "repeat it:\nmlstm-verify run --case " in done.stdout
