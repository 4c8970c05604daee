"""Where correct float32 implementations lie on the two scales of a reference: prints the tables of docs/scales.md.

Run it from the clone, where the packages of the tests are: ``PYTHONPATH=. python docs/scales.py [--seeds N]``. Every
regime in both modes at the shape of the smoke tier, with all gradients; then the same with small systematic errors.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import isfinite, sqrt

import numpy as np

from tests.subjects import float32
from verify import Case, Reference, Subject, compute_reference, judge, load_subject, make_problem
from verify._reference import FLOAT32_TINY
from verify._regimes import regime_tokens
from verify._runner import worker_pool
from verify._subject import GRADIENT_OF

JOBS = 2
GRADIENTS = frozenset(GRADIENT_OF.values())
BASE = Case(length=70, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
IMPLEMENTATIONS = {
    "Triton, interpreted": "kernels:mlstm_chunkwise_triton_stablef",
    "plain JAX": "kernels:mlstm_chunkwise_xla",
    "NumPy recurrence": "tests.subjects.float32:recurrence",
    "NumPy parallel": "tests.subjects.float32:parallel",
}
ONE_NUMBER = "m as one number"
RANGE = 0.05, 3.0
MORE_SEEDS = 24


@dataclass(frozen=True)
class Scales:
    """One output, of one case or pooled over several: the largest error / bound, and z of ``count`` elements."""

    output: str
    case: Case
    ratio: float
    squares: float
    count: int

    @property
    def rms_z(self) -> float:
        """sqrt(mean z^2)."""
        return sqrt(self.squares / self.count)


Measured = dict[str, list[Scales]]


def with_fault(form: str, fault: str) -> tuple[str, Subject]:
    """A NumPy subject with a planted error, by name."""
    correct = load_subject(f"tests.subjects.float32:{form}")
    return f"{fault}: {form}", replace(correct, function=partial(correct.function, fault=fault))


def subjects(*, faults: bool) -> dict[str, Subject]:
    """The correct implementations, the recurrence whose m is one number, and those with a planted error."""
    chosen = {name: load_subject(path) for name, path in IMPLEMENTATIONS.items()}
    planted = [(form, fault) for fault in float32.FAULTS for form in ("recurrence", "parallel")] if faults else []
    # The parallel form has no state to keep in bfloat16.
    planted = [pair for pair in planted if pair != ("parallel", "bf16 state")]
    return chosen | dict(with_fault(*pair) for pair in [("recurrence", ONE_NUMBER), *planted])


def measured(case: Case, alone: str = "") -> Measured:
    """Every subject on a case, or one of them; those with a planted error on the first seed only."""
    problem, reference = make_problem(case), compute_reference(case)
    of_subject = {}
    for name, subject in subjects(faults=case.seed == 0).items():
        if alone not in ("", name):
            continue
        with np.errstate(all="ignore"):
            verdict = judge(case, subject.call(case, problem), reference)
        found = [(one, counted(one.output, reference)) for one in verdict.measurements]
        of_subject[name] = [Scales(one.output, case, one.ratio, one.rms_z**2 * n, n) for one, n in found]
    return of_subject


def counted(output: str, reference: Reference) -> int:
    """How many elements have a z: decided, and something that can be off; none of an output below float32."""
    wanted, noise, bound = (of[output] for of in (reference.values, reference.noise, reference.bounds))
    if np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0) < FLOAT32_TINY:
        return 0
    noise = noise[..., None] if noise.ndim < wanted.ndim else noise
    return int(np.sum(np.isfinite(bound) & np.isfinite(noise) & (noise > 0.0)))


def pooled(results: list[Measured], name: str, regime: str) -> list[Scales]:
    """The outputs of an implementation in a regime, over all seeds and both modes."""
    parts: dict[str, list[Scales]] = {}
    for result in results:
        for scales in result[name]:
            if scales.case.regime == regime:
                parts.setdefault(scales.output, []).append(scales)
    return [
        Scales(
            output,
            of_output[0].case,
            max(scales.ratio for scales in of_output),
            sum(scales.squares for scales in of_output if scales.count),
            sum(scales.count for scales in of_output),
        )
        for output, of_output in parts.items()
    ]


def print_regimes(results: list[Measured], names: list[str]) -> None:
    """The extremes of both scales over the outputs, and which outputs have no z: nothing of them is off, or can be."""
    print("| regime | implementation | error / bound | smallest RMS z | largest RMS z | no z |")
    print("| --- | --- | --- | --- | --- | --- |")
    left_out = total = 0
    for regime in regime_tokens():
        for name in names:
            outputs = pooled(results, name, regime)
            worst = max(outputs, key=lambda scales: scales.ratio)
            have_z = sorted((scales for scales in outputs if scales.squares), key=lambda scales: scales.rms_z)
            without = [scales.output for scales in outputs if not scales.squares]
            left_out, total = left_out + len(without), total + len(outputs)
            cells = [f"{worst.ratio:.2g} {worst.output}"]
            cells += [f"{scales.rms_z:.2g} {scales.output}" for scales in (have_z[0], have_z[-1])]
            print(f"| {regime} | {name} | {' | '.join(cells)} | {', '.join(without)} |")
    print(f"\n{left_out} of {total} outputs have no z: below float32's smallest normal number, or exact.")


def print_range(results: list[Measured], names: list[str]) -> list[tuple[str, Scales]]:
    """Over all regimes, for every output: the range of the pooled RMS z, and the largest error / bound.

    Returns:
        What is outside of ``RANGE``: the implementation, and the pooled output.
    """
    print("\n| output | error / bound | smallest RMS z | largest RMS z |\n| --- | --- | --- | --- |")
    everywhere = [(name, scales) for name in names for r in regime_tokens() for scales in pooled(results, name, r)]
    for output in dict.fromkeys(scales.output for _, scales in everywhere):
        of_output = [(name, scales) for name, scales in everywhere if scales.output == output]
        ratio = max(scales.ratio for _, scales in of_output)
        have_z = sorted((scales.rms_z, scales.case.regime, name) for name, scales in of_output if scales.squares)
        ends = " | ".join(f"{z:.2g} ({regime}, {name})" for z, regime, name in (have_z[0], have_z[-1]))
        print(f"| {output} | {ratio:.2g} | {ends} |")
    return [(name, s) for name, s in everywhere if s.squares and not RANGE[0] <= s.rms_z <= RANGE[1]]


def print_outside(outside: list[tuple[str, Scales]], pool: Executor) -> None:
    """What is outside of the range, and the same over more seeds: single numbers have heavy tails."""
    print(f"\nOutside of {RANGE[0]:g} to {RANGE[1]:g}{'' if outside else ': none.'}")
    if outside:
        print(f"\n| output | regime | implementation | RMS z | over {MORE_SEEDS} seeds |\n{'| --- ' * 5}|")
    for name, scales in outside:
        alone = BASE if scales.output in GRADIENTS else replace(BASE, cotangents="none")
        cases = all_cases([scales.case.regime], MORE_SEEDS, alone)
        more = list(pool.map(partial(measured, alone=name), cases))
        again = next(one for one in pooled(more, name, scales.case.regime) if one.output == scales.output)
        print(f"| {scales.output} | {scales.case.regime} | {name} | {scales.rms_z:.2g} | {again.rms_z:.2g} |")


def all_cases(regimes: list[str], seeds: int, base: Case) -> list[Case]:
    """The base case in these regimes, both modes and so many seeds."""
    modes = [replace(base, stabilize_correctly=correct) for correct in (True, False)]
    return [replace(mode, regime=regime, seed=seed) for regime in regimes for mode in modes for seed in range(seeds)]


def print_faults(results: list[Measured]) -> None:
    """Where each planted error stands out most from the correct implementations, on each scale.

    As many times as their largest, in this output of the same case, and in this output of any case.
    """
    header = ["error", "scale", "largest", "times theirs in the case", "times theirs in any case", "output", "case"]
    header.append("cases with 10 times theirs in any case")
    print(f"\n| {' | '.join(header)} |\n| {' | '.join(['---'] * len(header))} |")
    for fault in float32.FAULTS:
        for scale, of_gradients in product(("RMS z", "error / bound"), (False, True)):
            rows = [row for row in compared(results, fault, scale) if (row[3].output in GRADIENTS) == of_gradients]
            strictest, found, in_case, scales = max(rows, key=lambda row: row[:3])
            seen = {scales.case for times, _, _, scales in rows if times >= 10.0}
            cells = f"{fault} | {scale} | {found:.2g} | {in_case:.2g} | {strictest:.2g} | {scales.output}"
            cases = f"{len(seen)} of {len({scales.case for *_, scales in rows})}"
            print(f"| {cells} | {scales.case.regime}, {scales.case.mode} | {cases} |")


def compared(results: list[Measured], fault: str, scale: str) -> Iterator[tuple[float, float, float, Scales]]:
    """(times the correct ones' largest in any case, value, times that in this case, what was measured)."""

    def value(scales: Scales) -> float:
        return scales.rms_z if scale == "RMS z" else scales.ratio

    def largest(some: list[Measured], output: str) -> float:
        correct = (scales for result in some for name in IMPLEMENTATIONS for scales in result[name])
        return max((value(scales) for scales in correct if scales.output == output and scales.count), default=0.0)

    outputs = {scales.output for result in results for scales in result["NumPy parallel"]}
    anywhere = {output: largest(results, output) for output in outputs}
    for result in results:
        wrong = [scales for name, found in result.items() if name.startswith(f"{fault}: ") for scales in found]
        for scales in wrong:
            # What is not finite needs no scale to be seen, nor what is off where every correct one is exact.
            here = largest([result], scales.output)
            if scales.count and here and isfinite(value(scales)):
                yield value(scales) / anywhere[scales.output], value(scales), value(scales) / here, scales


def main() -> None:
    """Measure in worker processes, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="cases of each regime and mode")
    seeds = parser.parse_args().seeds
    cases = all_cases(regime_tokens(), seeds, BASE)
    with worker_pool(JOBS) as pool:
        results = list(pool.map(measured, cases))
        print(f"{len(cases)} cases: {len(regime_tokens())} regimes, 2 modes, {seeds} seeds\n")
        print_regimes(results, list(IMPLEMENTATIONS))
        print_outside(print_range(results, list(IMPLEMENTATIONS)), pool)
        print(f"\nThe recurrence with {ONE_NUMBER}:")
        print_outside(print_range(results, [f"{ONE_NUMBER}: recurrence"]), pool)
    print_faults(results)


if __name__ == "__main__":
    main()
