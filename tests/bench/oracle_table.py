"""Print the benchmarks of the oracles as Markdown, from the file that pytest-benchmark wrote.

``python tests/bench/oracle_table.py FILE...``: medians in s, and the ratios within one run.
"""

import json
import sys
from pathlib import Path


def entries(paths: list[str]) -> list[dict]:
    """The facts of every benchmark, with its group and its median in s as ``seconds``, in the order of the files."""
    found = []
    for path in paths:
        for entry in json.loads(Path(path).read_text())["benchmarks"]:
            found.append(entry["extra_info"] | {"group": entry["group"], "seconds": entry["stats"]["median"]})
    return found


def show(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Print a table, or nothing where there are no rows."""
    if rows:
        print(f"\n## {title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def pairs(found: list[dict], group: str, names: tuple[str, str]) -> list[list[str]]:
    """A row for each form and size that both arithmetics were timed at: their seconds, and how many times the other."""
    timed: dict = {}
    for entry in found:
        if entry["group"].startswith(group):
            key = (entry["length"], entry["dim"], entry["form"])
            timed.setdefault(key, {})[entry["arithmetic"]] = entry["seconds"]
    return [
        [form, f"{length}", f"{dim}", *(f"{of[name]:#.3g}" for name in names), f"{of[names[0]] / of[names[1]]:.1f}"]
        for (length, dim, form), of in timed.items()
        if all(name in of for name in names)
    ]


def by_length(found: list[dict], group: str, more: dict) -> list[list[str]]:
    """A row for each length: the seconds, the microseconds a token, and what ``more`` makes of the facts."""
    chosen = [entry for entry in found if entry["group"].startswith(group)]
    return [
        [f"{entry['length']}", f"{entry['seconds']:#.3g}", f"{1e6 * entry['seconds'] / entry['length']:.1f}"]
        + [make(entry) for make in more.values()]
        for entry in sorted(chosen, key=lambda entry: entry["length"])
    ]


def main() -> None:
    """Print the tables whose benchmarks are in the files."""
    found = entries(sys.argv[1:])
    size = ["form", "S", "D"]
    show(
        "MPMath and balls of the same digits, one head",
        [*size, "MPMath(50), s", "Ball(167), s", "times faster"],
        pairs(found, "oracle, 50 digits", ("MPMath(50)", "Ball(167)")),
    )
    time = ["S", "s", "us a token"]
    show(
        "Ball(200), chunkwise, forward, one head, D = 128",
        time,
        by_length(found, "oracle, chunkwise Ball(200)", {}),
    )
    memory = {
        "rows": lambda entry: f"{entry['rows']}",
        "peak beyond the inputs, MiB": lambda entry: f"{entry['peak bytes'] / 2**20:.2f}",
    }
    show(
        "Float64, chunkwise, some rows, one head, D = 128",
        [*time, *memory],
        by_length(found, "oracle, chunkwise float64, some rows", memory),
    )
    names = ("MonteCarlo, 16 replicates", "Float64")
    show(
        "Monte Carlo arithmetic and float64, one head",
        [*size, "MonteCarlo, 16 replicates, s", "Float64, s", "times slower"],
        pairs(found, "oracle, noise floor", names),
    )


if __name__ == "__main__":
    main()
