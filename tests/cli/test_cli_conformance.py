"""``lastlayer conformance``: a grid, the kinds of failures, and an exit code for somebody's CI."""

import importlib.util
import json

import numpy as np
import pytest

from lastlayer.conformance import CASES, SUBJECTS, Subject, subjects

NUMPY_ONLY = [subject for subject in subjects("lastlayer") if subject.on == "numpy"]
DOUBLES = [case for case in CASES if case.dtype == "float64"]


@pytest.fixture
def clipped(monkeypatch):
    """A library that goes through clipped probabilities, in the place of SciPy."""

    def softmax(z):
        e = np.exp(z)
        return e / e.sum(-1, keepdims=True)

    def cross_entropy(z, target, **settings):
        if settings or target.dtype.kind == "f":
            raise NotImplementedError("indices only")
        return -np.log(np.clip(softmax(z)[np.arange(len(z)), target], 1e-7, 1))

    functions = {"softmax": softmax, "cross_entropy": cross_entropy}
    subject = Subject("clipped", "numpy", {"clipped": "0.1"}, functions)
    monkeypatch.setitem(SUBJECTS, "scipy", lambda: [subject])
    monkeypatch.setitem(SUBJECTS, "lastlayer", lambda: NUMPY_ONLY)


def test_the_grid_counts_what_passes_of_what_is_offered(run, clipped):
    lines = run("conformance", "lastlayer", "scipy", "--case", "*/float64").stdout.splitlines()
    assert lines[0].startswith("lastlayer 0.") and lines[0].endswith("clipped 0.1")
    grid = {line.split(" (")[0]: line.split(")")[1].split() for line in lines if " (" in line[:24] and line[0] != " "}
    assert list(grid) == [*dict.fromkeys(case.group for case in DOUBLES), "all"]
    ours, other = (tuple(map(int, cell.split("/"))) for cell in grid["all"])
    values = [case for case in DOUBLES if case.asks == "value"]
    assert ours == (len(values), len(values))
    assert other[0] < other[1] < ours[1]
    assert grid["single numbers"][1] == "-"
    assert f"all ({len(DOUBLES)})" in "\n".join(lines)


def test_without_a_name_it_is_ourselves(run, clipped):
    out = run("conformance", "--case", "softmax/*").stdout
    assert "lastlayer numpy: none differ" in out and "clipped" not in out


def test_failures_are_listed_by_kind_with_their_thread(run, clipped):
    out = run("conformance", "scipy", "--case", "cross_entropy/*").stdout
    assert "cross_entropy/masked-and-right-by-20/float32, and 1 more" in out
    assert "-0, exact 2.06115362e-09" in out
    assert "(pytorch/pytorch#113708, scipy/scipy#19521)" in " ".join(out.split())
    assert "cross_entropy/right-by-40/float64" not in out
    verbose = run("conformance", "scipy", "--case", "cross_entropy/*", "--verbose").stdout
    assert "cross_entropy/right-by-40/float64" in verbose and " more" not in verbose


def test_ten_kinds_are_enough(run, monkeypatch):
    nothing = Subject("nothing", "numpy", {"nothing": "0"}, dict.fromkeys((c.function for c in CASES), np.zeros_like))
    monkeypatch.setitem(SUBJECTS, "scipy", lambda: [nothing])
    kinds = {case.wrong for case in CASES if case.asks == "value"}
    out = run("conformance", "scipy").stdout
    assert "--verbose lists every case" in out and "more kinds: " in out
    assert len(out.splitlines()) < len(run("conformance", "scipy", "-v").stdout.splitlines()) / 4
    assert len(kinds) > 20


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_everything_fits_80_columns(run, clipped, verbose):
    out = run("conformance", *["lastlayer", "scipy"] * 4, *verbose).stdout
    assert max(map(len, out.splitlines())) <= 80


def test_json(run, clipped):
    record = json.loads(run("conformance", "lastlayer", "scipy", "--case", "cross_entropy/right-by-*", "--json").stdout)
    assert record["schema_version"] == 1 and record["cases"] == 20
    ours, other = record["subjects"]
    assert ours["name"] == "lastlayer numpy" and ours["versions"]["numpy"] == np.__version__
    assert ours["groups"] == {"tails": {"passed": 8, "offered": 8}} and ours["failures"] == []
    first = other["failures"][0]
    assert first["case"] == "cross_entropy/right-by-10/float32" and first["verdict"] == "differs"
    assert first["threads"] == ["pytorch/pytorch#113708", "scipy/scipy#19521"]
    assert set(first) == {"case", "verdict", "came", "exact", "wrong", "threads"}


def test_a_limit_for_somebodys_ci(run, clipped):
    pattern = ("--case", "cross_entropy/right-by-[24]0/float64")
    run("conformance", *pattern, "--max", "differs=0")
    run("conformance", "scipy", *pattern, "--max", "differs=2")
    result = run("conformance", "scipy", *pattern, "--max", "differs=1", code=1)
    assert result.stderr == "--max differs=1: exceeded, 2 differ on clipped\n"
    run("conformance", "scipy", *pattern, "--max", "differs=1", "--json", code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pytorch"], "'pytorch' is not one of 'torch', 'scipy'"),
        (["--case", "nothing"], "--case nothing: no case has such a name. They look like cross_entropy/"),
        (["--max", "ece=1"], "write differs=N with a whole number, not 'ece=1'"),
        (["--max", "differs=-1"], "write differs=N with a whole number"),
    ],
)
def test_wrong_calls(run, arguments, words):
    assert words in run("conformance", *arguments, code=2).stderr


def test_a_library_that_is_not_installed(run, monkeypatch):
    found = importlib.util.find_spec
    absent = ("optax", "sklearn", "torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else found(name, *a))
    assert run("conformance", "optax", code=4).stderr == "error: conformance of optax needs optax: pip install optax\n"
    assert "needs sklearn: pip install scikit-learn" in run("conformance", "sklearn", code=4).stderr


def test_ourselves_on_what_is_installed(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jax" else found(name, *a))
    from lastlayer.conformance import arrays

    arrays.library.cache_clear()
    assert "jax" not in [subject.on for subject in subjects("lastlayer")]
    arrays.library.cache_clear()
