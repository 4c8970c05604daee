"""The report in JUnit XML: one testcase a planned case, for CI systems that show test results.

A case that failed has a ``failure`` with the reason, one without a result an ``error``; ``unsupported`` and
``reference-uncertain`` are ``skipped``, with theirs. It fits the schemas of Ant (windyroad/JUnit-Schema) and of Jenkins
(jenkinsci/xunit-plugin, junit-10).
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from verify._report import Report, first_line
from verify._runner import Result
from verify._verdict import Outcome


def render_junit(report: Report) -> str:
    """The file's content."""
    suites = ET.Element("testsuites")
    counts = {
        "tests": len(report.results) + len(report.missing),
        "failures": len(report.failed),
        "errors": len(report.missing),
        "skipped": sum(_is_skipped(result) for result in report.results),
    }
    named = {"name": report.subject, "package": "mlstm-verify", "id": "0", "hostname": "localhost"}
    seconds = _seconds(sum(result.seconds for result in report.results))
    # The schema knows no time zone.
    times = {"timestamp": report.manifest.get("started", "1970-01-01T00:00:00")[:19], "time": seconds}
    suite = ET.SubElement(suites, "testsuite", {**named, **times, **{name: str(n) for name, n in counts.items()}})
    properties = ET.SubElement(suite, "properties")
    for name, value in report.environment:
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for result in report.results:
        _add_case(suite, report, result)
    for name in report.missing:
        case = _testcase(suite, name, 0.0)
        ET.SubElement(case, "error", {"type": "no-result", "message": "planned, but the run ended before it"})
    for stream in ("system-out", "system-err"):
        ET.SubElement(suite, stream)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, report: Report, result: Result) -> None:
    outcome, message = result.verdict.outcome, first_line(result)
    case = _testcase(suite, result.case.id, result.seconds)
    if outcome.failed:
        told = ET.SubElement(case, "failure", {"type": outcome.value, "message": message})
        told.text = f"{outcome.sentence}\n{result.verdict.reason}\nrepeat it: {report.repeat(result)}"
    elif _is_skipped(result):
        ET.SubElement(case, "skipped", {"message": f"{outcome.value}: {message}"})


def _testcase(suite: ET.Element, case_id: str, seconds: float) -> ET.Element:
    regime = case_id.partition(":")[0]
    return ET.SubElement(suite, "testcase", {"name": case_id, "classname": regime, "time": _seconds(seconds)})


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _is_skipped(result: Result) -> bool:
    return not result.verdict.outcome.failed and result.verdict.outcome is not Outcome.PASS
