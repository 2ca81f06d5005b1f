"""What does one pass of evaluation cost beside the formula, and beside scikit-learn for the measures it has?

    python bench/evaluate.py

Rows of simulated logits (float32). Before timing, nll, Brier score, accuracy and AUROC are checked against scikit-
learn's, to 1e-6: float32 rows of 32 classes and more are summed up in float32. Its time is that of log_loss,
accuracy_score, roc_auc_score and a Brier score in NumPy, on float64 probabilities; ours has these with their
intervals, calibration errors, per-class tables, a temperature curve and what findings need.
"""

import numpy as np
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

import lastlayer as ll
from _measure import alternate, report
from lastlayer.measure.rows import EvaluationSums


def simulated(rows, classes):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, classes)) * 2
    return z.astype(np.float32), np.argmax(z + rng.gumbel(size=z.shape), axis=1)


def peer(z, target):
    p = ll.softmax(z.astype(np.float64))
    labels = np.arange(z.shape[1])
    auc = roc_auc_score(target, p, multi_class="ovr", labels=labels)
    brier = ((p - np.eye(len(labels))[target]) ** 2).sum(1).mean()
    return {"nll": log_loss(target, p), "brier": brier, "accuracy": accuracy_score(target, p.argmax(1)), "auroc": auc}


def main():
    rows = []
    for n, classes in ((200_000, 3), (100_000, 10), (20_000, 100)):
        z, target = simulated(n, classes)
        outputs, weight = ll.Outputs(z, "logits", target=target), np.ones(n)
        mine, theirs = ll.evaluate(outputs).metrics(), peer(z, target)
        for name, value in theirs.items():
            assert abs(mine[name] - value) <= 1e-6 + mine[name].bound, (name, mine[name], value)

        def formula(z=z, target=target, weight=weight):
            with ll.formulas():
                EvaluationSums.of(z, target, weight)

        times = alternate(
            {
                "evaluate": lambda o=outputs: ll.evaluate(o),
                "kernel": lambda z=z, t=target, w=weight: EvaluationSums.of(z, t, w),
                "formula": formula,
                "sklearn": lambda z=z, t=target: peer(z, t),
            },
            rounds=5,
        )
        rows.append(
            (
                f"{n:,} x {classes}",
                f"{n * classes / times['evaluate'] / 1e6:.0f}",
                f"{times['formula'] / times['kernel']:.1f}",
                f"{times['sklearn'] / times['evaluate']:.2f}",
            )
        )
    report(
        "evaluate",
        (
            "rows",
            "Mlogits/s, evaluate",
            "kernel, times the speed of its formula",
            "evaluate, times the speed of scikit-learn",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
