"""The sums of an affine fit against finite differences and plain formulas, and its minimiser on what is known."""

import functools

import numpy as np
import pytest
from scipy.optimize import minimize

from calibrate import simulated
from lastlayer import Outputs, formulas
from lastlayer._convex import minimise
from lastlayer.calibrate import _affine_fit
from lastlayer.calibrate._affine_features import KINDS, Block
from lastlayer.calibrate._affine_fit import Objective, Penalty, Sums, fit, shortest
from lastlayer.calibrate._affine_structure import Diagonal, Full, Shared
from lastlayer.calibrate.rows import Rows

STRUCTURES = {"shared": Shared(), "diagonal": Diagonal(), "full": Full()}


def dirty(seed=0, n=60, classes=4, soft=False):
    """Rows with masked classes, weights, and targets that are indices or distributions."""
    rng = np.random.default_rng(seed)
    z = 3 * rng.normal(size=(n, classes))
    z[: n // 4, 2] = -np.inf
    y = rng.integers(0, classes, n)
    y[: n // 4] = rng.integers(0, 2, n // 4)
    q = rng.dirichlet(np.ones(classes), n)
    q[: n // 4, 2] = 0.0
    weight = rng.uniform(0.1, 3.0, n)
    return Rows.of(Outputs(z, "logits", target=q / q.sum(1, keepdims=True) if soft else y, weight=weight))


def parameters_of(name, classes, seed=1):
    sizes = {"shared": 1 + classes, "diagonal": 2 * classes, "full": classes * (classes + 1)}
    return np.random.default_rng(seed).normal(size=sizes[name])


def plain_loss(name, parameters, rows, kind, temperature):
    """The mean loss from the definition."""
    z = rows.logits / temperature
    masked = np.isneginf(z)
    shift = np.log(np.exp(z).sum(1)) if kind == "log_softmax" else np.where(masked, 0, z).sum(1) / (~masked).sum(1)
    x = np.where(masked, 0.0, z - shift[:, None])
    classes = z.shape[1]
    if name == "full":
        table = parameters.reshape(classes, classes + 1)
        u = x @ table[:, :-1].T + table[:, -1]
    elif name == "diagonal":
        u = x * parameters[:classes] + parameters[classes:]
    else:
        u = x * parameters[0] + parameters[1:]
    u = np.where(masked, -np.inf, u)
    q = rows.target if rows.target.ndim == 2 else np.eye(classes)[rows.target]
    losses = np.log(np.exp(u).sum(1)) - np.where(q > 0, q * np.where(masked, 0.0, u), 0.0).sum(1)
    return np.average(losses, weights=rows.weight)


def objective(rows, structure, penalty, kind="centred", temperature=1.3):
    def over_blocks(work, merge):
        return functools.reduce(merge, [work(Block.of(rows, kind, temperature))])

    return Objective(over_blocks, structure, penalty)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_value_gradient_and_hessian_are_derivatives(name, kind, soft):
    rows, parameters = dirty(soft=soft), parameters_of(name, 4)
    rng = np.random.default_rng(2)
    penalty = Penalty(rng.uniform(0, 0.3, parameters.shape), rng.normal(size=parameters.shape))

    def value(p):
        return plain_loss(name, p, rows, kind, 1.3) + penalty.strength @ (p - penalty.centre) ** 2

    function = objective(rows, STRUCTURES[name], penalty, kind)
    point = function(parameters)
    assert point.exact
    assert point.loss == pytest.approx(plain_loss(name, parameters, rows, kind, 1.3), rel=1e-12)
    assert point.value == pytest.approx(value(parameters), rel=1e-12)
    steps = 1e-5 * np.eye(len(parameters))
    slopes = [(value(parameters + h) - value(parameters - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(point.gradient, slopes, atol=2e-9)
    hessian = np.array([(function(parameters + h).gradient - function(parameters - h).gradient) / 2e-5 for h in steps])
    vector = rng.normal(size=len(parameters))
    np.testing.assert_allclose(hessian @ point.step(vector), vector, atol=1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_blocks_are_those_of_the_hessian(name):
    """What the guess of the inverse is made of: the Hessian without what stands between classes."""
    block, parameters, structure = Block.of(dirty(), "centred", 1.0), parameters_of(name, 4), STRUCTURES[name]
    *same, hessian = structure.sums(block, parameters, "hessian")
    *found, blocks = structure.sums(block, parameters, "blocks")
    for a, b in zip(same, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    if name == "full":
        for k in range(4):
            own = slice(5 * k, 5 * k + 5)
            np.testing.assert_allclose(blocks[k], hessian[own, own], atol=0.05 * np.abs(hessian[own, own]).max())
        return
    if name == "shared":
        hessian = Diagonal().sums(block, np.append(np.full(4, parameters[0]), parameters[1:]), "hessian")[2]
    i = np.arange(4)
    np.testing.assert_allclose(blocks, [hessian[i, i], hessian[i, i + 4], hessian[i + 4, i + 4]], rtol=1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
def test_solver_inverts_its_blocks(name):
    block, parameters, structure = Block.of(dirty(), "centred", 1.0), parameters_of(name, 4), STRUCTURES[name]
    blocks = structure.sums(block, parameters, "blocks")[2]
    ridge, vector = np.linspace(0.1, 1.0, len(parameters)), np.random.default_rng(0).normal(size=len(parameters))
    step = structure.solver(blocks, ridge)(vector)
    if name == "full":
        whole = np.zeros((20, 20))
        for k in range(4):
            whole[5 * k : 5 * k + 5, 5 * k : 5 * k + 5] = blocks[k]
    else:
        whole = np.block([[np.diag(blocks[0]), np.diag(blocks[1])], [np.diag(blocks[1]), np.diag(blocks[2])]])
    if name == "shared":
        expand = np.zeros((8, 5))
        expand[:4, 0] = 1.0
        expand[4:, 1:] = np.eye(4)
        whole = expand.T @ whole @ expand
    np.testing.assert_allclose((whole + np.diag(ridge)) @ step, vector, atol=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
def test_sums_merge_in_any_cut_and_order(name):
    rows, parameters, structure = dirty(n=100), parameters_of(name, 4), STRUCTURES[name]
    whole = Sums.of(Block.of(rows, "centred", 1.0), structure, parameters, "hessian")
    shards = [Block.of(rows.take(slice(i, None, 5)), "centred", 1.0) for i in (3, 1, 4, 0, 2)]
    merged = functools.reduce(Sums.merge, [Sums.of(shard, structure, parameters, "hessian") for shard in shards])
    for key, value in whole.arrays().items():
        np.testing.assert_allclose(getattr(merged, key), value, rtol=1e-11, atol=1e-11 * np.abs(value).max())
    assert Sums.from_bytes(whole.to_bytes()).normaliser == whole.normaliser


@pytest.mark.parametrize("name", STRUCTURES)
def test_both_ways_of_descent_end_where_scipy_does(name, monkeypatch):
    rows, start = dirty(n=300), parameters_of(name, 4)
    penalty = Penalty(np.full(start.shape, 0.01), np.zeros(start.shape))

    def value(p):
        return plain_loss(name, p, rows, "centred", 1.0) + penalty.strength @ p**2

    peer = minimize(value, start, method="BFGS", options={"gtol": 1e-7})
    newton = fit(rows, "centred", 1.0, STRUCTURES[name], penalty, start)
    monkeypatch.setattr(_affine_fit, "EXACT", 0)
    quasi = fit(rows, "centred", 1.0, STRUCTURES[name], penalty, start)
    for found in (newton, quasi):
        assert found.minimum.converged and found.minimum.gradient <= 1e-10
        np.testing.assert_allclose(found.parameters, peer.x, atol=1e-4)
        assert value(found.parameters) <= peer.fun + 1e-10
    assert newton.minimum.passes <= 20
    np.testing.assert_allclose(newton.parameters, quasi.parameters, atol=1e-7)


def test_kernel_and_formula_end_alike(monkeypatch):
    rows = Rows.of(simulated.multiclass(0, n=400, classes=5))
    monkeypatch.setattr(_affine_fit, "EXACT", 0)
    start = np.repeat([1.0, 0.0], 5)
    free = Penalty(0 * start, start)
    kernel = fit(rows, "centred", 1.0, Diagonal(), free, start).parameters
    with formulas():
        formula = fit(rows, "centred", 1.0, Diagonal(), free, start).parameters
    for found in (kernel, formula):
        found[5:] -= found[5:].mean()
    np.testing.assert_allclose(kernel, formula, atol=1e-8)


def test_blocks_of_too_many_classes_are_diagonals(monkeypatch):
    monkeypatch.setattr("lastlayer.calibrate._affine_structure.CLASSES_WITH_BLOCKS", 2)
    monkeypatch.setattr(_affine_fit, "EXACT", 0)
    rows, start = dirty(n=300), parameters_of("full", 4)
    penalty = Penalty(np.full(start.shape, 0.1), np.zeros(start.shape))
    coarse = fit(rows, "centred", 1.0, Full(), penalty, start)
    monkeypatch.setattr("lastlayer.calibrate._affine_structure.CLASSES_WITH_BLOCKS", 150)
    fine = fit(rows, "centred", 1.0, Full(), penalty, start)
    assert coarse.minimum.converged and coarse.minimum.passes > fine.minimum.passes
    np.testing.assert_allclose(coarse.parameters, fine.parameters, atol=1e-7)


def test_large_data_are_prepared_again_in_every_pass(monkeypatch):
    rows, start = dirty(n=300), parameters_of("diagonal", 4)
    penalty = Penalty(np.full(start.shape, 0.01), np.zeros(start.shape))
    whole = fit(rows, "centred", 1.0, Diagonal(), penalty, start).parameters
    monkeypatch.setattr(_affine_fit, "KEPT_IN_MEMORY", 0)
    monkeypatch.setattr(_affine_fit, "TILE", 100)
    np.testing.assert_allclose(fit(rows, "centred", 1.0, Diagonal(), penalty, start).parameters, whole, atol=1e-9)


def test_the_shortest_step_leaves_alone_what_changes_nothing():
    hessian = np.array([[2.0, -2.0], [-2.0, 2.0]])
    np.testing.assert_allclose(shortest(hessian, np.array([4.0, -4.0])), [1.0, -1.0])


class Bowl:
    """``sum softplus(x) - x / 4`` in several variables, with a guess of the inverse Hessian that is far off."""

    scale, exact = 1.0, False

    def __init__(self, at):
        self.at = at
        with np.errstate(over="ignore"):
            self.value = float(np.logaddexp(0, at).sum() - at.sum() / 4)
            self.gradient = 1 / (1 + np.exp(-at)) - 0.25

    def step(self, vector):
        return 1e3 * vector * np.linspace(0.1, 1.0, len(vector))


def test_a_bad_guess_and_a_far_start_are_mended():
    found = minimise(Bowl, np.linspace(-30.0, 40.0, 7))
    np.testing.assert_allclose(found.point.at, np.log(1 / 3), atol=1e-8)
    assert found.gradient <= 1e-10 and found.passes < 200


class Slope(Bowl):
    """``exp(-x)``: it falls for ever, and its Newton steps are all 1."""

    exact = True

    def __init__(self, at):
        self.at, self.value, self.gradient = at, float(np.exp(-at).sum()), -np.exp(-at)

    def step(self, vector):
        return vector / np.exp(-self.at)


def test_a_minimum_at_infinity_is_told_from_one_that_is_reached():
    found = minimise(Slope, np.zeros(2))
    assert found.escapes and not found.converged and found.gradient <= 1e-10
    assert 20 < found.point.at[0] < 30
