import json

import numpy as np
import pytest

from lastlayer.io import load, save


def file(header, data=b"", length=None):
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(packed) if length is None else length).to_bytes(8, "little") + packed + data


def tensor(dtype="F32", shape=(1, 2), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_round_trip(tmp_path, make, same, task, dtype):
    outputs = make(task, dtype)
    path = save(outputs, tmp_path / "a.safetensors")
    same(load(path), outputs)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # so that float64 tensors are aligned


def test_the_official_reader_agrees(tmp_path, make):
    official = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    outputs = make("multiclass")
    tensors = official.load_file(save(outputs, tmp_path / "a.safetensors"))
    assert tensors["logits"].tobytes() == outputs.scores.tobytes()
    assert tensors["target"].tolist() == outputs.target.tolist()
    assert bytes(tensors["id"][0]) == b"row 0"


def test_we_read_the_official_writer(tmp_path):
    official = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    arrays = {"logits": np.arange(6, dtype=np.float64).reshape(3, 2), "target": np.array([0, 1, 1], dtype=np.int32)}
    official.save_file(arrays, tmp_path / "a.safetensors", {"classes": '["no", "yes"]'})
    outputs = load(tmp_path / "a.safetensors")
    assert (outputs.scores == arrays["logits"]).all()
    assert outputs.classes == ("no", "yes") and outputs.target.tolist() == [0, 1, 1]


def test_bfloat16_and_float16_are_exact(tmp_path):
    # 0x3F80 = 1, 0xC049 = -3.140625, 0x7F80 = inf, 0x0001 = 2**-133, by the definition of bfloat16
    bits = np.array([[0x3F80, 0xC049], [0x7F80, 0x0001]], dtype="<u2")
    (tmp_path / "b.safetensors").write_bytes(file({"logits": tensor("BF16", (2, 2))}, bits.tobytes()))
    scores = load(tmp_path / "b.safetensors").scores
    assert scores.dtype == np.float32
    assert scores.tolist() == [[1.0, -3.140625], [np.inf, 2.0**-133]]
    half = np.array([[1.5, 65504.0], [6e-8, -np.inf]], dtype="<f2")
    (tmp_path / "h.safetensors").write_bytes(file({"logits": tensor("F16", (2, 2))}, half.tobytes()))
    assert load(tmp_path / "h.safetensors").scores.tolist() == half.astype(float).tolist()


def test_the_metadata_says_what_foreign_scores_are(tmp_path):
    header = {"__metadata__": {"kind": "probs"}, "out": tensor("F64", (1, 2), (0, 16))}
    (tmp_path / "a.safetensors").write_bytes(file(header, np.array([0.25, 0.75]).tobytes()))
    assert load(tmp_path / "a.safetensors", scores_key="out").kind == "probs"


@pytest.mark.parametrize(
    "content, says",
    [
        (b"\1", "the header claims 1 bytes in a file of 1"),
        (file({}, length=2**40), "the header claims 1099511627776 bytes"),
        (file(b"[" * 50_000), "the header is not JSON"),
        (file(b"[]"), "the header is not an object"),
        (file(b'{"logits": 3}'), "no dtype, shape and data_offsets"),
        (file({"logits": tensor(["F32"])}, b"\0" * 8), "no dtype, shape and data_offsets"),
        (file({"logits": tensor(shape=(1, 2.0))}, b"\0" * 8), "no dtype, shape and data_offsets"),
        (file({"logits": tensor(offsets=(0, 8, 9))}, b"\0" * 8), "no dtype, shape and data_offsets"),
        (file({"logits": tensor("F8_E4M3", (1, 8))}, b"\0" * 8), "'F8_E4M3' is not read"),
        (file({"logits": tensor(shape=(2**40, 2))}, b"\0" * 8), "claims (1099511627776, 2) of F32"),
        (file({"logits": tensor(shape=(2**40, 2), offsets=(0, 2**43))}, b"\0" * 8), "claims (1099511627776, 2)"),
        (file({"logits": tensor(shape=[10**4000] * 8)}, b"\0" * 8), "of F32"),
        (file({"logits": tensor(shape=[1] * 9, offsets=(0, 4))}, b"\0" * 4), "no dtype, shape and data_offsets"),
        (file({"logits": tensor(offsets=(4, 12))}, b"\0" * 8), "at 4..12 of 8 bytes"),
        (file({"logits": tensor(offsets=(-4, 4))}, b"\0" * 8), "no dtype, shape and data_offsets"),
        (file({"logits": tensor(shape=(0, 2), offsets=(0, 0))}), "the tensor is empty"),
        (file({"__metadata__": [], "logits": tensor()}, b"\0" * 8), "the metadata is not an object"),
        (file({"__metadata__": {"classes": "{}"}, "logits": tensor()}, b"\0" * 8), "not a JSON list of names"),
        (file({"__metadata__": {"classes": '["\\ud800", "b"]'}, "logits": tensor()}, b"\0" * 8), "lone surrogate"),
        (file({"__metadata__": {"task": "dance"}, "logits": tensor()}, b"\0" * 8), "task is said to be 'dance'"),
        (file({"__metadata__": {"kind": "odds"}, "logits": tensor()}, b"\0" * 8), "kind is said to be 'odds'"),
    ],
)
def test_hostile_headers(complaint, content, says):
    assert says in complaint("a.safetensors", content)
