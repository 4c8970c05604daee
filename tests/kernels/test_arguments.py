"""Bad input: an error that names the argument, the value and what is allowed, before any kernel starts."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import mlstm_chunkwise_triton_stablef as mlstm


def arguments(batch=1, heads=2, length=20, dhqk=16, dhhv=16):
    lead = (batch, heads)
    return {
        "q": np.ones((*lead, length, dhqk), np.float32),
        "k": np.ones((*lead, length, dhqk), np.float32),
        "v": np.ones((*lead, length, dhhv), np.float32),
        "i": np.ones((*lead, length), np.float32),
        "f": np.ones((*lead, length), np.float32),
    }


def state(batch=1, heads=2, dhqk=16, dhhv=16):
    lead = (batch, heads)
    return {
        "c_initial": np.zeros((*lead, dhqk, dhhv), np.float32),
        "n_initial": np.zeros((*lead, dhqk), np.float32),
        "m_initial": np.zeros(lead, np.float32),
    }


def with_value(array, value):
    array.flat[0] = value
    return array


BAD = [
    ({"q": np.ones((2, 20, 16))}, r"q has shape \(2, 20, 16\); expected \(B, NH, S, DHQK\)"),
    ({"k": np.ones((1, 2, 19, 16))}, r"k has shape \(1, 2, 19, 16\); expected .*\(1, 2, 20, 16\)"),
    ({"v": np.ones((1, 2, 20))}, r"v has shape \(1, 2, 20\); expected \(B, NH, S, DHHV\)"),
    ({"v": np.ones((1, 3, 20, 16))}, r"v has shape \(1, 3, 20, 16\)"),
    ({"i": np.ones((1, 2, 20, 1))}, r"i has shape \(1, 2, 20, 1\)"),
    ({"f": np.ones((2, 2, 20))}, r"f has shape \(2, 2, 20\)"),
    (arguments(length=0), r"S is 0 .*expected at least 1"),
    (arguments(dhqk=8), r"DHQK is 8; the kernels serve 16 to 512"),
    (arguments(dhhv=513), r"DHHV is 513; the kernels serve 16 to 512"),
    ({"chunk_size": 48}, r"chunk_size is 48; expected a power of two from 16 to 256"),
    ({"chunk_size": 8}, r"chunk_size is 8;"),
    ({"chunk_size": 512}, r"chunk_size is 512;"),
    ({"chunk_size": 32.0}, r"chunk_size is 32.0;"),
    ({"chunk_size": True}, r"chunk_size is True;"),
    ({"eps": -1e-6}, r"eps is -1e-06; expected a finite"),
    ({"norm_val": float("nan")}, r"norm_val is nan;"),
    ({"norm_val": float("inf")}, r"norm_val is inf;"),
    ({"autocast_kernel_dtype": "float64"}, r"Unsupported kernel dtype 'float64'.*float32, float16, bfloat16"),
    ({"autocast_kernel_dtype": jnp.int32}, r"Unsupported kernel dtype"),
    ({"autocast_kernel_dtype": "half-ish"}, r"Unsupported kernel dtype 'half-ish'"),
    ({"input_precision": "fast"}, r"input_precision is 'fast'; expected one of ieee, tf32, tf32x3"),
    ({**state(), "n_initial": None}, r"n_initial is None but c_initial, m_initial is given"),
    ({"m_initial": np.zeros((1, 2))}, r"c_initial, n_initial is None but m_initial is given"),
    ({**state(), "m_initial": np.zeros((1, 2, 1))}, r"m_initial has shape \(1, 2, 1\); expected \(B, NH\)"),
    (
        {**state(), "c_initial": with_value(np.zeros((1, 2, 16, 16)), np.nan)},
        r"c_initial\[0, 0, 0, 0\] is nan; expected fin",
    ),
    ({**state(), "n_initial": with_value(np.zeros((1, 2, 16)), np.inf)}, r"n_initial\[0, 0, 0\] is inf"),
    ({**state(), "m_initial": with_value(np.zeros((1, 2)), np.inf)}, r"m_initial\[0, 0\] is inf; .* or -inf"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:32] for _, message in BAD])
def test_bad_input_is_refused_by_name(change, message, monkeypatch):
    monkeypatch.setattr("kernels.triton_stablef._forward.launch", lambda *_, **__: pytest.fail("a kernel started"))
    with pytest.raises(ValueError, match=message):
        mlstm(**{**arguments(), **change})


def test_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match="chunksize"):
        mlstm(**arguments(), chunksize=32)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype("float16"), "float32"])
def test_dtype_by_name_or_dtype_is_the_dtype_of_h(dtype):
    h, (c, n, m) = mlstm(**arguments(), autocast_kernel_dtype=dtype, return_last_states=True)
    assert h.dtype == jnp.dtype(dtype)
    assert {part.dtype for part in (c, n, m)} == {jnp.dtype("float32")}
    assert (c.shape, n.shape, m.shape) == ((1, 2, 16, 16), (1, 2, 16), (1, 2))
