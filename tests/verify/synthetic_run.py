"""Runs that nobody ran, for tests of what is made of runs."""

import json
import math

from verify import Measurement, Verdict
from verify._curve import Curve
from verify._run import MANIFEST, RESULTS, SCHEMA, result_record
from verify._runner import Result
from verify._verdict import Outcome, finding

CURVE = Curve((1.0, 4.0, 16.0, 64.0), (1e-9, 2e-9, 4e-9, 8e-9), (1e-9,) * 4, (1e-6, 1e-6, math.inf, 1e-6))
ENVIRONMENT = {"backend": "gpu", "device": "a GPU", "packages": {"jax": "1.2.3", "triton": None}, "commit": "abc"}


def measured(output="h", **values):
    """A measurement that is fine, but for what is given."""
    fine = {"normwise": 2.0**-20, "componentwise": 0.0, "ratio": 0.25}
    z = {"rms_z": 0.0, "largest_z": 0.0, "counted": 4096}
    rest = {"normwise_bound": 0.0, "worst": (0, 1), "got": 1.0, "wanted": 1.0, "nonfinite": 0, "kinds": {}}
    shares = {"undecided": 0.0, "uncertain": 0.0, "growth": 0.5, "noise_growth": 0.0, "curve": None, "digest": "0" * 32}
    return Measurement(**{"output": output, **fine, **z, **rest, **shares, **values})


def result(case, *measurements, outcome=Outcome.PASS, reason="as told", precision="float32", seconds=0.5):
    worst = finding(measurements) if measurements else None
    return Result(case, Verdict(outcome, reason, measurements, worst, precision), seconds)


def manifest(*cases, **others):
    planned = [case.id for case in cases]
    started = "2026-01-02T03:04:05+00:00"
    made = {
        "schema": SCHEMA,
        "planned": planned,
        "subject": "s:f",
        "environment": ENVIRONMENT,
        "started": started,
        "definition": "d",
    }
    return {**made, **others}


def write_run(directory, *results, planned=()):
    directory.mkdir()
    cases = [*(one.case for one in results), *planned]
    (directory / MANIFEST).write_text(json.dumps(manifest(*cases)))
    (directory / RESULTS).write_text("".join(json.dumps(result_record(one)) + "\n" for one in results))
    return directory
