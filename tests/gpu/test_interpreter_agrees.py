"""The interpreter and the GPU run the same source: on the smoke tier they agree to rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest

from kernels import BACKEND
from verify import compute_reference, load_subject, make_problem
from verify._subject import DEFAULT_SUBJECT
from verify._tiers import TIERS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(BACKEND != "gpu", reason="needs a GPU that JAX sees")]

INTERPRET = """
import sys
import numpy as np
from verify import load_subject, make_problem
from verify._subject import DEFAULT_SUBJECT
from verify._tiers import TIERS

subject, outputs = load_subject(DEFAULT_SUBJECT), {}
for number, case in enumerate(case for case in TIERS["smoke"].cases() if "/" not in case.id):
    for name, array in subject.call(case, make_problem(case)).items():
        outputs[f"{number}/{name}"] = array.astype(np.float64)
np.savez(sys.argv[1], **outputs)
"""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    path = tmp_path_factory.mktemp("interpreted") / "outputs.npz"
    environment = {
        **os.environ,
        "MLSTM_KERNELS_BACKEND": "interpret",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-c", INTERPRET, str(path)], env=environment, check=True)
    return np.load(path)


def test_smoke_tier_agrees_to_rounding(interpreted, record_property):
    subject, largest = load_subject(DEFAULT_SUBJECT), {}
    for number, case in enumerate(case for case in TIERS["smoke"].cases() if "/" not in case.id):
        reference = compute_reference(case)
        for name, array in subject.call(case, make_problem(case)).items():
            gpu, cpu = array.astype(np.float64), interpreted[f"{number}/{name}"]
            with np.errstate(invalid="ignore"):
                apart = np.where(gpu == cpu, 0.0, np.abs(gpu - cpu))
            # Either may be off by the bound, so that they may be apart by twice the bound.
            inside = np.minimum(gpu, cpu) >= 2.0**126 if name == "n" else False
            assert np.all((apart <= 2.0 * reference.bounds[name]) | inside), f"{name} of {case.id}"
            norm = np.linalg.norm(np.where(np.isfinite(cpu), cpu, 0.0))
            if case.dtype == "float32" and np.isfinite(norm) and norm > 0.0:
                largest[name] = max(largest.get(name, (0.0, "")), (float(np.linalg.norm(apart) / norm), case.id))
    for name, (distance, case_id) in largest.items():
        print(f"largest normwise distance in float32, {name}: {distance:.2g} in {case_id}")
