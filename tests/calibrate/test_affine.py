"""Affine calibrators: published losses, invariances, edges of the map, and certificates."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import densenet, simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit, from_json
from lastlayer.calibrate.affine import SEPARABLE, best_strength
from lastlayer.calibrate.matrix import Dirichlet, MatrixScaling, Odir
from lastlayer.calibrate.rows import Rows
from lastlayer.calibrate.vector import StructuredVectorScaling, TemperatureBias, VectorScaling

METHODS = {
    made.method: made
    for made in (TemperatureBias, VectorScaling, StructuredVectorScaling, MatrixScaling, Odir, Dirichlet)
}
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """Two strengths instead of five: cross-validation is the same, and the tests take a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Odir, "grid", (100.0, 1.0))
        patch.setattr(Dirichlet, "grid", (1.0, 0.1))
        yield


def biased(seed=0, n=600, classes=3, soft=False):
    """Logits that a matrix, a bias and a temperature keep from the truth, with some masked classes."""
    rng = np.random.default_rng(seed)
    truth = 2 * rng.normal(size=(n, classes))
    truth[: n // 10, -1] = -np.inf
    y = (truth + rng.gumbel(size=truth.shape)).argmax(1)
    z = 2 * truth + np.linspace(-1, 1, classes)
    q = 0.9 * np.eye(classes)[y]
    q[:, :2] += 0.05
    return Outputs(z, "logits", target=q if soft else y)


def numbers(calibrator):
    return np.concatenate([np.ravel(v) for v in calibrator.parameters.values()])


@pytest.mark.parametrize(
    ("method", "loss", "within"),
    [
        ("temperature_bias", 0.223322, 2e-6),
        ("vector", 0.223082, 2e-6),
        ("structured_vector", 0.222379, 2e-6),
        ("matrix", 0.220838, 2e-6),
        ("odir", 0.2224, 0.0005),  # the published strength is not known: 0.222400
        ("dirichlet", 0.2205, 0.0012),  # 0.220482
    ],
)
def test_losses_on_densenet40(shared_data, method, loss, within, monkeypatch):
    monkeypatch.setattr(Odir, "grid", (1000.0, 100.0, 10.0, 1.0))
    monkeypatch.setattr(Dirichlet, "grid", (1.0, 0.3, 0.1, 0.03, 0.01))
    valid, test = densenet.multiclass(shared_data)
    calibrator = fit(valid, method)
    assert simulated.nll(calibrator.apply(test)) == pytest.approx(loss, abs=within)
    assert calibrator.certificate.converged and calibrator.certificate.bound is None
    assert calibrator.certificate.nll_before == pytest.approx(simulated.nll(valid), rel=1e-12)
    assert calibrator.certificate.nll_after == pytest.approx(
        simulated.nll(calibrator.apply(valid)), rel=1e-6
    )  # float32


@every_method
def test_ten_shards_in_any_order_give_the_parameters_of_the_whole(method):
    outputs = biased()
    whole = fit(outputs, method)
    shards = [outputs.rows(slice(i, None, 10)) for i in (3, 7, 0, 9, 1, 8, 2, 6, 5, 4)]
    np.testing.assert_allclose(numbers(METHODS[method].solve(Rows.of(*shards))), numbers(whole), rtol=1e-8, atol=1e-8)


@every_method
def test_a_constant_added_to_a_row_changes_no_parameter_and_no_result(method, monkeypatch):
    monkeypatch.setattr(Odir, "grid", (1.0,))  # a row's hash, and so its fold, is another
    monkeypatch.setattr(Dirichlet, "grid", (1.0,))
    outputs = biased()
    constant = 5 * np.random.default_rng(1).normal(size=(len(outputs), 1))
    plain, moved = fit(outputs, method), fit(outputs.with_logits(outputs.scores + constant), method)
    np.testing.assert_allclose(numbers(moved), numbers(plain), rtol=1e-8, atol=1e-8)
    whole = np.isfinite(outputs.scores).all(1)
    apart = plain((outputs.scores + constant)[whole]) - plain(outputs.scores[whole])
    np.testing.assert_allclose(apart - apart[:, :1], 0, atol=1e-12)


@every_method
def test_weight_counts_as_repetition_and_weight_0_as_absence(method, monkeypatch):
    monkeypatch.setattr(Odir, "grid", (1.0,))  # the folds of repeated rows are those of single ones, their number not
    monkeypatch.setattr(Dirichlet, "grid", (1.0,))
    outputs = biased()
    weight = np.random.default_rng(0).integers(0, 4, len(outputs))
    z = outputs.scores.copy()
    z[np.flatnonzero(weight == 0)[0]] = np.nan
    weighted = fit(Outputs(z, "logits", target=outputs.target, weight=weight), method)
    repeated = fit(outputs.rows(np.repeat(np.arange(len(outputs)), weight)), method)
    np.testing.assert_allclose(numbers(weighted), numbers(repeated), rtol=1e-8, atol=1e-8)


@every_method
def test_a_certain_distribution_is_an_index(method, monkeypatch):
    monkeypatch.setattr(Odir, "grid", (1.0,))  # a row's hash, and so its fold, is another
    monkeypatch.setattr(Dirichlet, "grid", (1.0,))
    outputs = biased()
    certain = fit(replace(outputs, target=np.eye(3)[outputs.target]), method)
    np.testing.assert_allclose(numbers(certain), numbers(fit(outputs, method)), rtol=1e-8, atol=1e-8)


@every_method
def test_distributions_are_fitted_better_than_by_a_temperature(method):
    outputs = biased(soft=True)
    certificate = fit(outputs, method).certificate
    assert certificate.converged
    assert certificate.nll_after < fit(outputs, "temperature").certificate.nll_after


@every_method
def test_float32_and_float64_end_alike(method):
    outputs = biased()
    single = outputs.with_logits(outputs.scores.astype(np.float32))
    double = outputs.with_logits(single.scores.astype(np.float64))
    np.testing.assert_array_equal(numbers(fit(single, method)), numbers(fit(double, method)))
    calibrator = fit(single, method)
    assert calibrator(single.scores).dtype == np.float32
    np.testing.assert_allclose(calibrator(single.scores), calibrator(double.scores), rtol=1e-5, atol=1e-5)


@every_method
def test_json_brings_back_an_equal_record(method):
    calibrator = fit(biased(), method)
    again = from_json(calibrator.to_json())
    assert again == calibrator and again.method == method
    np.testing.assert_array_equal(again(biased().scores), calibrator(biased().scores))
    with pytest.raises(ValueError, match="read-only"):
        again.bias[0] = 1.0


@every_method
def test_biases_add_up_to_0(method):
    assert fit(biased(), method).bias.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", ["temperature_bias", "vector"])
def test_both_ways_of_descent_give_one_gauge(method, monkeypatch):
    newton = fit(biased(), method)
    monkeypatch.setattr("lastlayer.calibrate._affine_fit.EXACT", 0)
    np.testing.assert_allclose(numbers(fit(biased(), method)), numbers(newton), atol=1e-8)


def test_penalties_of_the_papers():
    strengths, centre = MatrixScaling.penalty(3)
    np.testing.assert_array_equal(strengths, [[3, 6, 6, 3], [6, 3, 6, 3], [6, 6, 3, 3]])
    np.testing.assert_array_equal(centre, np.eye(3))
    strengths, centre = Odir.penalty(3)
    np.testing.assert_array_equal(strengths, [[0, 6, 6, 6], [6, 0, 6, 6], [6, 6, 0, 6]])
    assert not centre.any() and not Dirichlet.penalty(3)[1].any()


@every_method
def test_edges_of_the_map(method):
    calibrator = fit(biased(), method)
    z = np.array([[1.0, -np.inf, 3.0], [np.nan, 0.0, 1.0], [-np.inf] * 3, [1.0, 2.0, 0.5]])
    mapped = calibrator(z)
    assert mapped[0, 1] == -np.inf and np.isfinite(mapped[0, [0, 2]]).all()
    assert np.isnan(mapped[1]).any()
    assert np.isneginf(mapped[2]).all()
    np.testing.assert_array_equal(mapped[3], calibrator(z[3]))
    assert calibrator(z.astype(np.float16)).dtype == np.float16
    alone = calibrator(np.array([1.0, -np.inf, 3.0]))
    np.testing.assert_array_equal(alone, mapped[0])
    np.testing.assert_allclose(calibrator(z[[0, 3]][None])[0], mapped[[0, 3]], rtol=1e-13)


@pytest.mark.parametrize("method", ["vector", "structured_vector", "matrix", "odir", "dirichlet"])
def test_plus_infinity_is_its_limit(method):
    calibrator = fit(biased(), method)
    mapped = calibrator(np.array([1.0, np.inf, 3.0]))
    assert np.isfinite(mapped[1]) and np.isneginf(mapped[[0, 2]]).all()


def test_a_masked_class_is_as_if_it_were_not_there():
    weights, bias = np.array([2.0, 0.5, 1.5]), np.array([0.1, 0.2, -0.3])
    masked = VectorScaling(1.0, weights, bias)(np.array([4.0, -np.inf, 1.0]))
    without = VectorScaling(1.0, weights[[0, 2]], bias[[0, 2]])(np.array([4.0, 1.0]))
    np.testing.assert_allclose(masked[[0, 2]], without, rtol=1e-14)
    square = np.arange(9.0).reshape(3, 3) / 9
    masked = MatrixScaling(2.0, square, bias, 1.0)(np.array([4.0, -np.inf, 1.0]))
    without = MatrixScaling(2.0, square[np.ix_([0, 2], [0, 2])], bias[[0, 2]], 1.0)(np.array([4.0, 1.0]))
    np.testing.assert_allclose(masked[[0, 2]], without, rtol=1e-13)


def test_maps_by_hand():
    z = np.array([2.0, 0.0, -5.0])
    np.testing.assert_allclose(VectorScaling(1.0, [1, 2, 3], [0.5, 0, 0])(z), [3.5, 2.0, -12.0])
    np.testing.assert_allclose(StructuredVectorScaling(2.0, [1, 2, 3], [0.5, 0, 0])(z), [2.0, 1.0, -6.0])
    logp = z - np.log(np.exp(z).sum())
    table = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 1.0]])
    np.testing.assert_allclose(Dirichlet(1.0, table, [0.0, 1.0, 0.0], 1.0)(z), table @ logp + [0, 1, 0])
    np.testing.assert_allclose(Odir(1.0, table, [0.0, 1.0, 0.0], 1.0)(z), table @ (z + 1) + [0, 1, 0])


