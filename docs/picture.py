"""Draw docs/run.svg, the picture in the README, from a run directory: ``python docs/picture.py DIR``."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from verify._report import Report
from verify._run import read_results
from verify._table import print_summary


def main(directory: str) -> None:
    """Print the summary of the run as the command line does, and save it as an SVG that needs no network."""
    console = Console(record=True, width=108, highlight=False, markup=False, force_terminal=True, file=io.StringIO())
    console.print("$ mlstm-verify run", style="bold")
    print_summary(console, Report.of(*read_results(Path(directory))))
    svg = console.export_svg(title="mlstm-verify")
    # The fonts that rich names lie on a server; the viewer's own monospace font will do.
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    Path(__file__).with_name("run.svg").write_text(svg)


if __name__ == "__main__":
    main(sys.argv[1])
