"""The demo does what it says: each step is a command that a user could type, on files that are there."""

import json
import re
import shlex

import numpy as np
import pytest

from lastlayer import evaluate, load
from lastlayer.calibrate import load as load_calibrator
from lastlayer.decide import Cost

FILES = {
    "digits-valid.npz",
    "digits-test.npz",
    "digits-valid.report.html",
    "digits-test.report.html",
    "calibrator.json",
    "decisions.csv",
}


@pytest.fixture
def done(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return run("demo", "--out", "demo")


def typed(output):
    """The commands that an output shows, joined where they are continued."""
    return [shlex.split(line) for line in re.findall(r"^\$ (.*)$", output.replace("\\\n", ""), re.MULTILINE)]


def test_every_file_is_there_and_the_page_is_named_last(done, tmp_path):
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES
    last = done.stdout.strip().splitlines()[-1].split(": ")[-1]
    page = (tmp_path / last).read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "http://" not in page.replace(
        "http://www.w3.org", ""
    )


def without_times(text):
    return re.sub(r"\d+\.\d\ds\b", "", text)


def test_the_commands_it_shows_can_be_typed(done, run, tmp_path, monkeypatch):
    shown = typed(done.stdout)
    assert [words[:2] for words in shown[1:]] == [["lastlayer", c] for c in ("check", "fit", "check", "decide")]
    assert shown[0] == ["cd", "demo"]
    monkeypatch.chdir(tmp_path / "demo")
    for name in ("calibrator.json", "decisions.csv"):
        (tmp_path / "demo" / name).unlink()
    printed = "".join(run(*words[1:]).stdout for words in shown[1:])
    for line in filter(None, without_times(printed).splitlines()):
        assert line in without_times(done.stdout)
    names = {}
    for line in re.findall(r"^>>> (.*)$", done.stdout, re.MULTILINE):
        exec(line, names)
    assert len(names["valid"]) == 800


def test_it_tells_the_story(done, tmp_path):
    folder = tmp_path / "demo"
    valid, test = load(folder / "digits-valid.npz"), load(folder / "digits-test.npz")
    fitted = load_calibrator(folder / "calibrator.json")
    for outputs in (valid, test):
        gap = evaluate(outputs).means.value()
        confidence, correct = (gap.mean[i] for i in (4, 2))
        assert confidence > correct
    before, after = evaluate(test).metrics(), evaluate(fitted.apply(test)).metrics()
    assert after["nll"] < before["nll"] / 1.5 and after["ece"] < before["ece"] / 2
    decided = Cost(wrong=10, review=1)(fitted.apply(test)).summary()
    assert decided.realised_cost < decided.cost_all / 2
    assert "over-confident" in done.stdout and f"{decided.accepted} rows" in done.stdout


def test_an_earlier_demo_is_replaced(done, run, tmp_path):
    first = (tmp_path / "demo" / "digits-valid.npz").read_bytes()
    run("demo", "--out", "demo", "--seed", "1")
    assert (tmp_path / "demo" / "digits-valid.npz").read_bytes() != first
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES


def test_a_folder_of_something_else_keeps_its_own(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calibrator.json").write_text("mine")
    assert "not that of an earlier demo" in run("demo", "--out", ".", code=3).stderr
    assert (tmp_path / "calibrator.json").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["calibrator.json"]


def test_json(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--out", "demo", "--json")
    found = json.loads(result.stdout)
    assert result.stderr == "" and found["schema_version"] == 1 and found["rows"] == {"valid": 800, "test": 797}
    assert found["findings"]["findings"][0]["code"] == "L501"
    assert found["calibrator"]["calibrator"]["method"] == "matrix"
    assert found["test"]["before"]["metrics"]["nll"]["value"] > found["test"]["metrics"]["nll"]["value"]
    assert found["decisions"]["summary"]["rows"] == 797
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be(run, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run("demo", "--out", out, code=3).stderr.startswith(f"error: {out}: cannot be used: ")


def test_ids_of_the_splits_are_disjoint(done, tmp_path):
    ids = [load(tmp_path / "demo" / f"digits-{part}.npz").ids for part in ("valid", "test")]
    assert len(np.intersect1d(*ids)) == 0
