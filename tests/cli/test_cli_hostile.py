"""Bad input on the command line: one sentence, the right exit code, and nothing written."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lastlayer import Outputs, load, save

USAGE, DATA = 2, 3


@pytest.fixture
def refused(run):
    """``refused(code, words, *arguments)``: one line on stderr that says ``words``, and no file more than before."""

    def refused(code, words, *arguments):
        before = {name: os.stat(name).st_mtime_ns for name in os.listdir()}
        result = run(*arguments, code=code)
        assert result.stdout == ""
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        assert all(word in lines[0] for word in words), lines[0]
        assert before == {name: os.stat(name).st_mtime_ns for name in os.listdir()}

    return refused


@pytest.fixture
def rows(folder):
    """Valid rows as (logits, target index), 600 of them, and the files of ``folder``."""
    valid = load("valid.npz").rows(slice(0, 600))
    return valid.scores, valid.target


def test_a_set_of_one_class(refused, rows):
    z, _ = rows
    save(Outputs(z, "logits", target=np.zeros(600, int)), "one.npz")
    for method in ("auto", "temperature", "vector", "isotonic"):
        refused(DATA, ("one.npz: target", "every target is 0", "Fix:"), "fit", "one.npz", "--method", method, "-o", "c")


def test_fewer_rows_than_parameters(refused, simulate, folder):
    few = simulate(60, 1.0, 0, classes=[f"c{k}" for k in range(40)])
    save(Outputs(few.scores, "logits", target=np.arange(60) % 40, classes=few.classes), "few.npz")
    words = ("few.npz", "vector has 79 free parameters for 40 classes", "60 rows", "Fix: give at least 79")
    refused(DATA, words, "fit", "few.npz", "--method", "vector", "-o", "c.json")


def test_a_class_that_no_row_has(refused, rows):
    z, y = rows
    save(Outputs(z[y != 2], "logits", target=y[y != 2], classes=["cat", "dog", "owl", "pig"]), "unseen.npz")
    for method in ("auto", "vector", "isotonic"):
        words = ("unseen.npz: target", "class owl has no row", "--method temperature")
        refused(DATA, words, "fit", "unseen.npz", "--method", method, "-o", "c.json")


def test_separable_rows_say_that_a_bound_was_met(run, rows):
    z, _ = rows
    save(Outputs(z, "logits", target=z.argmax(1)), "easy.npz")
    shown = run("fit", "easy.npz", "--method", "temperature", "-o", "c.json").stdout
    assert "it ran into its bound: temperature >= 0.0001" in shown
    assert json.loads(Path("c.json").read_text())["certificate"]["bound"] == "temperature >= 0.0001"


def test_a_calibrator_on_standard_output_has_no_name_to_go_on_with(run, folder):
    result = run("fit", "valid.npz", "--method", "temperature", "-o", "-")
    assert json.loads(result.stdout)["method"] == "temperature"
    assert "--calibrator -" not in result.stderr


@pytest.mark.parametrize("alpha", ["0", "1", "-0.1", "5", "nan", "inf", "5%", "x"])
def test_alpha_is_a_share(refused, folder, alpha):
    arguments = ("decide", "test.npz", "--conformal", "aps", "--alpha", alpha, "--held-out", "held.npz", "-o", "d.csv")
    refused(USAGE, ("--alpha", alpha.removesuffix("%")), *arguments)


def test_a_risk_out_of_reach_names_the_best(run, refused, folder):
    arguments = ("decide", "test.npz", "--held-out", "held.npz", "-o", "d.csv", "--risk")
    refused(DATA, ("held.npz", "no threshold promises", "0.0", "can promise is about", "Fix:"), *arguments, "0.01")
    refused(DATA, ("2000 held-out rows cannot promise a risk of 0.0001", "it takes 29956"), *arguments, "0.0001")


def test_costs_that_leave_nothing_to_decide(refused, folder):
    with open("costs.csv", "w") as file:
        file.write(",cat,dog,owl,pig\n" + "".join(f"{name},3,3,3,3\n" for name in ("cat", "dog", "owl", "pig")))
    words = ("costs.csv", "every decision costs the same", "Fix:")
    refused(DATA, words, "decide", "test.npz", "--cost", "costs.csv", "-o", "d.csv")


def test_held_out_rows_of_the_fit(run, refused, rows, tmp_path):
    z, y = rows
    names = ["cat", "dog", "owl", "pig"]
    for k in range(3):
        part = slice(200 * k, 200 * k + 200)
        save(Outputs(z[part], "logits", target=y[part], classes=names), f"shard{k}.npz")
    run("fit", "shard0.npz", "shard1.npz", "shard2.npz", "--method", "temperature", "-o", "c.json")
    held = load("held.npz")
    mixed = np.concatenate([held.scores, z[:3]]), np.concatenate([held.target, y[:3]])
    save(Outputs(mixed[0], "logits", target=mixed[1], classes=names), "mixed.npz")
    goals = (("--risk", ".5"), ("--coverage", ".5"), ("--conformal", "lac"))
    for name, share in (("shard1.npz", "about "), ("mixed.npz", "about 0.")):
        for goal in goals:
            words = (f"{name}: holds {share}", "that the calibrator was fitted on", "Fix: keep a third part")
            refused(
                DATA, words, "decide", "test.npz", "--calibrator", "c.json", *goal, "--held-out", name, "-o", "d.csv"
            )


@pytest.mark.parametrize(("task", "method"), [("multilabel", "venn_abers"), ("binary", "vector")])
def test_a_method_for_another_task(refused, rows, task, method):
    z, _ = rows
    outputs = Outputs(z, "logits", target=(z > 0.5).astype(int), task="multilabel")
    save(outputs if task == "multilabel" else Outputs(z[:, 0], "logits", target=(z[:, 0] > 0.5).astype(int)), "t.npz")
    words = ("t.npz: task", f"{method} is not for {task} outputs", "(--method auto)")
    refused(DATA, words, "fit", "t.npz", "--method", method, "-o", "c.json")


def test_a_method_that_moves_no_zero_names_a_flag(refused, rows):
    z, _ = rows
    save(Outputs(z[:, 0], "margin", target=(z[:, 0] + z[:, 1] > 0.5).astype(int)), "m.npz")
    refused(DATA, ("m.npz: kind", "(--method platt)"), "fit", "m.npz", "--method", "temperature", "-o", "c.json")


def test_a_seed_that_no_draw_takes(refused, folder):
    arguments = ("decide", "test.npz", "--conformal", "aps", "--held-out", "held.npz", "--seed", 2**32, "-o", "d.csv")
    refused(USAGE, ("--seed", "4294967296"), *arguments)


@pytest.mark.parametrize("goal", [("--risk", ".5"), ("--coverage", ".5")])
def test_thresholds_have_no_clusters(refused, folder, goal):
    arguments = ("decide", "test.npz", *goal, "--held-out", "held.npz", "--by", "cluster", "-o", "d.csv")
    refused(DATA, ("held.npz: groups", "'cluster'", "Fix:"), *arguments)


def test_a_calibrator_that_was_tampered_with(run, refused, folder):
    run("fit", "valid.npz", "--method", "vector", "-o", "c.json")
    good = json.loads(Path("c.json").read_text())
    three = load("test.npz").rows(slice(0, 50))
    save(Outputs(three.scores[:, :3], "logits", target=three.target % 3, classes=["cat", "dog", "owl"]), "three.npz")
    changes = {
        "three.npz: logits: the calibrator has parameters for 4 scores per row": {"classes": ["cat", "dog", "owl"]},
        "bad.json: fitted_on": {"fitted_on": good["fitted_on"] | {"sketch": "x"}},
        "bad.json: method": {"method": "magic"},
        "bad.json: parameters": {"method": "platt"},
        "bad.json: schema_version": {"schema_version": 99},
    }
    for words, change in changes.items():
        with open("bad.json", "w") as file:
            json.dump(good | change, file)
        goal = ("--cost", "wrong=10,review=1", "-o", "d.csv")
        refused(DATA, (words, "Fix:"), "decide", "three.npz", "--calibrator", "bad.json", *goal)
    with open("bad.json", "w") as file:
        file.write(json.dumps(good)[:300])
    refused(DATA, ("bad.json: is not JSON",), "check", "test.npz", "--calibrator", "bad.json")


def test_numbers_that_stand_for_masks_and_huge_ones(run, refused, rows):
    z, y = rows
    z = z.copy()
    z[(np.arange(600) % 7 == 0) & (y != 1), 1] = np.finfo(np.float32).min
    save(Outputs(z, "logits", target=y), "masked.npz")
    refused(DATA, ("a logit of size 3.4e+38", "-inf"), "fit", "masked.npz", "--method", "vector", "-o", "c.json")
    shown = " ".join(run("fit", "masked.npz", "-o", "c.json").stdout.split())
    assert "not tried: a logit" in shown and "temperature" in shown
    save(Outputs(rows[0] / np.abs(rows[0]).max() * 1e300, "logits", target=y), "huge.npz")
    refused(DATA, ("a logit of size 1e+300",), "fit", "huge.npz", "--method", "matrix", "-o", "c2.json")


def test_sets_of_at_most_one_class_have_no_share_below_nothing(run, rows):
    z, y = rows
    save(Outputs(z * 1e300 / np.abs(z).max(), "logits", target=y, classes=["cat", "dog", "owl", "pig"]), "huge.npz")
    shown = run("decide", "huge.npz", "--conformal", "aps", "--held-out", "held.npz").stdout
    assert "-0.0%" not in shown and "0.0% of more" in shown


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_decisions_are_read_back_as_they_were_made(run, folder, form):
    held = load("held.npz")
    z = held.scores.copy()
    z[3], z[4] = np.nan, -np.inf
    save(Outputs(z, "logits", classes=held.classes), "odd.npz")
    run("decide", "odd.npz", "--conformal", "lac", "--held-out", "valid.npz", "-o", f"d.{form}")
    if form == "csv":
        with open("d.csv", newline="") as file:
            found = [
                row | {"set": json.loads(row["set"]), "class": row["class"] or None} for row in csv.DictReader(file)
            ]
    elif form == "jsonl":
        with open("d.jsonl") as file:
            found = [json.loads(line) for line in file]
    else:
        found = pytest.importorskip("pyarrow.parquet").read_table("d.parquet").to_pylist()
    assert len(found) == len(z)
    assert [row["class"] for row in found[3:5]] == [None, None]
    for row, best in zip(found, z.argmax(1), strict=True):
        if row["class"] is not None:
            assert row["class"] == held.classes[best]
            assert (row["action"] == "accept") == (row["set"] == [row["class"]])
        else:
            assert row["action"] == "review"
