"""Policies and sets on records that mean harm, and on targets that are odd but possible."""

import json
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide import APS, LAC, Cost, CostMatrix, CrossSets, LabelSets, Policy, Risk, Sets, Thresholds, Tuned
from lastlayer.decide.bound import clopper_pearson
from tampering import anything, tampered


def drawn(seed, n=600, classes=3):
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, classes))
    target = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs(z, "logits", target=target, groups={"site": np.where(np.arange(n) % 2, "a", "b")})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("risk", [0.55, 0.6, 0.7, 0.8, 0.9])
def test_a_risk_that_accepting_everything_keeps_is_promised(seed, risk):
    rng = np.random.default_rng(seed)
    wrong = rng.random(600) < 0.45
    z = rng.normal(size=600)
    outputs = Outputs(z, "logits", target=np.where(wrong, z < 0, z > 0))
    assert clopper_pearson(wrong.sum(), 600, 0.95).high < risk
    policy = Risk.fit(outputs, risk)
    assert policy.high <= risk
    assert policy.accepted > 300


def test_a_threshold_for_clusters_is_refused():
    for goal in ({"risk": 0.4}, {"coverage": 0.5}):
        with pytest.raises(DataError, match="no grouping 'cluster'"):
            Thresholds.fit(drawn(0), "cluster", **goal)
    record = json.loads(Thresholds.fit(drawn(0), "site", coverage=0.5).to_json())
    record["parameters"]["by"] = "cluster"
    with pytest.raises(DataError, match="by is 'class' or the name of a grouping"):
        Policy.from_json(json.dumps(record))


def test_sets_with_parts_for_other_classes_are_refused():
    record = json.loads(LAC.fit(drawn(0), by="class").to_json())
    record["parameters"]["partition"]["part_of_class"].pop()
    with pytest.raises(DataError, match="one part for each of 3 classes"):
        Sets.from_json(json.dumps(record))
    record["parameters"]["partition"] |= {"by": None, "part_of_class": []}
    with pytest.raises(DataError, match="all rows are one part"):
        Sets.from_json(json.dumps(record))


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, math.nan, math.inf, "0.1", None, [0.1]])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match="alpha lies between 0 and 1, both excluded; this is"):
        LAC.fit(drawn(0), alpha)


def test_policies_in_policies_without_end():
    text = '{"policy": "thresholds", "parameters": {"by": "site", "names": ["a"], "parts": ['
    with pytest.raises(DataError, match=r"policy: "):
        Policy.from_json('{"schema_version": 1, ' + (text * 200)[1:] + "]}}" * 200)


BINARY = Outputs(drawn(0).scores[:, 0], "logits", target=(drawn(0).target == 0).astype(int))
LABELS = Outputs(drawn(0).scores, "logits", target=(drawn(0).scores > 0.3).astype(int), task="multilabel")
WRITTEN = [
    made.to_json()
    for made in (
        Cost(10, 1),
        CostMatrix([[0, 1, 2], [1, 0, 1], [3, 4, 0]], review=[0.5, 1, 2], classes=["0", "1", "2"]),
        Risk.fit(drawn(0), 0.4, seed=1),
        Thresholds.fit(drawn(0), "site", risk=0.45),
        Thresholds.fit(drawn(0), "class", coverage=0.4),
        Tuned.fit(drawn(0), "balanced_accuracy", by="class"),
        APS.fit(drawn(0), by="class"),
        LAC.fit(drawn(0), by="site"),
        CrossSets.fit(LAC(), drawn(0, 60), np.arange(60) % 3),
        LabelSets.fit(LABELS, 0.2),
    )
]
ANY = anything(
    words=["Infinity", "-Infinity", "class", "cluster", "aps"],
    keys=["name", "by", "policy", "parameters", "log_odds"],
    floats=st.floats(),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WRITTEN), st.data())
def test_no_tampering_makes_a_record_fail_in_another_way(text, data):
    record = json.loads(text)
    reader = Policy if "policy" in record else Sets
    tampered(data.draw, record, ANY)
    try:
        read = reader.from_json(json.dumps(record))
    except DataError:
        return
    assert reader.from_json(read.to_json()).to_json() == read.to_json()
    assert repr(read) and str(read)
    if isinstance(read, CrossSets):
        return
    outputs = LABELS if isinstance(read, LabelSets) else drawn(1, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # costs of 1e308 overflow
        try:
            read(outputs) if isinstance(read, Policy) else read.apply(outputs)
        except DataError:
            return


@pytest.mark.parametrize("text", WRITTEN)
def test_a_truncated_record_is_refused(text):
    reader = Policy if '"policy"' in text[:40] else Sets
    for share in np.linspace(0, 0.99, 30):
        with pytest.raises(DataError, match=r"not a policy|not conformal sets"):
            reader.from_json(text[: int(share * len(text))])


@pytest.mark.parametrize("score", [LAC, APS])
@pytest.mark.parametrize("by", [None, "class", "site"])
def test_sets_grow_as_alpha_falls(score, by):
    held, fresh = drawn(2, 2000), drawn(3, 300)
    sizes = [score.fit(held, alpha, by=by).apply(fresh) for alpha in (0.4, 0.2, 0.1, 0.05)]
    for small, large in pairwise(sizes):
        assert not (small & ~large).any()


def test_a_row_gets_the_same_set_in_another_order():
    held, fresh = drawn(2, 2000), drawn(3, 300)
    order = np.random.default_rng(0).permutation(300)
    sets = LAC.fit(held, by="site")
    np.testing.assert_array_equal(sets.apply(fresh)[order], sets.apply(fresh.rows(order)))
    mixed = held.rows(np.random.default_rng(1).permutation(2000))
    assert LAC.fit(mixed, by="site") == sets
    assert math.isfinite(sets.thresholds[0])
