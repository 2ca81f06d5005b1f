"""One versus rest: log-odds with 60 digits, probabilities over their sum, and rows with masked classes."""

import mpmath
import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate.beta import Beta
from lastlayer.calibrate.one_versus_rest import OneVersusRest, odds_of_each
from lastlayer.calibrate.platt import Platt

SAME = {name: Platt(1.0, 0.0) for name in "abc"}


@pytest.mark.parametrize(
    "z", [[0.0, 1.0, -2.0], [40.0, 0.0, -500.0], [3.0, -np.inf, 2.0], [2.0, 2.0, -1.0], [900.0, 0.0, -5.0]]
)
def test_log_odds_of_every_class_with_60_digits(z):
    with mpmath.workdps(400):
        wanted = []
        for k, x in enumerate(z):
            rest = sum(mpmath.exp(mpmath.mpf(y)) for i, y in enumerate(z) if i != k and y > -np.inf)
            wanted.append(float(mpmath.mpf(x) - mpmath.log(rest)) if x > -np.inf else -np.inf)
    assert odds_of_each(np.array(z)) == pytest.approx(wanted, rel=1e-14, abs=2e-16)


def test_calibrators_that_change_nothing_change_nothing():
    z = np.random.default_rng(0).normal(size=(50, 3)) * 10
    logp = z - np.logaddexp.reduce(z, axis=1)[:, None]
    assert OneVersusRest(SAME)(z) == pytest.approx(logp, rel=1e-12, abs=1e-14)
    assert OneVersusRest(SAME)(z + 1024.0) == pytest.approx(logp, rel=1e-10, abs=1e-12)


def test_probabilities_are_over_their_sum():
    parts = {"a": Platt(0.5, 1.0), "b": Beta(2.0, 0.5, 0.0), "c": Platt(2.0, -1.0)}
    z = np.array([1.0, 0.0, -1.0])
    p = np.exp(z) / np.exp(z).sum()
    odds = np.log(p / (1 - p))
    each = 1 / (1 + np.exp(-np.array([part(o) for part, o in zip(parts.values(), odds, strict=True)])))
    calibrated = OneVersusRest(parts)(z)
    assert np.exp(calibrated) / np.exp(calibrated).sum() == pytest.approx(each / each.sum())


def test_masked_lone_empty_and_broken_rows():
    calibrator = OneVersusRest({name: Platt(0.5, 1.0) for name in "abc"})
    z = np.array([[1.0, -np.inf, 2.0], [-np.inf, 5.0, -np.inf], [-np.inf] * 3, [np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0]])
    y = calibrator(z)
    assert np.isfinite(y[0]).tolist() == [True, False, True] and y[0, 1] == -np.inf
    assert y[1].tolist() == [-np.inf, 0, -np.inf] and y[4].tolist() == [0, -np.inf, -np.inf]
    assert (y[2] == -np.inf).all() and np.isnan(y[3]).all()


def test_rows_where_a_class_is_masked_are_not_in_its_fit():
    outputs = simulated.multiclass(0, n=400, classes=3, temperature=2.0)
    z, off = outputs.scores.copy(), (np.arange(400) < 100) & (outputs.target != 2)
    z[off, 2] = -np.inf
    calibrator = fit(Outputs(z, "logits", target=outputs.target), "beta")
    odds = odds_of_each(z)[:, 2]
    alone = fit(Outputs(odds[~off], "logits", target=(outputs.target[~off] == 2).astype(int)), "beta")
    assert calibrator.parts["2"].parameters == pytest.approx(alone.parameters, rel=1e-9)


def test_groups_of_classes_are_only_a_way_of_cutting(monkeypatch):
    outputs = simulated.multiclass(1, n=300, classes=5)
    whole = fit(outputs, "isotonic")
    monkeypatch.setattr("lastlayer.calibrate.one_versus_rest.GROUP", 600)
    assert fit(outputs, "isotonic").parameters == whole.parameters


def test_a_bound_is_named_with_its_class():
    z = np.random.default_rng(0).normal(size=(300, 3))
    z[:, 2] = np.where(np.arange(300) < 100, 50.0, -50.0)
    y = np.where(np.arange(300) < 100, 2, np.random.default_rng(1).integers(0, 2, 300))
    calibrator = fit(Outputs(z, "logits", target=y), "beta")
    assert calibrator.certificate.bound.startswith("2: a <=") and not calibrator.certificate.converged


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"one_versus_rest: fitted on 3 classes; these logits are \(2, 4\)"):
        OneVersusRest(SAME)(np.zeros((2, 4)))
