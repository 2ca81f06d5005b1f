"""Breast cancer from 30 measurements of a cell sample: whom to operate, whom to spare, whom to look at again.

    python examples/breast_cancer.py [--out DIR]

The 569 samples come with scikit-learn. A missed cancer costs twenty, a needless operation two, a second biopsy one.
The penalty is chosen by the ten folds that also give each sample its logit, so every figure is of samples not seen.
"""

import textwrap
from dataclasses import replace

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold

import lastlayer as ll
from _real import asked

COSTS = ll.decide.CostMatrix([[0, 2], [20, 0]], review=1, classes=["benign", "malignant"])
FEW = ["radius", "texture", "smoothness", "concavity"]


def main(out):
    data = load_breast_cancer(as_frame=True)
    X = (data.data - data.data.mean()) / data.data.std(ddof=0)
    y = np.where(data.target == 0, "malignant", "benign")

    ten = StratifiedKFold(10, shuffle=True, random_state=0)
    model = ll.train.LinearClassifierCV(Cs=[0.01, 0.1, 1.0, 10.0], cv=ten).fit(X, y)
    outputs = replace(model.out_of_fold, source="breast cancer, out of fold")
    accuracy, loss = ll.accuracy(outputs.scores, outputs.target), ll.nll(outputs.scores, outputs.target)
    print(f"C {model.C_:g}: accuracy {accuracy:.3f} (0.977 in research), log-loss {loss:.3f} (0.074), out of fold")

    even = outputs.groups["fold"].astype(int) % 2 == 0
    calibrator = ll.calibrate.fit(outputs.rows(even))
    decisions = COSTS(calibrator.apply(outputs.rows(~even)))
    print(f"\ncalibrated by {calibrator} on the even folds, decided on the odd ones\n{decisions.summary()}")

    print("\n" + textwrap.fill(f"Without a penalty? {ll.train.separation(X, y)}", 79))
    print("Four of them, then, in standard deviations:\n")
    four = X[[f"mean {name}" for name in FEW]].set_axis(FEW, axis=1)
    found = ll.train.inference(ll.train.LinearClassifier(C=np.inf).fit(four, y), four, y)
    print(found)

    page = ll.check(outputs.rows(~even), calibrator=calibrator).to_html(out / "breast_cancer.html")
    print(f"\nreport: {page}")
    return {"accuracy": float(accuracy), "nll": float(loss), "decisions": decisions.summary(), "inference": found}


if __name__ == "__main__":
    main(**asked(__doc__, data=False))
