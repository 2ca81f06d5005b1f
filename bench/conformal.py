"""What do conformal sets cost beside MAPIE, on one thread?

    OMP_NUM_THREADS=1 python bench/conformal.py

Threshold from 10,000 x 100 labelled rows of simulated logits, then the sets of as many new ones. MAPIE takes
probabilities, so the softmax that makes them from logits is part of its time. Before timing, LAC is checked to make
the very sets of MAPIE, and APS and RAPS, which draw their own numbers and break off differently there, to cover what
they promise; MAPIE's coverage stands beside. APS and RAPS of MAPIE are its randomised ones.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded

import mapie
import numpy as np
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

import lastlayer as ll
from _measure import alternate, report
from lastlayer.decide.conformal_scores import APS, LAC, RAPS

ALPHA = 0.1


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are logits: MAPIE takes estimators only."""

    def __init__(self, classes=2):
        self.classes = classes

    def fit(self, x, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    @property
    def classes_(self):
        return np.arange(self.classes)

    def predict_proba(self, x):
        return ll.softmax(x.astype(np.float64))

    def predict(self, x):
        return x.argmax(axis=1)


def simulated(rows, classes, seed=0):
    rng = np.random.default_rng(seed)
    z = 3 * rng.normal(size=(rows, classes))
    return z, np.argmax(z + rng.gumbel(size=z.shape), axis=1)


def theirs(name, z, y, fresh):
    model = SplitConformalClassifier(
        Given(z.shape[1]), confidence_level=1 - ALPHA, conformity_score=name, prefit=True, random_state=0
    )
    model.conformalize(z, y)
    more = {} if name == "lac" else {"conformity_score_params": {"include_last_label": "randomized"}}
    return model.predict_set(fresh, **more)[1][:, :, 0]


def main():
    rows = []
    for n, classes, dtype in ((10_000, 10, np.float32), (10_000, 100, np.float32), (10_000, 100, np.float64)):
        (z, y), (fresh, truth) = (simulated(n, classes, seed) for seed in (0, 1))
        z, fresh = z.astype(dtype), fresh.astype(dtype)
        outputs = ll.Outputs(z, "logits", target=y)
        for score in (LAC, APS, RAPS):

            def ours(score=score, outputs=outputs, fresh=fresh):
                return score.fit(outputs, ALPHA)(fresh)

            def peer(score=score, z=z, y=y, fresh=fresh):
                return theirs(score.name, z, y, fresh)

            sets = {"ours": ours(), "mapie": peer()}
            covered = {name: found[np.arange(n), truth].mean() for name, found in sets.items()}
            if score is LAC:
                assert (sets["ours"] == sets["mapie"]).all()
            assert abs(covered["ours"] - (1 - ALPHA)) < 3 * np.sqrt(2 * ALPHA * (1 - ALPHA) / n), covered
            times = alternate({"ours": ours, "mapie": peer}, rounds=7)
            rows.append(
                (
                    f"{n:,} x {classes} {np.dtype(dtype).name}",
                    score.name,
                    f"{1e3 * times['ours']:.1f}",
                    f"{times['mapie'] / times['ours']:.1f}",
                    f"{covered['ours']:.4f}, {sets['ours'].sum(1).mean():.3f}",
                    f"{covered['mapie']:.4f}, {sets['mapie'].sum(1).mean():.3f}",
                )
            )
    report(
        "conformal",
        ("rows", "score", "ms", f"times the speed of MAPIE {mapie.__version__}", "coverage, size", "MAPIE's"),
        rows,
    )


if __name__ == "__main__":
    main()
