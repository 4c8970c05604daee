"""The report in JUnit XML: one testcase a planned case, for CI systems that show test results.

A case that failed has a ``failure`` with the reason, one without a result an ``error``; ``unsupported`` and
``reference-uncertain`` are ``skipped``, with theirs.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from verify._report import Report, first_line
from verify._runner import Result
from verify._verdict import Outcome

# XML has no way to write these.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: Report) -> str:
    """The file's content."""
    skipped = sum(_is_skipped(result) for result in report.results)
    counts = {
        "tests": str(len(report.results) + len(report.missing)),
        "failures": str(len(report.failed)),
        "errors": str(len(report.missing)),
    }
    seconds = f"{sum(result.seconds for result in report.results):.3f}"
    suites = ET.Element("testsuites", {"name": "mlstm-verify", **counts, "time": seconds})
    named = {"name": report.subject, **counts, "skipped": str(skipped), "time": seconds}
    started = report.manifest.get("started")
    suite = ET.SubElement(suites, "testsuite", {**named, **({"timestamp": started[:19]} if started else {})})
    properties = ET.SubElement(suite, "properties")
    for name, value in report.environment:
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for result in report.results:
        _add_case(suite, report, result)
    for name in report.missing:
        case = ET.SubElement(suite, "testcase", {"name": name, "classname": _class(name)})
        ET.SubElement(case, "error", {"type": "no-result", "message": "planned, but the run ended before it"})
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, report: Report, result: Result) -> None:
    name, outcome = result.case.id, result.verdict.outcome
    seconds = f"{result.seconds:.3f}"
    case = ET.SubElement(suite, "testcase", {"name": name, "classname": _class(name), "time": seconds})
    message = _clean(first_line(result))
    if outcome.failed:
        told = ET.SubElement(case, "failure", {"type": outcome.value, "message": message})
        told.text = _clean(f"{outcome.sentence}\n{result.verdict.reason}\nrepeat it: {report.repeat(result)}")
    elif _is_skipped(result):
        ET.SubElement(case, "skipped", {"message": f"{outcome.value}: {message}"})


def _is_skipped(result: Result) -> bool:
    return not result.verdict.outcome.failed and result.verdict.outcome is not Outcome.PASS


def _class(case_id: str) -> str:
    return f"mlstm-verify.{case_id.partition(':')[0]}"


def _clean(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
