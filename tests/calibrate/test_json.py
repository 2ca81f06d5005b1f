"""calibrator.json: an exact round trip, and one sentence with the file's name for anything else."""

import json
from dataclasses import replace

import pytest

from calibrate import simulated
from lastlayer._check import DataError
from lastlayer.calibrate import ByLabel, Identity, Platt, Temperature, Trial, fit, from_json, load


def test_round_trip_is_exact(tmp_path):
    outputs = replace(simulated.multiclass(0, temperature=2.0), classes=["é", 'a"b', "\ud800", "d"], source="valid.npz")
    for method in ("auto", "identity", "temperature"):
        calibrator = fit(outputs, method)
        assert from_json(calibrator.to_json()) == calibrator
        calibrator.save(tmp_path / "calibrator.json")
        assert load(tmp_path / "calibrator.json") == calibrator
    for made in (Identity(), Temperature(1 / 3, classes=("no", "yes"))):
        assert from_json(made.to_json()) == made


def test_fields_are_those_of_the_contract():
    record = json.loads(fit(simulated.multiclass(0, temperature=2.0), "temperature").to_json())
    assert record["schema_version"] == 1 and record["method"] == "temperature"
    assert list(record["parameters"]) == ["temperature"]
    assert record["classes"] == ["0", "1", "2", "3"]
    assert record["certificate"]["converged"] is True
    assert record["fitted_on"]["rows"] == 1000


def test_infinity_is_null():
    trial = Trial("temperature", float("inf"), 0.1, float("inf"), float("inf"), 0.0, "significantly worse")
    calibrator = Identity(selection=(trial,))
    assert "Infinity" not in calibrator.to_json()
    assert from_json(calibrator.to_json()) == calibrator


def test_a_file_that_exists_stays_without_force(tmp_path):
    path = tmp_path / "calibrator.json"
    Temperature(2.0).save(path)
    with pytest.raises(DataError, match=r"calibrator\.json: exists already"):
        Temperature(3.0).save(path, force=False)
    assert load(path) == Temperature(2.0)


GOOD = {"schema_version": 1, "method": "temperature", "parameters": {"temperature": 2.0}, "classes": ["a", "b"]}
CERTIFICATE = {
    "converged": True,
    "iterations": 7,
    "gradient": 0.0,
    "bound": None,
    "nll_before": 1.0,
    "nll_after": 0.5,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema_version": 2}, "schema_version: is 2; .* reads 1"),
        ({"schema_version": True}, "schema_version"),
        ({"method": "temprature"}, "Did you mean 'temperature'"),
        ({"method": None}, "method is one of"),
        ({"method": ["temperature"]}, "method"),
        ({"parameters": {}}, "parameters: temperature has"),
        ({"parameters": {"temperature": 2.0, "bias": 1.0}}, "parameters"),
        ({"parameters": [2.0]}, "parameters"),
        ({"parameters": {"temperature": "2"}}, r"parameters\.temperature: '2' is not of type float"),
        ({"parameters": {"temperature": True}}, "not of type float"),
        ({"parameters": {"temperature": -2.0}}, "parameters: .*finite number above 0"),
        ({"parameters": {"temperature": 10**400}}, "too large"),
        ({"classes": "ab"}, "classes: is a list of names"),
        ({"classes": [1, 2]}, "classes: is a list of names"),
        ({"selection": {}}, "selection: is a list"),
        ({"selection": [{}]}, "selection: holds method, nll"),
        ({"certificate": {"converged": True}}, "certificate: holds converged"),
        ({"certificate": CERTIFICATE | {"iterations": 1.5}}, r"certificate\.iterations: 1\.5 is not of type int"),
        ({"certificate": CERTIFICATE | {"converged": 1}}, r"certificate\.converged"),
        ({"certificate": CERTIFICATE | {"gradient": None}}, r"certificate\.gradient"),
        ({"fitted_on": 3}, "fitted_on: holds rows"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, change, sentence):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(DataError, match=rf"broken\.json: .*{sentence}"):
        load(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": 1}', '{"schema_version": NaN}', "[" * 100000])
def test_garbage_is_named_with_the_file(tmp_path, text):
    path = tmp_path / "garbage.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"garbage\.json: is not"):
        load(path)


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        load(tmp_path / "absent.json")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json: is not text"):
        load(tmp_path / "binary.json")
    monkeypatch.setattr("lastlayer.calibrate.registry.LARGEST_FILE", 2)
    with pytest.raises(DataError, match=r"binary\.json: is too large"):
        load(tmp_path / "binary.json")


def test_a_line_of_text_names_the_method_and_its_parameters():
    assert str(Identity()) == "identity"
    assert str(Temperature(3.249911196581899)) == "temperature 3.24991"
    mixed = ByLabel({"a": Platt(1.0, 0.0), "b": Temperature(2.0), "c": Platt(2.0, 1.0)})
    assert str(mixed) == "by_label: platt x 2, temperature x 1"
