"""Prints docs/mutants.md from the FILE of ``mlstm-verify mutants --out FILE``.

``PYTHONPATH=. python docs/mutants.py FILE``
"""

import json
import math
import sys
from collections import Counter
from pathlib import Path

from verify._mutants import CATALOGUE

HEAD = """# Mutants

Printed by `PYTHONPATH=. python docs/mutants.py FILE` from the FILE of `mlstm-verify mutants --tier {tier} --out FILE`,
on {device} (backend {backend}). Of each mutant: the case that killed it, the first that failed and not the worst; by
which check; and how many times over its threshold: what is not finite is infinitely far, and a relation has none.

| mutant | what the kernels do | where | grade | fate | check | times the threshold | case |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    """Print the table, what is not in it, and the control."""
    document = json.loads(Path(sys.argv[1]).read_text())
    environment, conditions = document["environment"], document["conditions"]
    print(HEAD.format(tier=conditions["tier"], device=environment["device"], backend=environment["backend"]))
    fates = {entry["fate"]["name"]: entry["fate"] for entry in document["mutants"]}
    for mutant in CATALOGUE:
        fate = fates.get(mutant.name, {"status": "not run", "check": "", "excess": "nan", "case": ""})
        excess = float(fate["excess"])
        cells = (mutant.name, mutant.does, mutant.place, mutant.grade, fate["status"], fate["check"] or "-")
        over = "-" if math.isnan(excess) else f"{excess:.2g}"
        row = (*cells, over, f"`{fate['case']}`" if fate["case"] else mutant.equivalent or mutant.beyond or "-")
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    counts = Counter(fate["status"] for fate in fates.values())
    print(f"\n{len(CATALOGUE)} mutants: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    control = document["control"]
    failed = ", ".join(control.get("failed", ())) or "none"
    print(f"Without a mutant, of the {control.get('cases', 0)} cases that killed one, {failed} fails.")


if __name__ == "__main__":
    main()
