"""Temperature scaling: its state against mpmath, its solution against published numbers and brute force, its edges."""

import functools
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy.optimize import brentq

from calibrate import simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import Temperature, fit, from_json
from lastlayer.calibrate.rows import Rows
from lastlayer.calibrate.temperature import Gaps, Likelihood, Wide, minimise, taken_apart


def likelihood_of(outputs, beta):
    return Likelihood.of(Gaps.of(Rows.of(outputs)), beta)


def exact(scores, target, weight, beta):
    """Loss, first and second derivative in beta with 60 digits; ``target`` is a distribution per row."""
    with mpmath.workdps(60):
        b = mpmath.mpf(beta)
        sums = [mpmath.mpf(0)] * 3
        for row, q, w in zip(scores, target, weight, strict=True):
            pairs = [(mpmath.mpf(float(z)), mpmath.mpf(float(t))) for z, t in zip(row, q, strict=True) if z > -np.inf]
            terms = [mpmath.exp(b * z) for z, _ in pairs]
            total = sum(terms)
            mean = sum(e * z for e, (z, _) in zip(terms, pairs, strict=True)) / total
            square = sum(e * z * z for e, (z, _) in zip(terms, pairs, strict=True)) / total
            seen = sum(t * z for z, t in pairs)
            parts = (mpmath.log(total) - b * seen, mean - seen, square - mean**2)
            sums = [s + mpmath.mpf(float(w)) * part for s, part in zip(sums, parts, strict=True)]
        return [float(s) for s in sums]


def onehot(target, classes):
    return (np.arange(classes) == np.asarray(target)[:, None]).astype(float)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [1e-4, 0.35, 1.0, 7.0])
def test_state_is_loss_and_two_derivatives(dtype, beta):
    rng = np.random.default_rng(3)
    z = (6 * rng.normal(size=(40, 5))).astype(dtype)
    z[:8, 2] = -np.inf
    z[8] = 1.5  # all tied
    y = rng.integers(0, 5, 40)
    y[:8] = 0
    w = rng.uniform(0.1, 3.0, 40)
    state = likelihood_of(Outputs(z, "logits", target=y, weight=w), beta)
    loss, slope, curvature = exact(z, onehot(y, 5), w, beta)
    assert state.loss == pytest.approx(loss, rel=1e-13)
    assert state.gradient == pytest.approx(slope, rel=1e-12)
    assert state.curvature == pytest.approx(curvature, rel=1e-12)
    assert state.rows == 40 and state.weight == pytest.approx(w.sum())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_classes_go_by_the_kernel_and_give_the_same(dtype, soft):
    rng = np.random.default_rng(5)
    z = (6 * rng.normal(size=(30, 40))).astype(dtype)
    z[:8, 2:20] = -np.inf
    z[8] = 1.5
    z[9, 3] = 2000.0  # what is 708 below is 0
    y, q = rng.integers(20, 40, 30), rng.dirichlet(np.ones(40), 30)
    q[:8, 2:20] = 0.0
    q /= q.sum(1, keepdims=True)
    w = rng.uniform(0.1, 3.0, 30)
    rows = Rows.of(Outputs(z, "logits", target=q if soft else y, weight=w))
    for beta in (0.01, 1.0, 3.0):
        state = Likelihood.of(taken_apart(rows), beta)
        assert isinstance(taken_apart(rows), Wide)
        loss, slope, curvature = exact(z, rows.target if soft else onehot(y, 40), w, beta)
        assert state.loss == pytest.approx(loss, rel=1e-12)
        assert state.gradient == pytest.approx(slope, rel=1e-11)
        assert state.curvature == pytest.approx(curvature, rel=1e-11)


@pytest.mark.parametrize("classes", [3, 40])
def test_state_keeps_the_tail_of_confident_rows(classes):
    z, y = np.full((10, classes), -5.0), np.array([0, 1] * 5)
    z[:, :3] = [[60.0, 0.0, -5.0], [0.0, 55.0, 3.0]] * 5
    state = Likelihood.of(taken_apart(Rows.of(Outputs(z, "logits", target=y))), 1.0)
    loss, slope, curvature = exact(z, onehot(y, classes), np.ones(10), 1.0)
    assert 0 < loss < 1e-20
    assert state.loss == pytest.approx(loss, rel=1e-12)
    assert state.gradient == pytest.approx(slope, rel=1e-12)
    assert state.curvature == pytest.approx(curvature, rel=1e-12)


