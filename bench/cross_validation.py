"""How long do five folds of ten penalties take beside scikit-learn's LogisticRegressionCV, for the same scores?

    python bench/cross_validation.py [--full]

50,000 x 50 drawn binary rows at scikit-learn's ten C from 1e-4 to 1e4, and the training part of optdigits (3,823 x 64
of 10 classes, in its own units, from ``LASTLAYER_DATA``) at ten C from 1e-4 to 0.1, around which the best lies. Both
score by log-loss, and how far scores are off those of ours at 1e-8 is in the table. The peer runs its default solver,
with as many iterations as it wants, at the power of ten for its tolerance that brings its scores within 1e-4, with all
threads for its products, as it comes, and with one, with which it is faster here. ``--full`` has optdigits at C up to
1e4 and with all threads, which takes many minutes: its classes are all but separable, and scores of a large C are those
of the last digits.
"""

import argparse
import gzip
import os
import pathlib
import statistics
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from threadpoolctl import threadpool_limits

from _measure import report
from _picture import ratios
from lastlayer.train import LinearClassifierCV

BAR, SAME = 6.0, 1e-4
HEADER = (
    "work",
    "ours, s",
    "peer, s",
    "peer / ours",
    "our scores, off by",
    "peer's scores, off by",
    "peer's tol",
    "warnings of ours",
)


def drawn():
    rng = np.random.default_rng(0)
    x, coef = rng.normal(size=(50_000, 50)), rng.normal(size=50) * 0.3
    return x, (rng.random(len(x)) < 1 / (1 + np.exp(-(x @ coef + 0.2)))).astype(np.int64)


def digits(folder):
    with gzip.open(folder / "tabular" / "optdigits.tra.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return np.ascontiguousarray(table[:, :64]), table[:, 64].astype(np.int64)


def peer(x, y, fold, Cs, tol=1e-4, folds=5, threads=None):
    pairs = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]
    options: dict = dict(scoring="neg_log_loss", l1_ratios=(0,), use_legacy_attributes=False, max_iter=100_000)
    with threadpool_limits(threads):
        return LogisticRegressionCV(Cs=Cs, cv=pairs, tol=tol, **options).fit(x, y)


def ours(x, y, fold, Cs, tol=1e-6):
    return LinearClassifierCV(Cs=Cs, cv=fold, tol=tol).fit(x, y)


def seconds(fit, *work, **options):
    """How long a fit took, and the model."""
    start = time.perf_counter()
    model = fit(*work, **options)
    return time.perf_counter() - start, model


def measured(name, x, y, Cs, tol, rounds, threads):
    fold = np.random.default_rng(1).permutation(np.arange(len(y)) % 5)
    work = x, y, fold, Cs
    truth = ours(*work, tol=1e-8).scores_
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mine = np.abs(ours(*work).scores_ - truth).max()
    assert mine <= SAME
    for n in threads:
        pairs = [(*seconds(ours, *work), *seconds(peer, *work, tol=tol, threads=n)) for _ in range(rounds)]
        took, _, peer_took, models = zip(*pairs, strict=True)
        us, them = statistics.median(took), statistics.median(peer_took)
        theirs = np.abs(models[0].scores_ - truth).max()
        yield (
            f"{name}, peer on {'one thread' if n else 'all threads'}",
            f"{us:.3f}",
            f"{them:.2f}",
            f"{them / us:.1f}",
            f"{mine:.1e}",
            f"{theirs:.1e}",
            f"{tol:g}",
            len(said),
        )


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--full", action="store_true", help="optdigits at all ten C: many minutes")
    options.add_argument("--only", choices=("drawn", "digits"), help="one of the two works")
    asked = options.parse_args()
    folder = pathlib.Path(os.environ.get("LASTLAYER_DATA", "data"))
    rows = []
    if asked.only != "digits":
        rows += measured("50,000 x 50 binary", *drawn(), np.logspace(-4, 4, 10), 1e-4, 2, (None, 1))
    if asked.only != "drawn" and folder.is_dir():
        top, tol, threads = (4, 1e-6, (None, 1)) if asked.full else (-1, 1e-5, (1,))
        Cs = np.logspace(-4, top, 10)
        rows += measured(f"optdigits, C up to {Cs[-1]:g}", *digits(folder), Cs, tol, 1, threads)
    report("cross_validation", HEADER, rows)
    ratios(
        "cross_validation",
        "5 folds x 10 penalties: how many times as fast as LogisticRegressionCV, for the same scores",
        [(row[0], float(row[3]), BAR) for row in rows],
    )


if __name__ == "__main__":
    main()
