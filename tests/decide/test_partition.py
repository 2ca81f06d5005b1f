"""Thresholds per class, cluster and group, and sets from cross-validation: each against its own definition."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide._conformal_quantile import order
from lastlayer.decide.conformal import ConformalSets, Sets
from lastlayer.decide.conformal_scores import APS, LAC, TopK
from lastlayer.decide.cross_sets import CrossSets
from lastlayer.decide.partition import Partition

PARAMETERS = {
    "split": {
        "score": {"name": "aps"},
        "alpha": 0.1,
        "partition": {"by": None, "names": ["all"]},
        "thresholds": [1.5],
        "rows": [30],
        "classes": ["a", "b"],
        "task": "binary",
        "seed": 0,
    },
    "cross": {
        "score": {"name": "lac"},
        "alpha": 0.1,
        "scores": [[1.0], [0.5, 2.0]],
        "rows": 3,
        "classes": ["a", "b"],
        "task": "binary",
        "seed": 0,
    },
    "labels": {
        "threshold": 0.5,
        "loss": "fnr",
        "risk": 0.1,
        "method": "crc",
        "confidence": None,
        "rows": 10,
        "measured": 0.05,
        "classes": ["a"],
    },
}


def uneven(seed, n=3000, classes=5):
    """Classes of different difficulty: the logits of class k are multiplied by k + 1 where it is true."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, n)
    z = rng.normal(size=(n, classes)) * 1.5
    z[np.arange(n), target] += 0.7 * target
    return Outputs(z, "logits", target=target, groups={"site": np.where(rng.random(n) < 0.3, "a", "b")})


def surprise(z):
    return np.log(np.exp(z).sum(1, keepdims=True)) - z


def test_each_class_has_the_order_statistic_of_its_own_rows():
    outputs = uneven(0)
    sets = LAC.fit(outputs, alpha=0.1, by="class")
    own = surprise(outputs.scores)[np.arange(len(outputs)), outputs.target]
    for k in range(5):
        scores = np.sort(own[outputs.target == k])
        assert sets.rows[k] == len(scores)
        assert sets.thresholds[k] == pytest.approx(scores[order(len(scores), 0.1) - 1], rel=1e-12)
    fresh = uneven(1)
    np.testing.assert_array_equal(sets.apply(fresh), surprise(fresh.scores) <= np.array(sets.thresholds))
    assert list(sets.promised) == ["0", "1", "2", "3", "4"]
    assert sets.promised["2"] == order(sets.rows[2], 0.1) / (sets.rows[2] + 1)


def coverage_by(column, members, target):
    covered = members[np.arange(len(target)), target]
    return {value: covered[column == value].mean() for value in np.unique(column).tolist()}


@pytest.mark.parametrize("score", [LAC(), APS()])
def test_each_class_and_each_group_is_covered(score):
    found = {by: [] for by in ("class", "site", None)}
    for seed in range(20):
        held, fresh = uneven(seed), uneven(100 + seed)
        for by, kept in found.items():
            sets = ConformalSets.fit(score, held, alpha=0.1, by=by, seed=seed)
            column = fresh.groups["site"] if by == "site" else fresh.target
            kept.append(list(coverage_by(column, sets.apply(fresh), fresh.target).values()))
    for by in ("class", "site"):
        mean, error = np.mean(found[by], 0), np.std(found[by], 0, ddof=1) / np.sqrt(20)
        assert (np.abs(mean - 0.9) < 3.5 * error + 0.002).all()
    assert np.ptp(np.mean(found[None], 0)) > 0.1  # the promise for all rows is not one for each class


def test_groups_are_told_by_name_and_an_unknown_one_is_refused():
    outputs = uneven(0)
    sets = LAC.fit(outputs, alpha=0.1, by="site")
    assert sets.partition.names == ("a", "b")
    fresh = uneven(1)
    whole = sets.apply(fresh)
    for name in ("a", "b"):
        rows = outputs.groups["site"] == name
        alone = LAC.fit(outputs.rows(rows), alpha=0.1)
        inside = fresh.groups["site"] == name
        np.testing.assert_array_equal(whole[inside], alone(fresh.scores[inside]))
    with pytest.raises(DataError, match=r"group_site: 'c' is not one of the groups .* a, b. First rows: 1\."):
        sets(fresh.scores[:3], group=["a", "c", "b"])
    with pytest.raises(ValueError, match="these are by site; say group="):
        sets(fresh.scores)
    with pytest.raises(DataError, match="no grouping 'ward': the groupings are site"):
        LAC.fit(outputs, by="ward")
    with pytest.raises(DataError, match="there are no groups"):
        sets.apply(Outputs(fresh.scores, "logits"))


