"""Newton's method within bounds against scipy's bounded least squares and quadratic problems solved by hand."""

import numpy as np
import pytest

from lastlayer.calibrate._bounded_newton import Sums, minimise


def quadratic(matrix, target):
    """Half the squared distance of ``matrix @ x`` from ``target``."""

    def sums(x):
        rest = matrix @ x - target
        terms = matrix * rest[:, None]
        return Sums(float(rest @ rest / 2), terms.sum(0), np.abs(terms).sum(0), matrix.T @ matrix)

    return sums


@pytest.mark.parametrize("seed", range(20))
def test_bounded_least_squares(seed):
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(12, 5)), rng.normal(size=12)
    lower = np.r_[-np.inf, np.zeros(3), 0.1]
    best = minimise(quadratic(matrix, target), np.ones(5), lower)
    assert best.parameters == pytest.approx(lsq_linear(matrix, target, (lower, np.inf), method="bvls").x, abs=1e-9)
    assert best.converged and best.gradient <= 1e-10
    assert (best.parameters[best.held] == lower[best.held]).all()


def test_two_parameters_that_are_alike_do_not_zigzag():
    rng = np.random.default_rng(0)
    column = rng.normal(size=50)
    matrix = np.stack([column, column + 1e-7 * rng.normal(size=50), rng.normal(size=50)], 1)
    best = minimise(quadratic(matrix, matrix @ [0.3, 0.7, -1.0]), np.full(3, 1 / 3), np.zeros(3))
    assert best.converged and best.passes < 20
    target = column + 0.1 * rng.normal(size=50)
    same = minimise(quadratic(matrix[:, [0, 0]], target), np.array([0.9, 0.0]), np.zeros(2))
    assert same.converged and same.parameters.sum() == pytest.approx(column @ target / (column @ column), abs=1e-9)


def test_a_start_below_the_bounds_is_lifted_to_them():
    best = minimise(quadratic(np.eye(2), np.array([-1.0, 2.0])), np.full(2, -5.0), np.zeros(2))
    assert best.parameters == pytest.approx([0.0, 2.0]) and best.held.tolist() == [True, False]


def test_steps_that_overshoot_are_halved():
    def sums(x):  # log cosh, whose Newton step from 3 lands at -97
        slope, bend = np.tanh(x), 1 / np.cosh(x) ** 2
        return Sums(float(np.log(np.cosh(x)).sum()), slope - 0.1, np.abs(slope) + 0.1, np.diag(bend))

    def tilted(x):
        plain = sums(x)
        return plain._replace(loss=plain.loss - 0.1 * float(x.sum()))

    best = minimise(tilted, np.array([3.0]), np.array([-np.inf]))
    assert best.converged and best.parameters == pytest.approx([np.arctanh(0.1)])
    assert best.passes < 40
