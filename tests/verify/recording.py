"""Runs as they would have been recorded, with numbers that a test chooses."""

import json
import math
from pathlib import Path

from verify import Case
from verify._run import MANIFEST, RESULTS, SCHEMA

CASES = [
    Case(regime=regime, dtype=dtype, stabilize_correctly=correct, length=length, seed=seed, cotangents="h")
    for regime in ("ordinary", "forget@10", "forget@60")
    for dtype in ("float32", "bfloat16")
    for correct in (True, False)
    for length, seed in ((64, 0), (70, 1), (200, 2))
]
OUTPUTS = ("h", "C_last", "df")


def measurement(output, **changed):
    number = {"normwise": 1e-7, "componentwise": 1e-6, "ratio": 0.1, "rms_z": 0.7, "largest_z": 3.0, "counted": 4096}
    place = {"worst": [0, 0, 0], "got": 1.0 + 2.0**-22, "wanted": 1.0, "nonfinite": 0, "kinds": {}}
    rest = {"normwise_bound": 1e-5, "undecided": 0.0, "uncertain": 0.0, "growth": 0.1, "noise_growth": 0.1}
    words = {math.inf: "inf", -math.inf: "-inf"}
    changed = {name: words.get(value, value) for name, value in changed.items()}
    return {"output": output, **number, **place, **rest, "curve": None, "digest": "0" * 32, **changed}


def records(change=lambda case, output: {}, outcome=lambda case: "pass", cases=CASES, outputs=OUTPUTS):
    """A record a case; ``change`` says what of a measurement is not as usual."""
    return [
        {
            "case": case.id,
            "outcome": outcome(case),
            "reason": "",
            "precision": case.dtype,
            "worst": {"output": "h", "check": "ratio", "excess": 0.1},
            "seconds": 0.1,
            "measurements": [measurement(output, **change(case, output)) for output in outputs],
        }
        for case in cases
    ]


def environment(**changed):
    versions = {"jax": "0.11.2", "triton": "3.6.0", "numpy": "2.5.2", "mpmath": "1.3.0"}
    packages = {name: changed.pop(name, version) for name, version in versions.items()}
    here = {"python": "3.12.3", "backend": "gpu", "device": "NVIDIA H100", "driver": "580", "commit": "a" * 40}
    return {**here, "dirty": False, "packages": packages, **changed}


def write_run(
    directory, of=None, started="2026-11-01T00:00:00+00:00", subject="a:b", definition="d" * 32, **conditions
):
    of = records() if of is None else of
    manifest = {"schema": SCHEMA, "started": started, "command": ["mlstm-verify", "run"], "subject": subject}
    manifest |= {"shard": None, "definition": definition, "environment": environment(**conditions)}
    manifest["planned"] = [record["case"] for record in of]
    directory = Path(directory)
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_text(json.dumps(manifest))
    (directory / RESULTS).write_text("".join(json.dumps(record) + "\n" for record in of))
    return directory