def test_a_class_that_was_never_seen_is_named():
    outputs = Outputs(np.zeros((50, 3)), "logits", target=np.arange(50) % 2, classes=["cat", "dog", "emu"])
    for by in ("class", "cluster"):
        with pytest.raises(DataError, match="class 'emu' has no held-out row, so nothing can be promised for it"):
            LAC.fit(outputs, by=by)
    assert LAC.fit(outputs).thresholds


def test_a_class_with_too_few_rows_is_always_in_the_set_and_named():
    outputs = uneven(0)
    keep = (outputs.target != 3) | (np.cumsum(outputs.target == 3) <= 8)
    sets = LAC.fit(outputs.rows(keep), alpha=0.1, by="class")
    assert sets.always == ("3",)
    assert sets.rows[3] == 8
    assert sets.thresholds[3] == np.inf
    assert sets(np.array([[50.0, 0, 0, -50, 0], [50.0, 0, 0, -np.inf, 0]]))[:, 3].tolist() == [True, False]
    assert Sets.from_json(sets.to_json()) == sets
    with pytest.raises(DataError, match=r"8 held-out rows in the largest class promise no coverage of 0.9"):
        few = [np.flatnonzero(outputs.target == k)[:8] for k in range(5)]
        LAC.fit(outputs.rows(np.concatenate(few)), alpha=0.1, by="class")


def many_classes(seed, n=8000, classes=40):
    """Two kinds of classes, easy and hard, and class 0 rare."""
    rng = np.random.default_rng(seed)
    target = np.where(np.arange(n) < 3, 0, rng.integers(1, classes, n))
    z = rng.normal(size=(n, classes))
    z[np.arange(n), target] += np.where(target % 2, 6.0, 2.0)
    return Outputs(z, "logits", target=target)


def test_clusters_find_the_classes_that_are_alike():
    outputs = many_classes(0)
    sets = LAC.fit(outputs, alpha=0.1, by="cluster", seed=1)
    part = np.array(sets.partition.part_of_class)
    assert sets.partition.names[part[0]] == "others"
    easy, hard = set(part[1::2]), set(part[2::2])
    assert not easy & hard
    fresh = many_classes(1)
    covered = sets.apply(fresh)[np.arange(len(fresh)), fresh.target]
    marginal = LAC.fit(outputs, alpha=0.1).apply(fresh)[np.arange(len(fresh)), fresh.target]
    for kind in (0, 1):
        rows = (fresh.target % 2 == kind) & (fresh.target > 0)
        assert abs(covered[rows].mean() - 0.9) < 0.02
        assert abs(marginal[rows].mean() - 0.9) > 0.04
    assert len(sets.rows) == len(sets.partition.names) == len(sets.thresholds)


def test_clusters_that_cannot_be_made_leave_one_threshold_for_all():
    outputs = uneven(0, n=200)
    sets = LAC.fit(outputs, alpha=0.1, by="cluster")
    assert sets.partition.names == ("others",)
    np.testing.assert_array_equal(sets.apply(uneven(1)), LAC.fit(outputs, alpha=0.1).apply(uneven(1)))


def test_a_partition_is_checked():
    for bad in ({"by": None, "names": []}, {"by": "class", "names": ["a"], "part_of_class": [1]}):
        with pytest.raises(ValueError, match="Partition: every class"):
            Partition(**bad)
    with pytest.raises(ValueError, match="by class or cluster"):
        Partition("site", ("a",), (0,))