@every_method
def test_torch_maps_and_differentiates(method):
    torch = pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    calibrator = fit(biased(), method)
    z = np.array([[1.0, -np.inf, 3.0], [0.3, 2.0, 0.5]])
    for dtype, within in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        mapped = calibrator(torch.tensor(z, dtype=dtype))
        assert mapped.dtype == dtype
        np.testing.assert_allclose(mapped.numpy(), calibrator(z), rtol=within, atol=within)
    x = torch.tensor(z[1], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(calibrator, x)
    steps = 1e-6 * np.eye(3)
    slopes = np.array([(calibrator(z[1] + h) - calibrator(z[1] - h)) / 2e-6 for h in steps]).T
    np.testing.assert_allclose(jacobian.numpy(), slopes, atol=1e-7)
    masked = torch.tensor(z[0], dtype=torch.float64, requires_grad=True)
    calibrator(masked)[[0, 2]].sum().backward()
    assert torch.isfinite(masked.grad).all() and masked.grad[1] == 0


@every_method
def test_jax_maps_under_jit(method):
    jax = pytest.importorskip("jax", reason="pip install jax")
    calibrator = fit(biased(), method)
    z = np.array([[1.0, -np.inf, 3.0], [0.3, 2.0, 0.5]], np.float32)
    np.testing.assert_allclose(jax.jit(calibrator.map)(z), calibrator(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["temperature_bias", "vector"])
def test_separable_rows_say_so(method):
    z = np.random.default_rng(0).normal(size=(60, 3))
    for shift in ([0.0, 0.0, 0.0], [1.0, 0.0, -0.5]):  # by a temperature, and by biases
        certificate = fit(Outputs(z, "logits", target=np.argmax(z + shift, axis=1)), method).certificate
        assert not certificate.converged
        assert certificate.bound == SEPARABLE
        assert certificate.nll_after < 1e-6


@pytest.mark.parametrize("method", ["structured_vector", "matrix", "odir", "dirichlet"])
def test_penalties_hold_separable_rows(method):
    z = np.random.default_rng(0).normal(size=(60, 3))
    y = np.argmax(z + np.array([1.0, 0.0, -0.5]), axis=1)  # separable by biases, not by a temperature
    certificate = fit(Outputs(z, "logits", target=y), method).certificate
    assert certificate.converged and certificate.bound is None


def test_a_temperature_at_its_bound_is_said_by_what_stands_on_it():
    z = np.eye(3)[np.arange(60) % 3]
    certificate = fit(Outputs(z, "logits", target=np.arange(60) % 3), "matrix").certificate
    assert certificate.bound == "temperature >= 0.0001" and not certificate.converged


def test_scores_worse_than_chance_have_the_largest_temperature_and_the_frequencies():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 500, p=[0.6, 0.3, 0.1])
    z = -2 * np.eye(3)[y] + rng.normal(size=(500, 3))
    calibrator = fit(Outputs(z, "logits", target=y), "temperature_bias")
    assert calibrator.temperature == 1e4
    assert calibrator.certificate.bound == "temperature <= 10000" and not calibrator.certificate.converged
    frequency = np.log(np.bincount(y) / 500)
    np.testing.assert_allclose(calibrator.bias, frequency - frequency.mean(), atol=1e-3)


def test_two_classes_have_one_weight_to_share():
    """Of two centred logits only the sum of the weights matters; both fits stay at the shortest."""
    outputs = biased(classes=4)
    pair = Outputs(outputs.scores[:, :2], "logits", target=(outputs.target > 0).astype(int))
    calibrator = fit(pair, "vector")
    assert calibrator.certificate.converged
    assert calibrator.weights[0] == pytest.approx(calibrator.weights[1], rel=1e-8)
    binary = fit(pair.to_binary(), "platt")
    assert calibrator.weights.mean() == pytest.approx(binary.slope, rel=1e-6)
    assert calibrator.bias[1] - calibrator.bias[0] == pytest.approx(binary.intercept, rel=1e-6, abs=1e-8)


def test_more_than_150_classes_go_by_the_kernel():
    outputs = simulated.multiclass(0, n=3000, classes=200, temperature=2.0, spread=3.0)
    z = outputs.scores.astype(np.float32)
    z[:50, 3] = -np.inf
    outputs = Outputs(z, "logits", target=np.where(outputs.target == 3, 4, outputs.target))
    for method in ("temperature_bias", "structured_vector"):
        calibrator = fit(replace(outputs, target=np.r_[np.arange(200), outputs.target[200:]][: len(z)]), "temperature")
        assert calibrator.certificate.converged
        certificate = METHODS[method].solve(Rows.of(outputs)).certificate
        assert certificate.converged == (method == "structured_vector")  # class 3 was never seen
        assert certificate.gradient <= 1e-10 and certificate.iterations < 100


def test_free_parameters():
    assert (VectorScaling.free_parameters(10), TemperatureBias.free_parameters(10)) == (19, 10)
    assert MatrixScaling.free_parameters(10) == StructuredVectorScaling.free_parameters(10) == 0


def test_the_strength_is_that_of_least_held_out_loss():
    rows = Rows.of(biased())
    losses = {}

    def fitted(part, strength):
        made = Dirichlet._held(part, strength)
        losses.setdefault(strength, 0.0)
        return made

    found = best_strength(rows, (1000.0, 1.0, 0.01), fitted)
    fold = rows.folds(3, seed=0)
    for strength in losses:
        for k in range(3):
            held_out = rows.take(fold == k)
            losses[strength] += held_out.losses(Dirichlet._held(rows.take(fold != k), strength)).sum()
    assert found == min(losses, key=lambda strength: losses[strength])


@pytest.mark.parametrize("wrong", [{"bias": [0.0]}, {"weights": [1.0, np.inf]}, {"temperature": 0.0}])
def test_records_that_fit_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"array of finite numbers|above 0"):
        VectorScaling(**{"temperature": 1.0, "weights": [1.0, 1.0], "bias": [0.0, 0.0], **wrong})
