"""The report as one HTML file: no script, nothing from outside, and a content-security policy that holds it to that."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined

from verify import _report_curves
from verify._report import Report, first_line, told
from verify._report_curves import curve_pictures
from verify._report_heat_map import EDGES, FAILED, NONFINITE, heat_maps
from verify._report_precision import CLAIMED, bits, precision_reached
from verify._verdict import Outcome

# That are shown with the line that repeats them, unless more failed.
_WORST = 6


def render_html(report: Report) -> str:
    """The file's content."""
    templates = Environment(
        loader=PackageLoader("verify"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    assert templates.loader
    style = templates.loader.get_source(templates, "report.css")[0]
    return templates.get_template("report.html.j2").render(
        report=report,
        worst=report.worst(_WORST),
        maps=heat_maps(report),
        shades=_legend(),
        curves=curve_pictures(report),
        frame=_report_curves,
        precision=precision_reached(report),
        claimed=CLAIMED,
        outcomes=tuple(Outcome),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        bits=bits,
        told=told,
        first_line=first_line,
    )


def _legend() -> list[tuple[str, str]]:
    shades = [(f"s{shade}", f"to {edge:g}") for shade, edge in enumerate(EDGES)]
    return [*shades, (f"s{FAILED}", "over 1"), (f"s{NONFINITE}", "not finite"), ("none vague", "undecided")]
