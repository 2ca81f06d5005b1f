"""Paired comparison: values against `evaluate`, intervals against formulas written out here and against simulation."""

import numpy as np
import pytest

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.measure import evaluate
from lastlayer.measure.compare import compare, paired_proportions


def model(n=3000, classes=4, scale=1.0, seed=0, **kwargs):
    """Logits whose softmax, at scale 1, is the truth."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, classes))
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs(z * scale, "logits", target=y, **kwargs)


def noisy(outputs, size, seed=1):
    z = outputs.scores + size * np.random.default_rng(seed).normal(size=outputs.scores.shape)
    return outputs.with_logits(z)


def binary(n=2000, seed=0):
    z = 2 * np.random.default_rng(seed).normal(size=n)
    return Outputs(z, "logits", target=np.random.default_rng(seed + 1).random(n) < 1 / (1 + np.exp(-z)))


def multilabel(n=1500, seed=0):
    z = 2 * np.random.default_rng(seed).normal(size=(n, 3))
    y = np.random.default_rng(seed + 1).random(z.shape) < 1 / (1 + np.exp(-z))
    return Outputs(z, "logits", target=y)


@pytest.mark.parametrize("make", [model, binary, multilabel])
def test_the_values_are_those_of_evaluate_and_the_difference_is_b_minus_a(make):
    a = make()
    b = noisy(a, 1.5)
    found = compare(a, b)
    of_a, of_b = evaluate(a).metrics(), evaluate(b).metrics()
    for name, difference in found.differences.items():
        assert difference.a == pytest.approx(of_a[name], rel=1e-12, abs=1e-15), name
        assert difference.b == pytest.approx(of_b[name], rel=1e-12, abs=1e-15), name
        assert difference.difference == pytest.approx(of_b[name] - of_a[name], abs=1e-12), name
        assert difference.difference.n == len(a)


def test_the_error_of_a_difference_is_that_of_the_mean_of_paired_differences():
    a = model()
    b = noisy(a, 1.0)
    found = compare(a, b).differences["nll"].difference
    losses = []
    for outputs in (a, b):
        z = outputs.scores
        losses.append(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), outputs.target])
    apart = losses[1] - losses[0]
    error = apart.std(ddof=1) / np.sqrt(len(apart))
    assert found.low == pytest.approx(apart.mean() - 1.959963984540054 * error, rel=1e-9)
    assert found.high == pytest.approx(apart.mean() + 1.959963984540054 * error, rel=1e-9)


def test_pairing_sees_what_two_intervals_cannot():
    a = model(scale=1.3)
    b = a.with_logits(a.scores / 1.3)
    apart = compare(a, b).differences["nll"]
    nll_a, nll_b = evaluate(a).metrics()["nll"], evaluate(b).metrics()["nll"]
    assert apart.better == "B" and apart.difference.high < 0
    assert nll_b.high > nll_a.low, "side by side, the two intervals overlap"


def test_accuracy_interval_is_bonett_and_price():
    """Their interval, written out for 3 % against 5 % of 1,000 rows."""
    p1, p2 = 31 / 1002, 51 / 1002
    half = 1.959963984540054 * np.sqrt((p1 + p2 - (p2 - p1) ** 2) / 1002)
    found = paired_proportions(0.03, 0.05, 1000, 1000)
    assert float(found) == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((p2 - p1 - half, p2 - p1 + half))


def test_accuracy_counts_the_rows_that_one_alone_gets_right():
    y = np.array([0, 0, 0, 1, 1, 1])

    def says(answers):
        return np.eye(2)[answers] * 3

    a = Outputs(says([0, 0, 1, 1, 1, 0]), "logits", target=y)
    b = Outputs(says([0, 1, 0, 1, 1, 1]), "logits", target=y)
    found = compare(a, b)
    assert (found.a_right, found.b_right) == (1, 2)
    expected = paired_proportions(1 / 6, 2 / 6, 6, 6)
    got = found.differences["accuracy"].difference
    assert (float(got), got.low, got.high) == pytest.approx((float(expected), expected.low, expected.high))
    assert found.differences["accuracy"].better == "neither"


@pytest.fixture(scope="module")
def samples():
    """Differences over a population, and over 200 samples of 1,000 of its rows."""
    whole = model(n=200_000, scale=2.5, seed=5)
    other = noisy(whole.with_logits(whole.scores * 0.6), 0.8)
    cuts = [slice(start, start + 1000) for start in range(0, len(whole), 1000)]
    return compare(whole, other), [compare(whole.rows(rows), other.rows(rows)) for rows in cuts]


@pytest.mark.parametrize(
    ("name", "at_least"), [("nll", 180), ("accuracy", 180), ("brier", 180), ("confidence", 180), ("ece", 170)]
)
def test_intervals_cover_the_true_difference_in_19_of_20_samples(samples, name, at_least):
    """190 of 200 are expected, give or take 3.1; the upward bias of a calibration error costs that one a little."""
    truth = float(samples[0].differences[name].difference)
    found = [part.differences[name].difference for part in samples[1]]
    assert sum(interval.low <= truth <= interval.high for interval in found) >= at_least


def test_a_model_against_itself_is_a_tie_with_differences_of_exactly_0():
    found = compare(model(), model())
    assert all(float(d.difference) == 0 for d in found.differences.values())
    assert {d.better for d in found.differences.values()} == {"neither", None}
    assert found.verdict.startswith("A tie: B minus A is 0 [0, 0] in nll")


def test_swapping_the_two_swaps_the_verdict_and_the_signs():
    a = model(scale=2.0)
    b = model()
    there, back = compare(a, b), compare(b, a)
    for name, difference in there.differences.items():
        mirror = back.differences[name].difference
        assert float(mirror) == -float(difference.difference)
        assert (mirror.low, mirror.high) == pytest.approx((-difference.difference.high, -difference.difference.low))
    assert there.verdict.startswith("B is better: its nll is ") and " lower (B minus A [-" in there.verdict
    assert back.verdict.startswith("A is better: its nll is ") and " lower (B minus A [0." in back.verdict
    assert there.differences["nll"].better == "B" and back.differences["nll"].better == "A"


def test_rows_are_matched_by_id_whatever_their_order():
    a = model(n=500, ids=np.arange(500))
    b = noisy(a, 0.5)
    order = np.random.default_rng(2).permutation(500)
    assert compare(a, b.rows(order)).to_dict() == compare(a, b).to_dict()
    text = Outputs(b.scores, "logits", target=b.target, ids=[str(i) for i in range(500)])
    assert compare(a, text).to_dict() == compare(a, b).to_dict()


def test_ids_of_one_side_only_are_counted_and_left_out():
    a = model(n=500, ids=np.arange(500))
    b = noisy(a, 0.5)
    found = compare(a.rows(slice(0, 400)), b.rows(slice(100, 500)))
    assert (found.rows, found.only_a, found.only_b) == (300, 100, 100)
    same = compare(a.rows(slice(100, 400)), b.rows(slice(100, 400)))
    assert found.differences["nll"] == same.differences["nll"]


def test_a_row_that_cannot_be_scored_on_one_side_is_left_out_of_both():
    a, b = model(n=200), noisy(model(n=200), 0.5)
    z = b.scores.copy()
    z[3, 1], z[7] = np.nan, -np.inf
    found = compare(a, b.with_logits(z))
    keep = np.setdiff1d(np.arange(200), [3, 7])
    assert (found.rows, found.skipped) == (198, 2)
    assert found.differences["brier"] == compare(a.rows(keep), b.rows(keep)).differences["brier"]


def test_weights_count_as_repeated_rows_in_the_value():
    a, b = model(n=300), noisy(model(n=300), 0.5)
    w = np.random.default_rng(3).integers(0, 4, 300)

    def weigh(outputs):
        return Outputs(outputs.scores, "logits", target=outputs.target, weight=w)

    again = np.repeat(np.arange(300), w)
    found, repeated = compare(weigh(a), weigh(b)), compare(a.rows(again), b.rows(again))
    assert found.rows == (w > 0).sum()
    for name, difference in found.differences.items():
        assert float(difference.difference) == pytest.approx(float(repeated.differences[name].difference), abs=1e-12)


def test_probability_0_on_a_target_loses():
    a, b = model(n=100), model(n=100)
    z = a.scores.copy()
    z[5, a.target[5]] = -np.inf
    impossible = a.with_logits(z)
    found = compare(impossible, b)
    assert found.differences["nll"].better == "B"
    assert found.verdict == "B is better: A gives the target of some row probability 0, so its nll is infinite."
    assert compare(b, impossible).verdict.startswith("A is better: B gives")
    assert found.to_dict()["differences"]["nll"]["a"] is None
    assert " in brier" in compare(impossible, impossible).verdict


def test_margins_have_an_accuracy_alone():
    a = model(n=100)
    margin = Outputs(a.scores, "margin", target=a.target)
    assert list(compare(a, margin).differences) == ["accuracy"]
    assert "accuracy" in compare(a, margin).verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: Outputs(o.scores, "logits", classes=list("wxyz"), target=o.target), "classes w, x, y, z here"),
        (lambda o: Outputs(o.scores[:, 0], "logits", target=o.target > 1), "task binary here, multiclass"),
        (lambda o: o.rows(slice(0, 90)), "90 rows here, 100 in the first"),
        (
            lambda o: Outputs(o.scores, "logits", target=(o.target + 1) % 4),
            "100 of 100 matched rows have another target",
        ),
        (
            lambda o: Outputs(o.scores, "logits", target=o.target, weight=np.ones(100)),
            "only one of the two has weights",
        ),
        (lambda o: Outputs(o.scores, "logits"), "no target"),
        (
            lambda o: Outputs(o.scores, "logits", target=0.9 * np.eye(4)[o.target] + 0.025),
            "the target is a distribution",
        ),
        (lambda o: o.with_logits(np.full((100, 4), np.nan)), "no row can be compared"),
    ],
)
def test_what_cannot_be_paired_is_refused(change, words):
    a = model(n=100)
    with pytest.raises(DataError, match=words):
        compare(a, change(a))


def test_arrays_are_to_be_wrapped_and_a_target_of_floats_0_and_1_counts():
    a = model(n=100)
    for first, second in ((a, a.target), (a.scores, a)):
        with pytest.raises(TypeError, match=r"compare: takes Outputs, not ndarray \(100.*; wrap it: ll.Outputs"):
            compare(first, second)
    certain = Outputs(a.scores, "logits", target=np.eye(4)[a.target])
    b = noisy(a, 1.5)
    assert compare(certain, b).to_dict() == compare(a, b).to_dict()


def test_repr_is_the_verdict_and_a_line_per_difference():
    a = model(n=1000)
    found = compare(a, noisy(a, 1.5))
    first, *lines = repr(found).splitlines()
    assert first == f"Comparison(1,000 rows): {found.verdict}"
    assert [line.split()[0] for line in lines] == list(found.differences)
    nll = found.differences["nll"]
    assert f"A {nll.a:.4f}  B {nll.b:.4f}" in lines[0] and f"{nll.difference.high:+.4g}]" in lines[0]


@pytest.mark.parametrize(
    ("ids", "words"),
    [([0, 1, 1, 3], "id '1' stands twice.*First rows: 2"), ([4, 5, 6, 7], "no id in common: '4' here")],
)
def test_ids_that_match_nothing_or_twice_are_refused(ids, words):
    a = model(n=4, ids=[0, 1, 2, 3])
    with pytest.raises(DataError, match=words):
        compare(a, model(n=4, ids=ids))
