"""Gates at the ends: no input, reset, empty state (docs/method.md, section 4)."""

import numpy as np
import pytest

from kernels import mlstm_chunkwise_triton_stablef as mlstm

LENGTH, DIM = 40, 16


def draw():
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal((1, 1, LENGTH, DIM)).astype(np.float32) for name in "qkv"}
    arrays.update({name: rng.standard_normal((1, 1, LENGTH)).astype(np.float32) for name in "if"})
    return arrays


def run(arrays, **options):
    h, last = mlstm(**arrays, chunk_size=16, return_last_states=True, **options)
    return np.asarray(h), [np.asarray(part) for part in last]


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("token", [0, 7, 16, 39])
def test_reset_forgets_everything_before(token, correct):
    arrays = draw()
    arrays["f"][..., token] = -np.inf
    h, _ = run(arrays, stabilize_correctly=correct)
    other = {name: array.copy() for name, array in arrays.items()}
    other["k"][:, :, :token] = 99.0
    other["i"][:, :, :token] = 50.0
    changed, _ = run(other, stabilize_correctly=correct)
    np.testing.assert_array_equal(h[:, :, token:], changed[:, :, token:])
    assert np.isfinite(h).all()


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("norm_val", [1.0, 0.0])
@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_reset_without_input_is_the_empty_state(norm_val, eps, correct):
    arrays = draw()
    arrays["f"][..., 20] = arrays["i"][..., 20] = -np.inf
    h, _ = run(arrays, stabilize_correctly=correct, norm_val=norm_val, eps=eps)
    assert (h[:, :, 20] == 0).all()
    assert np.isfinite(h).all()
    shortened = {name: array[:, :, :21] for name, array in arrays.items()}
    _, (c, n, m) = run(shortened, stabilize_correctly=correct, norm_val=norm_val, eps=eps)
    assert (c == 0).all()
    assert (n == 0).all()
    assert (m == -np.inf).all()


def test_empty_state_is_accepted_as_initial_state():
    arrays = draw()
    zeros = {"c_initial": np.zeros((1, 1, DIM, DIM)), "n_initial": np.zeros((1, 1, DIM))}
    h, _ = run(arrays, **zeros, m_initial=np.full((1, 1), -np.inf))
    arrays["f"][..., 0] = -np.inf
    same, _ = run(arrays)
    np.testing.assert_array_equal(h, same)


def test_no_input_at_all_gives_zero():
    arrays = draw()
    arrays["i"][:] = -np.inf
    h, (c, n, _) = run(arrays)
    assert (h == 0).all()
    assert (c == 0).all()
    assert (n == 0).all()


def test_zero_query_gives_zero():
    arrays = draw()
    arrays["q"][:] = 0.0
    h, _ = run(arrays, eps=0.0, norm_val=0.0)
    assert (h == 0).all()
