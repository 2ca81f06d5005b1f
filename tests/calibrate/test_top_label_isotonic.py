"""Isotonic regression of the predicted class: only its probability moves, by the curve of the binary problem."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.top_label_isotonic import TopLabelIsotonic


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_it_is_isotonic_regression_of_being_right():
    outputs = simulated.multiclass(0, n=500, temperature=2.0)
    p = softmax(outputs.scores)
    confidence, right = p.max(1), p.argmax(1) == outputs.target
    odds = np.log(confidence) - np.log(np.sort(p, 1)[:, :-1].sum(1))
    single = fit(Outputs(odds, "logits", target=right.astype(int)), "isotonic")
    calibrator = fit(outputs, "top_label_isotonic")
    assert calibrator.knots == pytest.approx(single.knots, rel=1e-9)
    assert calibrator.levels == pytest.approx(single.levels, rel=1e-9)
    assert calibrator.certificate.nll_after == pytest.approx(simulated.nll(calibrator.apply(outputs)), rel=1e-12)


def test_the_others_share_the_rest_as_before():
    calibrator = TopLabelIsotonic([0.0, 4.0], [0.5, 2.0])
    z = np.array([[2.0, 0.0, 1.0], [-1.0, 3.0, -np.inf], [900.0, 0.0, 1.0]])
    p, q = softmax(z), softmax(calibrator(z))
    odds = [2 - np.log(1 + np.e), 4.0, 900 - np.log(1 + np.e)]
    top = np.interp(odds, [0.0, 4.0], [0.5, 2.0])
    index = np.arange(3), z.argmax(1)
    assert q[index] == pytest.approx(1 / (1 + np.exp(-top)))
    assert q[0, 1] / q[0, 2] == pytest.approx(p[0, 1] / p[0, 2])
    assert q[1, 2] == 0
    assert softmax(calibrator(z[:2] + 32.0)) == pytest.approx(q[:2], rel=1e-12)


def test_rows_without_odds_stay():
    calibrator = TopLabelIsotonic([0.0, 4.0], [0.5, 2.0])
    z = np.array([[3.0, -np.inf], [-np.inf, -np.inf], [np.nan, 1.0]])
    np.testing.assert_array_equal(calibrator(z), z)


def test_soft_targets_count_by_their_share_on_the_prediction():
    outputs = simulated.multiclass(1, n=200, temperature=2.0)
    soft = fit(replace(outputs, target=np.eye(4)[outputs.target]), "top_label_isotonic")
    assert soft.levels == pytest.approx(fit(outputs, "top_label_isotonic").levels)


def test_a_curve_rises():
    with pytest.raises(ValueError, match="TopLabelIsotonic: knots ascend"):
        TopLabelIsotonic([0.0, 1.0], [1.0, 0.0])
