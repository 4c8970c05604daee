"""Faults planted in the Triton kernels, and what ``mlstm-verify trace`` names: ``python docs/tracing.py [NAME...]``.

Each fault is an edit of a copy of kernels/, whose place is known. Markdown on stdout; the exit code is the number of
faults whose stage or chunk is not the one planted.

``python docs/tracing.py --correct [SUBJECT [SEED]]`` judges every stage of a correct subject on the smoke tier instead,
and prints how near each comes to its threshold; the exit code is the number of stages of cases that are out.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from verify import Case, compute_reference  # noqa: E402
from verify._problem import make_problem  # noqa: E402
from verify._relation_cases import RelationCase  # noqa: E402
from verify._subject import DEFAULT_SUBJECT, load_subject  # noqa: E402
from verify._tiers import TIERS  # noqa: E402
from verify._trace._place import judge_stages  # noqa: E402
from verify._trace._scales import stage_reference, task_of  # noqa: E402
from verify._trace._stages import Stages  # noqa: E402
from verify._trace._text import where  # noqa: E402
from verify._trace._tracing import trace_case  # noqa: E402

BASE = Case(heads=2, length=48, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")


@dataclass(frozen=True)
class Fault:
    """An edit of one file of kernels/triton_stablef, and where a trace must find it.

    Attributes:
        file, text, replacement: the edit.
        stage, chunk: the first stage that is out, and its chunk.
        seen: fields of the case beside ``BASE``.
    """

    file: str
    text: str
    replacement: str
    stage: str
    chunk: int
    seen: dict[str, Any] = field(default_factory=dict)


FAULTS = {
    "off by one in the decay": Fault(
        "_gates.py", "has_next = (step + 1 < BLOCK_L)", "has_next = (step + 2 < BLOCK_L)", "sigma", 0
    ),
    "padding let into the last state": Fault(
        "_gates.py",
        'f_next = tl.load(vecF + row + 1, mask=has_next, other=float("inf"))',
        "f_next = tl.load(vecF + row + 1, mask=has_next, other=0.0)",
        "sigma",
        0,
    ),
    "m_0 forgotten": Fault(
        "_forward.py",
        "return matC, vecN, scaM, jnp.where(occupied, scaM, -jnp.inf)",
        "return matC, vecN, 0.0 * scaM, jnp.where(occupied, 0.0 * scaM, -jnp.inf)",
        "m_entering",
        0,
        {"initial": "warm@2"},
    ),
    "one block too little in C": Fault(
        "_fw_recurrent.py",
        "update = dot(tl.trans(weighted), v, OPERANDS, INTERPRET)",
        "update = dot(tl.trans(weighted), v, OPERANDS, INTERPRET) * tl.where(idx_block == 1, 0.99, 1.0)",
        "C_entering",
        2,
    ),
    "n scaled by 1.001": Fault(
        "_fw_recurrent.py", "tl.sum(weighted, axis=0)", "tl.sum(weighted, axis=0) * 1.001", "n_entering", 1
    ),
    "max of log f for the sum": Fault(
        "_fw_parallel.py",
        "m = tl.maximum(up_to + tl.load(scaM_states + block), best)",
        "m = tl.maximum(phi + tl.load(scaM_states + block), best)",
        "m",
        0,
        {"initial": "warm@2"},
    ),
    "carry of one chunk": Fault(
        "_fw_parallel.py",
        "carry = tl.exp(from_entering + through) * qk_scale",
        "carry = tl.exp(from_entering + through) * qk_scale * tl.where(idx_chunk == 2, 1.01, 1.0)",
        "a",
        2,
    ),
    "exp(-m) dropped from the denominator": Fault(
        "_denominator.py", "exponent = 0.0 - subtrahend", "exponent = 0.0 * subtrahend", "n", 0
    ),
    "inter-chunk part missing": Fault(
        "_fw_parallel.py",
        "numerator = carried * carry[:, None]",
        "numerator = carried * carry[:, None] * tl.where(idx_chunk == 1, 0.0, 1.0)",
        "numerator",
        1,
    ),
    "last state not brought to m": Fault(
        "_fw_recurrent.py",
        "to_m = tl.exp(inner - finite_or_zero(m))",
        "to_m = tl.exp(inner - finite_or_zero(inner))",
        "C_last",
        2,
        {"regime": "input_gates@-20"},
    ),
    "cotangent of the last C ignored": Fault(
        "_backward.py",
        "return dC * to_m[..., None, None], dn * to_m[..., None], message",
        "return 0.0 * dC, dn * to_m[..., None], message",
        "dC_last",
        2,
    ),
    "no gradient of the normalizer": Fault(
        "_bw_rows.py",
        "gamma = tl.where(above, tl.where(a > 0.0, -y, y), 0.0) * inverse",
        "gamma = 0.0 * inverse",
        "gamma",
        2,
    ),
    "rows of one block halved in dC": Fault(
        "_bw_recurrent.py",
        "x = load_tile(matDeltaH, row, hv, token < S, in_hv, DHHV).to(tl.float32) * carry[:, None]",
        "x = load_tile(matDeltaH, row, hv, token < S, in_hv, DHHV).to(tl.float32) * carry[:, None]"
        " * tl.where(idx_block == 1, 0.5, 1.0)",
        "dC_leaving",
        0,
    ),
    "df off by one": Fault(
        "_bw_parallel_qk.py",
        "tl.where(step[None, :] < step[:, None], later, 0.0)",
        "tl.where(step[None, :] <= step[:, None], later, 0.0)",
        "dphi_pairs",
        2,
    ),
    "dq without the state of one block": Fault(
        "_bw_parallel_qk.py",
        "* qk_scale + from_state",
        "* qk_scale + from_state * tl.where(idx_block == 1, 0.0, 1.0)",
        "dq",
        1,
    ),
    "dv without the later blocks": Fault(
        "_bw_parallel_v.py",
        "+ to_state * omega[:, None]",
        "+ to_state * omega[:, None] * tl.where(idx_block == 0, 0.0, 1.0)",
        "dv",
        0,
    ),
    "message to f of one block lost": Fault(
        "_bw_gates.py",
        "dphi += tl.where(passes, through_m, 0.0)",
        "dphi += tl.where(passes & (pid % num_blocks == 0), through_m, 0.0)",
        "df",
        2,
        {"initial": "warm@2", "regime": "forget@10"},
    ),
}


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[Any]:
    """The kernels with the fault, as a subject: the package ``kernels`` is imported anew, from an edited copy."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(ROOT / "kernels", Path(directory) / "kernels")
        path = Path(directory) / "kernels" / "triton_stablef" / fault.file
        source = path.read_text()
        if fault.text not in source:
            raise SystemExit(f"{fault.file} no longer has {fault.text!r}: plant the fault anew")
        path.write_text(source.replace(fault.text, fault.replacement))
        kept = _take_out_kernels()
        sys.path.insert(0, directory)
        try:
            yield load_subject("kernels:mlstm_chunkwise_triton_stablef")
        finally:
            sys.path.remove(directory)
            _take_out_kernels()
            sys.modules.update(kept)


