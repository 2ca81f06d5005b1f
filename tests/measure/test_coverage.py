"""Diagnostics of sets, by hand and against searches of everything."""

import numpy as np
import pytest

from lastlayer.measure.coverage import _least_mean, coverage, worst_slab
from lastlayer.measure.metric import wilson

SETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 1]], bool)
TARGET = np.array([0, 2, 1, 2, 1, 1])  # in, out, out, in, in, in


def test_a_table_by_hand():
    table = coverage(SETS, TARGET, groups=["x", "x", "y", "y", "y", "x"], classes=["a", "b", "c"])
    assert table.coverage == pytest.approx(4 / 6)
    assert (table.coverage.low, table.coverage.high) == (wilson(4 / 6, 6, 6).low, wilson(4 / 6, 6, 6).high)
    assert table.size == pytest.approx(9 / 6)
    assert table.size.low == pytest.approx(1.5 - 1.959964 * np.std([1, 2, 0, 3, 1, 2], ddof=1) / np.sqrt(6))
    assert (table.empty, table.single) == (pytest.approx(1 / 6), pytest.approx(2 / 6))
    assert [(s.name, float(s.coverage), s.size) for s in table.by_size] == [
        ("0", 0.0, 0.0),
        ("1", 1.0, 1.0),
        ("2-3", pytest.approx(2 / 3), pytest.approx(7 / 3)),
    ]
    assert {s.name: float(s.coverage) for s in table.by_class} == {
        "a": 1.0,
        "b": pytest.approx(2 / 3),
        "c": 0.5,
    }
    assert {s.name: float(s.coverage) for s in table.by_group} == {"x": pytest.approx(2 / 3), "y": pytest.approx(2 / 3)}
    assert table.sscv(0.9) == pytest.approx(0.9)
    assert table.covgap(0.9) == pytest.approx((0.1 + (0.9 - 2 / 3) + 0.4) / 3)


def test_weight_0_leaves_a_row_out_and_classes_that_do_not_occur_are_not_there():
    weight = [1, 1, 0, 1, 0, 0]
    table, alone = coverage(SETS, TARGET, weight=weight), coverage(SETS[[0, 1, 3]], TARGET[[0, 1, 3]])
    assert table == alone
    assert [s.name for s in table.by_class] == ["0", "2"]
    doubled = coverage(SETS, TARGET, weight=[2.0, 1, 1, 1, 1, 1])
    assert doubled.coverage == pytest.approx(5 / 7)


def test_size_strata_reach_to_many_classes():
    sets = np.arange(300) < np.array([0, 1, 3, 4, 10, 11, 100, 101, 300])[:, None]
    table = coverage(sets, np.zeros(9, int))
    assert [(s.name, s.coverage.n) for s in table.by_size] == [
        ("0", 1),
        ("1", 1),
        ("2-3", 1),
        ("4-10", 2),
        ("11-100", 2),
        ("101 or more", 2),
    ]


@pytest.mark.parametrize(
    ("sets", "target", "more", "error", "words"),
    [
        (SETS.astype(float), TARGET, {}, TypeError, "sets are bool"),
        (SETS, TARGET[1:], {}, ValueError, "one class index per row"),
        (SETS, TARGET + 1, {}, ValueError, "index of one of the 3 classes"),
        (SETS, TARGET, {"weight": np.zeros(6)}, ValueError, "no row counts"),
        (SETS, TARGET, {"groups": ["a"]}, ValueError, "one of groups per row"),
    ],
)
def test_wrong_calls(sets, target, more, error, words):
    with pytest.raises(error, match=words):
        coverage(sets, target, **more)


@pytest.mark.parametrize("seed", range(20))
def test_the_least_mean_of_a_run_is_found(seed):
    rng = np.random.default_rng(seed)
    values, least = rng.random(40) < rng.random(), int(rng.integers(1, 41))
    every = [(values[i:j].mean(), i, j - 1) for i in range(40) for j in range(i + least, 41)]
    share, first, last = _least_mean(values, least)
    assert share == min(every)[0]
    assert values[first : last + 1].mean() == share
    assert last - first + 1 >= least


def test_the_worst_slab_finds_what_hides_in_one_direction():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 3))
    covered = rng.random(6000) < np.where(x[:, 1] > 1.0, 0.4, 0.95)
    found = worst_slab(x, covered, mass=0.1, directions=300)
    assert found < 0.62
    assert found.low < found < found.high
    assert worst_slab(x, covered, mass=0.1, directions=300) == found
    # Where nothing hides, the half that was not searched says so.
    even = worst_slab(x, rng.random(6000) < 0.9, mass=0.2, directions=300)
    assert abs(even - 0.9) < 0.05


def test_worst_slab_wrong_calls():
    x, covered = np.zeros((10, 2)), np.ones(10, bool)
    for bad in ({"features": x[0]}, {"covered": covered * 1.0}, {"mass": 1.0}, {"directions": 0}):
        with pytest.raises(ValueError, match="worst_slab"):
            worst_slab(**({"features": x, "covered": covered} | bad))
    with pytest.raises(ValueError, match="too few"):
        worst_slab(x[:1], covered[:1])
