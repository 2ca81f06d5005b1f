"""decide --conformal: sets on the command line, and what they promise."""

import csv
import json

import numpy as np
import pytest

from lastlayer import load, save
from lastlayer.decide import SCORES, Sets


@pytest.mark.parametrize("name", list(SCORES))
def test_sets_hold_the_true_class_as_often_as_promised(run, folder, name):
    result = run("decide", "test.npz", "--conformal", name, "--held-out", "held.npz", "--json")
    record = json.loads(result.stdout)
    test = load("test.npz")
    members = Sets.from_json(json.dumps(record["policy"])).apply(test)
    covered = members[np.arange(len(test)), test.target].mean()
    assert record["sets"]["coverage"]["value"] == pytest.approx(covered)
    assert record["sets"]["mean_size"] == pytest.approx(members.sum(1).mean())
    assert record["sets"]["one"] == pytest.approx((members.sum(1) == 1).mean())
    assert covered > 0.9 - 3 * np.sqrt(0.09 * (1 / 2000 + 1 / len(test)))


def test_the_lines_and_the_file(run, folder):
    arguments = ("decide", "test.npz", "--conformal", "aps", "--alpha", ".05", "--held-out", "held.npz")
    shown = run(*arguments, "-o", "out.csv").stdout
    assert "sets by aps that miss at most 0.05 of the rows" in shown
    assert "hold the true class" in shown and max(map(len, shown.splitlines())) <= 80
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = [json.loads(row["set"]) for row in rows]
    assert len(rows) == len(load("test.npz"))
    for row, names in zip(rows, sets, strict=True):
        assert (row["action"] == "accept") == (names == [row["class"]])
    run(*arguments, "--seed", "1", "-o", "other.csv")
    with open("other.csv", newline="") as file:
        assert [json.loads(row["set"]) for row in csv.DictReader(file)] != sets


def test_by_class_and_what_has_too_few_rows(run, folder):
    result = run("decide", "test.npz", "--conformal", "lac", "--by", "class", "--held-out", "held.npz")
    assert "miss at most 0.1 of the rows of each class" in result.stdout
    held = load("held.npz")
    rare = held.rows((held.target != 0) | (np.arange(len(held)) % 100 == 0))
    save(rare, "rare.npz")
    few = run("decide", "test.npz", "--conformal", "lac", "--by", "class", "--held-out", "rare.npz").stdout
    assert f"always in the set: {held.classes[0]}\n" in few


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--conformal", "aps"), 2, "--conformal is a guarantee: it needs rows that nothing was fitted on, labelled"),
        (("--cost", "wrong=10,review=1", "--by", "class"), 2, "--cost promises nothing"),
        (("--conformal", "aps", "--risk", ".1", "--held-out", "held.npz"), 2, "not --risk and --conformal"),
        (("--conformal", "aps", "--alpha", "10", "--held-out", "held.npz"), 2, "Write 0.1 for 10 %"),
        (("--conformal", "aps", "--alpha", "1e-4", "--held-out", "held.npz"), 3, "9999"),
        (("--conformal", "aps", "--by", "site", "--held-out", "held.npz"), 3, "'site'"),
    ],
)
def test_what_is_refused(run, folder, arguments, code, sentence):
    result = run("decide", "test.npz", *arguments, code=code)
    assert sentence in " ".join(result.stderr.split())
