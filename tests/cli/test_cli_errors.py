"""What is wrong gets one line on stderr, its exit code, and leaves nothing behind."""

import os
import zipfile

import numpy as np
import pytest

from lastlayer import load, save

Z = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 3


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def cut(path):
    np.savez(path, logits=Z, target=Y)
    path.write_bytes(path.read_bytes()[:200])


def huge(path):
    """A header that claims 2^40 rows."""
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 10), }"
    body = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", body)


def text(content):
    return lambda path: path.write_text(content)


def locked(path):
    np.savez(path, logits=Z, target=Y)
    path.chmod(0)


BAD = {
    "truncated.npz": (cut, "truncated.npz"),
    "empty.npz": (lambda path: path.write_bytes(b""), "empty"),
    "objects.npz": (npz(logits=np.array([[1, None]], dtype=object), target=Y[:1]), "logits"),
    "pickle.pkl": (lambda path: path.write_bytes(b"\x80\x04N."), "pickle"),
    "shape.npz": (npz(logits=Z, target=Y[:7]), "target"),
    "labels.npz": (npz(logits=Z, target=Y + 1), "out of range"),
    "names.npz": (npz(logits=Z, target=np.array(["x"] * 20), classes=np.array(["a", "b", "c"])), "'x'"),
    "nan.npz": (npz(logits=np.full((20, 3), np.nan), target=Y), "nan"),
    "unlabelled.npz": (npz(logits=Z), "no target"),
    "unnamed.npz": (npz(z=Z, y=Y), "--kind"),
    "huge.npz": (huge, "huge.npz"),
    "headless.csv": (text("1.0,2.0,0\n3.0,1.0,1\n"), "header"),
    "ragged.csv": (text("logit_a,logit_b,target\n1,2,a\n1,2\n"), "ragged.csv"),
    "odd.xyz": (text("what"), "no format by the suffix"),
    "folder.npz": (lambda path: path.mkdir(), "is a directory"),
    "line\nbreak.npz": (lambda path: path.write_bytes(b""), "empty"),
    "escape\x1b[31m.npz": (lambda path: path.write_bytes(b""), "escape\\x1b[31m.npz"),
}


@pytest.mark.parametrize("command", [["check"], ["fit", "-o", "out.json"], ["report"], ["check", "--state", "s.npz"]])
@pytest.mark.parametrize("name", BAD)
def test_bad_files(run, folder, command, name):
    make, words = BAD[name]
    make(folder / name)
    before = set(folder.iterdir())
    result = run(command[0], name, *command[1:], code=3)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert set(folder.iterdir()) == before, "nothing is written"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(run, folder):
    locked(folder / "locked.npz")
    assert "Permission denied" in run("check", "locked.npz", code=3).stderr


def test_a_file_that_is_not_there_with_the_nearest_name(run, folder):
    stderr = run("check", "valdi.npz", code=3).stderr
    assert stderr.startswith("error: valdi.npz: there is no such file. Fix: did you mean valid.npz")


def test_shards_that_do_not_belong_together_name_the_one(run, folder):
    np.savez("other.npz", logits=Z, target=Y)
    result = run("check", "valid.npz", "other.npz", code=3)
    assert result.stderr.startswith("error: other.npz: classes: ")
    assert run("fit", "valid.npz", "other.npz", code=3).stderr.startswith("error: other.npz: classes: ")
    probs = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    np.savez("probs.npz", probs=probs, target=Y)
    assert "error: probs.npz: kind: " in run("check", "other.npz", "probs.npz", code=3).stderr


def test_a_calibrator_of_other_classes_is_refused(run, folder):
    run("fit", "valid.npz", "-o", "c.json")
    np.savez("other.npz", logits=Z, target=Y)
    result = run("check", "other.npz", "--calibrator", "c.json", code=3)
    assert result.stderr.startswith("error: other.npz: classes: the calibrator was fitted with classes cat, dog")


