"""Handwritten digits and a classifier of them: the data of ``lastlayer demo``, bundled with scikit-learn."""

from typing import NamedTuple

import numpy as np

from lastlayer.outputs import Outputs

TRAINED_ON, VALIDATED_ON = 200, 800
_WEAK = 1e8  # C: next to no penalty, so the 200 rows are fitted with certainty


class Split(NamedTuple):
    """Outputs on rows that the model has not seen: to choose and calibrate with, and to judge by."""

    valid: Outputs
    test: Outputs


def digits(seed=0) -> Split:
    """Logits of a `LinearClassifier` with next to no penalty on 1,597 handwritten digits that it has not seen.

    The 1,797 images of 8 x 8 pixels (Alpaydin and Kaynak 1998, the test part) are shuffled with ``seed``: 200 to train
    on, 800 for ``valid``, 797 for ``test``. So few rows for 650 weights are fitted without an error, and the model
    believes of new rows what it learned of those: it is right on about 93 % of them and 98 % sure. The training part is
    small for that reason: an over-confident model on honest data. Digits of one writer may stand on both sides of the
    split, as in scikit-learn's own examples. Ids are row numbers of the data set; the group ``ink`` says whether an
    image is lighter or darker than the median.

    >>> digits().valid
    Outputs(800 rows, 10 classes, logits float64, labelled, groups ink)
    """
    from sklearn.datasets import load_digits

    from lastlayer.train.linear_classifier import LinearClassifier

    pixels, label = load_digits(return_X_y=True)
    features = pixels / 16
    ink = features.mean(axis=1)
    group = np.where(ink > np.median(ink), "dark", "light")
    order = np.random.default_rng(seed).permutation(len(features))
    train, valid, test = np.split(order, [TRAINED_ON, TRAINED_ON + VALIDATED_ON])
    model = LinearClassifier(C=_WEAK).fit(features[train], label[train])

    def outputs(rows):
        return model.outputs(features[rows], label[rows], groups={"ink": group[rows]}, ids=rows)

    return Split(outputs(valid), outputs(test))
