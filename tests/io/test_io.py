"""`load` and `save` from outside: every real file, streams, paths that are no files, full disks, damaged bytes."""

import errno
import io
import os
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastlayer._check import DataError
from lastlayer.io import atomic, load, save

FORMATS = ["npz", "csv", "tsv", "jsonl", "csv.gz", "jsonl.gz", "safetensors", "parquet"]


@pytest.fixture(params=FORMATS)
def form(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pip install 'lastlayer[tables]'")
    return request.param


# Accuracies as stated in shared/data/README.md and, for the logits, in the issue.
@pytest.mark.parametrize(
    "name, flags, shape, accuracy",
    [
        ("densenet40_c10_logits.npz", {"split": "test"}, (10_000, 10), 0.9242),
        ("lenet5_c10_probs.npz", {}, (10_000, 10), 0.5308),
        ("wrn16-4_c10_probs.npz", {}, (10_000, 10), 0.9109),
        ("densenet-bc100_c100_probs.npz", {}, (10_000, 100), 0.7541),
        ("label_errors_cifar10_pyx.npy", {}, (10_000, 10), 0.9294),
        ("label_errors_imdb_pyx.npy", {}, (25_000, 2), 0.8958),
        ("label_errors_20news_pyx.npy", {}, (7_532, 20), 0.9234),
    ],
)
def test_real_files(shared_data, name, flags, shape, accuracy):
    path = shared_data / "logits" / name
    if name.endswith(".npy"):
        flags = {"kind": "probs", "target_file": str(path).replace("_pyx", "_labels")}
    elif not flags:
        flags = {"kind": "probs", "scores_key": "predictions", "target_key": "ground_truth"}
    outputs = load(path, **flags)
    assert outputs.scores.shape == shape and outputs.source == str(path)
    assert round(float((outputs.scores.argmax(1) == outputs.target).mean()), 4) == accuracy


@pytest.mark.parametrize(
    "name, flags",
    [
        ("lenet5_c10_probs.npz", "--scores-key predictions --target-key ground_truth"),
        ("label_errors_imdb_pyx.npy", "--kind"),
    ],
)
def test_real_files_without_a_kind_say_what_to_add(shared_data, name, flags):
    with pytest.raises(DataError, match=f"{name}.*nothing says what these scores are.*{flags}"):
        load(shared_data / "logits" / name)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "jsonl", "safetensors"])
def test_a_target_file_of_any_format(tmp_path, suffix):
    path = tmp_path / f"y.{suffix}"
    if suffix == "npy":
        np.save(path, [1, 0])
    elif suffix == "npz":
        np.savez(path, anything=[1, 0])
    elif suffix == "csv":
        path.write_text("id,labels\nx,1\ny,0\n")
    elif suffix == "jsonl":
        path.write_text('{"target": 1}\n{"target": 0}\n')
    else:
        header = b'{"label":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1, 0]).tobytes())
    assert load([[1.0, 2], [3, 4]], "logits", target_file=path).target.tolist() == [1, 0]


def test_a_target_file_with_several_columns_needs_a_key(tmp_path):
    np.savez(tmp_path / "y.npz", a=[1, 0], b=[0, 1])
    with pytest.raises(DataError, match=r"y\.npz: target: the target could be any of a .*, b .*--target-key"):
        load([[1.0, 2], [3, 4]], "logits", target_file=tmp_path / "y.npz")
    with pytest.raises(DataError, match="no 'c' among"):
        load([[1.0, 2], [3, 4]], "logits", target_file=tmp_path / "y.npz", target_key="c")
    (tmp_path / "y.csv").write_text("y,y\n0,1\n")
    with pytest.raises(DataError, match="'y' stands twice"):
        load([[1.0, 2]], "logits", target_file=tmp_path / "y.csv")
    assert load([[1.0, 2], [3, 4]], "logits", target_file=tmp_path / "y.npz", target_key="b").target.tolist() == [0, 1]


def test_wrong_calls():
    with pytest.raises(ValueError, match=r"load: kind is one of .*'probs'.* Did you mean 'probs'"):
        load([[1.0, 2]], "prob")
    with pytest.raises(ValueError, match="load: task is one of"):
        load([[1.0, 2]], "logits", task="multi")
    with pytest.raises(ValueError, match="load: format is one of"):
        load("-", format="xlsx")
    with pytest.raises(ValueError, match="load: give the target once"):
        load({"logits": [[1.0, 2]], "y": [0]}, target=[0], target_key="y")


def stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input(tmp_path, monkeypatch, make, form):
    outputs = make("multiclass")
    content = save(outputs, tmp_path / f"a.{form}").read_bytes()
    for hint in [form, None] if form in ("npz", "csv", "jsonl", "parquet") else [form]:
        stdin(monkeypatch, content)
        found = load("-", format=hint)
        assert np.array_equal(found.scores, outputs.scores, equal_nan=True) and (found.target == outputs.target).all()


