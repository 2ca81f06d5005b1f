"""Beta calibration against scikit-learn's logistic regression of the two logarithms, and at its bounds."""

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.beta import Beta
from lastlayer.calibrate.one_versus_rest import OneVersusRest
from lastlayer.calibrate.platt import SLOPES


def bent(seed, n=2000, low=1.0, high=3.0):
    """Logits that are over-confident by another factor on each side of 0."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=n)
    return Outputs(np.where(z > 0, high * z, low * z), "logits", target=(z + rng.logistic(size=n) > 0).astype(int))


def logs(z):
    return np.stack([-np.logaddexp(0, -z), np.logaddexp(0, z)], 1)


def test_published_loss_of_animals_against_machines(shared_data):
    valid, test = densenet.binary(shared_data)
    calibrator = fit(valid, "beta")
    assert simulated.nll(calibrator.apply(test)) == pytest.approx(0.029711, abs=1e-6)
    assert calibrator.certificate.converged and calibrator.certificate.bound is None


def test_ten_classes_are_better_on_their_own_rows_than_was_published(shared_data):
    valid, _ = densenet.multiclass(shared_data)
    calibrator = fit(valid, "beta")
    assert isinstance(calibrator, OneVersusRest) and list(calibrator.parts) == [str(k) for k in range(10)]
    assert calibrator.certificate.nll_after <= 0.190338  # NN_calibration, "beta abm", from clipped probabilities


@pytest.mark.parametrize("seed", range(5))
def test_it_is_logistic_regression_of_the_two_logarithms(seed):
    from sklearn.linear_model import LogisticRegression

    outputs = bent(seed)
    calibrator = fit(outputs, "beta")
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    model.fit(logs(outputs.scores), outputs.target)
    assert [calibrator.a, calibrator.b] == pytest.approx(model.coef_[0], rel=1e-5)
    assert calibrator.c == pytest.approx(model.intercept_[0], rel=1e-5, abs=1e-7)
    assert calibrator(outputs.scores) == pytest.approx(model.decision_function(logs(outputs.scores)), rel=1e-4)


def test_each_side_gets_its_own_slope_back():
    rng = np.random.default_rng(0)
    z = 3 * rng.normal(size=40000)
    truth = logs(z) @ np.array([1.5, 0.5]) + 0.3
    y = (truth + rng.logistic(size=len(z)) > 0).astype(int)
    calibrator = fit(Outputs(z, "logits", target=y), "beta")
    assert (calibrator.a, calibrator.b, calibrator.c) == pytest.approx((1.5, 0.5, 0.3), abs=0.07)


def test_a_tail_that_says_nothing_is_held_at_its_bound():
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=2000)
    y = (np.where(z > 0, -z, z) + rng.logistic(size=2000) > 0).astype(int)  # above 0 the scores point the wrong way
    calibrator = fit(Outputs(z, "logits", target=y), "beta")
    assert calibrator.b == 0 and calibrator.certificate.bound == "b >= 0" and calibrator.certificate.converged
    assert calibrator(np.array([50.0, np.inf, -np.inf, np.nan]))[1:] == pytest.approx(
        [calibrator.c, -np.inf, np.nan], nan_ok=True
    )
    from scipy.optimize import minimize

    def loss(p):
        eta = logs(z) @ np.r_[p[0], 0.0] + p[1]
        return np.logaddexp(0, np.where(y == 1, -eta, eta)).mean()

    best = minimize(loss, [1.0, 0.0], method="BFGS", options={"gtol": 1e-9})
    assert (calibrator.a, calibrator.c) == pytest.approx(tuple(best.x), rel=1e-4)


def test_scores_that_separate_the_classes_have_the_largest_slopes_and_say_so():
    z = np.r_[np.arange(10.0), np.arange(20.0, 30.0)]
    calibrator = fit(Outputs(z, "logits", target=z > 15), "beta")
    assert calibrator.a == calibrator.b == pytest.approx(SLOPES[1] / z.std())
    assert calibrator.certificate.bound == f"a <= {calibrator.a:g}" and not calibrator.certificate.converged
    assert float(calibrator(14.5)) == pytest.approx(0, abs=1e-9)


def test_equal_slopes_are_a_line():
    z = np.array([-800.0, -3.0, 0.0, 3.0, 800.0])
    assert Beta(0.5, 0.5, 1.0)(z) == pytest.approx(0.5 * z + 1, rel=1e-15)


@pytest.mark.parametrize("wrong", [(-1.0, 1.0, 0.0), (1.0, -1.0, 0.0), (np.inf, 1.0, 0.0), (1.0, 1.0, np.nan)])
def test_slopes_are_at_least_zero(wrong):
    with pytest.raises(ValueError, match="Beta: a and b are finite and at least 0"):
        Beta(*wrong)
