"""Rows that stand in several parts, or on disk: read a block at a time, and fitted as the whole is."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer.calibrate import fit
from lastlayer.calibrate import rows as rows_module
from lastlayer.calibrate._table import Table
from lastlayer.calibrate.rows import Rows


def cut(outputs, ends):
    starts = [0, *ends]
    return [outputs.rows(slice(a, b)) for a, b in zip(starts, [*ends, len(outputs)], strict=True)]


def test_slices_masks_and_indices_are_those_of_the_whole():
    outputs = simulated.multiclass(0, n=20)
    table = Table.of(cut(outputs, [3, 4, 11]))
    assert (len(table), table.shape, table.ndim, table.size) == (20, (20, 4), 2, 80)
    for which in (slice(0, 2), slice(2, 12), slice(None), slice(15, 99)):
        np.testing.assert_array_equal(table[which], outputs.scores[which])
    mask = np.arange(20) % 3 == 0
    np.testing.assert_array_equal(table[mask][:], outputs.scores[mask])
    np.testing.assert_array_equal(table[mask][np.array([6, 1])][:], outputs.scores[mask][[6, 1]])
    np.testing.assert_array_equal(table.column("target"), outputs.target)
    assert table.column("weight") is None
    assert [s.stop - s.start for s in table.ranges(28)] == [7, 7, 6]


def test_probabilities_become_logits_a_slice_at_a_time():
    probs = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    table = Table.of([Outputs(probs[:1], "probs"), Outputs(probs[1:], "probs")])
    np.testing.assert_array_equal(table[1:], [[np.log(0.5)] * 2, [0.0, -np.inf]])
    margins = Table.of([Outputs([1.0, -3.0], "margin")])
    np.testing.assert_array_equal(margins[:], [1.0, -3.0])


@pytest.mark.parametrize("method", ["identity", "temperature"])
def test_shards_in_any_order_are_fitted_as_the_whole(method):
    outputs = replace(simulated.multiclass(3, n=3000, temperature=2.0), weight=np.arange(3000) % 3)
    shards = cut(outputs, range(300, 3000, 300))
    whole, parts, shuffled = fit(outputs, method), fit(shards, method), fit(shards[::-1], method)
    for other in (parts, shuffled):
        assert other.certificate.nll_after == pytest.approx(whole.certificate.nll_after, rel=1e-12)
        assert other.parameters == pytest.approx(whole.parameters, rel=1e-8)
        assert other.fitted_on.content == whole.fitted_on.content
        assert other.fitted_on.sketch == whole.fitted_on.sketch
    assert parts.fitted_on.source == "the first part and 9 more"


def test_a_memory_map_is_not_read_whole(tmp_path, monkeypatch):
    outputs = simulated.multiclass(3, n=3000, temperature=2.0)
    np.save(tmp_path / "z.npy", outputs.scores.astype(np.float32))
    mapped = Outputs(np.load(tmp_path / "z.npy", mmap_mode="r"), "logits", target=outputs.target)
    monkeypatch.setattr(rows_module, "KEPT_IN_MEMORY", 1000)
    monkeypatch.setattr(rows_module, "BLOCK", 400)
    lengths = []
    read = Table._read
    monkeypatch.setattr(Table, "_read", lambda self, k, rows: lengths.append(len(rows)) or read(self, k, rows))
    lazy = fit(mapped, "temperature")
    assert isinstance(Rows.of(mapped).logits, Table)
    assert 0 < max(lengths) <= rows_module.HASHED_TOGETHER and lengths.count(100) > 30
    in_memory = fit(Outputs(outputs.scores.astype(np.float32), "logits", target=outputs.target), "temperature")
    assert lazy.temperature == pytest.approx(in_memory.temperature, rel=1e-10)
    assert fit(mapped).method == "temperature"


def test_shards_that_differ_are_refused():
    a = simulated.multiclass(0, n=100)
    with pytest.raises(ValueError, match=r"classes a, b, c, d here"):
        fit([a, replace(a, classes=["a", "b", "c", "d"])])
    with pytest.raises(ValueError, match="the list of outputs is empty"):
        fit([])
    with pytest.raises(TypeError, match="takes Outputs, not ndarray"):
        fit([a, a.scores])
