"""Sets of labels: thresholds against a search over all of them, and the promises by simulation."""

import numpy as np
import pytest
from scipy import stats

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide.conformal import Sets
from lastlayer.decide.label_sets import LabelSets, _mean_losses, _p_value


def tagged(seed, n=300, labels=6, **more):
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, labels)) - 1
    target = (z + rng.logistic(size=z.shape) > 0).astype(int)
    return Outputs(z, "logits", target=target, task="multilabel", **more)


def losses(members, target, loss):
    """One number per row, by its definition."""
    true = target == 1
    wanted, bad = (true, true & ~members) if loss == "fnr" else (members, members & ~true)
    return np.where(wanted.any(1), bad.sum(1) / np.maximum(wanted.sum(1), 1), 0.0)


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_crc_takes_the_largest_threshold_within_its_budget(risk, seed):
    outputs = tagged(seed, n=60)
    sets = LabelSets.fit(outputs, risk=risk)
    z = np.sort(np.unique(outputs.scores))
    allowed = [t for t in z if (losses(outputs.scores >= t, outputs.target, "fnr").sum() + 1) / 61 <= risk + 1e-12]
    assert sets.threshold == max(allowed)
    assert sets.measured == pytest.approx(losses(sets.apply(outputs), outputs.target, "fnr").mean(), abs=1e-12)
    assert (sets.rows, sets.method, sets.confidence) == (60, "crc", None)


def test_a_budget_of_losses_is_counted_exactly():
    # 29 rows with three labels, one of each lost: 29/3 + ...; at risk 0.1 and 29 rows the budget is exactly 2.
    z = np.tile([3.0, 2.0, 1.0], (29, 1)) + np.arange(29)[:, None] * 10
    outputs = Outputs(z, "logits", target=np.ones((29, 3), int))
    # Lost in order: the labels of row 0 (3 thirds), of row 1 (3 thirds): exactly 2, so row 2's lowest label is next.
    assert LabelSets.fit(outputs, risk=0.1).threshold == 21.0


def test_crc_keeps_its_promise_on_average():
    for risk in (0.1, 0.3):
        found = []
        for seed in range(150):
            fresh = tagged(1000 + seed, n=400)
            found.append(losses(LabelSets.fit(tagged(seed, n=50), risk=risk).apply(fresh), fresh.target, "fnr").mean())
        error = np.std(found, ddof=1) / np.sqrt(150)
        assert risk - 0.04 < np.mean(found) <= risk + 3 * error


@pytest.mark.parametrize(("loss", "risk"), [("fnr", 0.1), ("fdr", 0.2)])
def test_ltt_keeps_its_promise_with_its_confidence(loss, risk):
    fresh = tagged(7777, n=20_000)
    by_threshold, exceeded, realised = {}, 0, []
    for seed in range(150):
        sets = LabelSets.fit(tagged(seed, n=600), risk=risk, loss=loss, method="ltt", confidence=0.9)
        if sets.threshold not in by_threshold:
            by_threshold[sets.threshold] = losses(sets.apply(fresh), fresh.target, loss).mean()
        realised.append(by_threshold[sets.threshold])
        exceeded += realised[-1] > risk
    assert exceeded <= stats.binom.ppf(0.999, 150, 0.1)
    assert np.mean(realised) > risk / 2


@pytest.mark.parametrize("loss", ["fnr", "fdr"])
def test_mean_losses_at_every_threshold(loss):
    outputs = tagged(0, n=80)
    z = np.round(outputs.scores * 2) / 2
    z[3], z[5, 2] = -np.inf, np.inf
    thresholds = np.array([-np.inf, -2.0, -0.5, 0.0, 0.25, 1.0, 2.5, np.inf])
    expected = [losses((z >= t) & (z > -np.inf), outputs.target, loss).mean() for t in thresholds]
    np.testing.assert_allclose(_mean_losses(z, outputs.target == 1, thresholds, loss), expected, atol=1e-13)


def test_the_p_value_is_valid_for_losses_of_0_and_1():
    # The chance that the p-value of Binomial(n, risk) / n falls below d is at most d.
    for n, risk in ((50, 0.1), (400, 0.02)):
        mean, chance = np.arange(n + 1) / n, stats.binom.pmf(np.arange(n + 1), n, risk)
        p = _p_value(mean, n, risk)
        for d in (0.01, 0.05, 0.2):
            assert chance[p <= d].sum() <= d
    assert _p_value(np.array([0.0]), 100, 0.05)[0] == pytest.approx(0.95**100, rel=1e-12)