def folds_of(seed, n, fold_count, classes=4):
    """Nearest-mean classifiers of each fold's other rows: out-of-fold logits, and a function for new rows."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * np.random.default_rng(99).normal(size=(classes, 3))
    target = rng.integers(0, classes, n)
    x = centres[target] + rng.normal(size=(n, 3))
    fold = rng.permutation(np.arange(n) % fold_count)

    def logits(x, k):
        means = (
            np.stack([x_[y_ == c].mean(0) for c in range(classes)])
            if (x_ := x0[fold != k], y_ := target[fold != k])
            else None
        )
        return -0.5 * ((x[:, None] - means) ** 2).sum(-1)

    x0 = x
    out = np.empty((n, classes))
    for k in range(fold_count):
        out[fold == k] = logits(x[fold == k], k)
    fresh_target = rng.integers(0, classes, 500)
    fresh = centres[fresh_target] + rng.normal(size=(500, 3))
    return (
        Outputs(out, "logits", target=target),
        fold,
        np.stack([logits(fresh, k) for k in range(fold_count)], 1),
        (fresh_target),
    )


def test_cross_sets_are_those_of_their_definition():
    outputs, fold, fresh, _ = folds_of(0, 90, 5)
    sets = CrossSets.fit(LAC(), outputs, fold, alpha=0.1)
    own = surprise(outputs.scores)[np.arange(90), outputs.target]
    new = np.stack([surprise(fresh[:, k]) for k in range(5)])
    for i in range(40):
        for y in range(4):
            smaller = sum(own[j] < new[fold[j], i, y] for j in range(90))
            assert sets(fresh[i])[y] == (smaller < 0.9 * 91)
    np.testing.assert_array_equal(sets(fresh.reshape(4, 125, 5, 4)), sets(fresh).reshape(4, 125, 4))
    assert Sets.from_json(sets.to_json()) == sets
    assert str(sets) == "lac at alpha 0.1: 5 folds, 90 rows"


@pytest.mark.parametrize("score", [LAC(), APS(), TopK()])
def test_cross_sets_cover(score):
    found = []
    for seed in range(40):
        outputs, fold, fresh, target = folds_of(seed, 120, 6)
        sets = CrossSets.fit(score, outputs, fold, alpha=0.1, seed=seed)
        found.append(sets(fresh)[np.arange(500), target].mean())
    error = np.std(found, ddof=1) / np.sqrt(40)
    assert np.mean(found) > 0.9 - 3 * error
    if score.name != "topk":
        assert np.mean(found) < 0.93


def test_cross_sets_on_other_libraries_and_bad_input(library):
    outputs, fold, fresh, _ = folds_of(0, 90, 3)
    sets = CrossSets.fit(APS(), outputs, fold, alpha=0.1)
    fresh = fresh[:40].astype(library.dtype)
    fresh[0, 1, 2], fresh[1, 0], fresh[2, :, 3] = -np.inf, np.nan, -np.inf
    members = library.numpy(sets(library.of(fresh)))
    np.testing.assert_array_equal(members, sets(fresh))
    assert not members[0, 2] and not members[1].any() and not members[2, 3]
    sure = np.tile([5.0, 0.0, 0.0, 0.0], (3, 1)).astype(library.dtype)
    assert library.numpy(sets(library.of(sure)))[0]
    sure[1, 0] = -np.inf  # masked by one fold's model
    assert not library.numpy(sets(library.of(sure)))[0]


def test_cross_sets_refuse_what_makes_no_folds():
    outputs, fold, fresh, _ = folds_of(0, 90, 3)
    with pytest.raises(DataError, match="folds are numbered 0, 1"):
        CrossSets.fit(APS(), outputs, fold + 1)
    with pytest.raises(ValueError, match="one of fold for each row"):
        CrossSets.fit(APS(), outputs, fold[1:])
    with pytest.raises(DataError, match="8 held-out rows promise no coverage"):
        CrossSets.fit(APS(), outputs.rows(slice(8)), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"logits are \(\*batch, folds, classes\), here \(\*batch, 3, 4\)"):
        CrossSets.fit(APS(), outputs, fold)(fresh[:, 0])
    weight = np.where(np.arange(90) < 60, 1.0, 0.0)
    weighed = Outputs(outputs.scores, "logits", target=outputs.target, weight=weight)
    assert CrossSets.fit(LAC(), weighed, fold) == CrossSets.fit(LAC(), outputs.rows(slice(60)), fold[:60])


def test_binary_cross_sets():
    z, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    two = CrossSets.fit(LAC(), Outputs(z, "logits", target=y), np.arange(60) % 3)
    one = CrossSets.fit(LAC(), Outputs(z, "logits", target=y).to_binary(), np.arange(60) % 3)
    fresh = np.random.default_rng(1).normal(size=(20, 3, 2))
    np.testing.assert_array_equal(one(fresh[..., 1] - fresh[..., 0]), two(fresh))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "by", "names"]), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["split", "cross", "labels"]), st.integers(0, 8), JSON)
def test_no_json_makes_the_reader_fail_in_another_way(kind, which, value):
    parameters = PARAMETERS[kind] | {list(PARAMETERS[kind])[which % len(PARAMETERS[kind])]: value}
    try:
        sets = Sets.from_json(json.dumps({"schema_version": 1, "sets": kind, "parameters": parameters}))
    except DataError:
        return
    assert Sets.from_json(sets.to_json()) == sets
