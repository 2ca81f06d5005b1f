"""Ensemble temperature scaling: the mixture with 60 digits, its weights against another solver, its edges."""

import mpmath
import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.ensemble_temperature import EnsembleTemperature

WEIGHTS = (0.6, 0.3, 0.1)


def mixture(z, temperature, weights):
    """Log-probabilities of one row with 60 digits; masked classes are None."""
    with mpmath.workdps(60):
        z = [None if x == -np.inf else mpmath.mpf(float(x)) for x in z]
        parts = []
        for t in (mpmath.mpf(temperature), mpmath.mpf(1)):
            terms = [mpmath.mpf(0) if x is None else mpmath.exp(x / t) for x in z]
            parts.append([term / sum(terms) for term in terms])
        count = sum(x is not None for x in z)
        parts.append([mpmath.mpf(x is not None) / count for x in z])
        p = [sum(mpmath.mpf(w) * part[k] for w, part in zip(weights, parts, strict=True)) for k in range(len(z))]
        return [float(mpmath.log(x)) if x else -np.inf for x in p]


def test_published_loss_of_ten_classes(shared_data):
    valid, test = densenet.multiclass(shared_data)
    calibrator = fit(valid, "ensemble_temperature")
    assert simulated.nll(calibrator.apply(test)) <= 1.01 * 0.226933
    assert calibrator.certificate.nll_after <= fit(valid, "temperature").certificate.nll_after
    assert calibrator.certificate.converged


def test_published_loss_of_animals_against_machines(shared_data):
    valid, test = densenet.binary(shared_data)
    assert simulated.nll(fit(valid, "ensemble_temperature").apply(test)) <= 0.030754 + 1e-6


@pytest.mark.parametrize("weights", [WEIGHTS, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0)])
@pytest.mark.parametrize("z", [[0.0, 1.0, -2.0], [80.0, 0.0, -500.0], [3.0, -np.inf, 2.0], [1.0, -np.inf, -np.inf]])
def test_it_is_the_mixture_with_60_digits(z, weights):
    calibrator = EnsembleTemperature(2.5, *weights, "multiclass")
    assert calibrator(np.array(z)) == pytest.approx(mixture(z, 2.5, weights), rel=1e-13, abs=2e-16)
    assert calibrator(np.array(z) + 64.0) == pytest.approx(calibrator(np.array(z)), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("z", [-700.0, -40.0, -1.0, 0.0, 0.5, 40.0, 700.0])
def test_a_label_is_a_row_of_two_classes(z):
    no, yes = mixture([0.0, z], 2.5, WEIGHTS)
    assert float(EnsembleTemperature(2.5, *WEIGHTS, "binary")(z)) == pytest.approx(yes - no, rel=1e-13)


def test_infinite_logits_get_their_limits():
    calibrator = EnsembleTemperature(2.0, 0.5, 0.4, 0.1, "binary")
    assert calibrator(np.array([np.inf, -np.inf])) == pytest.approx([np.log(19), -np.log(19)])
    rows = EnsembleTemperature(2.0, 0.5, 0.4, 0.1, "multiclass")
    z = np.array([[np.inf, 0.0, -np.inf], [-np.inf] * 3, [np.nan, 0.0, 1.0]])
    np.testing.assert_allclose(rows(z)[0], [np.log(0.95), np.log(0.05), -np.inf])
    assert (rows(z)[1] == -np.inf).all() and np.isnan(rows(z)[2]).all()


@pytest.mark.parametrize("make", [simulated.multiclass, simulated.binary, simulated.multilabel])
def test_the_weights_are_the_best_beside_the_temperature(make):
    from scipy.optimize import minimize

    outputs = make(3, n=800)
    heavy = np.sign(outputs.scores) * outputs.scores**2  # no single temperature mends this
    outputs = outputs.with_logits(heavy)
    calibrator = fit(outputs, "ensemble_temperature")
    assert calibrator.temperature == fit(outputs, "temperature").temperature
    task = calibrator.task

    def loss(w):
        return simulated.nll(EnsembleTemperature(calibrator.temperature, *(w / w.sum()), task).apply(outputs))

    best = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-9, 1)] * 3, method="L-BFGS-B", options={"ftol": 1e-14})
    assert loss(np.array(calibrator.weights)) <= best.fun + 1e-9
    assert np.array(calibrator.weights) == pytest.approx(best.x / best.x.sum(), abs=2e-3)
    assert calibrator.certificate.nll_after == pytest.approx(loss(np.array(calibrator.weights)), rel=1e-12)
    assert calibrator.certificate.nll_after < fit(outputs, "temperature").certificate.nll_after - 1e-4


def test_rows_that_separate_say_the_bound_of_the_temperature():
    z = np.eye(3)[np.arange(30) % 3]
    calibrator = fit(Outputs(z, "logits", target=np.arange(30) % 3), "ensemble_temperature")
    assert calibrator.certificate.bound == "temperature >= 0.0001" and not calibrator.certificate.converged


@pytest.mark.parametrize("seed", [34, 191])
def test_parts_that_are_nearly_alike_do_not_stop_it(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 60))
    z = rng.standard_t(1.5, size=n) * 10 ** rng.uniform(-3, 3)  # small: as they are, they say nearly nothing
    y = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    certificate = fit(Outputs(z, "logits", target=y), "ensemble_temperature").certificate
    assert certificate.converged and certificate.iterations < 40


@pytest.mark.parametrize("wrong", [(0.5, 0.5, 0.5), (-0.1, 1.1, 0.0), (np.nan, 0.5, 0.5)])
def test_weights_are_on_the_simplex(wrong):
    with pytest.raises(ValueError, match="EnsembleTemperature: three weights"):
        EnsembleTemperature(1.0, *wrong, "binary")
    with pytest.raises(ValueError, match="task is one of"):
        EnsembleTemperature(1.0, 1.0, 0.0, 0.0, "multilabel")