def test_state_takes_distributions():
    rng = np.random.default_rng(4)
    z, q = 3 * rng.normal(size=(30, 4)), rng.dirichlet(np.ones(4), 30)
    z[:5, 1], q[:5, 1] = -np.inf, 0.0
    q /= q.sum(1, keepdims=True)
    state = likelihood_of(Outputs(z, "logits", target=q), 0.7)
    loss, slope, curvature = exact(z, q, np.ones(30), 0.7)
    assert state.loss == pytest.approx(loss, rel=1e-12)
    assert state.gradient == pytest.approx(slope, rel=1e-11)
    assert state.curvature == pytest.approx(curvature, rel=1e-11)


@pytest.mark.parametrize("soft", [False, True])
def test_binary_is_the_pair_of_zero_and_its_logit(soft):
    rng = np.random.default_rng(5)
    z = 4 * rng.normal(size=50)
    y = rng.uniform(size=50) if soft else rng.integers(0, 2, 50)
    state = likelihood_of(Outputs(z, "logits", target=y), 1.7)
    loss, slope, curvature = exact(np.stack([0 * z, z], 1), np.stack([1 - y, y], 1), np.ones(50), 1.7)
    assert state.loss == pytest.approx(loss, rel=1e-13)
    assert state.gradient == pytest.approx(slope, rel=1e-12)
    assert state.curvature == pytest.approx(curvature, rel=1e-12)


def test_multilabel_is_a_binary_problem_per_entry():
    outputs = simulated.multilabel(0, n=60, temperature=2.0)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, 60)
    flat = Outputs(outputs.scores.ravel(), "logits", target=outputs.target.ravel(), weight=np.repeat(weight, 3))
    rows, entries = likelihood_of(replace(outputs, weight=weight), 0.6), likelihood_of(flat, 0.6)
    for name in ("loss", "expected", "observed", "curvature"):
        assert getattr(rows, name) == pytest.approx(getattr(entries, name), rel=1e-13)
    assert rows.value() == pytest.approx(3 * entries.value(), rel=1e-13)


def test_states_merge_in_any_cut_and_order():
    rows = Rows.of(simulated.multiclass(1, n=2000, temperature=2.0))
    whole = Likelihood.of(Gaps.of(rows), 0.8)
    shards = [rows.take(slice(i, None, 10)) for i in (3, 7, 0, 9, 1, 8, 2, 6, 5, 4)]
    merged = functools.reduce(Likelihood.merge, (Likelihood.of(Gaps.of(s), 0.8) for s in shards), Likelihood.empty(0.8))
    for name, value in whole.arrays().items():
        assert getattr(merged, name) == pytest.approx(value, rel=1e-13), name
    assert Likelihood.from_bytes(whole.to_bytes()).loss == whole.loss
    with pytest.raises(ValueError, match="one beta at a time"):
        whole.merge(Likelihood.empty(0.9))


def test_ten_shards_give_the_temperature_of_the_whole():
    outputs = simulated.multiclass(2, n=3000, temperature=2.5)
    shards = [Rows.of(outputs.rows(slice(i, None, 10))) for i in (3, 7, 0, 9, 1, 8, 2, 6, 5, 4)]
    gaps = [Gaps.of(shard) for shard in shards]
    sharded = minimise(lambda beta: functools.reduce(Likelihood.merge, (Likelihood.of(g, beta) for g in gaps)))
    whole = fit(outputs, "temperature")
    shuffled = fit(outputs.rows(np.random.default_rng(0).permutation(3000)), "temperature")
    assert 1 / float(sharded.state.beta) == pytest.approx(whole.temperature, rel=1e-8)
    assert shuffled.temperature == pytest.approx(whole.temperature, rel=1e-8)
    assert shuffled.fitted_on.content == whole.fitted_on.content


def test_large_data_are_taken_apart_again_in_every_pass(monkeypatch):
    outputs = simulated.multiclass(2, n=3000, temperature=2.5)
    whole = fit(outputs, "temperature").temperature
    monkeypatch.setattr("lastlayer.calibrate.temperature.KEPT_IN_MEMORY", 0)
    monkeypatch.setattr("lastlayer.calibrate.rows.BLOCK", 1000)
    assert fit(outputs, "temperature").temperature == pytest.approx(whole, rel=1e-8)


