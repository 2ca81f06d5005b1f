"""The class of each row and its log-odds, against plain float64 and extended precision."""

import numpy as np
import pytest

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide import Threshold, argmax, choice, choose


def test_argmax_takes_the_first_of_ties_and_no_class_of_rows_that_have_none():
    inf, nan = np.inf, np.nan
    rows = np.array([[1, 3, 3], [-inf, -inf, 0], [inf, 0, inf], [-inf, -inf, -inf], [0, nan, 9], [5, 5, 5.0]])
    assert argmax(rows).tolist() == [1, 2, 0, -1, -1, 0]
    assert argmax(rows.T, axis=0).tolist() == [1, 2, 0, -1, -1, 0]
    assert argmax(rows[0]) == 1


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_argmax_on_other_libraries(library):
    xp = pytest.importorskip(library, reason="pip install 'lastlayer[test]'")
    rows = xp.asarray([[1.0, 3.0, 3.0], [0.0, float("nan"), 9.0], [-float("inf")] * 3])
    assert np.asarray(argmax(rows)).tolist() == [1, -1, -1]


def test_choose_equals_extended_precision_on_real_float32_logits(shared_data):
    with np.load(shared_data / "logits/densenet40_c10_logits.npz") as archive:
        logits = archive["test_logits"]
    assert logits.dtype == np.float32
    index, log_odds = choose(Outputs(logits, "logits"))
    wide = logits.astype(np.longdouble)
    top = wide.argmax(axis=1)
    others = np.where(np.arange(10) == top[:, None], -np.inf, wide)
    second = others.max(axis=1)
    exact = wide.max(axis=1) - second - np.log(np.exp(others - second[:, None]).sum(axis=1))
    np.testing.assert_array_equal(index, top)
    np.testing.assert_allclose(log_odds, exact.astype(np.float64), rtol=1e-12)


def test_binary_is_the_sign_and_the_magnitude():
    index, log_odds = choose(Outputs([0.0, 1e-300, -40.0, np.inf, -np.inf, np.nan], "logits"))
    assert index.tolist() == [0, 1, 0, 1, 0, -1]
    np.testing.assert_array_equal(log_odds, [0.0, 1e-300, 40.0, np.inf, np.inf, np.nan])


def test_two_columns_decide_as_their_difference():
    rows = np.random.default_rng(0).normal(0, 9, (300, 2))
    two, one = choose(Outputs(rows, "logits")), choose(Outputs(rows, "logits").to_binary())
    np.testing.assert_array_equal(two.index, one.index)
    np.testing.assert_allclose(two.log_odds, one.log_odds, rtol=1e-13)


def test_a_row_is_decided_alike_whatever_its_block(monkeypatch):
    outputs = Outputs(np.random.default_rng(1).normal(0, 4, (101, 7)).astype(np.float32), "logits")
    whole = choose(outputs)
    monkeypatch.setattr(choice, "_BLOCK", 21)  # three rows of seven classes: 33 blocks and a rest of two
    assert len(list(choice.blocks(outputs))) == 34
    cut = choose(outputs)
    assert cut.index.tobytes() == whole.index.tobytes()
    assert cut.log_odds.tobytes() == whole.log_odds.tobytes()


def test_probabilities_are_taken_as_logits():
    index, log_odds = choose(Outputs([[0.9, 0.1], [0.25, 0.75]], "probs"))
    assert index.tolist() == [0, 1]
    np.testing.assert_allclose(log_odds, np.log([9.0, 3.0]), rtol=1e-12)


def test_several_labels_per_row_are_refused():
    outputs = Outputs([[0.0, 1.0], [2.0, 3.0]], "logits", task="multilabel", source="tags.npz")
    with pytest.raises(DataError, match=r"tags.npz: 2 labels per row .*Fix: decide each label by itself"):
        Threshold(0.0)(outputs)


def test_margins_are_refused():
    with pytest.raises(DataError, match="margins, of unknown scale"):
        Threshold(0.0)(Outputs([0.5, -1.0], "margin"))
