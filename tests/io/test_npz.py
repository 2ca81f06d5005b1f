import io
import struct
import zipfile

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.io import load, save


def npy(descr, shape, data=b"", version=1):
    """An array file with whatever header one likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def archive(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def test_round_trip(tmp_path, make, same, task, dtype):
    outputs = make(task, dtype)
    same(load(save(outputs, tmp_path / "a.npz")), outputs)


def test_an_unlabelled_multilabel_file_keeps_its_task(tmp_path):
    from lastlayer.outputs import Outputs

    save(Outputs(np.ones((2, 3)), "probs", task="multilabel"), tmp_path / "a.npz")
    assert load(tmp_path / "a.npz").task == "multilabel"


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes_in_any_order_of_memory(tmp_path, write):
    logits = np.asfortranarray(np.random.default_rng(0).normal(size=(50, 4)).astype(">f4"))
    write(
        tmp_path / "a.npz", logits=logits, target=np.zeros(50, dtype="u1"), classes=np.array([b"a", b"b", b"c", b"d"])
    )
    outputs = load(tmp_path / "a.npz")
    assert (outputs.scores == logits).all() and outputs.scores.dtype == np.float32
    assert outputs.classes == ("a", "b", "c", "d")


def test_numpy_reads_what_we_write_without_pickle(tmp_path, make):
    outputs = make("multiclass")
    with np.load(save(outputs, tmp_path / "a.npz"), allow_pickle=False) as arrays:
        assert set(arrays) == {"logits", "target", "classes", "weight", "id", "group_site", "group_Äge", "task"}
        assert arrays["logits"].tobytes() == outputs.scores.tobytes()
        assert arrays["classes"].tolist() == list(outputs.classes)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header(tmp_path, version):
    data = np.array([[1.5, -2.0]])
    (tmp_path / "a.npy").write_bytes(npy("<f8", (1, 2), data.tobytes(), version))
    assert (load(tmp_path / "a.npy", "logits").scores == data).all()


def test_npy_takes_kind_and_a_target_file(tmp_path):
    np.save(tmp_path / "p.npy", np.array([[0.25, 0.75], [0.5, 0.5]]))
    np.save(tmp_path / "y.npy", np.array([1, 0], dtype=np.uint16))
    outputs = load(tmp_path / "p.npy", "probs", target_file=tmp_path / "y.npy")
    assert outputs.kind == "probs" and outputs.target.tolist() == [1, 0]


@pytest.mark.parametrize("descr", ["<f4", "|u1", "<U3"])
@pytest.mark.parametrize("shape", ["(1099511627776, 10)", "(1099511627776,)", f"({10**4000}, {10**4000})"])
def test_claimed_rows_are_refused_before_they_are_allocated(complaint, descr, shape, monkeypatch):
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("allocated"))
    content = npy(descr, shape, b"\0" * 80)
    assert "the header claims" in complaint("a.npy", content, kind="logits")
    assert "logits: the header claims" in complaint("a.npz", archive({"logits.npy": content}))


def test_a_member_may_not_claim_more_than_its_bytes_can_hold(complaint):
    """The archive's own directory lies about the size, in agreement with the array's header."""
    content = npy("<f4", (2**30, 1), b"\0" * 64)
    packed = bytearray(archive({"logits.npy": content}, zipfile.ZIP_DEFLATED))
    at = packed.rindex(b"PK\x01\x02") + 24
    packed[at : at + 4] = struct.pack("<I", len(content) - 64 + 2**32 - 2**20)
    assert "claims 4293" in complaint("a.npz", bytes(packed))


def test_texts_without_width_are_refused(complaint):
    assert "'<U0' are not read" in complaint("a.npz", archive({"logits.npy": npy("<U0", (2**40,))}))


def test_objects_are_never_unpickled(complaint):
    file = io.BytesIO()
    np.save(file, np.array([[1, 2], [3]], dtype=object), allow_pickle=True)
    assert "never unpickled" in complaint("a.npy", file.getvalue(), kind="logits")
    assert "logits: holds Python objects" in complaint("a.npz", archive({"logits.npy": file.getvalue()}))


@pytest.mark.parametrize(
    "content, says",
    [
        (npy("<f4", (0, 10)), "the array is empty"),
        (npy("<f4", (2, -1), b"\0" * 8), "gives the shape"),
        (npy("<f4", (True, 2), b"\0" * 8), "gives the shape"),
        (npy([("a", "<f4")], (1,), b"\0" * 4), "are not read"),
        (npy("<c8", (1,), b"\0" * 8), "'<c8' are not read"),
        (npy("<f4", (2, 2), b"\0" * 15), "claims (2, 2) of float32, but 15 bytes follow"),
        (npy("<f4", (2, 2), b"\0" * 17), "claims (2, 2) of float32, but 17 bytes follow"),
        (npy("<f4", "(" * 3000 + ")" * 3000), "cannot be parsed"),
        (npy("<f4", "__import__('os').getcwd()"), "damaged"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70000, "a header of 65535 bytes"),
        (b"\x93NUM", "not an array"),
        (npy("<U1", (1,), struct.pack("<I", 0x110000)), "texts that are no texts"),
        (npy("<U1", (1,), struct.pack("<I", 0xD800)), "texts that are no texts"),
        (npy("|S1", (1,), b"\xff"), "can't decode byte"),
    ],
)
def test_hostile_headers(complaint, content, says):
    assert says in complaint("a.npy", content, kind="logits")


def test_a_flipped_byte_fails_the_checksum(tmp_path, make, complaint):
    content = bytearray(save(make("multiclass"), tmp_path / "whole.npz").read_bytes())
    content[200] ^= 1
    assert "logits: damaged or cut short: Bad CRC-32" in complaint("a.npz", bytes(content))


def test_other_compressions_are_refused(complaint):
    content = archive({"logits.npy": npy("<f4", (1, 2), b"\0" * 8)}, zipfile.ZIP_LZMA)
    assert "compression method 14 is not read" in complaint("a.npz", content)


def test_npy_is_not_written(tmp_path, make):
    with pytest.raises(ValueError, match=r"save: \.npy holds one array"):
        save(make("binary"), tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())


def test_a_split_is_chosen_not_guessed(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        val_logits=np.zeros((2, 2)),
        val_labels=[0, 1],
        test_logits=np.ones((3, 2)),
        test_target=[1, 1, 0],
        test_weight=[1.0, 0, 2],
        test_group_site=["x", "y", "x"],
        classes=["no", "yes"],
    )
    with pytest.raises(DataError, match=r"2 splits: test, val\. Fix: choose one with --split test\|val"):
        load(tmp_path / "a.npz")
    with pytest.raises(DataError, match="no scores of a split 'train'; the splits are test, val"):
        load(tmp_path / "a.npz", split="train")
    val, test = load(tmp_path / "a.npz", split="val"), load(tmp_path / "a.npz", split="test")
    assert val.target.tolist() == [0, 1] and test.target.tolist() == [1, 1, 0]
    assert val.groups == {} and test.groups["site"].tolist() == ["x", "y", "x"]
    assert val.weight is None and test.weight.tolist() == [1, 0, 2]
    assert val.classes == test.classes == ("no", "yes")
