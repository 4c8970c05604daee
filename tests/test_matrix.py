"""The smoke tier against this project's kernels, a test for every case, named by its id."""

import pytest

from verify.testing import check, matrix


@pytest.mark.parametrize("case", matrix("smoke"), ids=lambda case: case.id)
def test_case_passes(case):
    check("kernels:mlstm_chunkwise_triton_stablef", case)
