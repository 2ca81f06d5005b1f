"""Intervals where rows do not count alike: class weights, and labels that move together."""

import numpy as np
import pytest

import lastlayer as ll

RUNS = 300


def covered(truth, found):
    return sum(metric.low <= truth <= metric.high for metric in found) / len(found)


def weighted_classes(rng):
    """Ten rows of class 0 that weigh 30 each, and 300 of each other class that weigh 1, as class weights make them."""
    target = np.repeat([0, 1, 2], [10, 300, 300])
    z = rng.normal(size=(len(target), 3))
    z[np.arange(len(target)), target] += 1.0
    return ll.Outputs(z, "logits", target=target, weight=np.where(target == 0, 30.0, 1.0))


def test_recall_of_a_heavy_class_rests_on_its_own_rows():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(400_000, 3))
    many[:, 0] += 1.0
    truth = (many.argmax(1) == 0).mean()
    rows = [ll.evaluate(weighted_classes(rng)).per_class()[0] for _ in range(RUNS)]
    assert {row.recall.n for row in rows} == {10}
    assert 0.9 <= covered(truth, [row.recall for row in rows]) <= 0.99


def test_auroc_of_a_heavy_class_is_as_wide_as_its_rows_make_it():
    rng = np.random.default_rng(1)
    outputs = weighted_classes(rng)
    light = ll.Outputs(outputs.scores, "logits", target=outputs.target)
    heavy, same = (ll.evaluate(o).per_class()[0].auroc for o in (outputs, light))
    assert heavy.high - heavy.low == pytest.approx(same.high - same.low, rel=0.05)
    exact = ll.roc_auc(outputs.scores, outputs.target, weight=outputs.weight)
    read = ll.evaluate(outputs).metrics()["auroc"]
    assert exact.low == pytest.approx(read.low, abs=1e-3) and exact.high == pytest.approx(read.high, abs=1e-3)


def test_labels_that_move_together_are_no_further_rows():
    """Ten copies of one label: the calibration error is known as well as from one, not ten times better."""
    rng = np.random.default_rng(2)
    truth = {}
    found = {"evaluate": [], "array": []}
    for n, runs in ((200_000, 1), (400, RUNS)):
        for _ in range(runs):
            z = rng.normal(size=n) * 2
            y = (rng.random(n) < 1 / (1 + np.exp(-z / 2))).astype(int)
            scores, target = np.tile(z[:, None], 10), np.tile(y[:, None], 10)
            if n > 400:
                truth["ece"] = float(ll.calibration_error(z, y))
                continue
            found["evaluate"].append(ll.evaluate(ll.Outputs(scores, "logits", target=target)).metrics()["ece"])
            found["array"].append(ll.calibration_error(scores, target))
    for metrics in found.values():
        assert 0.9 <= covered(truth["ece"], metrics)


def test_one_group_of_all_rows_has_the_accuracy_of_the_whole():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(500, 10))
    outputs = ll.Outputs(z, "logits", target=(rng.random(z.shape) < 0.5).astype(int), groups={"all": ["x"] * 500})
    found = ll.evaluate(outputs)
    (group,) = found.per_group()
    whole = found.metrics()["accuracy"]
    of_group = (group.accuracy, group.accuracy.low, group.accuracy.high)
    assert of_group == pytest.approx((whole, whole.low, whole.high), rel=1e-12)
