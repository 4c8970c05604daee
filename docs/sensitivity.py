"""How small an error the verdict sees: prints the tables in section 10 of docs/method.md.

Run it from the clone: ``PYTHONPATH=. python docs/sensitivity.py``. What a correct float64 subject returns is made
wrong by a known relative amount, and the float32 cases of the smoke tier are judged.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.oracles import float32_recurrence
from tests.subjects.correct import mlstm
from verify import Case, Outcome, Problem, Reference, Subject, compute_reference, judge, make_problem
from verify._problem import GRADIENT_OF
from verify._relation_cases import RelationCase
from verify._tiers import TIERS

Wrong = Callable[..., object]
Outputs = dict[str, np.ndarray]
CORRECT = Subject("correct", mlstm, None)


def scaled(amount: float, names: tuple[str, ...]) -> Callable[[Case, Problem, Outputs], Outputs]:
    """These outputs too large by the factor 1 + amount, as if a normalizer were too small."""

    def change(case: Case, problem: Problem, outputs: Outputs) -> Outputs:
        factors = {name: 1 + amount if name in names else 1 for name in outputs}
        return {name: (x.astype(np.float64) * factors[name]).astype(x.dtype) for name, x in outputs.items()}

    return change


def noisy(amount: float, names: tuple[str, ...]) -> Callable[[Case, Problem, Outputs], Outputs]:
    """What comes of q, k and v with relative random errors of this size, as a dot in lower precision has them."""

    def change(case: Case, problem: Problem, outputs: Outputs) -> Outputs:
        rng, arrays = np.random.default_rng(0), dict(problem.arrays)
        for name in ("q", "k", "v"):
            noise = 1 + amount * rng.uniform(-1, 1, arrays[name].shape)
            arrays[name] = (arrays[name].astype(np.float64) * noise).astype(arrays[name].dtype)
        wrong = CORRECT.call(case, replace(problem, arrays=arrays))
        return outputs | {name: wrong[name] for name in names if name in wrong}

    return change


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
                outputs = subject.call(case, make_problem(case))
                ratios.append(judge(case, outputs, reference).measurements[0].ratio)
            print(f"| {regime} | {length} | {ratios[0]:.2g} | {ratios[1]:.2g} |")


def print_difference_of_cumsums() -> None:
    """df as a difference of cumulative sums instead of sums over pairs, in float32: the largest error / bound of df."""
    print("\n| regime | S | difference of cumulative sums | control |\n| --- | --- | --- | --- |")
    for regime in ("ordinary", "forget@-10", "forget@-60", "forget@10", "saturated_mix@30"):
        for length in (70, 512):
            case = Case(regime=regime, length=length, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
            reference, ratios = compute_reference(case), []
            for fault in ("df as a difference of cumsums", ""):
                with np.errstate(all="ignore"):
                    df = float32_recurrence.gradients(case, fault=fault)["df"][None, None]
                ratios.append(judge(case, {"df": df}, reference).measurements[0].ratio)
            print(f"| {regime} | {length} | {ratios[0]:.2g} | {ratios[1]:.2g} |")


def main() -> None:
    """Print, for each error and size, how many of the float32 cases fail, and by how much."""
    cases = [case for case in TIERS["smoke"].cases() if case.dtype == "float32" and case.cotangents != "none"]
    cases = [case for case in cases if not isinstance(case, RelationCase)]
    correct: dict[Case, tuple[Problem, Reference, Outputs]] = {}
    for case in cases:
        problem = make_problem(case)
        correct[case] = problem, compute_reference(case), CORRECT.call(case, problem)
    print(f"{len(cases)} float32 cases of the smoke tier\n")
    print("| error of | kind | size | cases that fail | largest error / bound | largest statistic / threshold |")
    print("| --- | --- | --- | --- | --- | --- |")
    for of, names in (("h", ("h",)), ("gradients", tuple(GRADIENT_OF.values()))):
        for error in (scaled, noisy):
            for amount in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
                verdicts = []
                for case, (problem, reference, outputs) in correct.items():
                    wrong = error(amount, names)(case, problem, outputs)
                    verdicts.append(judge(case, {name: wrong[name] for name in names if name in wrong}, reference))
                failed = sum(verdict.outcome is not Outcome.PASS for verdict in verdicts)
                worst = max(measured.ratio for verdict in verdicts for measured in verdict.measurements)
                excess = max(verdict.worst.excess for verdict in verdicts if verdict.worst)
                told = f"{failed} | {worst:.2g} | {excess:.2g}"
                print(f"| {of} | {error.__name__} | {amount:g} | {told} |", flush=True)
    print_prefix()
    print_difference_of_cumsums()


if __name__ == "__main__":
    main()
