"""Where along a sequence a reference is kept: every token of a short one, probes of a long one."""

from __future__ import annotations

import zlib

import numpy as np

from verify._case import Case

# Up to here every token is kept.
KEPT_WHOLE = 1024
_SPACED, _RANDOM = 48, 64


def probe_rows(case: Case) -> np.ndarray:
    """The tokens whose rows are kept, increasing, from 0.

    Of more than ``KEPT_WHOLE`` tokens: the first and the last, about 48 log-spaced from the start and as many from
    the end (gradients run backwards), on both sides of the chunk edge before each of these, and 64 random ones.
    """
    length, chunk = case.length, case.chunk_size
    if length <= KEPT_WHOLE:
        return np.arange(length)
    spaced = np.unique(np.geomspace(1, length, _SPACED).round().astype(np.int64)) - 1
    near = np.concatenate([spaced, length - 1 - spaced])
    edges = near // chunk * chunk
    random = np.random.default_rng([case.seed, zlib.crc32(case.id.encode())]).integers(0, length, _RANDOM)
    return np.unique(np.concatenate([near, edges, np.maximum(edges - 1, 0), random]))