def test_labels_at_the_threshold_are_in_and_masked_ones_never():
    sets = LabelSets(0.5, "fnr", 0.1, "crc", None, 10, 0.0, ("a", "b", "c"))
    assert sets(np.array([0.5, np.nextafter(0.5, 0), np.nan])).tolist() == [True, False, False]
    everything = LabelSets(-np.inf, "fnr", 0.1, "crc", None, 10, 0.0, ("a", "b", "c"))
    assert everything(np.array([-np.inf, -900.0, np.nan])).tolist() == [False, True, False]
    assert Sets.from_json(everything.to_json()) == everything
    # A float32 logit is compared as the number it is: a threshold between it and the next is above it.
    logit = np.array([[0.1]], np.float32)
    just_above = LabelSets(np.nextafter(float(logit[0, 0]), 1), "fnr", 0.1, "crc", None, 10, 0.0, ("a",))
    assert not just_above(logit).any()


def test_labels_on_other_libraries(library):
    outputs = tagged(0)
    sets = LabelSets.fit(outputs, risk=0.1)
    fresh = tagged(1, n=20).scores.astype(library.dtype)
    fresh[0, 0], fresh[1, 1] = np.nan, -np.inf
    np.testing.assert_array_equal(library.numpy(sets(library.of(fresh))), sets(fresh))


def test_masked_true_labels_are_lost_at_every_threshold():
    outputs = tagged(0, n=100)
    z = outputs.scores.copy()
    z[:8][outputs.target[:8] == 1] = -np.inf
    lost = (outputs.target[:8].sum(1) > 0).sum()
    masked = Outputs(z, "logits", target=outputs.target, task="multilabel")
    assert LabelSets.fit(masked, risk=0.2).threshold < LabelSets.fit(outputs, risk=0.2).threshold
    with pytest.raises(DataError, match=rf"the lowest they can promise is {(lost + 1) / 101:.4g}"):
        LabelSets.fit(masked, risk=0.05)


def test_what_cannot_be_promised_is_said():
    outputs = tagged(0, n=8, source="tags.npz")
    with pytest.raises(DataError, match=r"at most 0.1 on 8 held-out rows; the lowest they can promise is 0.1111"):
        LabelSets.fit(outputs, risk=0.1)
    assert LabelSets.fit(tagged(0, n=9), risk=0.1).measured == 0
    with pytest.raises(DataError, match=r"8 held-out rows cannot promise a risk of 0.1 at confidence 0.95.* takes 29"):
        LabelSets.fit(outputs, risk=0.1, method="ltt")
    with pytest.raises(ValueError, match="method='crc' needs a loss that only grows"):
        LabelSets.fit(outputs, loss="fdr", method="crc")
    with pytest.raises(DataError, match="multiclass outputs have one true class per row"):
        LabelSets.fit(Outputs(np.zeros((9, 3)), "logits", target=np.zeros(9, int)))
    with pytest.raises(ValueError, match="risk lies between 0 and 1"):
        LabelSets.fit(outputs, risk=5)
    with pytest.raises(ValueError, match="loss is one of 'fnr', 'fdr'"):
        LabelSets.fit(outputs, loss="fpr")
    sets = LabelSets.fit(tagged(0))
    with pytest.raises(ValueError, match=r"fitted on 6 labels; these logits are \(2, 5\)"):
        sets(np.zeros((2, 5)))
    with pytest.raises(DataError, match="fitted on labels 0, 1"):
        sets.apply(tagged(1, classes=list("abcdef")))


def test_a_false_discovery_rate_that_is_out_of_reach_names_one_that_works():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 4))
    outputs = Outputs(z, "logits", target=(rng.random(z.shape) < 0.5).astype(int), task="multilabel")
    with pytest.raises(DataError, match=r"no threshold that leaves a label promises a fdr of at most 0.008") as caught:
        LabelSets.fit(outputs, risk=0.008, loss="fdr")
    named = float(str(caught.value).split("promise is about ")[1].split(". Fix")[0])
    assert named > 0.008
    assert LabelSets.fit(outputs, risk=named, loss="fdr").apply(outputs).any()
