"""Credit card clients of Taiwan, 2005: what goes with a default, and whose credit to cut.

    python examples/uci_default.py [--data DIR] [--out DIR]

30,000 clients with 23 columns in their own units (UCI 350, Yeh and Lien 2009), a quarter of them kept to judge by. An
undetected default costs three, a good client cut off one, a phone call half of that. A linear model ranks these clients
worse than a scorecard does (AUC 0.766), and its probabilities are off, which a calibrator mends.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

import lastlayer as ll
from _real import asked

MONTHS = range(1, 7)
NAMES = ["limit", "sex", "education", "marriage", "age", *(f"pay {m}" for m in MONTHS)]
NAMES += [f"bill {m}" for m in MONTHS] + [f"paid {m}" for m in MONTHS]
COSTS = ll.decide.CostMatrix([[0, 1], [3, 0]], review=0.5, classes=["no", "yes"])


def main(data, out):
    clients = pd.read_csv(data / "tabular" / "UCI_Credit_Card.csv.gz", index_col=0)
    y = np.where(clients.pop("Y") == 1, "yes", "no")
    X, held_out, y, truth = train_test_split(clients.set_axis(NAMES, axis=1), y, test_size=0.25, random_state=42)

    model = ll.train.LinearClassifier(C=1.0, penalty_factor=X.var(ddof=0)).fit(X, y)  # as of standardised columns
    test = model.outputs(held_out, truth, groups={"sex": np.where(held_out["sex"] == 1, "man", "woman")})
    auc = float(ll.roc_auc(test.scores, test.target))
    print(f"AUC {auc:.4f} (0.7232 published), on columns as they are, in {model.certificate_.passes} passes")

    plain = ll.train.LinearClassifier(C=np.inf).fit(X, y)
    found = ll.train.inference(plain, X, y, covariance="robust")
    surest = sorted(found.rows[:-1], key=lambda row: -abs(row.z))[:6]
    print("\nodds of a default, per standard deviation, with 95 % intervals (robust)")
    for row in surest:
        ratio, low, high = (np.exp(value * X[row.name].std()) for value in (row.coef, row.low, row.high))
        print(f"  {row.name:10} {ratio:.3f}   {low:.3f} to {high:.3f}")

    calibrator = ll.calibrate.fit(ll.train.out_of_fold(model, X, y))
    print(f"\ncalibrated by {calibrator}")
    before, after = COSTS(test).summary(), COSTS(calibrator.apply(test)).summary()
    print(f"{after}\n  without it     realised {before.realised_cost:.4f}")

    report = ll.check(replace(test, source="UCI default, held out"), calibrator=calibrator)
    nll = report.before.metrics()["nll"].value, report.metrics["nll"].value
    print(f"\nlog-loss {nll[0]:.4f} before, {nll[1]:.4f} after\nreport: {report.to_html(out / 'uci_default.html')}")
    return {"auc": auc, "nll": nll, "costs": (before.realised_cost, after.realised_cost)}


if __name__ == "__main__":
    main(**asked(__doc__))
