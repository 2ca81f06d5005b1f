"""How long do many classes and wide features take to fit, beside scikit-learn's L-BFGS, at the same objective?

    python bench/multinomial.py [--full]

Text is Banking77 and CLINC150 as TF-IDF of words and characters, read from the folder ``LASTLAYER_DATA`` where there
is one. Pixels are drawn: 784 smooth ones in [0, 1] of ten classes, sums of 40 nonnegative strokes whose strengths go
with the class, and noise. Features are drawn: 512 numbers whose variance falls as 1/k around the centre of one of 1,000
classes. First the peer runs with its defaults; ours then has to reach an objective that is not above the peer's (text),
or a relative gap, which a long run of ours has shown. ``--full`` adds what takes above a minute.
"""

import argparse
import csv
import gzip
import json
import os
import pathlib
import time
import tracemalloc
import warnings
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from _measure import report
from _picture import ratios
from lastlayer.train import _hessian_free, _whitened
from lastlayer.train._problem import Penalty, Problem

HEADER = (
    "work",
    "solver",
    "passes",
    "seconds",
    "seconds / pass",
    "relative gap",
    "speed / peer",
    "per pass",
    "extra MB",
)
WARM = 2  # passes that compile


def pixels(n=60_000, side=28, classes=10, strokes=40):
    rng = np.random.default_rng(0)
    down, across = np.divmod(np.arange(side * side), side)
    centre, width = rng.uniform(4, side - 4, (3 * strokes, 2)), rng.uniform(1, 3, (3 * strokes, 1))
    dots = np.exp(-((down - centre[:, :1]) ** 2 + (across - centre[:, 1:]) ** 2) / (2 * width**2))
    shapes = (rng.random((strokes, 3 * strokes)) ** 6 @ dots).astype(np.float32)
    target, typical = rng.integers(0, classes, n), rng.gamma(0.5, 1, (classes, strokes))
    strength = typical[target] * rng.gamma(2, 0.5, (n, strokes)) + 0.25 * rng.normal(size=(n, strokes))
    image = np.maximum(strength, 0).astype(np.float32) @ shapes
    image /= np.percentile(image[:1000], 97)
    image += 0.05 * rng.standard_normal(image.shape, dtype=np.float32) * (image > 0.02)
    wrong = rng.random(n) < 0.03
    target[wrong] = rng.integers(0, classes, wrong.sum())
    return np.clip(image, 0, 1, out=image), target


def features(n=50_000, width=512, classes=1000):
    rng = np.random.default_rng(0)
    spectrum = (1 + np.arange(width)) ** -0.5
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    centre, target = rng.normal(size=(classes, width)) * spectrum, rng.integers(0, classes, n)
    made = ((centre[target] + 3 * rng.normal(size=(n, width)) * spectrum) @ turn).astype(np.float32)
    return made / made.std(), target


def text(folder, name):
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    if name == "CLINC150":
        lines = json.loads(gzip.open(folder / "clinc150_data_full.json.gz").read())["train"]
    else:
        lines = list(csv.reader(gzip.open(folder / "banking77_train.csv.gz", "rt")))[1:]
    said, intent = zip(*lines, strict=True)
    vectorizer: Any = TfidfVectorizer
    words = vectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    characters = vectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True, dtype=np.float32)
    table = csr_array(hstack([words.fit_transform(said), characters.fit_transform(said)]))
    return table, np.unique(intent, return_inverse=True)[1]


def problem(table, target):
    n, width = table.shape
    penalty = Penalty(np.ones(width), np.zeros(width))
    return Problem(table, target, np.ones(n), None, "multinomial", int(target.max()) + 1, True, penalty)


def peer(p, passes):
    """scikit-learn's model after so many iterations, or at its default tolerance, and the seconds."""
    model = LogisticRegression(max_iter=passes)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        model.fit(p.features, p.target)
    return model, time.perf_counter() - start


def objective(p, coef, intercept):
    """F in float64, some rows at a time."""
    total = np.square(coef).sum() / 2
    for start in range(0, len(p.target), 5000):
        rows = slice(start, start + 5000)
        z = p.features[rows].astype(np.float64) @ coef.T + intercept
        largest = z.max(1)
        losses = np.log(np.exp(z - largest[:, None]).sum(1)) + largest - z[np.arange(len(z)), p.target[rows]]
        total += losses.sum()
    return total


def extra(solver, p, **options):
    """Megabytes beside the arguments at the peak of a few passes."""
    tracemalloc.start()
    solver.solve(p, most=8, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{peak / 1e6:.0f}"


def compared(name, p, passes, least, tolerances, solvers, memory=False):
    """The rows of the table: the peer's, and of each solver the first tolerance that is as good."""
    model, seconds = peer(p, passes)
    theirs = objective(p, model.coef_, model.intercept_)
    iterations = int(model.n_iter_[0])
    bar = theirs if least is None else least[0] * (1 + least[1])
    known = theirs if least is None else least[0]
    gap = f"{theirs / known - 1:.1e}"
    yield name, "scikit-learn", iterations, f"{seconds:.2f}", f"{seconds / iterations:.4f}", gap, "", "", ""
    for solver in solvers:
        solver.solve(p, most=WARM)
        for tol in tolerances:
            fit = solver.solve(p, tol=tol)
            found = objective(p, fit.coef, fit.intercept)
            if found <= bar:
                break
        c = fit.certificate
        yield (
            name,
            c.solver,
            c.passes,
            f"{c.seconds:.2f}",
            f"{c.seconds / c.passes:.4f}",
            f"{found / known - 1:.1e}",
            f"{seconds / c.seconds:.1f}",
            f"{seconds / iterations / (c.seconds / c.passes):.1f}",
            extra(solver, p) if memory else "",
        )


def works(full):
    folder = pathlib.Path(os.environ.get("LASTLAYER_DATA", "data"))
    p = problem(*pixels())
    least = _whitened.solve(p, tol=3e-6).certificate.objective
    yield from compared("60,000 x 784 x 10", p, 50, (least, 1e-4), (2e-4, 1e-4, 5e-5), [_whitened])
    for name in ("Banking77", "CLINC150") if folder.is_dir() else ():
        p = problem(*text(folder / "text", name))
        yield from compared(name, p, 200, None, 10.0 ** np.arange(-2, -5, -0.1), [_whitened])
    if full:
        p = problem(*features())
        least = _whitened.solve(p, tol=1e-6, most=120).certificate.objective
        solvers = [_whitened, _hessian_free]
        yield from compared("50,000 x 512 x 1,000", p, 10, (least, 1e-3), (1e-4, 3e-5, 1e-5, 3e-6), solvers, True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--full", action="store_true", help="also what takes above a minute")
    rows = list(works(options.parse_args().full))
    report("multinomial", HEADER, rows)
    bars = {"60,000 x 784 x 10": 3, "Banking77": 4, "CLINC150": 4}
    ours = [row for row in rows if row[1] == "whitened"]
    drawn = [(row[0], float(row[7] if row[0].startswith("60") else row[6]), bars.get(row[0])) for row in ours]
    ratios("multinomial", "Speed / scikit-learn's L-BFGS at its objective; of pixels, a pass", drawn)


if __name__ == "__main__":
    main()
