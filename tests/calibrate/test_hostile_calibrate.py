"""Calibrators on data and files that mean harm: refused in a sentence, or as right as ever."""

import json
import warnings

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import METHODS, TemperatureBias, VectorScaling, fit, from_json
from lastlayer.calibrate.calibrator import FittedOn
from lastlayer.calibrate.rows import Rows
from tampering import anything, tampered

AFFINE = ("temperature_bias", "structured_vector", "vector", "matrix", "odir", "dirichlet")


def masked_with(number, n=600):
    outputs = simulated.multiclass(3, n, temperature=2.0)
    z, y = outputs.scores.copy(), outputs.target
    hidden = (np.arange(n) % 7 == 0) & (y != 1)
    z[hidden, 1] = number
    return Outputs(z, "logits", target=y)


@pytest.mark.parametrize("method", AFFINE)
@pytest.mark.parametrize("number", [float(np.finfo(np.float32).min), -1.797e308])
def test_a_number_that_stands_for_a_mask_is_refused_where_it_drowns_the_others(method, number):
    with pytest.raises(DataError, match=r"a logit of size .* leaves float64 no digits.*masked classes as -inf"):
        fit(masked_with(number), method)


def test_auto_and_temperature_go_on_beside_it():
    known, drowned = masked_with(-np.inf), masked_with(float(np.finfo(np.float32).min))
    chosen = fit(drowned)
    assert chosen.method == "temperature"
    assert chosen.temperature == pytest.approx(fit(known, "temperature").temperature, rel=1e-9)
    verdicts = {trial.method: trial.verdict for trial in chosen.selection}
    assert all(verdicts[name].startswith("not tried: a logit of size 3.4e+38") for name in ("vector", "matrix"))


@pytest.mark.parametrize("scale", [1e13, 1e60, 1e150, 1e300])
def test_huge_logits_end_in_a_calibrator_or_a_sentence(scale):
    outputs = simulated.multiclass(0, 300)
    huge = Outputs(outputs.scores / np.abs(outputs.scores).max() * scale, "logits", target=outputs.target)
    for method in ("identity", "temperature", *AFFINE):
        try:
            proof = fit(huge, method).certificate
        except DataError as problem:
            assert "a logit of size" in str(problem)
        else:
            assert method not in AFFINE
            assert proof.nll_after <= proof.nll_before


@pytest.mark.parametrize(("task", "method"), [("multilabel", "venn_abers"), ("binary", "vector"), ("binary", "matrix")])
def test_a_method_for_another_task_is_a_matter_of_the_data(task, method):
    outputs = getattr(simulated, task)(0, 200)
    with pytest.raises(DataError, match=f"task: {method} is not for {task} outputs; these methods are: identity, temp"):
        fit(outputs, method)


