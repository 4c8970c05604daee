"""The smoke tier against this project's kernels, a test for every case, by its id; and correct subjects."""

import numpy as np
import pytest

from tests.subjects import correct, float32
from verify.testing import check, matrix


@pytest.mark.parametrize("case", matrix("smoke"), ids=lambda case: case.id)
def test_case_passes(case):
    check("kernels:mlstm_chunkwise_triton_stablef", case)


# docs/specificity.py has all of them, over many seeds.
@pytest.mark.parametrize("case", matrix("smoke")[::3], ids=lambda case: case.id)
def test_correct_subjects_pass(case):
    with np.errstate(all="ignore"):
        check(correct.mlstm, case)
        # Its masked products let a NaN of a later token through.
        if not case.id.startswith("nan_causality/"):
            check(float32.chunkwise, case)
