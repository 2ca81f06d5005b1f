"""Separation against constructions whose answer is known, and against firthmodels' program."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.special import expit

from lastlayer._check import DataError
from lastlayer.train import FirthClassifier, LinearClassifier, separation
from lastlayer.train._problem import Penalty, Problem
from lastlayer.train._solve import solve
from lastlayer.train.separation import refuse_separated, separated


def noise(n=400, d=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 2.0
    return x, (rng.random(n) < expit(x @ np.linspace(-1, 1, d))).astype(int)


def with_marker(x, y, share=0.1, seed=1):
    """One more column, 1 in some rows of the second class alone."""
    marker = (np.random.default_rng(seed).random(len(y)) < share) & (y == 1)
    return np.column_stack([x, marker]), marker


@pytest.mark.parametrize("n", [60, 400, 5000])
def test_overlap_is_none(n):
    found = separation(*noise(n))
    assert not found and found.kind == "none" and found.columns == () and not found.rows.any()
    assert "finite" in str(found)


@pytest.mark.parametrize("n", [400, 5000])
def test_a_marker_of_one_class_is_quasi_complete(n):
    x, y = noise(n)
    table, marker = with_marker(x, y)
    found = separation(pd.DataFrame(table, columns=[*"abcd", "marker"]), y)
    assert found.kind == "quasi-complete" and found.columns == ("marker",)
    assert (found.rows == marker).all()
    assert (found.coef[0, :4] == 0).all() and found.coef[0, 4] > 0
    assert "marker separates" in str(found) and "quasi-complete" in str(found)


def test_two_columns_that_separate_completely():
    x, _ = noise()
    y = (x[:, 1] - 2 * x[:, 3] > -2).astype(int)
    found = separation(x, y)
    assert found.kind == "complete" and found.columns == ("x1", "x3") and found.rows.all()
    scores = x @ found.coef[0]
    assert scores[y == 1].min() > scores[y == 0].max()


def test_one_border_row_makes_it_quasi_complete():
    x = np.array([[0.0], [1.0], [2.0], [2.0], [3.0]])
    assert separation(x, [0, 0, 0, 1, 1]).kind == "quasi-complete"
    assert separation(x, [0, 0, 1, 1, 1]).kind == "complete"
    assert separation(x, [0, 0, 1, 0, 1]).kind == "quasi-complete"
    assert separation(x, [0, 1, 0, 0, 1]).kind == "none"


def test_an_intercept_matters():
    """Without one a border must go through 0."""
    x = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert separation(x, [0, 0, 1, 1]).kind == "complete"
    assert separation(x, [0, 0, 1, 1], fit_intercept=False).kind == "none"
    assert separation(x - 2.5, [0, 0, 1, 1], fit_intercept=False).kind == "complete"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e7])
def test_units_change_nothing(scale):
    x, y = noise()
    table, marker = with_marker(x, y)
    units = np.array([1.0, scale, 1.0, 1.0, scale])
    found, sparse = separation(table * units, y), separation(csr_array(table * units), y)
    assert found.columns == sparse.columns == ("x4",) and (found.rows == marker).all()
    assert not separation(x * units[:4], y)
    apart = (x[:, 1] - 2 * x[:, 3] > -2).astype(int)
    scores = (x * units[:4]) @ separation(x * units[:4], apart).coef[0]
    assert scores[apart == 1].min() > scores[apart == 0].max()


def test_several_classes_and_labels():
    x, _ = noise()
    y = np.random.default_rng(3).integers(0, 3, 400)
    table, marker = with_marker(x, (y == 2).astype(int))
    assert not separation(x, y)
    found = separation(table, y)
    assert (found.kind, found.columns, found.outputs) == ("quasi-complete", ("x4",), ("2",))
    assert (found.rows == marker).all()
    labels = separation(table, np.eye(3, dtype=int)[y])
    assert labels.columns == ("x4",) and (np.sign(labels.coef[:, 4]) == [-1, -1, 1]).all()
    assert separation(x, np.digitize(x[:, 2], [1.0, 2.0, 3.0])).columns == ("x2",)


def test_grades_are_separated_by_one_score():
    x, _ = noise()
    grades = np.digitize(x[:, 2], [1.0, 2.0, 3.0])
    found = separation(x, grades, ordinal=True)
    assert found.kind == "complete" and found.columns == ("x2",) and found.coef[0, 2] > 0
    mixed = np.random.default_rng(0).permutation(grades)
    assert not separation(x, mixed, ordinal=True)
    ends = separation(np.column_stack([x, (mixed == 3) & (x[:, 0] > 2)]), mixed, ordinal=True)
    assert ends.columns == ("x4",) and ends.kind == "quasi-complete"


@pytest.mark.parametrize("seed", range(6))
def test_equals_firthmodels(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("firthmodels")
    x, y = noise(80, seed=seed)
    table, _ = with_marker(x, y, share=0.1 * (seed % 2 + 1), seed=seed)
    for features in (x, table):
        want, found = peer.detect_separation(features, y), separation(features, y)
        assert bool(found) == want.separation
        if found.kind == "quasi-complete":
            assert (np.sign(found.coef[0]) == want.directions[:-1]).all()


def test_no_direction_that_separates_makes_a_fit_fall_for_ever():
    """What the fit says of a minimum at infinity, and what the programs say, agree; Firth's fit is finite."""
    x, y = noise()
    table, _ = with_marker(x, y)
    LinearClassifier(C=np.inf).fit(x, y)
    with pytest.raises(DataError, match="infinite"):
        LinearClassifier(C=np.inf).fit(table, y)
    assert np.isfinite(FirthClassifier().fit(table, y).coef_).all()


