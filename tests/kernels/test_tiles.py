"""The launch options of the kernels, and the environment variables that replace them."""

from dataclasses import replace

import pytest

from kernels.triton_stablef._tiles import NUM_STAGES, NUM_WARPS, TABLE, tiles


@pytest.mark.parametrize(("kernel", "dtype"), TABLE)
def test_variables_replace_the_table_and_nothing_else(monkeypatch, kernel, dtype):
    for variable in (NUM_WARPS, NUM_STAGES):
        monkeypatch.delenv(variable, raising=False)
    tuned = tiles(kernel, 64, 64, dtype)
    monkeypatch.setenv(NUM_WARPS, "16")
    assert tiles(kernel, 64, 64, dtype) == replace(tuned, num_warps=16)
    monkeypatch.setenv(NUM_STAGES, "7")
    assert tiles(kernel, 64, 64, dtype) == replace(tuned, num_warps=16, num_stages=7)


@pytest.mark.parametrize("variable", [NUM_WARPS, NUM_STAGES])
@pytest.mark.parametrize("text", ["", "0", "-4", "four", "64", "04"])
def test_other_texts_are_errors(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=f"{variable} is '{text}'; expected one of 1, 2"):
        tiles("fw_parallel", 64, 64, "float32")
