"""How small an error the provisional verdict sees: prints the tables in section 10 of docs/method.md.

Run it from the clone: ``PYTHONPATH=. python docs/sensitivity.py``. A correct float64 subject is made
wrong by a known relative amount, and the float32 cases of the smoke tier are judged.
"""

from collections.abc import Callable

import numpy as np

from tests.subjects.correct import mlstm
from verify import Case, Outcome, Subject, compute_reference, run_case
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


def prefix(*, subtract: bool) -> Wrong:
    """The parallel form in float64; gate sums are differences of prefix sums, in float32 or (control) float64."""

    def subject(q: object, k: object, v: object, i: object, f: object) -> object:
        q64, k64, v64, i64, f64 = (np.asarray(array, np.float64) for array in (q, k, v, i, f))
        phi = np.minimum(f64, 0) - np.log1p(np.exp(-np.abs(f64)))
        sums = (
            np.cumsum(phi.astype(np.float32), -1, dtype=np.float32).astype(np.float64)
            if subtract
            else np.cumsum(phi, -1)
        )
        length = q64.shape[2]
        logs = sums[..., :, None] - sums[..., None, :] + i64[..., None, :]
        logs = np.where(np.tri(length, dtype=bool), logs, -np.inf)
        m = np.maximum(logs.max(-1), sums)
        weights = np.exp(logs - m[..., None]) * (q64 @ np.swapaxes(k64, -1, -2)) * q64.shape[-1] ** -0.5
        d = np.maximum(np.abs(weights.sum(-1)), np.exp(-m)) + 1e-6
        return (weights @ v64 / d[..., None]).astype(np.float32)

    return subject


def print_prefix() -> None:
    """A less stable formula, over the length: the largest error / bound of h."""
    print("\n| regime | S | differences of prefix sums | control |\n| --- | --- | --- | --- |")
    for regime in ("ordinary", "forget@-10", "soft_capped@15"):
        for length in (70, 512, 2048):
            case = Case(regime=regime, length=length, dhqk=32, dhhv=32, chunk_size=32)
            reference = compute_reference(case)
            ratios = []
            for subtract in (True, False):
                subject = Subject("prefix", prefix(subtract=subtract), frozenset("qkvif"))
                ratios.append(run_case(case, subject, reference).verdict.measurements[0].ratio)
            print(f"| {regime} | {length} | {ratios[0]:.2g} | {ratios[1]:.2g} |")


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
    print_prefix()


if __name__ == "__main__":
    main()
