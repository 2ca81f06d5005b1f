"""fit: the choice of a method, its promise never to be worse than identity, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import METHODS, Identity, Temperature, fit, from_json
from lastlayer.calibrate.calibrator import FittedOn
from lastlayer.calibrate.rows import Rows, text_hashes
from lastlayer.calibrate.selection import compare

TEMPERATURES = (1.0, 0.7, 1.05, 1.3, 2.0)
MAKERS = (simulated.multiclass, simulated.binary, simulated.multilabel)


def without(outputs, k):
    """These outputs without the rows of class ``k``."""
    return outputs.rows(outputs.target != k)


@pytest.mark.parametrize("seed", range(50))
def test_auto_is_never_worse_than_identity(seed):
    make, temperature = MAKERS[seed % 3], TEMPERATURES[seed % 5]
    held_out, fresh = make(seed, temperature=temperature), make(seed + 1000, n=20000, temperature=temperature)
    calibrator = fit(held_out)
    assert simulated.nll(calibrator.apply(fresh)) <= simulated.nll(fresh) + 0.002
    assert calibrator.certificate.nll_after <= calibrator.certificate.nll_before


def test_identity_stays_on_calibrated_rows():
    chosen = [fit(MAKERS[seed % 3](seed)).method for seed in range(100)]
    assert chosen.count("identity") >= 90


SINGLE = ["identity", "temperature", "platt", "ensemble_temperature", "spline"]
TRIED = {
    simulated.multiclass: [
        "identity",
        "temperature",
        "temperature_bias",
        "ensemble_temperature",
        "structured_vector",
        "vector",
        "matrix",
    ],
    simulated.binary: [*SINGLE[:3], "beta", *SINGLE[3:]],
    simulated.multilabel: [*SINGLE[:3], "beta", *SINGLE[3:]],
}


@pytest.mark.parametrize("make", MAKERS)
def test_auto_leaves_identity_when_temperature_helps(make):
    calibrator = fit(make(0, temperature=2.0))
    assert calibrator.method == "temperature"
    trials = {trial.method: trial for trial in calibrator.selection}
    assert list(trials) == TRIED[make]
    assert trials["identity"].verdict == "significantly worse"
    assert trials["temperature"].verdict == "chosen"
    assert trials["identity"].difference > 2 * trials["identity"].difference_error > 0
    best = min(trial.nll for trial in calibrator.selection)
    assert trials["identity"].nll - best == pytest.approx(trials["identity"].difference)


def test_the_loss_of_a_trial_is_cross_validated():
    outputs = simulated.multiclass(0, n=200, temperature=2.0)
    trial = next(t for t in fit(outputs).selection if t.method == "temperature")
    fold = Rows.of(outputs).folds(5, 0)
    total = 0.0
    for k in range(5):
        rest, out = outputs.rows(fold != k), outputs.rows(fold == k)
        total += len(out) * simulated.nll(fit(rest, "temperature").apply(out))
    assert trial.nll == pytest.approx(total / 200, rel=1e-10)


@pytest.mark.parametrize(("z", "verdict"), [(1.64, "as good as the best"), (1.65, "significantly worse")])
def test_two_methods_are_told_apart_one_sided_at_5_percent_on_paired_differences(z, verdict):
    rng = np.random.default_rng(0)
    best, apart = 100 * rng.normal(size=1000), rng.normal(size=1000)
    apart = (apart - apart.mean()) / apart.std(ddof=1)  # the mean of apart + z / sqrt(n) is z standard errors above 0
    losses = {"simple": best + apart + z / np.sqrt(1000), "best": best}
    simple, other = compare(losses, np.ones(1000), {"simple": 0.0, "best": 0.0})
    assert simple.difference / simple.difference_error == pytest.approx(z)
    assert simple.verdict == verdict
    assert other.difference == 0 and other.verdict == "as good as the best"


def test_a_method_that_loses_one_row_far_out_is_not_as_good():
    rng = np.random.default_rng(0)
    simple = rng.uniform(0, 1, 1000)
    wild = simple - 0.1
    wild[7] = 500.0
    trials = compare(
        {"simple": simple, "wild": wild, "best": simple - 0.2},
        np.ones(1000),
        dict.fromkeys(("simple", "wild", "best"), 0.0),
    )
    assert [t.verdict for t in trials] == ["significantly worse", "no better than a simpler one", "as good as the best"]


def test_an_infinite_held_out_loss_is_significantly_worse():
    losses = {"identity": np.ones(100), "other": np.r_[np.inf, np.zeros(99)]}
    trials = compare(losses, np.ones(100), {"identity": 0.0, "other": 0.0})
    assert [trial.verdict for trial in trials] == ["as good as the best", "significantly worse"]


def test_a_method_that_is_worse_on_the_rows_of_the_fit_is_not_chosen(monkeypatch):
    solve = Temperature.solve.__func__

    def broken(cls, rows):
        fitted = solve(cls, rows)
        after = fitted.certificate.nll_before + (1e-6 if len(rows) == 1000 else 0.0)
        return replace(fitted, certificate=replace(fitted.certificate, nll_after=after))

    monkeypatch.setattr(Temperature, "solve", classmethod(broken))
    calibrator = fit(simulated.multiclass(0, temperature=2.0))
    assert calibrator.method == "identity"
    assert calibrator.selection[1].verdict == "worse than identity on the rows of the fit"


def test_choice_and_folds_do_not_depend_on_the_order_of_rows():
    outputs = simulated.multiclass(1, n=500, temperature=1.2)
    order = np.random.default_rng(0).permutation(500)
    a, b = fit(outputs), fit(outputs.rows(order))
    assert a.method == b.method
    np.testing.assert_array_equal(Rows.of(outputs).folds(5, 0)[order], Rows.of(outputs.rows(order)).folds(5, 0))
    for ours, theirs in zip(a.selection, b.selection, strict=True):
        assert ours.nll == pytest.approx(theirs.nll, rel=1e-12)


def test_folds_follow_ids_of_any_type_and_width():
    outputs = simulated.multiclass(1, n=500)
    ids = np.arange(500)
    wide = np.array([str(i) for i in ids], dtype="<U64")
    folds = [Rows.of(replace(outputs, ids=column)).folds(5, 0) for column in (ids, wide, wide.astype(object))]
    np.testing.assert_array_equal(folds[0], folds[1])
    np.testing.assert_array_equal(folds[0], folds[2])
    assert not np.array_equal(folds[0], Rows.of(outputs).folds(5, 0))
    assert not np.array_equal(folds[0], Rows.of(replace(outputs, ids=ids)).folds(5, 1))
    assert np.bincount(folds[0], minlength=5).min() > 60


def test_hashes_tell_ids_apart():
    ids = [f"{prefix}{i}" for prefix in ("", "a", "row-", "0") for i in range(2000)] + ["", "é"]
    assert len(np.unique(text_hashes(ids))) == len(set(ids))


def content(outputs):
    return FittedOn.of(Rows.of(outputs).hashes(), 0.0, outputs.task, None).content


def test_content_hash_sees_logits_target_and_nothing_else():
    outputs = simulated.multiclass(1, n=50)
    same = content(outputs)
    changed = outputs.scores.copy()
    changed[3, 1] += 1e-9
    target = outputs.target.copy()
    target[0] = (target[0] + 1) % 4
    assert content(outputs.rows(np.arange(50)[::-1])) == same
    assert content(replace(outputs, source="elsewhere.npz", ids=np.arange(50))) == same
    assert content(replace(outputs, scores=changed)) != same
    assert content(replace(outputs, target=target)) != same
    soft = np.full((50, 4), 0.1) + 0.6 * np.eye(4)[target]
    assert content(replace(outputs, target=soft)) != content(replace(outputs, target=soft[::-1]))


@pytest.mark.parametrize("shared", [0, 50, 500, 5000])
def test_rows_that_a_later_file_shares_with_the_fit_are_found(shared):
    fitted, later = simulated.multiclass(1, n=5000), simulated.multiclass(2, n=5000)
    mixed = Outputs(
        np.concatenate([fitted.scores[:shared], later.scores[shared:]]),
        "logits",
        target=np.concatenate([fitted.target[:shared], later.target[shared:]]),
    )
    found = fit(fitted, "identity").fitted_on.shared(Rows.of(mixed).hashes())
    assert found == 0 if shared == 0 else 0 < found == pytest.approx(shared / 5000, abs=0.06)


def test_rows_that_repeat_are_not_taken_for_the_same_rows():
    z, y = np.array([[0.0, 1.0], [1.0, 0.0]])[np.arange(200) % 2], np.arange(200) // 2 % 2
    first, second = Outputs(z[:100], "logits", target=y[:100]), Outputs(z[100:], "logits", target=y[100:])
    assert fit(first, "identity").fitted_on.shared(Rows.of(second).hashes()) == 0


def test_soft_targets_may_miss_1_by_rounding():
    outputs = simulated.multiclass(2, n=100, temperature=2.0)
    soft = np.eye(4)[outputs.target]
    exact, rounded = (fit(replace(outputs, target=t), "temperature") for t in (soft, soft * 0.9995))
    assert exact.temperature == pytest.approx(fit(outputs, "temperature").temperature, rel=1e-9)
    assert rounded.temperature == pytest.approx(exact.temperature, rel=1e-9)


def test_probabilities_are_calibrated_as_their_logarithms():
    outputs = simulated.multiclass(2, n=500, temperature=2.0)
    z = outputs.scores - outputs.scores.max(1, keepdims=True)
    probs = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    calibrator = fit(Outputs(probs, "probs", target=outputs.target), "temperature")
    assert calibrator.temperature == pytest.approx(fit(outputs, "temperature").temperature, rel=1e-9)


def test_identity_is_fitted_too():
    outputs = simulated.multiclass(0, n=100)
    calibrator = fit(outputs, "identity")
    assert isinstance(calibrator, Identity)
    np.testing.assert_array_equal(calibrator.apply(outputs).scores, outputs.scores)
    assert calibrator.certificate.nll_after == pytest.approx(simulated.nll(outputs), rel=1e-12)


def test_apply_refuses_other_classes_and_names_both_orders():
    outputs = simulated.multiclass(0, n=100, classes=3)
    calibrator = fit(replace(outputs, classes=["cat", "dog", "eel"]), "temperature")
    swapped = replace(outputs, classes=["dog", "cat", "eel"], source="test.npz")
    with pytest.raises(DataError, match=r"test\.npz: classes: .*cat, dog, eel; .*dog, cat, eel.*\[1, 0, 2\]"):
        calibrator.apply(swapped)
    with pytest.raises(DataError, match=r"cat, dog, eel; .*0, 1, 2"):
        calibrator.apply(replace(outputs, classes=None))
    with pytest.raises(DataError, match="fitted with classes"):
        calibrator.apply(simulated.multiclass(0, n=10, classes=4))


def test_calling_refuses_another_number_of_classes_in_every_library():
    outputs = replace(simulated.multiclass(0, n=100, classes=3), classes=["cat", "dog", "eel"])
    sentence = r"temperature was fitted on 3 classes \(cat, dog, eel\); these logits \(1, 4\) have 4\."
    calibrator = fit(outputs, "temperature")
    for one in (calibrator, from_json(calibrator.to_json())):
        with pytest.raises(ValueError, match=sentence):
            one(np.ones((1, 4)))
        with pytest.raises(ValueError, match=r"these logits \(\) have no axis of classes\."):
            one(1.0)
        assert one([3.0, 2.0, 1.0]) * one.temperature == pytest.approx([3, 2, 1])
    with pytest.raises(ValueError, match="identity was fitted on 3 classes"):
        fit(outputs, "identity")(np.ones(4))
    torch = pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    jax = pytest.importorskip("jax", reason="pip install jax")
    for call, ones in ((calibrator, torch.ones), (jax.jit(calibrator), jax.numpy.ones)):
        with pytest.raises(ValueError, match=sentence):
            call(ones((1, 4)))
        assert call(ones((2, 5, 3))).shape == (2, 5, 3)


def test_calling_takes_any_shape_where_one_logit_is_a_row():
    calibrator = fit(simulated.binary(0, n=100), "temperature")
    assert calibrator(np.ones((2, 5))).shape == (2, 5)
    assert fit(simulated.multilabel(0, n=100), "temperature")(np.ones(7)).shape == (7,)
    assert Temperature(2.0, classes=("no", "yes"))(np.ones(7)).shape == (7,)


def test_arrays_are_to_be_wrapped():
    z, y = np.zeros((600, 3)), np.zeros(600, int)
    for call, name in ((lambda: fit(z, y), "calibrate.fit"), (lambda: Temperature(2.0).apply(z), "temperature.apply")):
        with pytest.raises(TypeError, match=rf"^{name}: takes Outputs, not ndarray \(600, 3\); wrap it: ll.Outputs"):
            call()


def test_a_floating_target_of_0_and_1_fits_as_integers_do():
    for outputs in (simulated.binary(0), simulated.multilabel(0)):
        floating = replace(outputs, target=outputs.target.astype(np.float32))
        assert fit(floating, "temperature").temperature == fit(outputs, "temperature").temperature
    outputs = simulated.multiclass(0)
    onehot = replace(outputs, target=np.eye(4)[outputs.target])
    assert fit(onehot, "temperature").temperature == pytest.approx(fit(outputs, "temperature").temperature, rel=1e-12)


def test_apply_refuses_another_task():
    calibrator = fit(simulated.multilabel(0, n=100), "temperature")
    scores = simulated.multilabel(1, n=100).scores
    with pytest.raises(DataError, match="fitted on multilabel outputs; these are multiclass"):
        calibrator.apply(Outputs(scores, "logits"))
    assert calibrator.apply(Outputs(scores, "logits", task="multilabel")).task == "multilabel"


@pytest.mark.parametrize(
    ("outputs", "method", "sentence"),
    [
        (Outputs(np.zeros((50, 2)), "logits"), "auto", "no target"),
        (Outputs(np.eye(2)[[0] * 50], "logits", target=[0] * 50), "auto", "every target is 0.* at least two classes"),
        (Outputs(np.zeros(50), "logits", target=[1] * 50, classes=["no", "yes"]), "auto", "every target is yes"),
        (Outputs(np.full((50, 2), np.nan), "logits", target=[0, 1] * 25), "auto", "0 labelled rows .*50 with nan"),
        (simulated.multiclass(0, n=49), "auto", "49 labelled rows are too few .*5-fold.*at least 50"),
        (simulated.multiclass(0, n=9), "temperature", "9 labelled rows are left .*at least 10"),
        (replace(simulated.multiclass(0), ids=np.zeros(1000)), "auto", "one fold.*own id"),
        (replace(simulated.binary(0), kind="margin"), "temperature", "margins.*temperature moves no zero.*'platt'"),
        (replace(simulated.multiclass(0), kind="margin"), "temperature", "margins.*use another .method='spline'"),
        (simulated.multiclass(0, n=12, classes=10), "vector", "vector has 19 free parameters for 10 .*at least 19"),
        (without(simulated.multiclass(0), 2), "auto", "class 2 has no row, and the model expects rows of it"),
        (simulated.multiclass(0, n=200, classes=99), "vector", r"class .* has no row, and vector has parameters"),
    ],
)
def test_bad_data_get_one_sentence(outputs, method, sentence):
    with pytest.raises(DataError, match=sentence):
        fit(replace(outputs, source="valid.npz"), method)


def test_a_rare_class_without_rows_leaves_the_methods_that_know_no_class():
    outputs = simulated.multiclass(0, temperature=2.0)
    scores = np.column_stack([outputs.scores, np.full(len(outputs), -16.0)])
    calibrator = fit(Outputs(scores, "logits", target=outputs.target))
    verdicts = {trial.method: trial.verdict for trial in calibrator.selection}
    assert calibrator.method == "temperature"
    assert verdicts["vector"] == verdicts["matrix"] == "not tried: a class with too few rows"
    assert from_json(calibrator.to_json()) == calibrator


def test_a_margin_is_sent_to_a_method_that_places_it(monkeypatch):
    able = METHODS["identity"]._replace(margins=True)
    monkeypatch.setitem(METHODS, "identity", able)
    with pytest.raises(DataError, match=r"temperature moves no zero.*method='identity'"):
        fit(replace(simulated.binary(0), kind="margin"), "temperature")


def test_a_wrong_call_is_named():
    outputs = simulated.multiclass(0)
    with pytest.raises(ValueError, match="Did you mean 'temperature'"):
        fit(outputs, "temprature")
    for folds in (1, 2.5):
        with pytest.raises(ValueError, match="folds is an integer of at least 2"):
            fit(outputs, folds=folds)


def test_a_method_serves_its_tasks_only(monkeypatch):
    monkeypatch.setitem(METHODS, "temperature", METHODS["temperature"]._replace(tasks=("binary",)))
    with pytest.raises(ValueError, match="temperature is not for multiclass outputs; these methods are: identity, "):
        fit(simulated.multiclass(0), "temperature")
    tried = [trial.method for trial in fit(simulated.multiclass(0, temperature=2.0)).selection]
    assert tried == [name for name in TRIED[simulated.multiclass] if name != "temperature"]
