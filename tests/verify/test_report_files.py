"""The files of `mlstm-verify report`: safe whatever a subject said, valid, small, and nothing overwritten unasked."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.verify.synthetic_run import CURVE, manifest, measured, result, write_run
from verify import Case, UsageError
from verify._report import GRADIENTS, OUTPUTS, Report
from verify._report_drift import DriftSection, DriftTable
from verify._report_html import render_html
from verify._report_junit import render_junit
from verify._report_markdown import code, render_markdown
from verify._run import MANIFEST, RESULTS
from verify._verdict import Outcome
from verify.cli._report import Format, report

ROOT = Path(__file__).resolve().parents[2]
RENDERED = {Format.html: render_html, Format.markdown: render_markdown, Format.junit: render_junit}
RUDE = "</style><script>alert(1)</script> | `a` ``b``\n\x1b[31m]]> \x00 and \ud800 more"
RESULTS_OF_ALL = (
    result(Case(length=64), measured(curve=CURVE), measured("dq", ratio=2.0, curve=CURVE), outcome=Outcome.INACCURATE),
    result(Case(length=2, dtype="float16"), measured(undecided=1.0), precision="float16"),
    result(Case(length=3), outcome=Outcome.CRASH, reason=RUDE, precision=None),
    result(Case(length=4), outcome=Outcome.UNSUPPORTED, reason="no f", precision=None),
    result(Case(length=5), measured(), outcome=Outcome.REFERENCE_UNCERTAIN, precision=None),
)
DRIFT = DriftSection(
    "a.baseline",
    "2 outputs moved",
    ("triton 3.5 -> 3.6",),
    (DriftTable("moved, worse", ("outputs", "where"), (("dq, dk", "bfloat16 | <b>"),)),),
)


def made(*results, planned=(), drift=None):
    return Report.of(manifest(*(one.case for one in results), *planned), results, drift)


WHOLE = made(*RESULTS_OF_ALL, planned=[Case(length=6)], drift=DRIFT)


class Page(HTMLParser):
    """The elements of a page, which must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_needs_nothing_and_allows_nothing():
    text = render_html(WHOLE)
    page = Page(text)
    (policy,) = (attributes for tag, attributes in page.elements if attributes.get("http-equiv"))
    style = re.search("<style>(.*?)</style>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "image", "use")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert not {"src", "data", "action"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")


def test_html_links_and_names_lead_somewhere():
    elements = Page(render_html(WHOLE)).elements
    names = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(names)) == len(names)
    for _, attributes in elements:
        assert attributes.get("href", "#worst")[1:] in names
        assert set(attributes.get("aria-labelledby", "").split()) <= set(names)


def test_pictures_have_a_title_and_a_text():
    text = render_html(WHOLE)
    pictures = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        assert 'role="img"' in picture
        assert re.search(r'<title id="[^"]+">[^<]+</title>\n<desc id="[^"]+">[^<]+</desc>', picture)


def test_html_says_the_verdict_first_and_how_to_repeat_the_worst():
    text = Page(render_html(WHOLE)).text
    places = [text.index(told) for told in ("fail: 2 of 5 cases failed", "\ncrash\n", "--case ordinary")]
    # The list of sections has their names too.
    places += [text.rindex(told) for told in ("Heat map\n", "Drift\n", "2 outputs moved", "How to read this\n")]
    assert places == sorted(places)
    assert "<script>alert(1)</script>" in text


@pytest.mark.parametrize("form", Format)
def test_a_run_without_a_result_has_a_report(form):
    assert RENDERED[form](made(planned=[Case()]))
    assert RENDERED[form](made())


def test_colours_have_the_contrast_that_text_needs():
    style = (ROOT / "verify/templates/report.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): #(\w{6});", part)) for part in re.findall(r":root {(.*?)}", style, re.DOTALL)
    ]
    assert len(themes) == 3
    pairs = [(ink, "page") for ink in ("ink", "quiet", "link", "pass", "fail", "doubt")]
    pairs += [("on-light", f"s{shade}") for shade in range(4)] + [(f"on-s{shade}", f"s{shade}") for shade in (4, 5, 6)]
    for theme in themes:
        for ink, ground in [*pairs, ("ink", "box")]:
            first, second = sorted((luminance(theme[ink]), luminance(theme[ground])))
            assert (second + 0.05) / (first + 0.05) >= 4.5, (ink, ground)


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def large_run():
    # A standard tier has 350 cases in 40 regimes.
    outputs = [measured(name, curve=CURVE) for name in OUTPUTS]
    cases = [Case(regime=f"forget@{number % 40}", length=10 + number, cotangents="all") for number in range(350)]
    return made(*(result(case, *outputs, outcome=Outcome.INACCURATE) for case in cases), drift=DRIFT)