def test_npy_on_standard_input(monkeypatch):
    file = io.BytesIO()
    np.save(file, np.ones((2, 3)))
    stdin(monkeypatch, file.getvalue())
    assert load("-", "logits").scores.shape == (2, 3)


def test_standard_input_is_named_in_its_errors(monkeypatch):
    stdin(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input: the file is empty"):
        load("-")


def test_standard_output(make, capfdbinary, monkeypatch):
    outputs = make("multiclass")
    save(outputs, "-")
    stdin(monkeypatch, capfdbinary.readouterr().out)
    assert (load("-").target == outputs.target).all()


def test_a_named_pipe_is_read_to_its_end(tmp_path, make):
    import threading

    content = save(make("multiclass"), tmp_path / "a.npz").read_bytes()
    os.mkfifo(tmp_path / "pipe.npz")
    writer = threading.Thread(target=(tmp_path / "pipe.npz").write_bytes, args=[content])
    writer.start()
    assert load(tmp_path / "pipe.npz").classes == make("multiclass").classes
    writer.join()


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    (tmp_path / "digits-valid.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no such file\. Fix: did you mean .*digits-valid\.npz\?"):
        load(tmp_path / "digits-vaild.npz")
    with pytest.raises(DataError, match=r"there is no folder .*none either"):
        load(tmp_path / "none" / "a.npz")
    with pytest.raises(DataError, match=r"is a directory\. Fix: name a file in it"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"digits-valid\.npz/a\.npz: cannot be read: Not a directory"):
        load(tmp_path / "digits-valid.npz" / "a.npz")

    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(DataError, match=r"digits-valid\.npz: cannot be read: Permission denied"):
        load(tmp_path / "digits-valid.npz")


def test_suffixes_that_are_not_read(tmp_path):
    for name in ("a.pkl", "a.pt", "a.JOBLIB"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match="never unpickled"):
            load(tmp_path / name)
    (tmp_path / "a.xlsx").write_bytes(b"logit_a,logit_b\n1,2\n")
    with pytest.raises(DataError, match=r"no format by the suffix '\.xlsx'"):
        load(tmp_path / "a.xlsx")
    outputs = load(tmp_path / "a.xlsx", format="csv")
    assert outputs.scores.tolist() == [[1, 2]] and outputs.source == str(tmp_path / "a.xlsx")


def test_saving_refuses_before_it_opens_a_file(tmp_path, make):
    with pytest.raises(DataError, match="no format by the suffix"):
        save(make("binary"), tmp_path / "a.doc")
    (tmp_path / "a.npz").write_bytes(b"old")
    with pytest.raises(DataError, match="exists already"):
        save(make("binary"), tmp_path / "a.npz", force=False)
    assert (tmp_path / "a.npz").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(tmp_path, make, form, monkeypatch):
    """A file that takes 100 bytes and no more: whatever the writer does then, the old file survives."""

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(memoryview(data).cast("B")) > 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    path = tmp_path / f"a.{form}"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic, "open", lambda path, mode: io.BufferedWriter(Full(path, mode)), raising=False)
    with pytest.raises(DataError, match=r"could not be written: .*No space left on device"):
        save(make("multiclass"), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@st.composite
def damage(draw, content):
    """The bytes cut short, with some of them flipped, inserted or removed, or others altogether."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "remove", "other"]))
    at = draw(st.integers(0, len(content) - 1))
    if how == "cut":
        return content[:at]
    if how == "other":
        return draw(st.binary(max_size=300))
    if how == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=20)) + content[at:]
    if how == "remove":
        return content[:at] + content[at + draw(st.integers(1, 20)) :]
    flipped = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        flipped[place] = draw(st.integers(0, 255))
    return bytes(flipped)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_damaged_bytes_are_read_or_refused(tmp_path, make, form, task):
    path = tmp_path / f"a.{form}"
    whole = save(make(task), path).read_bytes()

    @settings(max_examples=60, deadline=10_000, suppress_health_check=list(HealthCheck))
    @given(damage(whole))
    def check(content):
        path.write_bytes(content)
        try:
            outputs = load(path)
        except DataError as error:
            str(error).encode()
        else:
            f"{outputs!r} {outputs.classes} {outputs.ids} {outputs.groups}".encode()

    check()


@settings(max_examples=200, deadline=10_000)
@given(st.data())
def test_damaged_npy_is_read_or_refused(data):
    file = io.BytesIO()
    np.save(file, np.array(["a", "bc"]) if data.draw(st.booleans()) else np.ones((3, 2), dtype=np.float32))
    with pytest.MonkeyPatch.context() as patch:
        stdin(patch, data.draw(damage(file.getvalue())))
        try:
            load("-", "logits", format="npy")
        except DataError as error:
            str(error).encode()
