"""A threshold for each class or group: each keeps its promise, all of them together with the confidence."""

import json

import numpy as np
import pytest

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide import Coverage, Policy, Risk, Threshold
from lastlayer.decide.threshold_by_part import Thresholds

NAMES = ["no", "yes"]


def grouped(rng, rows, sharpness):
    """Binary rows of sites whose confidences mean more (a) or less (b, c)."""
    site = rng.choice(list(sharpness), rows)
    z = rng.normal(0, 4, rows)
    right = rng.random(rows) < 1 / (1 + np.exp(-np.array([sharpness[s] for s in site]) * np.abs(z)))
    return Outputs(z, "logits", target=(z > 0) == right, classes=NAMES, groups={"site": site})


def test_each_group_has_the_threshold_of_its_rows_alone():
    outputs = grouped(np.random.default_rng(0), 6000, {"a": 1.0, "b": 0.6})
    policy = Thresholds.fit(outputs, "site", risk=0.05, confidence=0.9)
    site = outputs.groups["site"]
    for name, part in zip(policy.names, policy.parts, strict=True):
        assert part == Risk.fit(outputs.rows(site == name), 0.05, 0.95)
    assert policy.names == ("a", "b")
    assert policy.parts[0].log_odds < policy.parts[1].log_odds
    decisions = policy(outputs)
    cut = np.where(site == "a", policy.parts[0].log_odds, policy.parts[1].log_odds)
    np.testing.assert_array_equal(decisions.accept, np.abs(outputs.scores) >= cut)
    for name in "ab":
        wrong = (decisions.index != outputs.target) & decisions.accept & (site == name)
        assert wrong.sum() / (decisions.accept & (site == name)).sum() <= 0.05


def test_each_chosen_class_has_its_own():
    rng = np.random.default_rng(1)
    z = rng.normal(0, 4, 8000)
    right = rng.random(8000) < 1 / (1 + np.exp(-np.where(z > 0, 1.0, 0.5) * np.abs(z)))
    outputs = Outputs(z, "logits", target=(z > 0) == right, classes=NAMES)
    policy = Thresholds.fit(outputs, "class", risk=0.05)
    no, yes = (Risk.fit(outputs.rows(z > 0 if k else z <= 0), 0.05, 0.975) for k in (0, 1))
    assert policy.parts == (no, yes)
    assert no.log_odds > yes.log_odds
    accept = policy(Outputs([-yes.log_odds, yes.log_odds, np.nan], "logits", classes=NAMES)).accept
    assert accept.tolist() == [False, True, False]


def test_all_promises_hold_at_once_as_often_as_said():
    rng, sharpness, broken = np.random.default_rng(2), {"a": 1.0, "b": 0.8, "c": 0.6}, 0
    c = np.sort(np.abs(np.random.default_rng(77).normal(0, 4, 400_000)))[::-1]
    true = {s: np.cumsum(1 / (1 + np.exp(k * c))) / np.arange(1, len(c) + 1) for s, k in sharpness.items()}
    for _ in range(100):
        policy = Thresholds.fit(grouped(rng, 3000, sharpness), "site", risk=0.1, confidence=0.8)
        broken += any(
            part is not None and true[name][np.searchsorted(-c, -part.log_odds, side="right") - 1] > 0.1
            for name, part in zip(policy.names, policy.parts, strict=True)
        )
    assert 0.02 <= broken / 100 <= 0.2 + 3 * 0.04


def test_a_part_that_no_threshold_serves_is_reviewed():
    outputs = grouped(np.random.default_rng(3), 4000, {"a": 1.0, "coin": 0.0})
    policy = Thresholds.fit(outputs, "site", risk=0.05)
    assert policy.reviewed == ("coin",)
    certain = Outputs([np.inf, np.inf], "logits", classes=NAMES, groups={"site": ["a", "coin"]})
    assert policy(certain).accept.tolist() == [True, False]
    assert repr(policy) == "Thresholds(by site: 2 parts, 1 without one)"
    with pytest.raises(
        DataError, match=r"none of 1 parts; of site 'coin': no threshold promises a risk.*they can prom"
    ):
        Thresholds.fit(outputs.rows(outputs.groups["site"] == "coin"), "site", risk=0.05)
    only_yes = Outputs(np.linspace(4, 6, 500), "logits", target=np.ones(500, int), classes=NAMES)
    assert Thresholds.fit(only_yes, "class", risk=0.05).reviewed == ("no",)


