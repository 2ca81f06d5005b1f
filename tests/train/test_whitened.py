"""L-BFGS in whitened variables: the minimum that scikit-learn and formulas find, whatever dtype, layout or threads."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit, log_softmax, softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

import lastlayer as ll
from lastlayer import parallel
from lastlayer.train import _whitened
from lastlayer.train._passes import Rows
from lastlayer.train._problem import Family, Penalty, Problem


def problem(features, target, outputs, family: Family = "multinomial", l2=1.0, intercept=True):
    n, d = features.shape
    penalty = Penalty(np.full(d, l2), np.zeros(d))
    return Problem(features, target, np.ones(n), None, family, outputs, intercept, penalty)


def drawn(family: Family = "multinomial", n=300, d=12, outputs=5, seed=0, dtype="float64", **options):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(dtype) * 2.0 ** rng.integers(-3, 4, d) + rng.normal(size=d)
    score = (features - features.mean(0)) / features.std(0) @ rng.normal(size=(d, outputs)) / d**0.5
    score += rng.gumbel(size=(n, outputs))
    target = score.argmax(1) if family == "multinomial" else (score > 0.5).astype(float)
    if family == "binary":
        target = target[:, 0]
    return problem(features.astype(dtype), target, outputs, family, **options)


def logits(p, coef, intercept):
    features = p.features.toarray() if hasattr(p.features, "toarray") else p.features
    z = features.astype(float) @ coef.T + intercept
    return z if p.offset is None else z + p.offset.reshape(len(z), -1)


def objective(p, coef, intercept):
    """F from its formula, in float64."""
    z, y = logits(p, coef, intercept), p.target
    if p.family == "multinomial":
        losses = -log_softmax(z, axis=1)[np.arange(len(z)), y]
    else:
        losses = (np.logaddexp(0, z) - y.reshape(z.shape) * z).sum(1)
    return p.weight @ losses + (p.penalty.l2 * np.square(coef)).sum() / 2


def gradient(p, coef, intercept):
    z = logits(p, coef, intercept)
    if p.family == "multinomial":
        slope = softmax(z, axis=1) - np.eye(p.outputs)[p.target]
    else:
        slope = expit(z) - p.target.reshape(z.shape)
    slope *= p.weight[:, None]
    features = p.features.toarray() if hasattr(p.features, "toarray") else p.features
    return slope.T @ features.astype(float) + p.penalty.l2 * coef, slope.sum(0)


@pytest.mark.parametrize("data", [load_iris, load_digits], ids=lambda f: f.__name__)
def test_the_minimum_is_scikit_learns(data):
    features, target = data(return_X_y=True)
    p = problem(features, target, int(target.max()) + 1, l2=10.0)
    fit = _whitened.solve(p, tol=1e-9)
    peer = LogisticRegression(C=0.1, tol=1e-9, solver="newton-cholesky").fit(features, target)
    want = objective(p, peer.coef_, peer.intercept_)
    assert abs(objective(p, fit.coef, fit.intercept) - want) <= 1e-7 * want
    np.testing.assert_allclose(fit.coef, peer.coef_, atol=2e-4)
    assert fit.certificate.converged and not fit.certificate.escapes
    assert fit.certificate.objective == pytest.approx(objective(p, fit.coef, fit.intercept), rel=1e-12)


CASES = {
    "softmax": {},
    "labels": {"family": "multilabel"},
    "binary": {"family": "binary", "outputs": 1},
    "without intercept": {"intercept": False},
    "more than a tile of classes": {"outputs": 40, "n": 400},
    "one feature": {"d": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_gradient_of_the_formula_vanishes(case):
    """With weights, of which some are 0, and an offset for each output."""
    p = drawn(**case)
    rng = np.random.default_rng(1)
    p = replace(p, weight=rng.integers(0, 3, len(p.weight)).astype(float))
    p = replace(p, offset=rng.normal(size=(len(p.weight), p.outputs)))
    fit = _whitened.solve(p, tol=1e-9)
    by_coef, by_intercept = gradient(p, fit.coef, fit.intercept)
    assert np.abs(by_coef / p.features.std(0)).max() <= 1e-7 * p.weight.sum()
    if p.intercept:
        assert np.abs(by_intercept).max() <= 1e-7 * p.weight.sum()
    else:
        assert not fit.intercept.any()


def test_coefficients_of_classes_sum_to_nothing():
    fit = _whitened.solve(drawn())
    np.testing.assert_allclose(fit.coef.sum(0), 0, atol=1e-12)
    assert abs(fit.intercept.sum()) <= 1e-10


def test_another_solver_finds_nothing_below():
    p = drawn(n=80, d=3, outputs=3)
    fit = _whitened.solve(p, tol=1e-9)

    def value(flat):
        table = flat.reshape(3, 4)
        return objective(p, table[:, :3], table[:, 3])

    found = minimize(value, np.zeros(12), method="BFGS", options={"gtol": 1e-8})
    assert fit.certificate.objective <= found.fun * (1 + 1e-10)


def test_the_gap_is_a_bound():
    p = drawn()
    least = _whitened.solve(p, tol=1e-10).certificate.objective
    for most in (2, 5, 10):
        c = _whitened.solve(p, tol=1e-10, most=most).certificate
        assert not c.converged and c.gap is not None and c.objective - least <= c.gap * (1 + 1e-9)


def test_no_gap_without_a_penalty_on_all():
    p = drawn()
    l2 = np.ones(12)
    l2[3] = 0.0
    assert _whitened.solve(replace(p, penalty=Penalty(l2, np.zeros(12)))).certificate.gap is None


@pytest.mark.parametrize("family", ["multinomial", "multilabel"])
def test_sparse_rows_and_other_layouts_are_the_same_rows(family):
    p = drawn(family)
    thin = np.where(np.random.default_rng(2).random(p.features.shape) < 0.4, p.features, 0.0)
    want = _whitened.solve(replace(p, features=thin), tol=1e-9)
    for features in (csr_array(thin), np.asfortranarray(thin)):
        fit = _whitened.solve(replace(p, features=features), tol=1e-9)
        np.testing.assert_allclose(fit.coef, want.coef, atol=1e-6)
        np.testing.assert_allclose(fit.intercept, want.intercept, atol=1e-6)


def test_float32_reaches_its_precision():
    p = drawn(n=2000)
    single = replace(p, features=p.features.astype(np.float32))
    want, fit = _whitened.solve(p, tol=1e-9), _whitened.solve(single)
    assert fit.coef.dtype == np.float64
    np.testing.assert_allclose(fit.coef, want.coef, atol=2e-3 * np.abs(want.coef).max())
    assert objective(p, fit.coef, fit.intercept) <= want.certificate.objective * (1 + 1e-5)


def test_units_of_columns_cost_no_passes():
    p = drawn(l2=1e-9)
    units = 10.0 ** np.linspace(-3, 5, 12)
    plain = _whitened.solve(p, tol=1e-7)
    scaled = _whitened.solve(
        replace(p, features=p.features * units, penalty=Penalty(1e-9 * units**2, np.zeros(12))), tol=1e-7
    )
    np.testing.assert_allclose(scaled.coef * units, plain.coef, atol=1e-4 * np.abs(plain.coef).max())
    assert scaled.certificate.passes <= 1.3 * plain.certificate.passes + 3


def test_a_start_at_the_minimum_ends_there():
    p = drawn()
    fit = _whitened.solve(p, tol=1e-8)
    again = _whitened.solve(p, (fit.coef, fit.intercept), tol=1e-7)
    assert again.certificate.passes == 1 and again.certificate.converged


def test_a_minimum_at_infinity_is_told():
    x = np.linspace(-1, 1, 40)[:, None]
    fit = _whitened.solve(problem(x, (x[:, 0] > 0).astype(int), 2, l2=0.0))
    assert not fit.certificate.converged


def test_constant_columns_and_copies_take_no_part():
    p = drawn()
    more = np.column_stack([p.features, np.full(300, 0.1), p.features[:, 0]])
    fit = _whitened.solve(replace(p, features=more, penalty=Penalty(np.ones(14), np.zeros(14))), tol=1e-9)
    assert np.abs(fit.coef[:, 12]).max() <= 1e-6
    np.testing.assert_allclose(fit.coef[:, 0], fit.coef[:, 13], atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_threads_change_no_bit(monkeypatch, sparse):
    p = drawn(n=9000, dtype="float32")
    p = replace(p, features=csr_array(p.features)) if sparse else p
    want = _whitened.solve(p, tol=1e-3)
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "workers", lambda threads=threads: threads)
        monkeypatch.setattr(parallel, "_pool", None)
        fit = _whitened.solve(p, tol=1e-3)
        assert fit.coef.tobytes() == want.coef.tobytes() and fit.intercept.tobytes() == want.intercept.tobytes()


KINDS = [
    (family, outputs, dtype, sparse)
    for family in ("multinomial", "multilabel")
    for outputs in (3, 11, 40)
    for dtype in ("float32", "float64")
    for sparse in (False, True)
]


@pytest.mark.parametrize(("family", "outputs", "dtype", "sparse"), KINDS)
def test_kernels_equal_their_formulas(family, outputs, dtype, sparse):
    """Every row of the table that a pass uses; far logits, ties and odd numbers of rows among them."""
    p = drawn(family, n=517, d=21, outputs=outputs, dtype=dtype)
    p.features[:3] *= 50
    p.features[3] = 0
    p = replace(p, features=csr_array(p.features)) if sparse else p
    p = replace(p, weight=np.random.default_rng(3).random(517))
    rows = Rows(p, np.linspace(-1, 1, 21))
    table = np.random.default_rng(4).normal(size=(22, outputs)).astype(dtype)
    found = rows.sums(table)
    with ll.formulas():
        want = rows.sums(table)
    room = 1e-5 if dtype == "float32" else 1e-12
    for a, b in zip(found, want, strict=True):
        assert np.abs(a - b).max() <= room * np.abs(b).max()
    free, coef = replace(p, penalty=Penalty(np.zeros(21), np.zeros(21))), table[:-1].T.astype(float)
    assert found.loss == pytest.approx(objective(free, coef, table[-1] - rows.centre @ table[:-1]), rel=room)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("family", ["multinomial", "multilabel"])
@pytest.mark.parametrize(("dtype", "room"), [("float32", 1e-5), ("float64", 1e-12)])
def test_blocks_of_wide_rows_and_their_offsets_equal_the_formula(family, dtype, room, order):
    """Several blocks and ranges, an odd one at the end; seven classes are five and two."""
    rng = np.random.default_rng(0)
    p = drawn(family, n=4300, d=1003, outputs=7, dtype=dtype)
    p = replace(p, features=np.asarray(p.features, order=order), offset=rng.normal(size=(4300, 7)))
    rows, table = Rows(p, p.features.mean(0)), (0.02 * rng.normal(size=(1004, 7))).astype(dtype)
    found = rows.sums(table)
    with ll.formulas():
        want = rows.sums(table)
    for a, b in zip(found, want, strict=True):
        assert np.abs(a - b).max() <= room * np.abs(b).max()
    assert found.loss != pytest.approx(Rows(replace(p, offset=None), rows.centre).sums(table).loss, rel=0.01)


def test_no_table_of_rows_by_classes_is_ever_there():
    p = drawn(n=60_000, d=20, outputs=100, dtype="float32")
    _whitened.solve(p, most=3)
    tracemalloc.start()
    _whitened.solve(p, most=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000 * 100 * 4 * (0.2 + parallel.workers())


def test_many_classes_begin_with_their_discriminants():
    """The first two points cost a pass each; the second is most of the way, and the minimum is the same."""
    rng = np.random.default_rng(3)
    centre, target = rng.normal(size=(40, 20)), rng.integers(0, 40, 2000)
    p = problem(centre[target] + 0.5 * rng.normal(size=(2000, 20)), target, 40)
    function = _whitened.Function(p)
    flat = function(function.inward(None))
    here, passes = _whitened.begun(function, None)
    assert passes == 2 and here.value < flat.value / 2
    zero = np.zeros((40, 20)), np.zeros(40)
    early, late = (_whitened.solve(p, start, most=5).certificate.objective for start in (None, zero))
    fit, again = (_whitened.solve(p, start, tol=1e-9) for start in (None, zero))
    assert early - again.certificate.objective < (late - again.certificate.objective) / 2
    np.testing.assert_allclose(fit.coef, again.coef, atol=1e-6)
    noise = problem(rng.normal(size=(2000, 20)), target, 40)  # nothing to tell classes by
    function = _whitened.Function(noise)
    assert _whitened.begun(function, None)[0].value == function(function.inward(None)).value


def test_a_class_whose_penalty_outweighs_its_curvature_takes_no_step_beyond_it():
    """A whitening of all classes, times how much less the curvature of one is, went thousands of times too far."""
    features = np.random.default_rng(0).normal(size=(500, 6))
    function = _whitened.Function(problem(features, np.arange(500) % 3, 3, l2=4.0))
    here = function(function.inward(None))
    found = function.step(here._replace(bend=np.array([1e-9, 0.2, 0.2])))(np.ones_like(here.at))
    np.testing.assert_allclose(found[:-1, 0], 1 / 4.0, rtol=0.5)
