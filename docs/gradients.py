"""How far outputs and gradients are from the oracle, from recorded runs: prints the tables in reports/README.md.

``python docs/gradients.py RUN [--length S] [--beside OTHER]``. Over all cases of a dtype, the median normwise error of
each output and its largest error / bound; normwise errors of the gradients by regime. With another run of the same
cases, for each dtype and gradient the largest ratio of both errors, and where.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median

from verify import Case
from verify._case import DTYPES
from verify._run import read_results

OUTPUTS = ("h", "C_last", "m", "dq", "dk", "dv", "di", "df", "dC_0")
GRADIENTS = ("dq", "dk", "dv", "di", "df", "dC_0", "dn_0", "dm_0")


def errors(run: Path) -> dict[tuple[str, str], float]:
    """{(case id, gradient): normwise error} of every gradient that was measured."""
    return {
        (result.case.id, measured.output): measured.normwise
        for result in read_results(run)[1]
        for measured in result.verdict.measurements
        if measured.output in GRADIENTS
    }


def by_dtype(run: Path) -> Iterator[str]:
    """Of each output, over the cases of a dtype in which it is not undecided: median normwise error, largest ratio."""
    yield f"| dtype | {' | '.join(OUTPUTS)} |\n| --- |{' --- |' * len(OUTPUTS)}"
    found = defaultdict(list)
    for result in read_results(run)[1]:
        for measured in result.verdict.measurements:
            if measured.undecided < 0.5:
                found[result.case.dtype, measured.output].append((measured.normwise, measured.ratio))
    for dtype in DTYPES:
        pairs = [tuple(zip(*found[dtype, output], strict=True)) for output in OUTPUTS]
        cells = [f"{median(errors):.1e}, {max(ratios):.2f}" for errors, ratios in pairs]
        yield f"| {dtype} | {' | '.join(cells)} |"


def by_regime(run: Path, length: int) -> Iterator[str]:
    """Regimes in float32, mode correct, all cotangents, no initial state, at one length."""
    measured = errors(run)
    yield f"| regime | {' | '.join(GRADIENTS[:5])} |"
    yield "| --- |" + " --- |" * 5
    for name in dict.fromkeys(case for case, _ in measured):
        case = Case.parse(name)
        usual = Case(regime=case.regime, heads=case.heads, length=length, cotangents="all", seed=case.seed)
        if case == usual:
            yield f"| {case.regime} | {' | '.join(f'{measured[name, g]:.1e}' for g in GRADIENTS[:5])} |"


def beside(run: Path, other: Path) -> Iterator[str]:
    """For each dtype and gradient the largest quotient of the errors of ``run`` and ``other``."""
    ours, theirs = errors(run), errors(other)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for key in ours.keys() & theirs.keys():
        name, gradient = key
        if ours[key] > 0.0:
            ratio = ours[key] / theirs[key] if theirs[key] > 0.0 else float("inf")
            place = (Case.parse(name).dtype, gradient)
            worst[place] = max(worst.get(place, (0.0, "")), (ratio, name))
    yield "| dtype | gradient | largest error / error | case |\n| --- | --- | --- | --- |"
    for (dtype, gradient), (ratio, name) in sorted(worst.items()):
        yield f"| {dtype} | {gradient} | {ratio:.2f} | {name} |"


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--length", type=int, default=257)
    parser.add_argument("--beside", type=Path)
    arguments = parser.parse_args()
    if arguments.beside:
        lines = beside(arguments.run, arguments.beside)
    else:
        lines = chain(by_dtype(arguments.run), [""], by_regime(arguments.run, arguments.length))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