def _take_out_kernels() -> dict[str, ModuleType]:
    importlib.invalidate_caches()
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "kernels"}


def judge_correct(name: str = DEFAULT_SUBJECT, seed: str = "0") -> int:
    """Print the largest excess of every stage over the smoke tier; the number of stages of cases that are out."""
    subject, cases, out = load_subject(name), 0, 0
    largest: dict[str, tuple[float, str, str]] = {}
    for case in TIERS["smoke"].cases(int(seed)):
        if isinstance(case, RelationCase) or subject.lacks(case) is not None:
            continue
        problem, cases = make_problem(case), cases + 1
        stages = Stages.of(name, subject.call_stages(case, problem))
        task = task_of(case, problem, stages.chunk_size, stages.block_size)
        for judged in judge_stages(stages, *stage_reference(case, problem, task)):
            found, out = judged.found, out + judged.is_out
            here = (found.excess, found.check, case.id)
            largest[judged.stage.name] = max(largest.get(judged.stage.name, here), here)
            if judged.is_out:
                print(
                    f"out: {judged.stage.name} {found.excess:.3g} {found.check} {case.id}", file=sys.stderr, flush=True
                )
    print(f"{cases} cases of {name}\n\n| stage | largest excess | check | case |\n| --- | --- | --- | --- |")
    for stage, (excess, check, worst) in largest.items():
        print(f"| {stage} | {excess:.3g} | {check} | {worst} |")
    return out


def main() -> int:
    """Print the table; the number of faults that are not found where they are."""
    if sys.argv[1:2] == ["--correct"]:
        return judge_correct(*sys.argv[2:])
    missed = 0
    print("| fault in | what is wrong | planted | found: stage, place | program |")
    print("| --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or FAULTS:
        fault = FAULTS[name]
        case = replace(BASE, **fault.seen)
        with planted(fault) as subject:
            traced = trace_case(case, subject, compute_reference(case))
        first, program = traced.first, traced.program or {}
        found = (first.stage, first.chunk) if first else None
        missed += found != (fault.stage, fault.chunk)
        place = f"{first.stage}: {where(first)}" if first else f"nothing ({traced.verdict.outcome.value})"
        at = f"{program.get('kernel', '')} {program.get('pid', '')}".strip()
        mark = "" if found == (fault.stage, fault.chunk) else "**missed** "
        print(f"| {fault.file} | {name} | {fault.stage}, chunk {fault.chunk} | {mark}{place} | {at} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
