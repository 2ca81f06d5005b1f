"""The documentation is a test subject: every code block runs, and every public name is where a reader looks for it."""

import inspect
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import lastlayer as ll

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if "```" in path.read_text())
PUBLIC = sorted(name for name in dir(ll) if name[0] != "_" and not inspect.ismodule(getattr(ll, name)))
STAGES = ("calibrate", "decide", "train")


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which ``lastlayer demo`` has run, as the README says."""
    folder = tmp_path_factory.mktemp("readme")
    run(["lastlayer", "demo", "--out", "demo"], folder)
    return folder


def run(command, folder):
    """One command line of the docs, with this interpreter's lastlayer."""
    assert command[0] == "lastlayer", command
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=dict(os.environ, COLUMNS="80", NO_COLOR="1"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(path, demo, monkeypatch):
    monkeypatch.chdir(demo)
    names = {}
    for block in blocks(path, "python"):
        exec(compile(block, f"{path.name}", "exec"), names)


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "console")], ids=lambda p: p.name)
def test_console_blocks_show_what_the_commands_print(path, demo):
    """Figures may differ in their last digits between machines, so what is compared is everything but the digits."""
    for block in blocks(path, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if command.startswith(("make ", "pip ", "git ")):
                continue
            printed = form(run(shlex.split(command), demo))
            for line in filter(None, form(shown).split("\n")):
                assert line == "…" or line in printed, f"$ {command}\n{line}"


def form(text):
    """Lines without digits, bars and spacing, for comparing the shape of an output."""
    lines = (re.sub(r"[\d.]+|[▁▂▃▄▅▆▇█]+", "#", line) for line in text.split("\n"))
    return "\n".join(" ".join(line.split()) for line in lines)


def test_the_readme_has_both_ways():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
    (whole_job,) = (block for block in blocks(ROOT / "README.md", "python") if "calibrate.fit" in block)
    code = [line for line in whole_job.split("\n") if line.strip()]
    assert len(code) <= 12, "the whole job is ten lines of Python"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_on_the_journey_page(name):
    page = (ROOT / "docs" / "journey.md").read_text()
    assert re.search(rf"\bll\.{name}\b", page) or name in (
        "Comparison",
        "Evaluation",
        "Finding",
        "Metric",
        "Report",
        "formulas",
    )


@pytest.mark.parametrize("name", sorted({*vars(ll.transform), *vars(ll.loss)} - {*PUBLIC}))
def test_a_public_name_of_a_stage_is_on_the_journey_page(name):
    page = (ROOT / "docs" / "journey.md").read_text()
    kind = getattr(ll.transform, name, None) or getattr(ll.loss, name, None)
    assert name.startswith("_") or inspect.ismodule(kind) or re.search(rf"\b(t|loss)\.{name}\b", page), name


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(ll, name))])
def test_a_public_name_is_documented(name):
    text = getattr(ll, name).__doc__
    assert text and text.strip().split("\n")[0].endswith((".", ":")), name


def test_relative_links_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
