"""What every calibrator of single logits keeps: JSON, weights, orders, shards, libraries, dtypes, special values."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import METHODS, fit, from_json
from lastlayer.calibrate._binary import BinaryScores, Runs

BINARY = (
    "platt",
    "beta",
    "ensemble_temperature",
    "spline",
    "isotonic",
    "venn_abers",
    "scaling_binning",
    "histogram",
)
MULTICLASS = ("top_label_isotonic", *(name for name in BINARY if name != "platt"))
CASES = [(simulated.binary, name) for name in BINARY] + [(simulated.multiclass, name) for name in MULTICLASS]
STEPS = ("venn_abers", "scaling_binning", "histogram")
# One versus rest is one formula for all its parts, and the binary cases know those in every library.
BY_LIBRARY = CASES[: len(BINARY)] + [(simulated.multiclass, name) for name in (*MULTICLASS[:3], "isotonic")]


def ids(value):
    return value if isinstance(value, str) else value.__name__


each_case = pytest.mark.parametrize(("make", "method"), CASES, ids=ids)
each_by_library = pytest.mark.parametrize(("make", "method"), BY_LIBRARY, ids=ids)


@each_case
def test_json_both_ways(make, method):
    calibrator = fit(make(0, n=300, temperature=2.0), method)
    assert from_json(calibrator.to_json()) == calibrator
    assert calibrator.certificate.nll_after == pytest.approx(
        simulated.nll(calibrator.apply(make(0, n=300, temperature=2.0))), rel=1e-12
    )
    assert str(calibrator)


@each_case
def test_weight_counts_as_repetition_and_weight_0_as_absence(make, method):
    outputs = make(3, n=300, temperature=2.0)
    weight = np.random.default_rng(0).integers(0, 4, 300)
    scores = outputs.scores.copy()
    scores[np.flatnonzero(weight == 0)[0]] = np.nan
    weighted = fit(Outputs(scores, "logits", target=outputs.target, weight=weight), method)
    repeated = fit(outputs.rows(np.repeat(np.arange(300), weight)), method)
    fresh = make(4, n=200, temperature=2.0).scores
    assert weighted(fresh) == pytest.approx(repeated(fresh), rel=1e-7, abs=1e-7)


@each_case
def test_orders_and_shards_change_nothing(make, method, monkeypatch):
    outputs = make(5, n=600, temperature=2.0)
    outputs = replace(outputs, weight=np.random.default_rng(1).uniform(0.5, 2.0, 600))
    whole = fit(outputs, method)
    monkeypatch.setattr("lastlayer.calibrate.rows.BLOCK", 64)
    order = np.random.default_rng(0).permutation(600)
    shards = fit([outputs.rows(order[i::10]) for i in range(10)], method)
    fresh = make(6, n=200, temperature=2.0).scores
    assert shards(fresh) == pytest.approx(whole(fresh), rel=1e-8, abs=1e-8)


def test_runs_are_the_same_bits_in_any_order():
    rng = np.random.default_rng(0)
    entries = BinaryScores(rng.integers(0, 5, 500) + 0.0, rng.uniform(size=500), rng.uniform(size=500))
    order = rng.permutation(500)
    for mine, theirs in zip(
        Runs.of(entries), Runs.of(BinaryScores(*(column[order] for column in entries))), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@each_case
def test_it_helps_scores_that_are_over_confident(make, method):
    held_out, fresh = make(7, n=3000, temperature=3.0), make(8, n=10000, temperature=3.0)
    calibrator = fit(held_out, method)
    before, after = simulated.nll(fresh), simulated.nll(calibrator.apply(fresh))
    best = simulated.nll(fresh.with_logits(fresh.scores / 3))
    assert before - after >= (0.4 if method == "top_label_isotonic" else 0.8) * (before - best)


@each_by_library
def test_every_library_gives_the_same_in_its_own_precision(make, method, library):
    calibrator = fit(make(0, n=400, temperature=2.0), method)
    scores = make(1, n=7, temperature=2.0).scores.astype(np.float32).astype(np.float64)
    wanted, found = calibrator(scores), library.run(calibrator, scores)
    assert found.dtype == np.dtype(library.dtype) and found.shape == scores.shape
    exact = library.dtype == "float64"
    assert found == pytest.approx(wanted, rel=1e-12 if exact else 1e-4, abs=1e-12 if exact else 2e-5)


@each_by_library
def test_slopes_are_those_of_finite_differences(make, method, differentiable):
    calibrator = fit(make(0, n=400, temperature=2.0), method)
    scores = make(1, n=5, temperature=2.0).scores
    if method in STEPS:
        assert (differentiable.gradient(calibrator, scores) == 0).all()
        return
    cotangent = np.random.default_rng(0).normal(size=scores.shape)
    wanted = np.empty_like(scores)
    for i in np.ndindex(scores.shape):
        ahead, behind = scores.copy(), scores.copy()
        ahead[i] += 1e-6
        behind[i] -= 1e-6
        wanted[i] = (cotangent * (calibrator(ahead) - calibrator(behind))).sum() / 2e-6
    found = differentiable.gradient(calibrator, scores, cotangent=cotangent)
    assert found == pytest.approx(wanted, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("method", [name for make, name in BY_LIBRARY if make is simulated.multiclass])
def test_masked_classes_have_no_slope_and_lone_rows_a_finite_one(method, differentiable):
    calibrator = fit(simulated.multiclass(0, n=400, temperature=2.0), method)
    scores = np.array([[1.0, -np.inf, 0.5, 2.0], [-np.inf, 3.0, -np.inf, -np.inf], [-np.inf] * 4])
    weight = np.where(np.isfinite(scores), np.arange(12.0).reshape(3, 4), 0.0)
    gradient = differentiable.gradient(calibrator, scores, cotangent=weight)
    assert np.isfinite(gradient).all() and (gradient[~np.isfinite(scores)] == 0).all()


@each_case
def test_half_precision_and_special_values(make, method):
    calibrator = fit(make(0, n=400, temperature=2.0), method)
    scores = make(1, n=20, temperature=2.0).scores
    assert calibrator(scores.astype(np.float16)).dtype == np.float16
    if make is simulated.binary:
        ends = calibrator(np.array([-np.inf, -1e30, 1e30, np.inf, np.nan]))
        assert ends[0] <= ends[1] < ends[2] <= ends[3] and np.isnan(ends[4])
    else:
        assert calibrator(scores + 256.0) == pytest.approx(
            calibrator(scores) + (256.0 if method == "top_label_isotonic" else 0.0), rel=1e-9, abs=1e-9
        )
        rows = calibrator(np.array([[0.5, -np.inf, 1.0, 2.0], [-np.inf] * 4, [np.nan, 0.0, 1.0, 2.0]]))
        assert np.isfinite(rows[0, [0, 2, 3]]).all() and (rows[[0, 1], 1] == -np.inf).all()
        assert (rows[1] == -np.inf).all() and np.isnan(rows[2]).any()


@pytest.mark.parametrize("method", ["platt", "beta", "spline", "isotonic", "venn_abers", "scaling_binning"])
def test_order_is_kept_or_tied(method):
    calibrator = fit(simulated.binary(2, n=300, temperature=2.0), method)
    assert (np.diff(calibrator(np.linspace(-30, 30, 4001))) >= 0).all()


@pytest.mark.parametrize("method", [name for name in BINARY if name != "venn_abers"])
@pytest.mark.parametrize("make", [simulated.binary, simulated.multiclass])
def test_a_soft_target_is_a_row_of_each_class(make, method):
    if make is simulated.multiclass and method == "platt":
        return
    outputs = make(9, n=300, temperature=2.0)
    classes = 2 if make is simulated.binary else 4
    other = (outputs.target + 1) % classes
    both = Outputs(
        np.concatenate([outputs.scores] * 2),
        "logits",
        target=np.r_[outputs.target, other],
        weight=np.repeat([0.75, 0.25], 300),
    )
    soft = 0.75 * np.eye(classes)[outputs.target] + 0.25 * np.eye(classes)[other]
    mixed = fit(replace(outputs, target=soft[:, 1] if classes == 2 else soft), method)
    fresh = make(10, n=100).scores
    assert mixed(fresh) == pytest.approx(fit(both, method)(fresh), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("method", ["platt", "spline", "isotonic", "venn_abers", "scaling_binning", "histogram"])
def test_a_margin_is_placed(method):
    outputs = simulated.binary(11, n=1000)
    margin = Outputs(0.01 * outputs.scores - 7, "margin", target=outputs.target)
    calibrated = fit(margin, method).apply(margin)
    assert simulated.nll(replace(calibrated, kind="logits")) <= simulated.nll(outputs) + 0.03


@pytest.mark.parametrize("method", ["beta", "ensemble_temperature"])
def test_a_margin_is_refused_where_zero_must_mean_something(method):
    with pytest.raises(DataError, match=f"{method} moves no zero"):
        fit(replace(simulated.binary(0), kind="margin"), method)


@pytest.mark.parametrize("method", [name for name in BINARY if "multilabel" in METHODS[name].tasks])
def test_multilabel_entries_share_one_curve(method):
    outputs = simulated.multilabel(3, n=200, temperature=2.0)
    flat = Outputs(outputs.scores.ravel(), "logits", target=outputs.target.ravel())
    fresh = simulated.multilabel(4, n=50).scores
    assert fit(outputs, method)(fresh) == pytest.approx(fit(flat, method)(fresh.ravel()).reshape(-1, 3), rel=1e-7)
    each = fit(outputs, method, by="label")
    alone = fit(Outputs(outputs.scores[:, 1], "logits", target=outputs.target[:, 1]), method)
    assert each(fresh)[:, 1] == pytest.approx(alone(fresh[:, 1]), rel=1e-9)