@pytest.mark.parametrize(
    "content", ["", "{}", "[", '{"schema_version": 1, "method": "magic"}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_file_that_is_no_calibrator(run, folder, content):
    (folder / "c.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run("check", "valid.npz", "--calibrator", "c.json", code=3)
    assert result.stderr.startswith("error: c.json: ") and result.stderr.count("\n") == 1


def test_what_is_no_state(run, folder):
    for name in ("valid.npz", "missing.npz", "."):
        result = run("merge", name, code=3)
        assert result.stderr.startswith(f"error: {name}: ") and result.stderr.count("\n") == 1
    run("check", "valid.npz", "--state", "s.npz", "--no-html")
    (folder / "s.npz").write_bytes((folder / "s.npz").read_bytes()[:5000])
    for command in ("merge", "check", "report"):
        assert run(command, "s.npz", code=3).stderr.startswith("error: s.npz: ")


def test_a_state_cannot_be_calibrated_any_more(run, folder):
    run("fit", "valid.npz", "-o", "c.json")
    run("check", "valid.npz", "--state", "s.npz", "--no-html")
    assert "--calibrator comes too late" in run("check", "s.npz", "--calibrator", "c.json", code=3).stderr
    assert "--convention comes too late" in run("report", "s.npz", "--convention", "guo2017", code=3).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek", "x"], "no command and no file 'chek'. Did you mean 'check'?"),
        (["frobnicate"], "The commands are demo, check, fit"),
        (["check"], "Missing argument"),
        (["check", "valid.npz", "--spilt", "val"], "--split"),
        (["check", "valid.npz", "--html", "x.html", "--no-html"], "contradict"),
        (["check", "valid.npz", "--max", "nil=3"], "'nil' is not a metric; they are nll"),
        (["check", "valid.npz", "--max", "nll=three"], "write nll=NUMBER"),
        (["check", "valid.npz", "--max", "top5_accuracy=1"], "not measured here"),
        (["check", "valid.npz", "--convention", "guo"], "guo2017"),
        (["check", "valid.npz", "--fail-on", "fatal"], "warning"),
        (["fit", "valid.npz", "--method", "magic"], "temperature"),
        (["fit", "valid.npz", "-o", "-", "--json"], "both want standard output"),
        (["merge", "valid.npz", "-o", "-", "--json"], "both want standard output"),
        (["decide", "test.npz"], "give one of --cost, --coverage and --risk."),
        (["decide", "test.npz", "--cost", "wrong=1,review=1", "--risk", ".1"], "not --cost and --risk"),
        (["decide", "test.npz", "--cost", "wrong=1"], "does not say what review costs"),
        (["decide", "test.npz", "--cost", "rong=1,review=1"], "Did you mean 'wrong'?"),
        (["decide", "test.npz", "--risk", ".1"], "needs rows that nothing was fitted on"),
        (["decide", "test.npz", "--risk", "2", "--held-out", "held.npz"], "not between 0 and 1"),
        (["decide", "test.npz", "--risk", "5%", "--held-out", "held.npz"], "'5%' is not a number. Write 0.05."),
        (["check", "valid.npz", "--kind", "probabilities"], "no kind 'probabilities'. Did you mean probs?"),
        (["explain", "Over-Confidence"], "no code 'Over-Confidence'. Did you mean L501?"),
        (["decide", "test.npz", "--risk", "nan", "--held-out", "held.npz"], "not between 0 and 1"),
        (["decide", "test.npz", "--risk", ".1", "--held-out", "./test.npz"], "names the rows to decide on"),
        (["decide", "test.npz", "--cost", "wrong=1,review=1", "--held-out", "held.npz"], "rests on the costs alone"),
        (["decide", "test.npz", "--cost", "wrong=1,review=1", "-o", "d.xls"], "written as .csv"),
        (["decide", "test.npz", "--cost", "wrong=1,review=1", "-o", "-", "--json"], "both want standard output"),
        (["compare", "-", "-"], "holds one of the two at most"),
        (["explain", "L5O1"], "Did you mean L5"),
        (["demo", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_calls(run, folder, arguments, words):
    before = set(folder.iterdir())
    result = run(*arguments, code=2)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr
    assert result.stdout == "" and set(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "valid.npz", "-o", "out"],
        ["check", "valid.npz", "--state", "out", "--no-html"],
        ["decide", "test.npz", "--cost", "wrong=9,review=1", "-o", "out.csv"],
    ],
)
def test_a_file_that_exists_is_replaced_by_force_alone(run, folder, arguments):
    path = folder / next(a for a in arguments if a.startswith("out"))
    path.write_text("precious")
    result = run(*arguments, code=3)
    assert "exists already" in result.stderr and "--force" in result.stderr and result.stdout == ""
    assert path.read_text() == "precious"
    run(*arguments, "--force")
    assert path.read_bytes() != b"precious"


def test_a_page_that_cannot_be_written_says_what_to_do(run, folder):
    (folder / "valid.report.html").mkdir()
    stderr = run("check", "valid.npz", code=3).stderr
    assert "valid.report.html" in stderr and "--no-html" in stderr


@pytest.mark.parametrize("cell", ["-1", "x", "nan", ""])
def test_a_bad_cost_matrix(run, folder, cell):
    (folder / "costs.csv").write_text(f",cat,dog,owl,pig\ncat,0,{cell},1,1\ndog,1,0,1,1\nowl,1,1,0,1\npig,1,1,1,0\n")
    assert run("decide", "test.npz", "--cost", "costs.csv", code=3).stderr.startswith("error: costs.csv: cost: ")


def test_an_absent_extra_prints_the_pip_line(run, folder, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else find(name, *rest)
    )
    (folder / "x.parquet").write_bytes(b"PAR1")
    result = run("check", "x.parquet", code=4)
    assert "pip install 'lastlayer[tables]'" in result.stderr and result.stderr.count("\n") == 1


def test_rows_of_nan_are_a_finding_not_an_error(run, folder):
    outputs = load("true.npz")
    z = outputs.scores.copy()
    z[3] = np.nan
    save(outputs.with_logits(z), "some.npz")
    assert "L101" in run("check", "some.npz", "--no-html").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "valid.npz", "-o", "valid.npz"],
        ["check", "valid.npz", "--html", "test.npz"],
        ["check", "valid.npz", "--html", "notes.html", "--state", "new.npz"],
        ["merge", "s.npz", "--html", "s.npz"],
        ["merge", "s.npz", "--html", "valid.npz", "-o", "new.npz"],
        ["check", "notes.html"],  # the name that its page would have by itself
    ],
)
def test_a_page_replaces_no_file_that_is_no_page(run, folder, arguments):
    run("check", "valid.npz", "--state", "s.npz", "--no-html")
    (folder / "notes.html").write_text("<!doctype html>\n<title>mine</title>")
    if arguments == ["check", "notes.html"]:
        (folder / "valid.report.html").write_text("mine")
        arguments = ["check", "valid.npz"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run(*arguments, code=3)
    assert "exists already, and is not a page of ours. Fix: " in result.stderr and "--force" in result.stderr
    assert "in Python" not in result.stderr and result.stdout == ""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    run(*arguments, "--force")
    assert any((folder / name).read_bytes() != content for name, content in before.items())


def test_data_given_for_a_state(run, folder):
    assert run("merge", "valid.npz", code=3).stderr == (
        "error: valid.npz: is not a state. Fix: `lastlayer check FILE --state STATE` writes one.\n"
    )


def test_complaints_about_data_name_flags(run, folder):
    z = np.random.default_rng(0).normal(size=(12, 2))
    np.savez("few.npz", logits=z, target=[0, 1] * 6)
    stderr = run("fit", "few.npz", code=3).stderr
    assert "--method temperature" in stderr and "method=" not in stderr
    (folder / "scores.txt").write_text("logit_a,logit_b,target\n1,2,a\n2,1,b\n")
    stderr = run("check", "scores.txt", code=3).stderr
    assert "--format csv" in stderr and "in Python" not in stderr
    assert "2 rows" in run("check", "scores.txt", "--format", "csv", "--no-html").stdout


def test_a_kind_without_the_name_of_the_scores_is_answered_with_the_name(run, folder):
    for name in "ab":
        np.savez(f"{name}.npz", predictions=np.full((4, 2), 0.5), ground_truth=[0, 1, 1, 0])
    stderr = run("compare", "a.npz", "b.npz", "--kind", "probs", code=3).stderr
    assert "Fix: add --scores-key predictions --target-key ground_truth." in stderr
    assert "nothing says" not in stderr
    run("compare", "a.npz", "b.npz", "--kind", "probs", "--scores-key", "predictions", "--target-key", "ground_truth")


def test_only_risk_asks_for_labels(run, folder):
    stderr = run("decide", "test.npz", "--coverage", ".9", code=2).stderr
    assert "--held-out FILE" in stderr and "labelled or not" in stderr
    assert "labelled ones: --held-out FILE" in run("decide", "test.npz", "--risk", ".1", code=2).stderr
