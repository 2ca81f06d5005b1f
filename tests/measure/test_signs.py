"""Counts of what raw scores look like: by their definition, and the same from any cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.measure.rows import undone, undone_gain
from lastlayer.measure.signs import Signs, row_hashes

steady = settings(derandomize=True, deadline=None, database=None, max_examples=60)
special = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.0, 1.0, 2.0, -3.0, 1e-4])


def signs(scores, kind="logits", target=None, weight=None, task=None):
    scores = np.asarray(scores)
    if target is None:
        target = np.zeros(scores.shape if task == "multilabel" else len(scores), int)
    return ll.Evaluation.of(ll.Outputs(scores, kind, target=target, weight=weight, task=task)).signs


@st.composite
def outputs(draw):
    n, task = draw(st.integers(1, 12)), draw(st.sampled_from(["multiclass", "binary", "multilabel"]))
    shape = (n,) if task == "binary" else (n, 3)
    z = draw(arrays(np.float64, shape, elements=special))
    top = 2 if task == "multiclass" else 1
    target = draw(arrays(np.int64, (n,) if task == "multiclass" else shape, elements=st.integers(0, top)))
    weight = draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.0])))
    weight[0] = 1
    kind = draw(st.sampled_from(["logits", "probs", "logp", "margin"]))
    return ll.Outputs(z, kind, target=target, weight=weight, task=task)


@steady
@given(outputs(), st.integers(0, 2**32 - 1))
def test_any_cut_and_any_tree_give_the_whole(rows, seed):
    rng = np.random.default_rng(seed)
    borders = np.unique([0, *rng.integers(0, len(rows) + 1, 4), len(rows)])
    parts = [ll.Evaluation.of(rows.rows(slice(a, b))).signs for a, b in itertools.pairwise(borders)]
    parts.append(Signs.empty(1 if rows.task == "binary" else 3))
    while len(parts) > 1:
        a = parts.pop(rng.integers(len(parts)))
        parts.append(a.merge(parts.pop(rng.integers(len(parts)))))
    whole = ll.Evaluation.of(rows).signs
    for name, array in whole.arrays().items():
        found = parts[0].arrays()[name]
        assert found.dtype == array.dtype, name
        assert np.array_equal(found, array, equal_nan=True), name
    again = Signs.from_bytes(whole.to_bytes())
    assert all(np.array_equal(again.arrays()[k], a, equal_nan=True) for k, a in whole.arrays().items())


@steady
@given(outputs())
def test_counts_and_extremes_are_those_of_the_rows_that_weigh_something(rows):
    found = ll.Evaluation.of(rows).signs
    table = rows.scores.reshape(len(rows), -1)[rows.weight > 0]
    finite = [[x for x in row if np.isfinite(x)] for row in table]
    highest = max((max(row) for row in finite if row), default=-np.inf)
    lowest = min((min(row) for row in finite if row), default=np.inf)
    assert found.rows == len(table)
    assert found.nan_rows == sum(any(np.isnan(row)) for row in table)
    assert found.infinite_rows == sum(np.inf in row for row in table)
    assert found.empty_rows == sum(all(row == -np.inf) for row in table)
    assert (found.highest, found.lowest) == (highest, lowest)
    if np.isfinite(highest):
        assert found.highest_rows == sum(highest in row for row in finite)
        assert found.lowest_rows == sum(lowest in row for row in finite)
    if rows.task == "multiclass":
        largest_two = [np.sort(row[~np.isnan(row)])[::-1][:2] for row in table if not np.isnan(row).any()]
        assert found.tied_rows == sum(a == b and np.isfinite(a) for a, b in largest_two)
    for k, column in enumerate(table.T):
        column = column[np.isfinite(column)]
        assert found.least[k] == min(column, default=np.inf)
        assert found.largest[k] == max(column, default=-np.inf)


def test_simplex_rows_are_probabilities_to_half_precision():
    z = [[0.5, 0.4995, 0.0], [0.5, 0.6, 0.0], [1.2, -0.2, 0.0], [np.nan, 0.5, 0.5], [1.0, 0.0, 0.0]]
    assert signs(z).simplex_rows == 2
    assert signs([0.0, 1.0, 1.1, 0.3]).simplex_rows == 3
    assert signs([[0.9, 0.9], [0.9, -0.1]], task="multilabel").simplex_rows == 1


@pytest.mark.parametrize("dtype,off,improper", [(np.float64, 1e-12, 1), (np.float32, 1e-7, 0), (np.float32, 1e-5, 1)])
def test_declared_probabilities_sum_to_1_to_the_rounding_of_their_dtype(dtype, off, improper):
    p = np.array([[0.25, 0.25 + off, 0.5], [0.25, 0.25, 0.5]], dtype)
    found = signs(p, "probs")
    assert found.improper_rows == improper
    assert found.worst_sum == pytest.approx(off, rel=0.5)


def test_declared_probabilities_outside_0_and_1_are_improper():
    assert signs([[1.25, -0.25], [0.5, 0.5], [np.nan, 0.5]], "probs").improper_rows == 1
    assert signs([1.25, 0.5, 0.0, 1.0, -0.1], "probs").improper_rows == 2
    assert signs([[1.25, -0.25]], "logits").improper_rows == 0


def test_a_second_softmax_is_seen_and_undone():
    rng = np.random.default_rng(0)
    p = ll.softmax(rng.normal(scale=3, size=(50, 4)))
    twice = ll.softmax(p)
    np.testing.assert_allclose(undone(np.log(twice)), p, atol=1e-12)
    y = rng.integers(0, 4, 50)
    found = signs(p, "logits", target=y)  # softmax of probabilities is what is scored
    assert found.softmaxed_rows == 50
    assert signs(twice.astype(np.float32), "probs", target=y).softmaxed_rows == 50
    assert signs(rng.normal(scale=3, size=(50, 4)), target=y).softmaxed_rows == 0
    assert signs(p[:, 0], "probs", target=y % 2).softmaxed_rows == 0  # two classes cannot tell


def test_undoing_a_second_softmax_changes_the_brier_score_by_the_gain():
    rng = np.random.default_rng(1)
    p = ll.softmax(rng.normal(scale=3, size=(50, 4)))
    y = (p.cumsum(1) < rng.uniform(size=(50, 1))).sum(1)
    hit = np.eye(4)[y]
    twice = ll.softmax(p)
    brier = ((twice - hit) ** 2).sum(1)
    gain, softmaxed = undone_gain(np.log(twice), brier, hit)
    np.testing.assert_allclose(gain, brier - ((p - hit) ** 2).sum(1), atol=1e-12)
    assert softmaxed.all()
    with np.errstate(invalid="ignore"):
        gain, softmaxed = undone_gain(np.array([[0.0, -np.inf]]), np.zeros(1), np.array([[True, False]]))
    assert (gain.tolist(), softmaxed.tolist()) == ([0], [False])


def test_peak_is_the_largest_probability_of_each_class():
    z = np.array([[0.0, np.log(3.0)], [np.nan, 9.0], [1.0, 1.0]])
    assert signs(z).peak == pytest.approx([0.5, 0.75])


def splitmix(values):
    """The hash of one row, in Python integers."""
    mask, state = 2**64 - 1, len(values)
    for bits in values:
        state = ((state ^ bits) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def test_row_hashes_are_splitmix_of_values_and_target():
    x = np.array([[1.5, -2.0], [0.0, 1e300]])
    bits = x.view(np.uint64)
    want = [splitmix([*map(int, row), target]) for row, target in zip(bits, (1, 0), strict=True)]
    assert row_hashes(x, np.array([1, 0])).tolist() == want
    assert row_hashes(x).tolist() == [splitmix([*map(int, row)]) for row in bits]
    assert row_hashes(x[:1].astype(np.float32)).tolist() == row_hashes(x[:1]).tolist()
    assert row_hashes(np.array([[-0.0, 1.0]])).tolist() == row_hashes(np.array([[0.0, 1.0]])).tolist()
    assert row_hashes(np.asfortranarray(x)).tolist() == row_hashes(x).tolist()


def test_repeated_rows_are_counted_once_each():
    z, y = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]), np.array([0, 0, 1, 0])
    distinct = signs(z, target=y).distinct
    assert sorted(distinct.count.tolist()) == [1, 1, 2]
    assert distinct.value() == 0.25


def test_copies_of_scores_are_told_from_copies_with_another_target():
    z, y = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]]), np.array([0, 0, 1, 1, 1])
    rows, targets = signs(z, target=y).copies
    assert sorted(zip(rows.tolist(), targets.tolist(), strict=True)) == [(2, 1), (3, 2)]
    assert [len(part) for part in Signs.empty(2).copies] == [0, 0]


def test_rows_that_can_not_be_scored_are_not_hashed():
    z = np.array([[np.nan, 1.0], [np.nan, 2.0], [-np.inf, -np.inf], [1.0, 2.0]])
    assert signs(z).hash_count.tolist() == [1]


def test_bytes_of_another_state_are_no_signs():
    with pytest.raises(DataError, match="a Signs of schema 1 is wanted"):
        Signs.from_bytes(Signs.empty(2).distinct.to_bytes())
