"""The digits of the demo: over-confident on rows not seen, for more than one seed, and reproducible."""

import numpy as np
import pytest

from lastlayer import softmax
from lastlayer.train import digits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", ["valid", "test"])
def test_clearly_over_confident(seed, part):
    """z = (mean confidence - accuracy) / standard error, above 5 on both parts."""
    outputs = getattr(digits(seed), part)
    gap = softmax(outputs.scores).max(1) - (outputs.scores.argmax(1) == outputs.target)
    assert gap.mean() / (gap.std(ddof=1) / np.sqrt(len(gap))) > 5


def test_the_same_seed_gives_the_same_rows():
    a, b, c = digits(0), digits(0), digits(1)
    assert np.array_equal(a.valid.scores, b.valid.scores) and np.array_equal(a.test.ids, b.test.ids)
    assert not np.array_equal(a.test.ids, c.test.ids)


def test_the_parts_share_no_row_and_leave_200_to_train_on():
    valid, test = digits()
    ids = np.concatenate([valid.ids, test.ids])
    assert len(valid) == 800 and len(test) == 797 and len(np.unique(ids)) == 1597 and ids.max() < 1797
    assert valid.classes == test.classes == tuple("0123456789")


def test_targets_are_those_of_the_data_set():
    from sklearn.datasets import load_digits

    data = load_digits()
    valid = digits().valid
    assert np.array_equal(valid.target, data.target[valid.ids])
    ink = data.data.mean(1)
    assert np.array_equal(valid.groups["ink"] == "dark", (ink > np.median(ink))[valid.ids])
