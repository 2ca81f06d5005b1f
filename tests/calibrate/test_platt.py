"""Platt scaling against scikit-learn's logistic regression, published numbers, and data that have no maximum."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import fit
from lastlayer.calibrate.platt import SLOPES, Platt, cross_entropies


def logistic_regression(z, y, weight=None):
    """Slope and intercept by another library, without a penalty."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(z[:, None], y, sample_weight=weight)
    return model.coef_[0, 0], model.intercept_[0]


def test_published_loss_of_animals_against_machines(shared_data):
    valid, test = densenet.binary(shared_data)
    calibrator = fit(valid, "platt")
    assert simulated.nll(calibrator.apply(test)) == pytest.approx(0.029677, abs=1e-6)
    assert simulated.nll(fit(valid, "temperature").apply(test)) == pytest.approx(0.030754, abs=1e-6)
    assert calibrator.certificate.converged and calibrator.certificate.bound is None
    slope, intercept = logistic_regression(valid.scores, valid.target)
    assert (calibrator.slope, calibrator.intercept) == pytest.approx((slope, intercept), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["logits", "margin"])
def test_it_is_unpenalised_logistic_regression(seed, kind):
    outputs = simulated.binary(seed, n=300)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, 300)
    calibrator = fit(Outputs(3 * outputs.scores + 5, kind, target=outputs.target, weight=weight), "platt")
    slope, intercept = logistic_regression(3 * outputs.scores + 5, outputs.target, weight)
    assert (calibrator.slope, calibrator.intercept) == pytest.approx((slope, intercept), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_scale_of_a_margin_does_not_matter(scale):
    outputs = simulated.binary(1, n=200)
    near = fit(replace(outputs, kind="margin"), "platt")
    far = fit(Outputs(scale * outputs.scores, "margin", target=outputs.target), "platt")
    assert far.slope * scale == pytest.approx(near.slope, rel=1e-8)
    assert far.intercept == pytest.approx(near.intercept, rel=1e-8)


def test_scores_that_separate_the_classes_have_the_largest_slope_and_say_so():
    z = np.r_[np.arange(10.0), np.arange(20.0, 30.0)]
    calibrator = fit(Outputs(z, "logits", target=z > 15), "platt")
    assert calibrator.slope == pytest.approx(SLOPES[1] / z.std())
    assert calibrator.certificate.bound == f"slope <= {calibrator.slope:g}" and not calibrator.certificate.converged
    assert float(calibrator(14.5)) == pytest.approx(0, abs=1e-9)  # midway between 9 and 20


def test_a_threshold_both_classes_share_keeps_their_frequency():
    z = np.r_[np.zeros(10), np.full(4, 5.0), np.full(10, 9.0)]
    calibrator = fit(Outputs(z, "logits", target=np.r_[np.zeros(10), 1, 0, 1, 1, np.ones(10)].astype(int)), "platt")
    assert calibrator.certificate.bound is not None
    assert float(calibrator(5.0)) == pytest.approx(np.log(3), abs=1e-9)


def test_scores_that_point_the_wrong_way_have_the_least_slope_and_say_so():
    outputs = simulated.binary(2, n=200)
    calibrator = fit(Outputs(-outputs.scores, "margin", target=outputs.target), "platt")
    assert calibrator.slope == pytest.approx(SLOPES[0] / outputs.scores.std())
    assert calibrator.certificate.bound == f"slope >= {calibrator.slope:g}" and not calibrator.certificate.converged
    share = outputs.target.mean()
    assert float(calibrator(0.0)) == pytest.approx(np.log(share / (1 - share)), abs=1e-3)


def test_one_score_for_all_rows_gets_the_base_rate():
    calibrator = fit(Outputs(np.full(20, 3.0), "logits", target=np.arange(20) % 4 == 0), "platt")
    assert float(calibrator(3.0)) == pytest.approx(np.log(5 / 15))
    assert calibrator.certificate.converged


def test_multilabel_logits_share_one_pair():
    outputs = simulated.multilabel(3, n=200, temperature=2.0)
    flat = Outputs(outputs.scores.ravel(), "logits", target=outputs.target.ravel())
    assert fit(outputs, "platt").parameters == pytest.approx(fit(flat, "platt").parameters, rel=1e-10)


def test_infinite_scores_that_are_right_change_nothing():
    outputs = simulated.binary(4, n=100)
    z, y = np.r_[outputs.scores, np.inf, -np.inf], np.r_[outputs.target, 1, 0]
    calibrator = fit(Outputs(z, "logits", target=y), "platt")
    assert calibrator.slope == fit(outputs, "platt").slope
    assert calibrator.certificate.nll_after == pytest.approx(
        fit(outputs, "platt").certificate.nll_after * 100 / 102, rel=1e-12
    )
    assert calibrator(np.array([np.inf, -np.inf])).tolist() == [np.inf, -np.inf]


def test_infinite_scores_alone_are_refused():
    z = np.r_[np.full(10, np.inf), np.arange(10.0)]
    with pytest.raises(DataError, match="finite scores are all of one class"):
        fit(Outputs(z, "logits", target=np.r_[np.ones(10), np.zeros(10)].astype(int)), "platt")


def test_a_loss_beyond_float64_is_refused():
    with pytest.raises(DataError, match="overflow"):
        fit(Outputs(np.r_[1e300, -1e300, np.zeros(18)], "logits", target=np.arange(20) % 2), "platt")


@pytest.mark.parametrize("wrong", [(0.0, 0.0), (-1.0, 0.0), (np.inf, 0.0), (1.0, np.nan), (1.0, np.inf)])
def test_a_slope_is_above_zero_and_an_intercept_finite(wrong):
    with pytest.raises(ValueError, match=r"Platt: (slope|intercept)"):
        Platt(*wrong)


@pytest.mark.parametrize("eta", [-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_parts_of_a_likelihood_keep_their_tails(eta, target):
    import mpmath

    with mpmath.workdps(400):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(eta)))
        y = mpmath.mpf(target)
        loss = -y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)
        wanted = [float(each) for each in (loss, (1 - y) * p, y * (1 - p), p * (1 - p))]
    with np.errstate(under="ignore"):
        found = cross_entropies(np.array(eta), np.array(target))
    assert [float(part) for part in found] == pytest.approx(wanted, rel=1e-14, abs=0)
