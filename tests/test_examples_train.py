"""Examples on real data end in a decision and a report, and reach what was published or measured for their protocol."""

import gzip
import inspect
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import RepeatedStratifiedKFold

import lastlayer as ll
from scripts import EXAMPLES, load


@pytest.fixture
def run(monkeypatch, tmp_path, capsys, request):
    """What an example returns and prints; its report has to be there."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def of(name):
        main = load(name).main
        folders = {"out": tmp_path}
        if "data" in inspect.signature(main).parameters:
            folders["data"] = request.getfixturevalue("shared_data")
        figures = main(**folders)
        printed = capsys.readouterr().out
        page = tmp_path / f"{name}.html"
        assert page.read_text().lower().startswith("<!doctype html>") and f"report: {page}" in printed
        assert max(map(len, printed.replace(str(page), "").splitlines())) <= 100
        return figures, printed

    return of


def test_breast_cancer(run):
    figures, printed = run("breast_cancer")
    assert round(figures["accuracy"], 3) >= 0.977 and round(figures["nll"], 3) <= 0.074
    assert figures["decisions"].realised_cost < 0.6 * figures["decisions"].cost_all
    assert all(row.low > 0 for row in figures["inference"].rows[:-1])
    assert "complete separation" in " ".join(printed.split())


def test_cleveland(run):
    figures, printed = run("cleveland")
    assert figures["auc"] >= 0.913
    want = [-0.0241, 1.6105, 0.0195, 0.0063, -0.0399, 0.5402, 1.1532, 0.6208]  # statsmodels, on the 297 complete rows
    np.testing.assert_allclose(figures["inference"].coef, want, atol=5.1e-5)
    assert figures["inference"].log_likelihood == pytest.approx(-127.519668, abs=1e-6)
    assert figures["decisions"].realised_cost < figures["decisions"].cost_all
    assert "sex                 1.61    0.3848    4.19 2.8e-05     5.005     2.354     10.64" in printed


def test_uci_default(run):
    figures, printed = run("uci_default")
    assert round(figures["auc"], 4) >= 0.7232
    before, after = figures["nll"]
    assert after < before - 0.01 and figures["costs"][1] < figures["costs"][0]
    assert printed.splitlines()[3].split()[:2] == ["pay", "1"]  # the last month's delay says most


def test_sms_spam(run):
    figures, _ = run("sms_spam")
    assert figures["accuracy"] >= 0.9869
    assert figures["lost"]["by cost"] <= figures["lost"]["by probability"] <= 3
    assert figures["decisions"].realised_cost < figures["decisions"].cost_all


def test_banking77(run):
    figures, _ = run("banking77")
    assert figures["accuracy"] >= 0.912
    assert figures["decisions"].error <= 0.03 < figures["decisions"].error_all  # as promised
    assert figures["decisions"].share > 0.75


def test_clinc150(run):
    figures, _ = run("clinc150")
    assert figures["accuracy"] >= 0.928
    assert figures["auroc"] >= 0.954
    assert figures["recall"] > 0.8
    decided = figures["decisions"]
    assert decided.rows == 5500 and decided.realised_cost < 0.5 * decided.cost_all
    assert decided.expected_cost < decided.realised_cost  # what is out of scope is not foreseen


def test_nlu_banking(run):
    figures, _ = run("nlu_banking")
    assert figures["micro_f1"] >= 0.870
    assert figures["micro_f1"] > figures["untuned"] + 0.02 > 0.83
    untuned, tuned = figures["macro_f1"]
    assert tuned > untuned + 0.04


def test_german_credit(shared_data):
    """One-hot columns at C = 0.1, ten folds three times; what a fold is coded by comes from the others."""
    rows = pd.read_csv(shared_data / "tabular" / "german.data", sep=" ", header=None)
    bad = (rows.pop(20) == 2).to_numpy()
    columns = {str(name): rows[name].to_numpy() for name in rows}
    scores = []
    for inside, outside in RepeatedStratifiedKFold(n_splits=10, n_repeats=3, random_state=0).split(rows, bad):
        seen, unseen = ({name: column[part] for name, column in columns.items()} for part in (inside, outside))
        table = ll.train.Table.fit(seen)
        model = ll.train.LinearClassifier(C=0.1, penalty_factor=table.factors)
        logits = model.fit(table.transform(seen).values, bad[inside]).decision_function(table.transform(unseen).values)
        scores.append(float(ll.roc_auc(logits, bad[outside].astype(int))))
    assert np.mean(scores) >= 0.791


def test_optdigits(shared_data):
    parts = (shared_data / "tabular" / f"optdigits.{part}.gz" for part in ("tra", "tes"))
    train, test = (np.loadtxt(gzip.open(path), delimiter=",") for path in parts)
    model = ll.train.LinearClassifier(C=0.01).fit(train[:, :-1], train[:, -1])
    outputs = model.outputs(test[:, :-1], test[:, -1])
    assert float(ll.accuracy(outputs.scores, outputs.target)) >= 0.948
    assert float(ll.nll(outputs.scores, outputs.target)) <= 0.162


@pytest.mark.parametrize(
    ("name", "arguments", "code", "says"),
    [
        ("breast_cancer", ["--out", "new/folder"], 0, "report: new/folder/breast_cancer.html"),
        ("cleveland", ["--data", "nowhere"], 2, "there is no folder nowhere; name that of the data"),
        ("nlu_banking", ["--help"], 0, "NLU++ (Casanueva et al. 2022)"),
    ],
)
def test_as_a_command(name, arguments, code, says, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ, COLUMNS="200"),
    )
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr and "Traceback" not in done.stderr
