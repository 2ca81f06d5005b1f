"""Newton's method by streamed products: the minimum of `_whitened`, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from lastlayer.train import _hessian_free, _solve, _whitened
from lastlayer.train._problem import Penalty, Problem


def drawn(n=400, d=10, classes=6, dtype="float64", intercept=True):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, d)) + rng.normal(size=d)
    target = (features @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))).argmax(1)
    weight = rng.uniform(0.5, 2, n)
    penalty = Penalty(np.linspace(0.5, 2, d), np.zeros(d))
    return Problem(features.astype(dtype), target, weight, None, "multinomial", classes, intercept, penalty)


@pytest.mark.parametrize("intercept", [True, False])
def test_both_solvers_end_at_one_minimum(intercept):
    p = drawn(intercept=intercept)
    want, fit = (solver.solve(p, tol=1e-9) for solver in (_whitened, _hessian_free))
    np.testing.assert_allclose(fit.coef, want.coef, atol=1e-6)
    np.testing.assert_allclose(fit.intercept, want.intercept, atol=1e-6)
    assert fit.certificate.converged and fit.certificate.solver == "hessian-free"
    assert fit.certificate.objective == pytest.approx(want.certificate.objective, rel=1e-12)


def test_it_has_the_problems_whose_pairs_of_steps_are_too_large(monkeypatch):
    monkeypatch.setattr(_solve, "NEWTON", 10)
    monkeypatch.setattr(_solve, "PAIRS", 20)
    p = drawn()
    assert _solve.solve(p).certificate.solver == "hessian-free"
    assert _solve.solve(replace(p, features=csr_array(p.features))).certificate.solver != "hessian-free"
    monkeypatch.setattr(_solve, "PAIRS", 2**23)
    assert _solve.solve(p).certificate.solver != "hessian-free"


def test_float32_and_a_start():
    p = drawn(dtype="float32")
    want = _hessian_free.solve(drawn(), tol=1e-9)
    fit = _hessian_free.solve(p)
    np.testing.assert_allclose(fit.coef, want.coef, atol=1e-3)
    assert _hessian_free.solve(p, (want.coef, want.intercept), tol=1e-4).certificate.passes <= 60


def test_a_budget_of_passes_is_kept():
    certificate = _hessian_free.solve(drawn(), tol=1e-12, most=7).certificate
    assert certificate.passes <= 9 and not certificate.converged


def test_what_it_is_not_made_for_is_refused():
    p = drawn()
    labels = replace(p, family="multilabel", target=np.eye(6)[p.target])
    for other in (labels, replace(p, features=csr_array(p.features)), replace(p, offset=np.zeros((400, 6)))):
        with pytest.raises(ValueError, match=r"_whitened\.solve has all"):
            _hessian_free.solve(other)