def test_the_refusal_names_the_columns_and_the_way_out():
    x, y = noise()
    table, _ = with_marker(x, y)
    nothing = Penalty(np.zeros(5), np.zeros(5))
    problem = Problem(table, y * 1.0, np.ones(400), None, "binary", 1, True, nothing)
    with pytest.raises(DataError, match=r"marker separates \d+ of 400 rows .* infinite\. Fix: .*FirthClassifier"):
        refuse_separated(problem, [*"abcd", "marker"], ["no", "yes"])


def test_rows_without_weight_do_not_count():
    x, y = np.array([[0.0], [1.0], [2.0], [3.0], [0.5]]), np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    nothing = Penalty(np.zeros(1), np.zeros(1))
    for weight, kind in ((1.0, "none"), (0.0, "complete")):
        problem = Problem(x, y, np.array([1.0, 1.0, 1.0, 1.0, weight]), None, "binary", 1, True, nothing)
        found = separated(problem, ["x"], ["a", "b"])
        assert found.kind == kind and not found.rows[4]


def directions(x, y, up, down, intercept):
    """By its definition: the most rows that gain at once, of directions within the cone, each class with its own."""
    n, classes = len(x), int(y.max()) + 1
    score = np.column_stack([x, np.ones(n)]) if intercept else x
    ends = [(-1e4 if may_fall else 0, 1e4 if may_rise else 0) for may_rise, may_fall in zip(up, down, strict=True)]
    ends += [(-1e4, 1e4)] * intercept
    gains = []
    for row, own in zip(score, y, strict=True):
        for other in range(classes):
            if other != own:
                gain = np.zeros((classes, score.shape[1]))
                gain[own], gain[other] = row, -row
                gains.append(gain.ravel() if classes > 2 else (2 * own - 1) * row)
    gains = np.array(gains)
    count = len(gains)
    found = linprog(
        np.concatenate([np.zeros(gains.shape[1]), -np.ones(count)]),
        A_ub=np.column_stack([-gains, np.eye(count)]),
        b_ub=np.zeros(count),
        bounds=ends * (classes if classes > 2 else 1) + [(0, 1)] * count,
    )
    return (found.x[gains.shape[1] :] > 0.5).reshape(n, -1).any(1)


def held(side, free):
    """A bound of each feature: none where it may move for ever, else one."""
    return np.where(free, np.inf if side == "high" else -np.inf, 5.0 if side == "high" else -5.0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("classes", [2, 3])
def test_within_bounds_and_penalties(classes, seed):
    """A direction counts where neither a bound nor a penalty stands in its way; fits say the same."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(30, 3)), 1)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 30 - classes)])
    marked = rng.random(30) < 0.3
    y[marked] = classes - 1
    table = np.column_stack([x, marked, rng.normal(size=30)])
    up, down, penalised = (rng.random((3, 5)) < np.array([0.6, 0.6, 0.2])[:, None]).copy()
    l1 = 0.5 * penalised
    penalty = Penalty(np.zeros(5), l1, held("low", down), held("high", up))
    family = "binary" if classes == 2 else "multinomial"
    target = y.astype(float) if classes == 2 else y
    one = Problem(table, target, np.ones(30), None, family, 1 if classes == 2 else 3, True, penalty)
    want = directions(table, y, up & ~penalised, down & ~penalised, True)
    found = separated(one, list("abcde"), ["x", "y", "z"][:classes])
    assert (found.rows == want).all() and bool(found) == want.any()
    assert (found.coef <= 1e-9)[:, ~up | penalised].all() and (found.coef >= -1e-9)[:, ~down | penalised].all()
    for sparse in (False, True):
        fit = solve(replace(one, features=csr_array(table) if sparse else table))
        assert fit.certificate.escapes == want.any()


def test_a_sign_keeps_a_separating_column_finite():
    x, y = noise()
    table, _ = with_marker(x, y)
    sign = separation(table, y).coef[0, 4]
    with pytest.raises(DataError, match="x4 separates"):
        LinearClassifier(C=np.inf, **{"low" if sign > 0 else "high": 0.0}).fit(table, y)
    bound = np.where(np.arange(5) == 4, 0.0, np.inf * sign)
    model = LinearClassifier(C=np.inf, **{"high" if sign > 0 else "low": bound}).fit(table, y)
    assert model.coef_[0, 4] == 0 and model.certificate_.converged


@pytest.mark.parametrize("family", ["multilabel", "ordinal"])
def test_labels_and_grades_within_bounds(family):
    x, _ = noise()
    grades = np.digitize(x[:, 2], [1.0, 2.0, 3.0])
    y = np.eye(4, dtype=int)[grades][:, [0, 3]] if family == "multilabel" else grades
    free = dict(C=np.inf, ordinal=family == "ordinal")
    with pytest.raises(DataError, match="x2 separates all rows"):
        LinearClassifier(low=[-1, -1, -np.inf, -1], **free).fit(x, y)
    if family == "ordinal":
        model = LinearClassifier(high=[np.inf, np.inf, 0, np.inf], **free).fit(x, y)
        assert model.coef_[0, 2] == 0
    assert np.abs(LinearClassifier(low=-9, high=9, **free).fit(x, y).coef_).max() == 9
