"""Logits of every row from a model that has not seen it."""

from typing import Any

import numpy as np

from lastlayer.outputs import Outputs
from lastlayer.train._folds import joined, refuse_unlearnt, splits
from lastlayer.train.logits_of import logits_of


def out_of_fold(
    estimator, X, y, *, cv: Any = 5, groups=None, sample_weight=None, kind=None, batch=None, device=None
) -> Outputs:
    """What clones of ``estimator`` say of rows they were not fitted on: honest logits of all the data.

    Each fold of ``cv`` (a number, the fold of each row, or a splitter of scikit-learn's, which is told ``groups``) is
    read by `logits_of`, whose options ``kind``, ``batch`` and ``device`` are, from a clone that was fitted on the other
    folds. The fold of each row is the group "fold" of what comes out. ``cv`` has to test every row once.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> outputs = out_of_fold(GaussianNB(), X, y, cv=3)
    >>> outputs, outputs.kind
    (Outputs(150 rows, 3 classes, logits float64, labelled, groups fold), 'logits')
    """
    from sklearn.base import clone

    y = np.asarray(y)
    folds = splits("out_of_fold", cv, y, groups)
    refuse_unlearnt(folds, y)
    weight = None if sample_weight is None else np.asarray(sample_weight)
    parts = []
    for fold in folds:
        model = clone(estimator)
        weighed = {} if weight is None else {"sample_weight": weight[fold.train]}
        model.fit(taken(X, fold.train), y[fold.train], **weighed)
        part = logits_of(
            model,
            taken(X, fold.test),
            y=y[fold.test],
            weight=None if weight is None else weight[fold.test],
            kind=kind,
            batch=batch,
            device=device,
        )
        parts.append(part)
    return joined(folds, parts, len(y), f"{parts[0].source}, out of fold")


def taken(X, index):
    """Some rows of a table, an array, or a list."""
    if hasattr(X, "iloc"):
        return X.iloc[index]
    return [X[i] for i in index] if isinstance(X, list | tuple) else X[index]
