"""How errors grow with the sequence: prints the tables of docs/growth.md, from the record of a run.

    PYTHONPATH=. python docs/growth.py --cases           the ids of the cases, one a line
    PYTHONPATH=. python docs/growth.py RUN [RUN ...]     the tables, from the runs of these cases

One head, DHQK=DHHV=32, chunks of 64, cotangents of h, in gates that forget at once, hardly, and at random.
"""

import argparse
from itertools import product
from math import isnan
from pathlib import Path

from verify import Case
from verify._run import read_results
from verify._runner import Result

REGIMES = ("ordinary", "forget@10", "soft_capped@15")
DTYPES = ("float32", "bfloat16")
LENGTHS = (512, 4096, 32768, 262144)
OUTPUTS = ("h", "df")


def cases() -> list[Case]:
    """All of them, the longest first: their references take longest."""
    return [
        Case(regime=regime, length=length, dhqk=32, dhhv=32, dtype=dtype, cotangents="h")
        for length, regime, dtype in product(reversed(LENGTHS), REGIMES, DTYPES)
    ]


def print_growth(results: dict[str, Result]) -> None:
    """One row a case: the exponents along the sequence, and where the error ends."""
    head = "regime", "dtype", "S", "outcome"
    columns = [f"{output}: {what}" for output in OUTPUTS for what in ("error", "noise floor", "normwise", "RMS z")]
    print(f"| {' | '.join((*head, *columns))} |")
    print("| --- " * (len(head) + len(columns)) + "|")
    for case in sorted(cases(), key=lambda case: (REGIMES.index(case.regime), case.dtype != "float32", case.length)):
        verdict = results[case.id].verdict
        cells = [case.regime, case.dtype, str(case.length), verdict.outcome.value]
        of_output = {measured.output: measured for measured in verdict.measurements}
        for measured in (of_output[output] for output in OUTPUTS):
            cells += [_exponent(measured.growth), _exponent(measured.noise_growth)]
            cells += [f"{measured.normwise:.1e}", f"{measured.rms_z:.2g}"]
        print(f"| {' | '.join(cells)} |")


def print_curves(results: dict[str, Result]) -> None:
    """The curves of the longest sequences: error, noise floor and bound at every fourth position."""
    for case in (case for case in cases() if case.length == max(LENGTHS)):
        print(f"\n{case.regime}, {case.dtype}, S={case.length}:\n")
        print("| output | position | error | noise floor | bound |\n| --- | --- | --- | --- | --- |")
        for measured in results[case.id].verdict.measurements:
            # Where the bound is infinite along the whole sequence there is no curve.
            if measured.output in OUTPUTS and measured.curve:
                points = list(zip(*vars(measured.curve).values(), strict=True))
                for position, *numbers in points[:: max(1, len(points) // 6)]:
                    cells = [f"{number:.2g}" for number in numbers]
                    print(f"| {measured.output} | {round(position)} | {' | '.join(cells)} |")


def _exponent(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--cases", action="store_true")
    options = parser.parse_args()
    if options.cases:
        print("\n".join(case.id for case in cases()))
    else:
        found = {result.case.id: result for run in options.runs for result in read_results(run)[1]}
        print_growth(found)
        print_curves(found)
