"""Blocks: files read some rows at a time, and never whole."""

import threading
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from lastlayer import Outputs, blocks, evaluate, load, save
from lastlayer._check import DataError
from lastlayer.io import stream


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "rows_of_block", lambda width: 64)


def rows(n=300, classes=3, **more):
    rng = np.random.default_rng(n)
    z = rng.normal(size=(n, classes)).astype(np.float32)
    return Outputs(
        z,
        "logits",
        target=rng.integers(0, classes, n),
        classes=[f"class {k}" for k in range(classes)],
        groups={"site": rng.choice(["north", "south"], n)},
        weight=rng.uniform(0.5, 2, n),
        ids=np.arange(n),
        **more,
    )


def same(block, whole, which):
    for name in ("scores", "target", "weight", "ids"):
        np.testing.assert_array_equal(getattr(block, name), getattr(whole, name)[which])
    np.testing.assert_array_equal(block.groups["site"], whole.groups["site"][which])
    assert (block.classes, block.kind, block.task) == (whole.classes, whole.kind, whole.task)


@pytest.mark.parametrize("suffix", ["npz", "parquet", "csv", "jsonl", "safetensors"])
@pytest.mark.parametrize("start", [0, 1, 64, 200, 299])
def test_blocks_are_the_rows_of_the_file_in_order(tmp_path, small_blocks, suffix, start):
    path = tmp_path / f"rows.{suffix}"
    save(rows(), path)
    whole, read = load(path), blocks(path, start=start)
    first = start
    for block in read:
        assert len(block) <= 64
        same(block, whole, slice(first, first + len(block)))
        first += len(block)
    assert first == 300
    assert read.rows == (None if suffix in ("csv", "jsonl") else 300 - start)


def test_compressed_archives_and_bare_arrays(tmp_path, small_blocks):
    whole = rows()
    np.savez_compressed(tmp_path / "z.npz", logits=whole.scores, target=whole.target)
    for start in (0, 100):
        found = np.concatenate([block.scores for block in blocks(tmp_path / "z.npz", start=start)])
        np.testing.assert_array_equal(found, whole.scores[start:])
    np.save(tmp_path / "z.npy", whole.scores)
    parts = list(blocks(tmp_path / "z.npy", "logits", target=whole.target, start=10))
    np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), whole.scores[10:])
    np.testing.assert_array_equal(np.concatenate([part.target for part in parts]), whole.target[10:])
    np.save(tmp_path / "f.npy", np.asfortranarray(whole.scores))
    parts = [part.scores for part in blocks(tmp_path / "f.npy", "logits")]
    np.testing.assert_array_equal(np.concatenate(parts), whole.scores)


def test_columns_of_classes_in_parquet(tmp_path, small_blocks):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    whole = rows()
    columns = {f"logit_{name}": whole.scores[:, k] for k, name in enumerate(whole.classes)}
    target = [whole.classes[k] for k in whole.target]
    pq.write_table(pa.table(columns | {"target": target}), tmp_path / "wide.parquet", row_group_size=50)
    read = list(blocks(tmp_path / "wide.parquet"))
    assert max(map(len, read)) <= 64
    np.testing.assert_array_equal(np.concatenate([block.target for block in read]), whole.target)
    np.testing.assert_array_equal(np.concatenate([block.scores for block in read]), whole.scores)


def test_one_block_is_read_while_the_one_before_it_is_used():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2
        raise DataError("the third is damaged.")

    coming = stream.ahead(items())
    assert next(coming) == 1
    assert made.wait(10)  # though nobody has asked for it
    assert next(coming) == 2
    with pytest.raises(DataError, match="the third is damaged"):
        next(coming)


def test_blocks_that_are_not_wanted_leave_no_thread_and_no_open_file(tmp_path, small_blocks):
    closed = []
    path = save(rows(), tmp_path / "rows.npz")
    read = blocks(path)
    opened = read.opened

    @contextmanager
    def watched():
        with opened() as source:
            try:
                yield source
            finally:
                closed.append([t.name for t in threading.enumerate() if t.name.startswith("lastlayer-reader")])

    some = iter(stream.Blocks(watched, read.wanted))
    same(next(some), load(path), slice(0, 64))
    some.close()
    assert closed == [[]]


@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet"])
def test_an_evaluation_of_blocks_has_the_bits_of_the_whole(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(stream, "SUMMED", 2**17)
    whole = rows(40_000, 10)
    path = tmp_path / f"rows.{suffix}"
    how = {}
    if suffix == "npy":
        np.save(path, whole.scores)
        how = {"kind": "logits", "target": whole.target}
    else:
        save(whole, path)
    assert [len(block) for block in blocks(path, **how)] == [26_214, 13_786]
    assert evaluate(blocks(path, **how)).to_bytes() == evaluate(load(path, **how)).to_bytes()


def test_whatever_is_summed_at_once_fills_what_is_read():
    for width in (1, 10, 17, 256, 257, 1000, 32_769, 10**6):
        for exclusive in (True, False):
            ranges, left = divmod(stream.rows_of_block(width), stream.rows_at_once(width, exclusive))
            assert ranges >= 2
            assert not left
    assert stream.rows_at_once(1000, True) == 2 * stream.rows_at_once(1000, False)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(stream, "rows_of_block", lambda width: 1000)
    path = tmp_path / f"rows.{suffix}"
    z = np.random.default_rng(0).normal(size=(200_000, 10)).astype(np.float32)
    if suffix == "npz":
        save(Outputs(z, "logits", target=np.zeros(len(z), int)), path)
    else:  # a row group is in memory while it is read
        pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
        pq.write_table(pa.table({f"logit_{k}": z[:, k] for k in range(10)}), path, row_group_size=5000)
    list(blocks(path, start=199_000))  # imports
    tracemalloc.start()
    for block in blocks(path):
        assert len(block) <= 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < z.nbytes / 4


def test_what_is_wrong_is_said_with_the_rows_of_the_file(tmp_path, small_blocks):
    whole = rows()
    target = whole.target.copy()
    target[210] = 9
    np.savez(tmp_path / "bad.npz", logits=whole.scores, target=target)
    with pytest.raises(DataError, match=r"bad\.npz: target: in the rows from 192 on: target 9 .* First rows: 210\."):
        list(blocks(tmp_path / "bad.npz"))
    np.savez(tmp_path / "short.npz", logits=whole.scores, target=target[:-1])
    with pytest.raises(DataError, match="columns of different lengths: logits 300, target 299"):
        list(blocks(tmp_path / "short.npz"))
    data = (tmp_path / "bad.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.npz: damaged or cut short"):
        list(blocks(tmp_path / "cut.npz"))
    with pytest.raises(ValueError, match=r"blocks: parameter is one of 'split'.* Did you mean 'target'"):
        blocks(tmp_path / "bad.npz", tagret=target)
    with pytest.raises(ValueError, match="there is no block to evaluate"):
        evaluate([])
