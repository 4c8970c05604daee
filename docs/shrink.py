"""What ``mlstm-verify shrink`` makes of planted wrong subjects: prints docs/shrink.md.

Run it from the clone: ``PYTHONPATH=. python docs/shrink.py > docs/shrink.md``; names of planted subjects after it
choose some of them. Every program that is written is run by itself, once as it is and once with a correct subject.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.subjects import float32
from tests.subjects.planted import PLANTED, Planted
from verify import Case, Reference, judge
from verify._cache import ReferenceCache, default_directory
from verify._shrink._input import Input
from verify._shrink._reduction import Found, Reduction
from verify._shrink._reproducer import PROGRAM, Origin, render
from verify._subject import Subject, make_subject

HEAD = """# Shrunk inputs

Printed by `PYTHONPATH=. python docs/shrink.py`: planted subjects of tests/subjects/planted.py, each on the case of its
regime and settings with B=2, NH=2, S=512, DHQK=DHHV=64 and chunks of 64, which has {elements} numbers or more, and what
`mlstm-verify shrink` leaves of it. Runs: of the subject. Programs: the exit code of the program by itself, and with a
correct subject in place of the planted one.

| subject | outcome | B | NH | S | DHQK | DHHV | L | numbers | runs | seconds | programs |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
LARGE = Case(batch=2, heads=2, length=512, dhqk=64, dhhv=64, chunk_size=64, cotangents="all")
SIZES = ("batch", "heads", "length", "dhqk", "dhhv", "chunk_size")
EVALUATIONS = 1000
# Some of every group and grade, most of them on the same case: a reference of this size takes a while.
CHOSEN = (
    "max of log f for all",
    "norm_val without exp(-m)",
    "no initial m",
    "eps inside the maximum",
    "own forget gate included",
    "gates of head 0",
    "sums of log forgets in float16",
    "log2(e) of six digits",
    "dots in TF32",
    "state in bfloat16 between chunks",
    "reciprocal of 18 bits",
    "last token of a chunk not taken in",
    "C_0 transposed",
    "first token of a chunk without the state",
    "a little of the next value",
    "normalizer held constant",
    "switch of the gradient 2 % late",
    "df without the state",
    "M stops at chunk edges",
    "gradients do not cross chunks",
    "NaN after a reset",
    "keys of batch 0",
    "all zeros",
)
MODULE = """from tests.subjects.planted import PLANTED
planted = PLANTED[{name!r}].function
"""
IMPORT = "from planted_subject import planted as subject"


def large_case(planted: Planted) -> Case:
    """The case that sees a subject, with the sizes of ``LARGE``."""
    fields = {name: value for name, value in planted.seen.items() if name not in SIZES}
    return Case(**{**vars(LARGE), **fields})


def first(subject: Subject, case: Case, reference: Reference) -> Found:
    """The verdict on the whole case."""
    given = Input.of(case)
    with np.errstate(all="ignore"):
        execution = subject.execute(case, given.problem)
    return Found(given, execution.failure or judge(case, execution.outputs, reference), reference)


def exit_codes(reduction: Reduction, subject: Subject, planted: Planted, case: Case) -> str:
    """Of the program by itself, and with a correct subject."""
    files = render(reduction.smallest, reduction.failure, Origin(subject.name, subject, case.id, has_jax=True))
    codes = []
    for replacement in (IMPORT, f"from {float32.__name__} import chunkwise as subject"):
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                (Path(directory) / name).write_bytes(content)
            (Path(directory) / "planted_subject.py").write_text(MODULE.format(name=planted.name))
            program = Path(directory) / PROGRAM
            program.write_text(program.read_text().replace(IMPORT, replacement))
            codes.append(subprocess.run([sys.executable, program], capture_output=True, check=False).returncode)
    return f"{codes[0]}, {codes[1]}"


def main() -> None:
    """Print the table, and how many became small."""
    cache = ReferenceCache(default_directory())
    print(HEAD.format(elements=Input.of(LARGE).elements))
    small, failing = 0, 0
    for planted in [PLANTED[name] for name in sys.argv[1:] or CHOSEN]:
        case = large_case(planted)
        subject = make_subject("planted_subject:planted", planted.function)
        found = first(subject, case, cache.fetch(case)[0])
        if not found.verdict.outcome.failed:
            print(f"| {planted.name} | {found.verdict.outcome.value} | {'| ' * 10}", flush=True)
            continue
        start = time.perf_counter()
        reduction = Reduction(subject, found, EVALUATIONS)
        reduction.run()
        seconds = time.perf_counter() - start
        left = reduction.smallest.input
        sizes = [getattr(left.case, name) for name in SIZES]
        failing, small = failing + 1, small + (sizes[2] <= 3 and max(sizes[3:5]) <= 16)
        cells = (
            *sizes,
            left.elements,
            reduction.evaluations,
            f"{seconds:.1f}",
            exit_codes(reduction, subject, planted, case),
        )
        row = " | ".join(map(str, (planted.name, reduction.failure.outcome.value, *cells)))
        print(f"| {row} |", flush=True)
    print(f"\n{failing} fail on the large case; {small} of these become at most 3 tokens and dims of at most 16.")


if __name__ == "__main__":
    main()
