"""`explain`: every code has a page that says the whole story."""

import re
import shlex

import pytest

from lastlayer.cli import main
from lastlayer.report.explain import CODES, PAGES, explain
from report.generators import GENERATORS


def test_codes_pages_and_generators_are_the_same_set():
    assert set(CODES) == set(PAGES) == set(GENERATORS)
    assert all(re.fullmatch(r"L[1-5]0\d", code) and CODES[code].code == code for code in CODES)
    assert len({known.title for known in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_every_section_and_fits_a_terminal(code):
    page = explain(code)
    sections = re.findall(r"^## (.*)$", page, re.M)
    assert sections == ["What it is", "How it is tested", "Why it matters", "How to fix it", "How bad it is"]
    assert page.startswith(f"# {code} {CODES[code].title}\n")
    assert CODES[code].meaning.split()[0] in page
    prose = [line for line in page.splitlines() if not line.startswith("    ")]
    assert max(map(len, prose)) <= 80
    assert "{" not in page and "\N{REPLACEMENT CHARACTER}" not in page


@pytest.mark.parametrize("code", ["L201", "L202", "L204", "L401", "L403", "L404", "L501", "L502", "L503"])
def test_a_page_about_chance_states_the_false_alarm_level(code):
    assert "false alarm is at most 0.0001" in re.sub(r"\s+", " ", explain(code))


@pytest.mark.parametrize("code", CODES)
def test_commands_exist_with_their_flags(code):
    fix = CODES[code].fix
    if fix.startswith("lastlayer"):
        _, *arguments = shlex.split(fix)
        command = main.get_command(None, arguments[0])
        command.make_context(arguments[0], arguments[1:])  # refuses what is no option of it
    else:
        compile(fix, code, "exec")  # a line of Python


def test_the_severity_rule_is_the_one_that_is_applied():
    assert "It is by the gap: note, warning from 0.02, error from 0.05." in explain("L501")
    assert "It is always an error." in explain("L201")
    assert "It is always a note." in explain("L104")
    gap = CODES["L501"].levels
    assert [gap.severity(g) for g in (0.019, 0.02, 0.049, 0.05)] == ["note", "warning", "warning", "error"]
    assert CODES["L301"].levels.severity(1.0) == "warning"
    assert CODES["L101"].levels.severity(0.0) == "warning"


@pytest.mark.parametrize("wrong, near", [("L51", "L501"), ("l204", "L204")])
def test_an_unknown_code_names_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
        explain(wrong)
