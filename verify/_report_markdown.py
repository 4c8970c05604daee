"""The report in Markdown, as short as the job summary of a CI system takes it."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from verify._report import Report, first_line
from verify._report_heat_map import FAILED, heat_maps
from verify._report_precision import CLAIMED, bits, precision_reached

# Of worst cases, and of what moved; the HTML file has all.
_MOST_ROWS = 20
_LONGEST = 300


def render_markdown(report: Report) -> str:
    """The file's content."""
    # Nothing is HTML here: ``code`` is what keeps text from being markup.
    templates = Environment(
        loader=PackageLoader("verify"), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates.filters["bits"] = bits
    return templates.get_template("report.md.j2").render(
        report=report,
        worst=report.worst(6)[:_MOST_ROWS],
        left_out=max(0, len(report.failed) - _MOST_ROWS),
        maps=heat_maps(report),
        failed=FAILED,
        precision=precision_reached(report),
        claimed=CLAIMED,
        most_rows=_MOST_ROWS,
        code=code,
        first_line=first_line,
    )


def code(text: str) -> str:
    """Text as it is, in a place of a table too, cut where it is very long."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    # A bar ends a place of a table even in code.
    line = line.replace("|", "\\|")
    # A fence is longer than any run of backticks inside.
    longest = max(map(len, re.findall("`+", line)), default=0)
    return f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}" if longest else f"`{line}`"
