"""Two runs on one GPU, each in a process of its own, return the same bits."""

import subprocess
import sys

import pytest

from kernels import BACKEND
from verify._run import read_results

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(BACKEND != "gpu", reason="needs a GPU that JAX sees")]


@pytest.mark.parametrize("dtype", ["float32", "float16 and not bfloat16", "bfloat16"])
def test_two_runs_are_bitwise_equal(tmp_path, dtype):
    directories = [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-m", "verify", "run", "--backend", "gpu", "-k", dtype, "--out"]
    running = [subprocess.Popen([*command, directory], stderr=subprocess.DEVNULL) for directory in directories]
    assert [process.wait() for process in running] == [0, 0]
    first, second = (digests(directory) for directory in directories)
    assert len(first) > 20
    assert first == second


def digests(directory):
    return {
        (result.case.id, measured.output): measured.digest
        for result in read_results(directory)[1]
        for measured in result.verdict.measurements
    }
