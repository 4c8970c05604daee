"""Where a long reference is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify import Case, compute_reference, measure
from verify._probes import KEPT_WHOLE, probe_rows


@settings(derandomize=True, max_examples=60)
@given(length=st.integers(1, 2**20), chunk_size=st.sampled_from([16, 64, 256]), seed=st.integers(0, 3))
def test_probes(length, chunk_size, seed):
    rows = probe_rows(Case(length=length, chunk_size=chunk_size, seed=seed))
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] == length - 1
    if length <= KEPT_WHOLE:
        assert len(rows) == length
    else:
        assert 150 < len(rows) < 500
        edges = rows[(rows % chunk_size == 0) & (rows > 0)]
        assert np.isin(edges - 1, rows).mean() > 0.8


def test_a_reference_at_probes_is_that_of_all_tokens(monkeypatch):
    case = Case(length=200, dhqk=4, dhhv=3, chunk_size=16, cotangents="all")
    whole = compute_reference(case)
    assert whole.rows is None
    monkeypatch.setattr("verify._probes.KEPT_WHOLE", 20)
    probed = compute_reference(case)
    for part in ("values", "bounds", "errors"):
        for name, array in getattr(probed, part).items():
            np.testing.assert_array_equal(array, probed.at_rows(name, getattr(whole, part)[name]))
    assert probed.shape("dq", 200) == whole.values["dq"].shape
    assert probed.shape("C_last", 200) == whole.values["C_last"].shape


@pytest.mark.parametrize("row", [3, 199])
def test_places_are_those_of_the_whole_output(monkeypatch, row):
    monkeypatch.setattr("verify._probes.KEPT_WHOLE", 20)
    case = Case(length=200, dhqk=4, dhhv=3, chunk_size=16)
    reference = compute_reference(case)
    assert row in reference.rows
    h = np.zeros(reference.shape("h", 200))
    h[:, :, reference.rows] = reference.values["h"]
    h[0, 0, row, 2] = 1e6
    assert measure({"h": h.astype(np.float32)}, reference)[0].worst == (0, 0, row, 2)


def test_nan_between_probes_is_seen(monkeypatch):
    monkeypatch.setattr("verify._probes.KEPT_WHOLE", 20)
    case = Case(length=400, dhqk=4, dhhv=3, chunk_size=16)
    reference = compute_reference(case)
    h = np.zeros(reference.shape("h", 400), np.float32)
    h[:, :, reference.rows] = reference.values["h"]
    assert measure({"h": h}, reference)[0].nonfinite == 0
    between = next(row for row in range(400) if row not in reference.rows)
    h[0, 0, between, 1] = np.nan
    assert measure({"h": h}, reference)[0].nonfinite == 1


def test_bounds_of_a_longer_sequence_are_made_in_chunks(monkeypatch):
    case = Case(length=130, dhqk=4, dhhv=3, chunk_size=16, cotangents="all", initial="warm@1")
    tokens = compute_reference(case)
    monkeypatch.setattr("verify._error_scales.BY_TOKENS_UP_TO", 100)
    chunks = compute_reference(case)
    for name, wanted in tokens.values.items():
        np.testing.assert_array_equal(chunks.values[name], wanted)
        # Other sums, the same sizes; but m is exact where i is larger, which sums over all pairs do not tell.
        assert name in ("m", "m_last") or 0.02 < np.median(chunks.bounds[name] / tokens.bounds[name]) < 50, name
