"""Models in folders: read back bit by bit, and refused in a sentence where they are not what was written."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastlayer._check import DataError
from lastlayer.train._cross_fit import Labels, Settings, cross_fit
from lastlayer.train.model_file import JSON, TENSORS, Model, load_model, sealed, whole_folder
from tampering import anything, tampered


def columns_of(n=120, seed=0):
    rng = np.random.default_rng(seed)
    age = np.where(rng.random(n) < 0.1, np.nan, rng.normal(50, 10, n))
    sex, words = rng.choice(["f", "m", "x"], n), np.array(["good", "bad", "fine", "poor"])
    mail = [" ".join(rng.choice(words, 4)) for _ in range(n)]
    return {"age": age, "sex": sex.astype(object), "mail": np.array(mail, dtype=object)}


def trained(classes=2, n=120):
    columns = columns_of(n)
    y = np.random.default_rng(1).integers(classes, size=n).astype(str).astype(object)
    labels = Labels.of("y", y)
    done = cross_fit(columns, labels, None, Settings(penalty=1.0, folds=3, text=("mail",)))
    return columns, done, Model(
        features=done.features,
        coef=done.model.coef_,
        intercept=done.model.intercept_,
        classes=labels.classes,
        target="y",
        id="nr",
        groups=("site",),
        penalty=1.0,
        rows=n,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trained()[2].save(folder)
    return folder


@pytest.mark.parametrize("classes", [2, 3])
def test_a_model_comes_back_bit_by_bit(tmp_path, classes):
    columns, done, model = trained(classes)
    model.save(tmp_path)
    again = load_model(tmp_path)
    for name in ("classes", "target", "id", "groups", "penalty", "rows"):
        assert getattr(again, name) == getattr(model, name)
    assert again.features.table == model.features.table and again.features.names == model.features.names
    np.testing.assert_array_equal(again.coef, model.coef)
    logits, notes = again.logits(columns)
    np.testing.assert_array_equal(logits, model.logits(columns)[0])
    np.testing.assert_allclose(logits, done.model.decision_function(done.values), rtol=0, atol=1e-12)
    assert notes == () and logits.shape == ((120,) if classes == 2 else (120, classes))


def test_the_tensors_are_a_safetensors_file(saved):
    from lastlayer.io import safetensors

    with open(saved / TENSORS, "rb") as file:
        source = safetensors.read(file, "safetensors")
        assert set(source.names) == {"coef", "intercept", "idf.0.word", "idf.0.char"}
    assert int.from_bytes((saved / TENSORS).read_bytes()[:8], "little") % 8 == 0, "tensors are aligned"


def copied(saved, folder):
    for name in (JSON, TENSORS):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record | {"schema_version": 2}, "schema_version: is 2; this version of lastlayer reads 1"),
        (lambda record: record | {"schema_version": True}, "schema_version: is True"),
        (lambda record: record | {"kind": "forest"}, "kind: is 'forest'"),
        (lambda record: record | {"target": "z"}, "was changed after it was written"),
        (lambda record: [record], "it has no schema_version"),
        (lambda record: {}, "it has no schema_version"),
    ],
)
def test_other_schemas_and_changes_are_refused(saved, tmp_path, change, words):
    folder = copied(saved, tmp_path)
    (folder / JSON).write_text(json.dumps(change(json.loads((folder / JSON).read_text()))))
    with pytest.raises(DataError, match=words) as problem:
        load_model(folder)
    assert str(folder / JSON) in str(problem.value) and "Fix: " in str(problem.value)


def test_what_is_cut_short_or_gone_is_refused(saved, tmp_path):
    folder = copied(saved, tmp_path)
    for name, words in ((JSON, "not JSON, or cut short"), (TENSORS, "its SHA-256 is another")):
        whole = (folder / name).read_bytes()
        for length in (0, 7, len(whole) // 2, len(whole) - 1 - (name == JSON)):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(DataError, match=words):
                load_model(folder)
        os.unlink(folder / name)
        with pytest.raises(DataError, match=r"No such file.*lastlayer train"):
            load_model(folder)
        (folder / name).write_bytes(whole)


def test_another_models_tensors_are_refused(saved, tmp_path):
    folder = copied(saved, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    trained(3)[2].save(other)
    (folder / TENSORS).write_bytes((other / TENSORS).read_bytes())
    with pytest.raises(DataError, match=r"does not belong to this model.safetensors"):
        load_model(folder)


WORDS = ["number", "category", "word", "char", "age", "sex", "\ud800", ""]
KEYS = ["kind", "name", "levels", "terms", "columns", "left_out", "word"]


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tampered_record_with_a_right_checksum_is_refused_in_a_sentence_or_works(saved, tmp_path, data):
    folder = copied(saved, tmp_path)
    record = json.loads((folder / JSON).read_text())
    del record["checksum"]
    value = anything(WORDS, KEYS, st.floats(allow_nan=False, allow_infinity=False))
    record = tampered(data.draw, record, value)
    try:
        text = sealed(record).encode()
    except (DataError, UnicodeEncodeError):
        return  # what cannot be written cannot be read
    (folder / JSON).write_bytes(text)
    try:
        model = load_model(folder)
    except DataError as problem:
        assert "\n" not in str(problem) and "Fix: " in str(problem)
        return
    try:
        assert len(model.logits(columns_of(8))[0]) == 8
    except DataError as problem:
        assert "Fix: " in str(problem)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "model"
    with pytest.raises(RuntimeError), whole_folder(out) as folder:
        (folder / JSON).write_text("{}")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with whole_folder(out) as folder:
        (folder / JSON).write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == [JSON]
    with pytest.raises(DataError, match=r"holds a model already.*--force"), whole_folder(out):
        raise AssertionError("not reached")
    (out / "mine.csv").write_text("keep")
    with whole_folder(out, force=True) as folder:
        (folder / JSON).write_text("2")
    assert {path.name: path.read_text() for path in out.iterdir()} == {JSON: "2", "mine.csv": "keep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files, and no model"), whole_folder(tmp_path, force=True):
        raise AssertionError("not reached")
    with pytest.raises(DataError, match="is a file"), whole_folder(tmp_path / "notes.txt", force=True):
        raise AssertionError("not reached")