def test_coverage_of_each_group_and_a_group_too_small_for_it():
    outputs = grouped(np.random.default_rng(4), 3000, {"a": 1.0, "b": 0.6})
    policy = Thresholds.fit(outputs, "site", coverage=0.8)
    site = outputs.groups["site"]
    assert policy.parts == tuple(Coverage.fit(outputs.rows(site == name), 0.8, 0.975) for name in "ab")
    few = outputs.rows(np.concatenate([np.flatnonzero(site == "a"), np.flatnonzero(site == "b")[:5]]))
    with pytest.raises(DataError, match=r"site 'b': no threshold is sure to accept 0.8 of the rows: 5 held-out rows"):
        Thresholds.fit(few, "site", coverage=0.8)


def test_an_unknown_group_or_order_of_classes_is_refused():
    outputs = grouped(np.random.default_rng(5), 3000, {"a": 1.0, "b": 0.9})
    by_site, by_class = (Thresholds.fit(outputs, by, risk=0.1) for by in ("site", "class"))
    with pytest.raises(DataError, match="'z' is not one of the groups that had held-out rows: a, b"):
        by_site(Outputs([1.0], "logits", classes=NAMES, groups={"site": ["z"]}))
    with pytest.raises(DataError, match="no grouping 'site'"):
        by_site(Outputs([1.0], "logits", classes=NAMES))
    with pytest.raises(DataError, match="the thresholds are for classes no, yes"):
        by_class(Outputs([1.0], "logits", classes=NAMES[::-1]))
    with pytest.raises(DataError, match="no grouping 'region'"):
        Thresholds.fit(outputs, "region", risk=0.1)


def test_wrong_calls_are_refused():
    outputs = grouped(np.random.default_rng(6), 500, {"a": 1.0})
    for shares in ({}, {"risk": 0.1, "coverage": 0.9}):
        with pytest.raises(ValueError, match=r"Thresholds.fit: say risk= or coverage=, one of the two"):
            Thresholds.fit(outputs, "site", **shares)
    for shares in ({"risk": 0}, {"coverage": 2}, {"risk": 0.1, "confidence": 1}):
        with pytest.raises(ValueError, match="lies between 0 and 1, both excluded"):
            Thresholds.fit(outputs, "site", **shares)
    with pytest.raises(DataError, match="no target"):
        Thresholds.fit(Outputs([1.0, 2.0], "logits"), "class", risk=0.1)
    with pytest.raises(ValueError, match="every part is a Threshold"):
        Thresholds("site", ["a"], [1.5])
    with pytest.raises(ValueError, match="one threshold for each name"):
        Thresholds("site", ["a", "b"], [None])


def test_they_survive_json_with_the_evidence_of_each_part():
    outputs = grouped(np.random.default_rng(7), 3000, {"a": 1.0, "coin": 0.0})
    policy = Thresholds.fit(outputs, "site", risk=0.1, seed=1)
    text = policy.to_json()
    assert Policy.from_json(text) == policy
    record = json.loads(text, parse_constant=pytest.fail)["parameters"]
    assert record["parts"][0]["policy"] == "risk"
    assert record["parts"][1] is None
    everything = Thresholds("class", NAMES, [Threshold(-np.inf), Threshold(np.inf)])
    assert Policy.from_json(everything.to_json()) == everything
    with pytest.raises(DataError, match="policy 'luck' is not one of"):
        Policy.from_json(text.replace('"policy": "risk"', '"policy": "luck"'))
    with pytest.raises(DataError, match="every part is a Threshold"):
        Policy.from_json(
            everything.to_json().replace(
                '"policy": "threshold", "parameters": {"log_odds": "Infinity"}',
                '"policy": "cost", "parameters": {"wrong": 2, "review": 1}',
            )
        )
