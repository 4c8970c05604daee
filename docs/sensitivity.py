"""How small an error the provisional verdict sees: prints the table at the end of docs/method.md.

Run it from the clone: ``PYTHONPATH=. python docs/sensitivity.py``. A correct float64 subject is made
wrong by a known relative amount, and the float32 cases of the smoke tier are judged.
"""

from collections.abc import Callable

import numpy as np

from tests.subjects.correct import mlstm
from verify import Outcome, Subject, compute_reference, run_case
from verify._tiers import TIERS

Wrong = Callable[..., object]


def scaled(amount: float) -> Wrong:
    """Every h too large by the factor 1 + amount, as if the normalizer were too small."""

    def subject(**arguments: object) -> object:
        h, last = mlstm(**{**arguments, "return_last_states": True})
        return (np.asarray(h, np.float64) * (1 + amount)).astype(h.dtype), last

    return subject


def noisy(amount: float) -> Wrong:
    """q, k and v rounded to a relative random error of this size, as a dot in lower precision would."""

    def subject(**arguments: object) -> object:
        rng = np.random.default_rng(0)
        for name in ("q", "k", "v"):
            exact = np.asarray(arguments[name])
            noise = 1 + amount * rng.uniform(-1, 1, exact.shape)
            arguments[name] = (exact.astype(np.float64) * noise).astype(exact.dtype)
        return mlstm(**{**arguments, "return_last_states": True})

    return subject


def main() -> None:
    """Print, for each error and size, how many of the float32 cases fail and the largest error / bound."""
    cases = [case for case in TIERS["smoke"].cases() if case.dtype == "float32"]
    references = {case: compute_reference(case) for case in cases}
    print(f"{len(cases)} float32 cases of the smoke tier\n\n| error | size | cases that fail | largest error / bound |")
    print("| --- | --- | --- | --- |")
    for error in (scaled, noisy):
        for amount in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            subject = Subject(error.__name__, error(amount), None)
            verdicts = [run_case(case, subject, references[case]).verdict for case in cases]
            failed = sum(verdict.outcome is not Outcome.PASS for verdict in verdicts)
            worst = max(measured.ratio for verdict in verdicts for measured in verdict.measurements)
            print(f"| {error.__name__} | {amount:g} | {failed} | {worst:.2g} |")


if __name__ == "__main__":
    main()