def test_sizes():
    assert len(render_html(large_run()).encode()) < 3_000_000
    # A comment on a pull request takes 65536 characters, a job summary more.
    assert len(render_markdown(large_run())) < 65_536


def test_markdown_has_whole_tables():
    text = render_markdown(WHOLE)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
    assert text.startswith("# mlstm-verify: fail, 2 of 5 cases failed; 1 more have no result\n")
    assert "| dq | 2 |" in text
    assert "**2.0**" in text
    assert WHOLE.repeat(WHOLE.results[0]) + "\n" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a\n b", "`a b`"), ("a|b", r"`a\|b`"), ("`a`", "`` `a` ``"), ("``", "``` `` ```")],
)
def test_text_is_no_markup(text, shown):
    assert code(text) == shown


def test_long_text_is_cut():
    assert len(code("x" * 1000)) < 310


def test_junit_counts_what_it_has():
    suite = ET.fromstring(render_junit(WHOLE).replace('<?xml version="1.0" encoding="UTF-8"?>', "")).find("testsuite")
    cases = suite.findall("testcase")
    assert {case.get("name") for case in cases} == set(WHOLE.manifest["planned"])
    for name, tag, count in (("failures", "failure", 2), ("errors", "error", 1), ("skipped", "skipped", 2)):
        assert int(suite.get(name)) == len(suite.findall(f"testcase/{tag}")) == count
    assert int(suite.get("tests")) == len(cases) == 6
    assert next(child.tag for child in suite) == "properties"
    assert [child.tag for child in suite][-2:] == ["system-out", "system-err"]
    crash = suite.find("testcase/failure")
    assert crash.get("type") == "crash"
    assert "alert(1)" in crash.get("message")
    assert "repeat it: mlstm-verify run --case" in crash.text
    assert suite.get("timestamp") == "2026-01-02T03:04:05"


@pytest.fixture
def run(tmp_path):
    fine = (replace(RESULTS_OF_ALL[0], seconds=1.0), *RESULTS_OF_ALL[3:])
    return write_run(tmp_path / "run", *fine)


@pytest.mark.parametrize("form", Format)
def test_the_command_writes_the_file(run, tmp_path, form, capsys):
    report(run, tmp_path / "file", format=form)
    told, _ = capsys.readouterr()
    assert f"written to {tmp_path / 'file'}" in told
    assert RESULTS_OF_ALL[0].case.id in (tmp_path / "file").read_text()
    assert not list(tmp_path.glob("*.partial"))
    report(run, Path("-"), format=form)
    assert capsys.readouterr().out == (tmp_path / "file").read_text()


def test_nothing_is_replaced_unasked(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is there already, and is replaced with --force only"):
        report(run, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    report(run, tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() != "mine"
    with pytest.raises(UsageError, match="is a directory"):
        report(run, tmp_path, force=True)
    with pytest.raises(UsageError, match="cannot be written"):
        report(run, tmp_path / "nowhere" / "file")


def truncate(path):
    path.write_text(path.read_text()[:-20] + "\n")


def other_schema(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (MANIFEST, Path.unlink, "cannot be read"),
        (RESULTS, Path.unlink, "cannot be read"),
        (MANIFEST, truncate, "no JSON"),
        (RESULTS, truncate, "line 3: no JSON"),
        (MANIFEST, other_schema, "has schema 99"),
        (RESULTS, lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()), "cannot be read"),
    ],
)
def test_a_damaged_run_is_named_and_nothing_written(run, tmp_path, file, damage, message):
    damage(run / file)
    with pytest.raises(UsageError, match=rf"{file}.*{message}"):
        report(run, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_killed_run_has_a_report(run, tmp_path):
    (run / RESULTS).write_text((run / RESULTS).read_text()[:-20])
    report(run, tmp_path / "file")
    assert "1 more have no result" in (tmp_path / "file").read_text()


def test_on_the_command_line(run, tmp_path):
    command = [sys.executable, "-m", "verify", "report", str(run), "-o", str(tmp_path / "file")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    codes = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        codes.append(done.returncode)
    assert codes == [0, 2]
    assert done.stderr.startswith("error: --out ")


def test_gradients_have_a_map_of_their_own():
    assert set(GRADIENTS) < set(OUTPUTS)
