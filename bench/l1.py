"""How fast is L1 on text beside liblinear (two classes) and saga (several), at the same objective?

    python bench/l1.py

Text is the SMS spam collection and Banking77, each as TF-IDF of words and characters, read from the folder
``LASTLAYER_DATA``. Peers fit coefficients, ours with a bound of the gap. liblinear penalises its intercept, so that
spam is fitted without one; of its tolerances stands the first whose objective is within 1e-5 of ours. saga takes
minutes on the whole of Banking77: it runs on ``ROWS`` of ``INTENTS``, with as many epochs as bring it
within 1e-3. The whole, of 77 classes, is ours alone.
"""

import csv
import gzip
import os
import pathlib
import time
import warnings
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from _measure import alternate, report
from lastlayer.train import LinearClassifier
from lastlayer.train.text import Text
from multinomial import text as tfidf

INTENTS, ROWS = 5, 300
HEADER = ("data", "peer", "ours, s", "peer, s", "peer / ours", "objective", "peer's above ours", "gap of ours", "not 0")


def spam(folder):
    lines = gzip.open(folder / "SMSSpamCollection.tsv.gz", "rt", encoding="utf-8").read().splitlines()
    labels, texts = zip(*csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), strict=True)
    return Text.fit("message", texts).transform(texts), (np.array(labels) == "spam").astype(int)


def objective(x, y, model, C):
    """F of ours or a peer's coefficients, from its definition."""
    z = x @ model.coef_.T.astype(float) + model.intercept_
    z = np.column_stack([np.zeros(len(y)), z]) if z.shape[1] == 1 else z
    losses = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    return float(losses.sum() + np.abs(model.coef_).sum() / C)


def beside(name, x, y, C, intercept, peer, settings, within):
    """A row of the table: the peer with the first of its settings that comes within that of our objective."""

    def ours():
        return LinearClassifier(C=C, l1_ratio=1, fit_intercept=intercept).fit(x, y)

    model = ours()
    best = objective(x, y, model, C)
    for setting in settings:
        made: Any = LogisticRegression(C=C, l1_ratio=1, fit_intercept=intercept, solver=peer, **setting)

        def theirs(made=made):
            return made.fit(x, y)

        above = objective(x, y, theirs(), C) / best - 1
        if above <= within:
            break
    assert above > -1e-6
    seconds = alternate({"lastlayer": ours, peer: theirs}, rounds=5 if peer == "liblinear" else 1)
    here, there = seconds["lastlayer"], seconds[peer]
    times = f"{here:.3f}", f"{there:.3f}", f"{there / here:.1f}"
    return name, peer, *times, f"{best:.6f}", f"{above:.1e}", f"{model.certificate_.gap:.1e}", np.sum(model.coef_ != 0)


def alone(name, x, y, C):
    start = time.perf_counter()
    model = LinearClassifier(C=C, l1_ratio=1).fit(x, y)
    seconds, said = time.perf_counter() - start, model.certificate_
    assert said.converged
    return name, "", f"{seconds:.3f}", "", "", f"{said.objective:.6f}", "", f"{said.gap:.1e}", np.sum(model.coef_ != 0)


def main():
    folder = pathlib.Path(os.environ["LASTLAYER_DATA"]) / "text"
    warnings.simplefilter("ignore")  # saga's, that it has not converged
    rows = []
    for C in (1.0, 10.0):
        tolerances = [{"tol": tol, "max_iter": 1000} for tol in (1e-4, 1e-5, 1e-6)]
        rows.append(beside(f"SMS spam, C={C:g}", *spam(folder), C, False, "liblinear", tolerances, 1e-5))
    table, target = tfidf(folder, "Banking77")
    some = np.flatnonzero(target < INTENTS)
    some = some[:: -(-len(some) // ROWS)]
    part = table[some][:, np.flatnonzero(abs(table[some]).sum(0))]
    epochs = [{"tol": 1e-9, "max_iter": count} for count in (1000, 3000, 10_000)]
    name = f"Banking77, {len(some):,} rows of {len(np.unique(target[some]))} intents, C=10"
    rows.append(beside(name, part, target[some], 10.0, True, "saga", epochs, 1e-3))
    rows += [alone(f"Banking77, {len(target):,} rows of 77 intents, C={C:g}", table, target, C) for C in (1.0, 10.0)]
    report("l1", HEADER, rows)


if __name__ == "__main__":
    main()
