"""Heart disease in Cleveland: what raises the odds, and whom to send to the catheter.

    python examples/cleveland.py [--data DIR] [--out DIR]

303 patients with 13 findings each (UCI 45, Detrano et al. 1989), some missing. First the odds ratios of seven numbers,
as a paper would have them. Then a model of all findings, judged by three times ten folds, and decisions on patients
that neither it nor its calibrator has seen: a missed disease costs ten, a needless angiography two, one more test one.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold

import lastlayer as ll
from _real import asked

NAMES = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num".split()
NUMBERS = ["age", "sex", "trestbps", "chol", "thalach", "oldpeak", "ca"]
CATEGORIES = ["cp", "restecg", "slope", "thal"]
COSTS = ll.decide.CostMatrix([[0, 2], [10, 0]], review=1, classes=["absent", "present"])


def main(data, out):
    patients = pd.read_csv(data / "tabular" / "processed.cleveland.data", names=NAMES, na_values="?")
    y = np.where(patients.pop("num") > 0, "present", "absent")

    complete = patients.notna().all(axis=1)
    X = patients.loc[complete, NUMBERS]
    found = ll.train.inference(ll.train.LinearClassifier(C=np.inf).fit(X, y[complete]), X, y[complete])
    print(found)

    columns = {name: patients[name].to_numpy() for name in patients}
    table = ll.train.Table.fit(columns, CATEGORIES)
    X = table.transform(columns).values / np.sqrt(table.factors)  # numbers in standard deviations
    thrice = RepeatedStratifiedKFold(n_splits=10, n_repeats=3, random_state=0)
    judged = ll.train.LinearClassifierCV(Cs=[0.1], cv=thrice, scoring="roc_auc").fit(X, y)
    auc = judged.scores_.mean()
    print(f"\n{len(table.features)} features, C 0.1: AUC {auc:.4f} in the mean of 30 folds (0.9132 in research)")

    ten = StratifiedKFold(10, shuffle=True, random_state=0)
    model = ll.train.LinearClassifierCV(Cs=[0.1], cv=ten).fit(X, y)
    outputs = replace(model.out_of_fold, source="Cleveland, out of fold")
    even = outputs.groups["fold"].astype(int) % 2 == 0
    calibrator = ll.calibrate.fit(outputs.rows(even))
    decisions = COSTS(calibrator.apply(outputs.rows(~even)))
    print(f"\ncalibrated by {calibrator} on the even folds, decided on the odd ones\n{decisions.summary()}")

    page = ll.check(outputs.rows(~even), calibrator=calibrator).to_html(out / "cleveland.html")
    print(f"\nreport: {page}")
    return {"auc": auc, "inference": found, "decisions": decisions.summary()}


if __name__ == "__main__":
    main(**asked(__doc__))