@pytest.mark.parametrize("rows", [100_000, 1_000_000])
def test_single_precision_scores_that_meet_by_chance_are_not_shared_rows(rows):
    def drawn(seed, n):
        outputs = simulated.binary(seed, n)
        return Outputs(outputs.scores.astype(np.float32), "logits", target=outputs.target)

    first, later = drawn(0, 20_000), drawn(1, rows)
    fitted_on = fit(first, "identity").fitted_on
    assert fitted_on.shared(Rows.of(later).hashes()) == 0
    scores, target = (np.concatenate([getattr(o, name) for o in (first, later)]) for name in ("scores", "target"))
    both = Outputs(scores, "logits", target=target)
    assert fitted_on.shared(Rows.of(both).hashes()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("sketch", ["x", "nan", "Infinity", "äöü", "AAAA"])
def test_a_sketch_that_is_none_is_refused_when_it_is_read(sketch):
    record = json.loads(fit(simulated.multiclass(0), "temperature").to_json())
    record["fitted_on"]["sketch"] = sketch
    with pytest.raises(DataError, match="fitted_on: "):
        from_json(json.dumps(record))


def test_a_sketch_that_is_one_is_read_back():
    fitted = fit(simulated.multiclass(0), "temperature")
    back = from_json(fitted.to_json())
    assert back.fitted_on == fitted.fitted_on
    assert back.fitted_on.shared(Rows.of(simulated.multiclass(0)).hashes()) == 1


@pytest.mark.parametrize("classes", [3, None])
@pytest.mark.parametrize("method", ["temperature_bias", "vector", "matrix", "isotonic", "histogram"])
def test_parameters_for_other_classes_than_a_file_names(method, classes):
    record = json.loads(fit(simulated.multiclass(0), method).to_json())
    record["classes"] = None if classes is None else [str(k) for k in range(classes)]
    record["fitted_on"] = None
    tampered = from_json(json.dumps(record))
    for outputs in (simulated.multiclass(1, 50, classes=3), simulated.binary(1, 4)):
        if classes is None or outputs.task == "multiclass":
            with pytest.raises(DataError, match="the calibrator has parameters for 4 scores per row"):
                tampered.apply(outputs)


def test_parameters_for_other_labels_than_a_file_names():
    outputs = simulated.multilabel(0, 300)
    record = json.loads(fit(outputs, "platt", by="label").to_json())
    record["parameters"]["parts"].pop("2")
    with pytest.raises(DataError, match="parameters for 2 scores per row"):
        from_json(json.dumps(record)).apply(outputs)


@pytest.mark.parametrize("there", [0, 1])
def test_a_label_that_is_constant_is_named(there):
    outputs = simulated.multilabel(0, 300)
    target = outputs.target.copy()
    target[:, 1] = there
    constant = Outputs(outputs.scores, "logits", target=target, classes=["cat", "dog", "owl"], task="multilabel")
    with pytest.raises(DataError, match=f"300 labelled rows, all {'dog' if there else 'not_dog'}, are too few"):
        fit(constant, "temperature", by="label")


def test_width_is_that_of_the_parameters():
    outputs = simulated.multiclass(0, 400)
    grouped = Outputs(outputs.scores, "logits", target=outputs.target, groups={"half": np.arange(400) % 2})
    assert fit(grouped, "vector", by="half").width == 4
    assert TemperatureBias(1.0, [0.0, 0.0]).width == VectorScaling(1.0, [1.0, 1.0], [0.0, 0.0]).width == 2
    assert fit(outputs, "temperature").width is None


FITTED = {
    (name, task): fit(getattr(simulated, task)(0, 120), name).to_json()
    for name, row in METHODS.items()
    for task in row.tasks
}
ANY = anything(
    words=["temperature", "isotonic", "multiclass", "identity"],
    keys=["method", "parameters", "a", "b", "temperature", "rows"],
    floats=st.floats(allow_nan=False, allow_infinity=False),
)
SHAPES = {"multiclass": (3, 4), "multilabel": (3, 3), "binary": (5,)}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FITTED)), st.data())
def test_no_tampering_makes_a_calibrator_fail_in_another_way(key, data):
    record = tampered(data.draw, json.loads(FITTED[key]), ANY)
    try:
        calibrator = from_json(json.dumps(record))
    except DataError:
        return
    assert from_json(calibrator.to_json()) == calibrator
    assert str(calibrator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # parameters of 1e308 overflow
        try:
            calibrator.apply(Outputs(np.ones(SHAPES[key[1]]), "logits", task=key[1]))
        except DataError:
            return


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(FITTED)), st.floats(0, 1))
def test_a_truncated_file_is_not_json(key, share):
    text = FITTED[key]
    with pytest.raises(DataError, match="is not JSON"):
        from_json(text[: int(share * (len(text.rstrip()) - 1))])


def test_hashes_of_a_sketch_come_in_eights():
    with pytest.raises(ValueError, match="64-bit hashes"):
        FittedOn(1, 1.0, "binary", None, "00", "AAAA")
