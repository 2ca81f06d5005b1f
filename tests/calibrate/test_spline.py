"""The monotone spline against scipy's solver on the same penalised likelihood, and what it recovers."""

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate._binary import BinaryScores, Runs
from lastlayer.calibrate._bounded_newton import minimise
from lastlayer.calibrate.rows import Rows
from lastlayer.calibrate.spline import Basis, Spline, _likelihood


def bent(seed, n, bend):
    """Binary logits that were put through a rising function."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=n)
    return Outputs(bend(z), "logits", target=(z + rng.logistic(size=n) > 0).astype(int)), z


def excess(calibrator, bend, seed=99):
    """Mean loss on fresh rows above that of the true log-odds."""
    fresh, truth = bent(seed, 50000, bend)
    return simulated.nll(calibrator.apply(fresh)) - simulated.nll(fresh.with_logits(truth))


def test_published_losses(shared_data):
    valid, test = densenet.binary(shared_data)
    assert simulated.nll(fit(valid, "spline").apply(test)) <= 0.030151
    valid, test = densenet.multiclass(shared_data)
    assert simulated.nll(fit(valid, "spline").apply(test)) <= 0.2251  # CalArena 0.234539


@pytest.mark.parametrize("bend", [lambda z: 4 * np.tanh(z / 2), lambda z: z + z**3 / 4])
def test_a_bent_curve_is_straightened(bend):
    outputs, _ = bent(0, 5000, bend)
    calibrator = fit(outputs, "spline")
    assert excess(calibrator, bend) < 0.004 < excess(fit(outputs, "platt"), bend)
    assert calibrator.certificate.converged


def test_a_straight_one_stays_a_line():
    outputs = simulated.binary(0, n=1000, temperature=2.0)
    calibrator, line = fit(outputs, "spline"), fit(outputs, "platt")
    z = np.linspace(-10, 10, 9)
    assert calibrator(z) == pytest.approx(line(z), abs=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_the_curve_never_falls(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=300)
    y = (np.abs(z) > rng.exponential(size=300)).astype(int)  # falls, then rises
    calibrator = fit(Outputs(z, "logits", target=y), "spline")
    curve = calibrator(np.linspace(-5, 5, 2001))
    assert (np.diff(curve) >= -1e-12).all()
    assert calibrator.certificate.converged or calibrator.certificate.bound is not None


def test_between_and_beyond_the_knots_it_is_the_cubic_and_its_lines():
    from scipy.interpolate import CubicHermiteSpline

    knots, values, slopes = [-1.0, 0.5, 2.0], [-2.0, 0.0, 0.5], [0.5, 1.0, 0.0]
    calibrator = Spline(knots, values, slopes)
    inside = np.linspace(-1, 2, 31)
    assert calibrator(inside) == pytest.approx(CubicHermiteSpline(knots, values, slopes)(inside), rel=1e-12, abs=1e-12)
    assert calibrator(np.array([-3.0, 5.0])) == pytest.approx([-3.0, 0.5])
    assert calibrator(np.array([-np.inf, np.inf, np.nan])) == pytest.approx([-np.inf, 0.5, np.nan], nan_ok=True)


def test_the_basis_is_a_natural_line_and_its_roughness_an_integral():
    from scipy.integrate import quad

    basis = Basis(np.array([-2.0, -0.5, 0.0, 1.5, 4.0]))
    line = basis.line(0.7, -0.2)
    z = np.array([-9.0, -2.0, -1.0, 0.0, 3.0, 4.0, 11.0])
    coefficients, four = np.cumsum(line), basis.interval(z) + np.arange(4)[:, None]
    assert (coefficients[four] * basis.at(z)).sum(0) == pytest.approx(0.7 * z - 0.2, rel=1e-12)
    assert line @ basis.roughness() @ line == pytest.approx(0, abs=1e-12)
    theta = np.random.default_rng(0).normal(size=basis.size)

    def bend(x):
        return float(np.cumsum(theta) @ basis.derivatives(np.array([x]), 2)[:, 0]) ** 2

    pieces = sum(quad(bend, a, b)[0] for a, b in zip(basis.knots[:-1], basis.knots[1:], strict=True))
    assert theta @ basis.roughness() @ theta == pytest.approx(pieces, rel=1e-8)


def test_the_sums_of_a_pass_are_the_derivatives_of_its_loss():
    outputs = simulated.binary(0, n=200)
    runs = Runs.of(BinaryScores.of(Rows.of(outputs)))
    basis = Basis(np.quantile(outputs.scores, [0.1, 0.3, 0.6, 0.9]))
    sums = _likelihood(basis, runs)
    theta = basis.line(0.8, 0.1) + 0.1 * np.random.default_rng(1).uniform(size=basis.size)
    here, step = sums(theta), 1e-6
    for k, unit in enumerate(np.eye(basis.size)):
        ahead, behind = sums(theta + step * unit), sums(theta - step * unit)
        assert here.gradient[k] == pytest.approx((ahead.loss - behind.loss) / (2 * step), rel=1e-6, abs=1e-6)
        assert here.curvature[k] == pytest.approx((ahead.gradient - behind.gradient) / (2 * step), rel=1e-5, abs=1e-5)
    free = minimise(sums, theta, np.r_[-np.inf, np.zeros(basis.size - 1)])
    assert free.converged and free.loss <= here.loss


def test_rows_that_separate_get_the_line_of_platt_and_say_so():
    z = np.r_[np.arange(10.0), np.arange(20.0, 30.0)]
    outputs = Outputs(z, "logits", target=z > 15)
    calibrator, line = fit(outputs, "spline"), fit(outputs, "platt")
    assert calibrator.certificate.bound == line.certificate.bound and not calibrator.certificate.converged
    assert calibrator(np.array([-5.0, 14.5, 40.0])) == pytest.approx(line(np.array([-5.0, 14.5, 40.0])), abs=1e-6)


def test_one_score_for_all_rows_gets_the_base_rate():
    calibrator = fit(Outputs(np.full(20, 3.0), "logits", target=np.arange(20) % 4 == 0), "spline")
    assert float(calibrator(3.0)) == pytest.approx(np.log(5 / 15))


@pytest.mark.parametrize(
    "wrong",
    [
        ([0.0], [0.0], [1.0]),
        ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]),
        ([0.0, 1.0], [1.0, 0.0], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0], [1.0, -1.0]),
    ],
)
def test_a_curve_rises(wrong):
    with pytest.raises(ValueError, match="Spline: two knots"):
        Spline(*wrong)
