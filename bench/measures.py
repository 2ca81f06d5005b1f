"""What do calibration errors cost, a million rows at a time, and beside those who have them?

    python bench/measures.py

Rows of simulated logits, one core. Each result is checked against the peer's before anything is timed. Peers: NumPy as
one would write it, in probabilities and one order of tied rows, without intervals or p-values; scikit-learn; `relplot`
(smooth calibration error, by its authors) where it is installed.
"""

import importlib.util
import os

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

import lastlayer as ll
from _measure import alternate, report
from lastlayer.measure.cumulative import ks_calibration_error
from lastlayer.measure.decompose import brier_decomposition
from lastlayer.measure.selective import aurc, failure_auroc
from lastlayer.measure.smooth import smooth_calibration_error

ROWS = 1_000_000


def numpy_ece(logits, target, bins=15):
    """The usual lines: softmax in place, the confidence of the first largest, three sums over bins."""
    if logits.ndim == 1:
        z = logits.astype(np.float64)
        confidence, hit = 1 / (1 + np.exp(-np.abs(z))), (z > 0) == (target == 1)
    else:
        z = logits.astype(np.float64)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        confidence, hit = p.max(1), p.argmax(1) == target
    cell = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gap = np.bincount(cell, hit, bins) - np.bincount(cell, confidence, bins)
    return np.abs(gap).sum() / len(target)


def numpy_aurc(logits, target):
    order = np.argsort(-np.abs(logits))
    wrong = ((logits > 0) != (target == 1))[order]
    return (np.cumsum(wrong) / np.arange(1, len(target) + 1)).mean()


def numpy_ks(logits, target):
    order = np.argsort(np.abs(logits))
    gap = ((logits > 0) == (target == 1)) - 1 / (1 + np.exp(-np.abs(logits)))
    return np.abs(np.cumsum(gap[order])).max() / len(target)


def simulated(shape, dtype):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=shape) * 2).astype(dtype)
    if len(shape) == 1:
        return z, (rng.random(shape) < 1 / (1 + np.exp(-z))).astype(np.int64)
    return z, np.argmax(z + rng.gumbel(size=shape), axis=1)


def questions():
    """Name, our call, the peer's name and call, and how far the two may differ."""
    z, y = simulated((ROWS,), np.float64)
    wide, target = simulated((ROWS, 10), np.float32)
    p = 1 / (1 + np.exp(-z))
    yield "ece, binary", lambda: ll.calibration_error(z, y), "numpy", lambda: numpy_ece(z, y), 1e-12
    yield "ece, 10 classes", lambda: ll.calibration_error(wide, target), "numpy", lambda: numpy_ece(wide, target), 1e-12
    yield "ks, binary", lambda: ks_calibration_error(z, y).error, "numpy", lambda: numpy_ks(z, y), 1e-12
    yield "aurc, binary", lambda: aurc(z, y), "numpy", lambda: numpy_aurc(z, y), 1e-12
    hit, sure = (z > 0) == (y == 1), np.abs(z)
    yield "failure auroc", lambda: failure_auroc(z, y), "scikit-learn", lambda: roc_auc_score(hit, sure), 1e-12
    yield (
        "brier, in five parts",
        lambda: brier_decomposition(z, y).brier,
        "scikit-learn (whole)",
        lambda: brier_score_loss(y, p),
        1e-12,
    )
    if importlib.util.find_spec("relplot"):
        from relplot import smECE

        def smooth():
            return smooth_calibration_error(z, y, over="classwise")

        yield "smooth ece, binary", smooth, "relplot", lambda: smECE(p, y), 2e-3  # its widths are 1 / 1024 apart


def main():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for name, mine, peer, theirs, apart in questions():
        a, b = float(mine()), float(theirs())
        assert abs(a - b) <= apart, (name, a, b)
        times = alternate({"mine": mine, "theirs": theirs}, rounds=7)
        rows.append((name, f"{times['mine'] * 1e3:.0f}", peer, f"{times['theirs'] / times['mine']:.1f}"))
    report("measures", ("measure of 1,000,000 rows", "ms, one thread", "peer", "times its speed"), rows)


if __name__ == "__main__":
    main()
