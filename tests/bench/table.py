"""Print the benchmark at the users' shapes as Markdown, from the file that pytest-benchmark wrote.

``python tests/bench/table.py FILE...``: medians in ms a call, the ratio to limit_chunk in the same dtype and run, and
the device memory of the compiled program.
"""

import json
import sys
from pathlib import Path


def rows(path: Path) -> dict:
    """{(shape, dtype, subject): {what: (ms, MiB)}}, in the order of the file."""
    table: dict = {}
    for entry in json.loads(path.read_text())["benchmarks"]:
        info = entry["extra_info"]
        if entry["group"] != "shapes":
            continue
        key = (tuple(info["shape"]), info["dtype"], info["subject"])
        ms = entry["stats"]["median"] * 1e3 / info["calls"]
        table.setdefault(key, {})[info["what"]] = (ms, info["mebibytes"])
    return table


def main() -> None:
    """Print the table; nothing if the file has no such benchmark."""
    table: dict = {}
    for name in sys.argv[1:]:
        table |= rows(Path(name))
    if not table:
        print("no benchmark at the users' shapes: it needs a GPU")
        return
    print("| B, NH, S, DHQK, DHHV | dtype | subject | forward, ms | forward and backward, ms | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (shape, dtype, subject), measured in sorted(table.items(), key=lambda item: item[0][:2]):
        peers = [other for key, other in table.items() if key[:2] == (shape, dtype) and key[2].startswith("limit")]
        cells = []
        for what in ("forward", "forward and backward"):
            ms = measured[what][0]
            faster = f" ({peers[0][what][0] / ms:.2f}x)" if peers and not subject.startswith("limit") else ""
            cells.append(f"{ms:.3f}{faster}")
        memory = measured["forward and backward"][1]
        print(f"| {', '.join(map(str, shape))} | {dtype} | {subject} | {' | '.join(cells)} | {memory:.0f} |")


if __name__ == "__main__":
    main()
