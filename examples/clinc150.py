"""150 intents, and questions that are none of them: what an assistant should answer, and when to say that it cannot.

    python examples/clinc150.py [--data DIR] [--out DIR]

CLINC150, full (Larson et al. 2019). The model knows the 150 intents alone. A question out of scope is a row whose true
class is masked: no probability can go there, so every answer to it counts as an error. A wrong answer costs four, to
ask back one. What it expects to pay is too low, as neither the model nor its calibrator knows of such questions.
"""

import gzip
import json
from dataclasses import replace

import numpy as np
from sklearn.pipeline import make_pipeline

import lastlayer as ll
from _real import asked, words_and_characters

COSTS = ll.decide.Cost(wrong=4, review=1)


def main(data, out):
    with gzip.open(data / "text" / "clinc150_data_full.json.gz") as file:
        parts = {name: np.array(rows).T for name, rows in json.load(file).items()}

    model = make_pipeline(words_and_characters(), ll.train.LinearClassifier(C=10.0, tol=1e-3))
    model.fit(*parts["train"])
    valid, test = (ll.train.logits_of(model, texts, y=y) for texts, y in (parts["val"], parts["test"]))
    accuracy = float(ll.accuracy(test.scores, test.target))
    print(f"accuracy in scope {accuracy:.4f} on {len(test):,} questions (0.928 in research, 0.910 SVM, 0.969 BERT)")
    calibrator = ll.calibrate.fit(valid, "temperature")

    stray = ll.train.logits_of(model, parts["oos_test"][0])
    logits = np.concatenate([calibrator(test.scores), calibrator(stray.scores)])
    inside = np.arange(len(logits)) < len(test)
    known = ll.roc_auc(ll.transform.max_logit(logits), inside.astype(int)).value
    print(f"AUROC of the largest logit, in scope against out: {known:.3f} (0.954 in research)")

    none = np.full((len(logits), 1), -np.inf)
    everything = ll.Outputs(
        np.concatenate([logits, none], axis=1),
        "logits",
        target=np.concatenate([test.target, np.full(len(stray), len(test.classes))]),
        classes=[*test.classes, "out of scope"],
    )
    decisions = COSTS(everything)
    recall, answered = 1 - decisions.accept[~inside].mean(), decisions.accept[inside].mean()
    print(f"\ncalibrated by {calibrator}: {answered:.1%} in scope are answered,")
    print(f"{recall:.1%} out of scope are asked back (with a threshold: 18.0 % SVM, 52.3 % BERT)")
    print(decisions.summary())

    test = replace(test, source="CLINC150, test questions in scope")
    page = ll.check(test, calibrator=calibrator).to_html(out / "clinc150.html")
    print(f"\nreport: {page}")
    return {"accuracy": accuracy, "auroc": known, "recall": recall, "decisions": decisions.summary()}


if __name__ == "__main__":
    main(**asked(__doc__))