def test_published_temperature_of_densenet40(shared_data):
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as data:
        valid = Outputs(data["val_logits"], "logits", target=data["val_labels"])
        test = Outputs(data["test_logits"], "logits", target=data["test_labels"])
    calibrator = fit(valid, "temperature")
    assert calibrator.temperature == pytest.approx(2.88256, abs=1e-4)
    assert calibrator.certificate.nll_after == pytest.approx(0.186612, abs=1e-6)
    assert simulated.nll(calibrator.apply(test)) == pytest.approx(0.225086, abs=2e-6)
    assert calibrator.certificate.converged and calibrator.certificate.gradient <= 1e-10
    assert calibrator.certificate.iterations <= 7
    assert fit(valid).method == "temperature"


@pytest.mark.parametrize("make", [simulated.multiclass, simulated.binary, simulated.multilabel])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 2.0, 50.0])
def test_solution_is_where_the_slope_is_zero(make, temperature):
    outputs = make(7, n=400, temperature=temperature)

    def slope(log_beta):
        step, beta = 1e-5, np.exp(log_beta)

        def loss(b):
            return simulated.nll(outputs.with_logits(b * outputs.scores))

        return (loss(beta * (1 + step)) - loss(beta * (1 - step))) / (2 * step)

    wanted = np.exp(-brentq(slope, -8, 8, xtol=1e-10))
    calibrator = fit(outputs, "temperature")
    assert calibrator.temperature == pytest.approx(wanted, rel=1e-5)
    assert calibrator.certificate.converged
    assert calibrator.certificate.nll_before == pytest.approx(simulated.nll(outputs), rel=1e-12)
    assert calibrator.certificate.nll_after == pytest.approx(simulated.nll(calibrator.apply(outputs)), rel=1e-12)


def test_overconfidence_is_undone_on_fresh_rows():
    held_out, fresh = (
        simulated.multiclass(0, n=2000, temperature=2.0),
        simulated.multiclass(1, n=20000, temperature=2.0),
    )
    calibrator = fit(held_out, "temperature")
    before, after = simulated.nll(fresh), simulated.nll(calibrator.apply(fresh))
    best = simulated.nll(fresh.with_logits(fresh.scores / 2))
    assert calibrator.temperature == pytest.approx(2.0, rel=0.1)
    assert before - after >= 0.9 * (before - best) > 0


def test_weight_counts_as_repetition_and_weight_0_as_absence():
    outputs = simulated.multiclass(3, n=300, temperature=2.0)
    weight = np.random.default_rng(0).integers(0, 4, 300)
    z = outputs.scores.copy()
    z[np.flatnonzero(weight == 0)[0]] = np.nan
    weighted = fit(Outputs(z, "logits", target=outputs.target, weight=weight), "temperature")
    repeated = fit(outputs.rows(np.repeat(np.arange(300), weight)), "temperature")
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-9)
    assert weighted.fitted_on.rows == (weight > 0).sum() and weighted.fitted_on.weight == weight.sum()
    assert weighted.certificate.nan_rows == 0


def test_rows_nothing_can_mend_are_left_out_and_counted():
    outputs = simulated.multiclass(4, n=200, temperature=2.0)
    z, y = outputs.scores.copy(), outputs.target
    z[0, 1] = np.nan
    z[1, 2] = z[2, 0] = np.inf
    z[3] = -np.inf
    z[4, y[4]] = -np.inf  # probability 0 on the target
    z[5, (y[5] + 1) % 4] = -np.inf  # a masked class beside it is fine
    calibrator = fit(Outputs(z, "logits", target=y), "temperature")
    clean = fit(Outputs(z[5:], "logits", target=y[5:]), "temperature")
    certificate = calibrator.certificate
    assert (certificate.nan_rows, certificate.infinite_rows, certificate.impossible_rows) == (1, 3, 1)
    assert certificate.first_left_out == (0, 1, 2, 3, 4)
    assert from_json(calibrator.to_json()) == calibrator
    assert calibrator.temperature == clean.temperature
    assert calibrator.fitted_on.rows == 195
    assert np.isfinite(certificate.nll_before)


def test_infinite_binary_scores_stay_if_they_are_right():
    outputs = simulated.binary(4, n=200, temperature=2.0)
    z, y = outputs.scores.copy(), outputs.target.copy()
    z[:4], y[:4] = [np.inf, -np.inf, np.inf, -np.inf], [1, 0, 0, 1]
    calibrator = fit(Outputs(z, "logits", target=y), "temperature")
    assert calibrator.certificate.impossible_rows == 2
    assert calibrator.fitted_on.rows == 198
    finite = fit(Outputs(z[4:], "logits", target=y[4:]), "temperature")
    assert calibrator.temperature == pytest.approx(finite.temperature, rel=1e-9)
    assert calibrator.certificate.nll_after * 198 == pytest.approx(finite.certificate.nll_after * 196)


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_separable_rows_hit_the_lower_bound_and_say_so(scale):
    z = scale * np.eye(3)[np.arange(30) % 3]
    calibrator = fit(Outputs(z, "logits", target=np.arange(30) % 3), "temperature")
    assert calibrator.temperature == pytest.approx(1e-4)
    assert calibrator.certificate.bound == "temperature >= 0.0001"
    assert not calibrator.certificate.converged


def test_scores_worse_than_chance_hit_the_upper_bound_and_say_so():
    z = np.eye(3)[np.arange(30) % 3]
    calibrator = fit(Outputs(z, "logits", target=(np.arange(30) + 1) % 3), "temperature")
    assert calibrator.temperature == pytest.approx(1e4)
    assert calibrator.certificate.bound == "temperature <= 10000"
    assert not calibrator.certificate.converged


def test_a_temperature_beyond_the_bound_is_flagged_though_it_exists():
    outputs = simulated.multiclass(5, n=200, temperature=1e-6)
    calibrator = fit(outputs, "temperature")
    assert calibrator.certificate.bound == "temperature >= 0.0001"


def test_constant_scores_leave_the_temperature_at_one():
    calibrator = fit(Outputs(np.ones((20, 3)), "logits", target=np.arange(20) % 3), "temperature")
    assert calibrator.temperature == 1.0 and calibrator.certificate.converged


@pytest.mark.parametrize("seed", range(200))
def test_any_problem_ends_with_a_certificate(seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_t(1.5, size=(20, 3)) * 10 ** rng.uniform(-3, 3)
    y = np.r_[0, 1, rng.integers(0, 3, 18)]
    certificate = fit(Outputs(z, "logits", target=y), "temperature").certificate
    assert certificate.converged == (certificate.bound is None)
    assert certificate.bound is not None or certificate.gradient <= 1e-10
    assert certificate.nll_after <= certificate.nll_before
    assert certificate.iterations <= 20


def test_a_loss_beyond_float64_is_refused():
    z = np.zeros((20, 2))
    z[:, 0] = 1.7e308
    with pytest.raises(DataError, match="overflows"):
        fit(Outputs(z, "logits", target=np.r_[0, np.ones(19, int)]), "temperature")


def test_a_temperature_is_finite_and_above_zero():
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature is a finite number above 0"):
            Temperature(wrong)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_keeps_dtype_shape_and_mask(dtype):
    z = np.array([[[4.0, -np.inf, 1.0]]], dtype)
    calibrated = Temperature(2.0)(z)
    assert calibrated.dtype == dtype
    np.testing.assert_array_equal(calibrated, np.array([[[2.0, -np.inf, 0.5]]], dtype))


def test_outputs_keep_float32():
    outputs = simulated.multiclass(0, n=20)
    calibrated = Temperature(2.0).apply(Outputs(outputs.scores.astype(np.float32), "logits", target=outputs.target))
    assert calibrated.scores.dtype == np.float32 and calibrated.kind == "logits"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_keeps_dtype_and_gradient(dtype):
    torch = pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    z = torch.tensor([[4.0, 1.0]], dtype=getattr(torch, dtype), requires_grad=True)
    calibrated = Temperature(2.0)(z)
    calibrated.sum().backward()
    assert calibrated.dtype == z.dtype
    assert calibrated.tolist() == [[2.0, 0.5]] and z.grad.tolist() == [[0.5, 0.5]]


def test_jax_keeps_dtype_and_gradient_under_jit():
    jax = pytest.importorskip("jax", reason="pip install jax")
    z = jax.numpy.array([4.0, 1.0], dtype="float32")
    gradient = jax.jit(jax.grad(lambda x: Temperature(2.0)(x).sum()))(z)
    assert Temperature(2.0)(z).dtype == z.dtype
    assert gradient.tolist() == [0.5, 0.5]
