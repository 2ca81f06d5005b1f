"""Tuned thresholds: exact against all cuts by brute force, measures against scikit-learn, held-out scores honest."""

import csv
import json
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, fbeta_score

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate.rows import Rows
from lastlayer.decide import Policy
from lastlayer.decide._tuned_columns import Columns
from lastlayer.decide._tuned_cuts import Changes, Counts, best_cut, goal
from lastlayer.decide.tuned import Tuned

CALLS = [
    ("f1", {}),
    ("f_beta", {"beta": 2.0}),
    ("f_beta", {"beta": 0.5}),
    ("balanced_accuracy", {}),
    ("net_benefit", {"at": 0.2}),
    ("cost", {"false_positive": 1.0, "false_negative": 7.0}),
]


def measured(measure, options, target, said, weight=None):
    """The measure of one column, written out."""
    weight = np.ones(len(target)) if weight is None else weight
    tp, fp = weight @ (said & (target == 1)), weight @ (said & (target == 0))
    fn, tn = weight @ (~said & (target == 1)), weight @ (~said & (target == 0))
    if measure in ("f1", "f_beta"):
        squared = options.get("beta", 1.0) ** 2
        return (1 + squared) * tp / ((1 + squared) * tp + squared * fn + fp)
    if measure == "balanced_accuracy":
        return (tp / (tp + fn) + tn / (tn + fp)) / 2
    if measure == "net_benefit":
        return (tp - fp * options["at"] / (1 - options["at"])) / weight.sum()
    return (fp * options["false_positive"] + fn * options["false_negative"]) / weight.sum()


def binary(seed=0, rows=300, levels=None, shift=-1.5):
    rng = np.random.default_rng(seed)
    z = rng.normal(shift, 2, rows)
    target = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    return Outputs(z if levels is None else np.round(z * levels) / levels, "logits", target=target)


def labels(seed=0, rows=300, count=4, levels=None):
    rng = np.random.default_rng(seed)
    z = rng.normal(np.linspace(-3, 0, count), 2, (rows, count))
    target = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(int)
    return Outputs(z if levels is None else np.round(z * levels) / levels, "logits", target=target)


def every_cut(z):
    return np.concatenate([np.unique(z), [np.inf]])


@pytest.mark.parametrize(("measure", "options"), CALLS)
@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_threshold_is_the_best_of_all_cuts(measure, options, levels, weighted):
    outputs = binary(levels=levels)
    weight = np.random.default_rng(5).integers(1, 5, 300) / 4 if weighted else None
    outputs = Outputs(outputs.scores, "logits", target=outputs.target, weight=weight)
    policy = Tuned.fit(outputs, measure, **options)
    z, y = outputs.scores, outputs.target
    every = [measured(measure, options, y, z >= t, weight) for t in every_cut(z)]
    best = min(every) if measure == "cost" else max(every)
    assert policy.in_sample == pytest.approx(best, rel=1e-12)
    index = policy(outputs).index
    assert measured(measure, options, y, index == 1, weight) == pytest.approx(best, rel=1e-12)
    neutral = {"net_benefit": np.log(0.25), "cost": -np.log(7)}.get(measure, 0.0)
    assert policy.untuned == pytest.approx(measured(measure, options, y, z >= neutral, weight), rel=1e-12)


@pytest.mark.parametrize(("measure", "options"), CALLS)
@pytest.mark.parametrize("levels", [None, 2])
def test_each_label_has_its_own_optimum(measure, options, levels):
    outputs = labels(levels=levels)
    policy = Tuned.fit(outputs, measure, by="label", **options)
    said = policy.apply(outputs)
    sign = -1 if measure == "cost" else 1
    best = []
    for k in range(4):
        z, y = outputs.scores[:, k], outputs.target[:, k]
        best.append(max(sign * measured(measure, options, y, z >= t) for t in every_cut(z)) * sign)
        assert measured(measure, options, y, said[:, k]) == pytest.approx(best[-1], rel=1e-12)
    assert policy.in_sample == pytest.approx(np.mean(best), rel=1e-12)
    np.testing.assert_array_equal(said, outputs.scores >= np.array(policy.thresholds))


@pytest.mark.parametrize(("measure", "options"), CALLS)
@pytest.mark.parametrize("levels", [None, 2])
def test_a_shared_threshold_is_the_best_of_all_cuts(measure, options, levels):
    outputs = labels(rows=120, levels=levels)
    policy = Tuned.fit(outputs, measure, **options)
    z, y = outputs.scores, outputs.target

    def mean(t):
        return np.mean([measured(measure, options, y[:, k], z[:, k] >= t) for k in range(4)])

    every = [mean(t) for t in every_cut(z)]
    assert policy.in_sample == pytest.approx(min(every) if measure == "cost" else max(every), rel=1e-12)
    assert len(set(policy.thresholds)) == 1
    assert mean(policy.thresholds[0]) == pytest.approx(policy.in_sample, rel=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_micro_f1_counts_all_labels_together(levels, weighted):
    outputs = labels(rows=120, levels=levels)
    weight = np.random.default_rng(5).integers(1, 5, 120) / 4 if weighted else None
    outputs = Outputs(outputs.scores, "logits", target=outputs.target, weight=weight)
    policy = Tuned.fit(outputs, "micro_f1")
    z, y, each = outputs.scores, outputs.target, {"average": "micro", "sample_weight": weight}
    every = [f1_score(y, z >= t, **each) for t in every_cut(z)[:-1]]
    assert policy.in_sample == pytest.approx(max(every), rel=1e-12) and len(set(policy.thresholds)) == 1
    assert f1_score(y, policy.apply(outputs), **each) == pytest.approx(max(every), rel=1e-12)
    assert policy.untuned == pytest.approx(f1_score(y, z >= 0, **each), rel=1e-12)
    assert policy.held_out <= policy.in_sample and Policy.from_json(policy.to_json()) == policy
    with pytest.raises(ValueError, match=r"Tuned\.fit: micro_f1 counts all labels together.*by=None"):
        Tuned.fit(outputs, "micro_f1", by="label")
    with pytest.raises(ValueError, match="micro_f1"):
        Tuned.fit(three(), "micro_f1", by="class")


def three(seed=0, rows=60):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (rows, 3)) + np.array([0.0, 0.5, 1.5])
    target = (z - np.array([0.0, 0.5, 2.5]) + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs(z, "logits", target=target, classes=["cat", "dog", "owl"])


def of_classes(measure, target, index):
    """The mean over three classes, written out."""
    true, said = (each[..., None] == np.arange(3) for each in (target, index))
    hit = (true & said).sum(-2)
    return (hit / true.sum(-2) if measure == "balanced_accuracy" else 2 * hit / (true.sum(-2) + said.sum(-2))).mean(-1)


def test_the_measures_are_those_of_scikit_learn():
    outputs, many, one = binary(), labels(), three()
    weight = np.random.default_rng(5).uniform(0, 2, 300)
    for beta in (0.5, 1.0, 2.0):
        policy = Tuned.fit(Outputs(outputs.scores, "logits", target=outputs.target, weight=weight), "f_beta", beta=beta)
        score = fbeta_score(outputs.target, policy(outputs).index, beta=beta, sample_weight=weight)
        assert policy.in_sample == pytest.approx(score, rel=1e-12)
    policy = Tuned.fit(outputs, "balanced_accuracy")
    assert policy.in_sample == pytest.approx(balanced_accuracy_score(outputs.target, policy(outputs).index), rel=1e-12)
    policy = Tuned.fit(many, "f1", by="label")
    assert policy.in_sample == pytest.approx(f1_score(many.target, policy.apply(many), average="macro"), rel=1e-12)
    for measure, score in (("f1", partial(f1_score, average="macro")), ("balanced_accuracy", balanced_accuracy_score)):
        policy = Tuned.fit(one, measure, by="class")
        assert policy.in_sample == pytest.approx(score(one.target, policy(one).index), rel=1e-12)


@pytest.mark.parametrize("measure", ["f1", "balanced_accuracy"])
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_classes_are_ones_that_no_single_change_improves(measure, seed):
    outputs = three(seed)
    policy = Tuned.fit(outputs, measure, by="class")
    z, y, t = outputs.scores, outputs.target, np.array(policy.thresholds)
    index = policy(outputs).index
    np.testing.assert_array_equal(index, (z - t).argmax(1))
    assert policy.in_sample == pytest.approx(of_classes(measure, y, index), rel=1e-12)
    assert policy.untuned == pytest.approx(of_classes(measure, y, z.argmax(1)), rel=1e-12)
    for k in range(3):
        others = np.delete(z - t, k, axis=1).max(1)
        borders = np.sort(z[:, k] - others)
        between = np.concatenate([[borders[0] - 1], (borders[1:] + borders[:-1]) / 2, [borders[-1] + 1]])
        moved = np.tile(t, (len(between), 1))
        moved[:, k] = between
        assert of_classes(measure, y, (z - moved[:, None]).argmax(-1)).max() <= policy.in_sample + 1e-12
    # The best of a fine grid of both free thresholds is hardly better.
    grid = np.linspace(-6, 6, 61)
    every = np.stack([np.zeros(61 * 61), *(axis.ravel() for axis in np.meshgrid(grid, grid))], axis=1)
    best = of_classes(measure, y, (z - every[:, None]).argmax(-1)).max()
    assert policy.in_sample >= best - 0.03
    assert policy.in_sample > policy.untuned


@pytest.mark.parametrize("measure", ["f1", "balanced_accuracy"])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_the_ascent_is_the_best_for_its_class(measure, seed):
    outputs = three(seed, rows=90)
    columns, aim = Columns.of(outputs), goal("here", measure, {}, True)
    z, y, rng = outputs.scores, outputs.target, np.random.default_rng(seed)
    for k in range(3):
        start = rng.normal(0, 2, 3)
        borders = np.sort(z[:, k] - np.delete(z - start, k, axis=1).max(1))
        moved = np.tile(start, (91, 1))
        moved[:, k] = np.concatenate([[borders[0] - 1], (borders[1:] + borders[:-1]) / 2, [borders[-1] + 1]])
        found = start.copy()
        found[k] = columns._of_class(k, start, aim)
        best = of_classes(measure, y, (z - moved[:, None]).argmax(-1)).max()
        assert of_classes(measure, y, (z - found).argmax(1)) == pytest.approx(best, rel=1e-12)


def test_a_class_that_is_better_never_said_is_never_said():
    # Owls score highest where they are not: said at all, they only cost recall of the others.
    z = np.array([[2.0, 0.0, 9.0], [0.0, 2.0, 9.0], [1.0, 0.0, -9.0]] * 5)
    outputs = Outputs(z, "logits", target=np.array([0, 1, 2] * 5))
    columns, aim = Columns.of(outputs), goal("here", "balanced_accuracy", {}, True)
    assert columns._of_class(2, np.zeros(3), aim) == 8.0  # 1 past the largest lead of owls, 9 - 2
    assert Tuned.fit(outputs, "balanced_accuracy", by="class")(outputs).index[:2].tolist() == [0, 1]


def test_the_ascent_has_two_starts():
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        z = rng.normal(0, 1.5, (1000, 10)) + np.linspace(0, 4, 10)
        y = (z + rng.normal(0, 1, 10) + rng.gumbel(size=z.shape)).argmax(1)
        columns, aim = Columns.of(Outputs(z, "logits", target=y)), goal("here", "balanced_accuracy", {}, True)
        best, first = (
            aim.value(columns.counts(columns.said(t)))
            for t in (columns.tuned(aim, "class"), columns._ascended(np.zeros(10), aim))
        )
        gains.append(best - first)
    assert min(gains) >= 0
    assert max(gains) > 0.005


def test_the_cut_lies_midway_and_is_the_highest_of_the_best():
    outputs = Outputs(np.array([3.0, 2.0, 1.0, -1.0] * 5), "logits", target=np.array([1, 1, 0, 0] * 5))
    assert Tuned.fit(outputs, "f1").thresholds == (1.5,)
    # All cuts between the ones and the zeros are alike for one label; of two equal optima the higher is taken.
    outputs = Outputs(np.array([3.0, 2.0, 1.0, 0.0] * 5), "logits", target=np.array([1, 0, 1, 0] * 5))
    policy = Tuned.fit(outputs, "balanced_accuracy")
    assert policy.thresholds == (2.5,)
    assert policy.in_sample == 0.75


def test_a_cut_between_neighbouring_floats_stays_between_them():
    low = 0.1
    high = np.nextafter(low, 1)
    outputs = Outputs(np.array([low, high] * 10), "logits", target=np.array([0, 1] * 10))
    policy = Tuned.fit(outputs, "f1")
    assert policy.in_sample == 1.0
    assert policy(outputs).index.tolist() == [0, 1] * 10


def test_infinite_scores_stand_on_their_side():
    z = np.array([np.inf, 2.0, 1.0, -np.inf] * 10)
    outputs = Outputs(z, "logits", target=np.array([1, 0, 1, 0] * 10))
    policy = Tuned.fit(outputs, "net_benefit", at=0.9)
    said = policy(outputs).index.reshape(-1, 4)[0]
    assert said.tolist() == [1, 0, 0, 0]
    aim = goal("here", "cost", {"false_positive": 9.0, "false_negative": 1.0}, False)
    start = Counts([0.0], [0.0], [0.0], [2.0])
    # Not even the dearest error keeps +inf from being said, and nothing makes -inf be said.
    for value, cut in ((np.inf, -np.inf), (-np.inf, np.inf)):
        changes = Changes(np.full(2, value), np.zeros(2, int), np.zeros(2), np.ones(2))
        assert best_cut(changes, start, aim) == cut


def test_nan_labels_are_never_said_and_nan_rows_have_no_class():
    outputs = labels()
    z = outputs.scores.copy()
    z[::7, 1] = np.nan
    outputs = Outputs(z, "logits", target=outputs.target)
    policy = Tuned.fit(outputs, "f1", by="label")
    said = policy.apply(outputs)
    assert not said[::7, 1].any()
    assert policy.in_sample == pytest.approx(f1_score(outputs.target, said, average="macro"), rel=1e-12)
    rows = binary()
    with_nan = Outputs(np.append(rows.scores, np.nan), "logits", target=np.append(rows.target, 1))
    policy = Tuned.fit(with_nan, "f1")
    assert policy.thresholds == Tuned.fit(rows, "f1").thresholds
    decisions = policy(with_nan)
    assert (decisions.index[-1], decisions.accept[-1], policy.rows) == (-1, False, 300)
    assert decisions.accept[:-1].all()


def test_a_masked_label_is_never_said():
    policy = Tuned((-np.inf, -np.inf), "multilabel", ["a", "b"], "f1", {}, None, 10, 5, 0.0, 0.0, 0.0)
    target = np.zeros((1, 2), int)
    assert policy.apply(Outputs([[-np.inf, -50.0]], "logits", target=target, classes=["a", "b"])).tolist() == [
        [False, True]
    ]


def test_rows_of_weight_zero_are_left_out():
    outputs = binary()
    weight = (np.arange(300) % 3 > 0).astype(float)
    weighted = Outputs(np.where(weight > 0, outputs.scores, 99.0), "logits", target=outputs.target, weight=weight)
    assert Tuned.fit(weighted, "f1") == Tuned.fit(outputs.rows(weight > 0), "f1")


def test_the_log_odds_are_those_of_the_class_that_is_said():
    policy = Tuned((-1.5,), "binary", ["no", "yes"], "f1", {}, None, 10, 5, 0.0, 0.0, 0.0)
    decisions = policy(Outputs([-1.0, -2.0], "logits", classes=["no", "yes"]))
    assert decisions.names.tolist() == ["yes", "no"]
    assert decisions.log_odds.tolist() == [-1.0, 2.0]


def test_the_held_out_score_is_of_decisions_tuned_without_their_fold():
    outputs = binary(rows=200)
    outputs = Outputs(outputs.scores, "logits", target=outputs.target, ids=np.arange(200))
    policy = Tuned.fit(outputs, "f1", folds=4, seed=3)
    fold = Rows.of(outputs).folds(4, 3)
    said = np.empty(200, bool)
    for k in range(4):
        z, y = outputs.scores[fold != k], outputs.target[fold != k]
        cuts = np.unique(z)
        best = cuts[::-1][np.argmax([measured("f1", {}, y, z >= t) for t in cuts[::-1]])]
        below = z[z < best].max()
        said[fold == k] = outputs.scores[fold == k] >= (best + below) / 2
    assert policy.held_out == pytest.approx(f1_score(outputs.target, said), rel=1e-12)
    assert policy.optimism == policy.in_sample - policy.held_out
    dear = Tuned.fit(outputs, "cost", false_positive=1, false_negative=3)
    assert dear.held_out >= dear.in_sample
    assert dear.optimism == dear.held_out - dear.in_sample
    shuffled = outputs.rows(np.random.default_rng(0).permutation(200))
    assert Tuned.fit(shuffled, "f1", folds=4, seed=3) == policy


def test_what_is_held_out_is_what_new_rows_give():
    # 30 labels that say nothing: F1 of 100 rows looks better in sample than new rows are, and held out it does not.
    inside, held_out, fresh = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z, y = rng.normal(size=(2100, 5)), (rng.random((2100, 5)) < 0.15).astype(int)
        policy = Tuned.fit(Outputs(z[:100], "logits", target=y[:100]), "f1", by="label")
        said = policy.apply(Outputs(z[100:], "logits", target=y[100:]))
        inside.append(policy.in_sample)
        held_out.append(policy.held_out)
        fresh.append(f1_score(y[100:], said, average="macro"))
    assert np.mean(inside) > np.mean(fresh) + 0.05
    assert abs(np.mean(held_out) - np.mean(fresh)) < 0.03


def decision_curve(folder):
    """Cancers, the log-odds of cancer ~ age, and the net benefit that R's dcurves found at each threshold."""
    with open(folder / "tabular/dcurves_df_binary.csv") as file:
        patients = list(csv.DictReader(file))
    with open(folder / "tabular/dcurves_r_simple_binary_dca_result_df.csv") as file:
        published = [row for row in csv.DictReader(file) if row["variable"] == "age"]
    age, cancer = (np.array([read(row) for row in patients]) for read in (_age, _cancer))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit((age - 65)[:, None], cancer)
    curve = {float(row["threshold"]): float(row["net_benefit"]) for row in published}
    return model.decision_function((age - 65)[:, None]), cancer, curve


def _age(row):
    return float(row["age"])


def _cancer(row):
    return int(row["cancer"] == "TRUE")


def test_net_benefit_is_that_of_the_published_decision_curve(shared_data):
    z, cancer, curve = decision_curve(shared_data)
    inside = {at: value for at, value in curve.items() if 0 < at < 1}
    assert len(inside) == 99
    for at, value in inside.items():
        aim = goal("here", "net_benefit", {"at": at}, False)
        said = z >= aim.neutral
        counts = Counts((said & (cancer == 1)).sum(), said.sum(), cancer.sum(), len(cancer))
        assert aim.of(counts) == pytest.approx(value, abs=1e-15)
    policy = Tuned.fit(Outputs(z, "logits", target=cancer), "net_benefit", at=0.2)
    assert policy.untuned == pytest.approx(curve[0.2], abs=1e-15)
    assert policy.in_sample >= policy.untuned


def test_tuning_mends_what_a_wrong_scale_does_to_net_benefit(shared_data):
    z, cancer, _ = decision_curve(shared_data)
    shifted = Tuned.fit(Outputs(z + 2, "logits", target=cancer), "net_benefit", at=0.2)
    honest = Tuned.fit(Outputs(z, "logits", target=cancer), "net_benefit", at=0.2)
    assert shifted.untuned < honest.untuned
    assert shifted.in_sample == honest.in_sample
    assert shifted.thresholds[0] == pytest.approx(honest.thresholds[0] + 2, abs=1e-9)


@pytest.mark.parametrize(
    ("measure", "options", "words"),
    [
        ("f2", {}, "measure is one of 'f1', 'f_beta'"),
        ("f_beta", {}, "beta is missing; f_beta needs beta="),
        ("f1", {"beta": 2}, "beta is given; f1 takes no such parameter"),
        ("f_beta", {"beta": 0}, "beta is a finite number above 0"),
        ("net_benefit", {}, "at is missing"),
        ("net_benefit", {"at": 1.0}, "at lies between 0 and 1"),
        ("cost", {"false_positive": 1}, "false_negative is missing; cost needs false_positive= and false_negative="),
        ("cost", {"false_positive": 0, "false_negative": 0}, "false_positive is a finite number above 0"),
        ("f1", {"folds": 1}, "folds is an integer of at least 2"),
        ("f1", {"by": "label"}, "by is None for binary outputs, not 'label'"),
    ],
)
def test_wrong_calls_are_refused(measure, options, words):
    with pytest.raises(ValueError, match=f"^Tuned.fit: {words}"):
        Tuned.fit(binary(), measure, **options)


def test_costs_of_classes_are_refused():
    with pytest.raises(ValueError, match="measure is one of 'f1', 'f_beta', 'balanced_accuracy', not 'cost'"):
        Tuned.fit(three(), "cost", by="class", false_positive=1, false_negative=2)
    with pytest.raises(ValueError, match="by is 'class' for multiclass outputs, not None"):
        Tuned.fit(three(), "f1")


def test_rows_that_nothing_can_be_tuned_on_are_refused():
    outputs = labels()
    cases = [
        (np.where(np.arange(4) == 2, 0, outputs.target), r"target: label 2 has no row, so no threshold"),
        (np.where(np.arange(4) == 1, 1, outputs.target), r"target: label 1 is that of every row"),
    ]
    for target, words in cases:
        with pytest.raises(DataError, match=words):
            Tuned.fit(Outputs(outputs.scores, "logits", target=target), "f1")
    flat = np.where(np.arange(4) == 3, 1.0, outputs.scores)
    with pytest.raises(DataError, match="logits: label 3 has the same score in every row"):
        Tuned.fit(Outputs(flat, "logits", target=outputs.target), "f1")
    with pytest.raises(DataError, match="class owl has no row"):
        Tuned.fit(three().rows(three().target < 2), "f1", by="class")
    with pytest.raises(DataError, match="class 1 has no row"):
        Tuned.fit(Outputs([1.0, 2.0, 3.0], "logits", target=[0, 0, 0]), "f1")
    few = Outputs([1.0, 2.0, 3.0], "logits", target=[0, 1, 0])
    with pytest.raises(DataError, match="3 labelled rows are fewer than 5 folds"):
        Tuned.fit(few, "f1")
    same = Outputs(binary().scores, "logits", target=binary().target, ids=np.zeros(300, int))
    with pytest.raises(DataError, match="id: all rows fall into one fold"):
        Tuned.fit(same, "f1")
    with pytest.raises(DataError, match="no target"):
        Tuned.fit(Outputs([1.0, 2.0], "logits"), "f1")


def test_it_serves_the_outputs_it_was_tuned_on_only():
    many, one = Tuned.fit(labels(), "f1"), Tuned.fit(binary(), "f1")
    with pytest.raises(DataError, match=r"4 labels per row are as many decisions.*policy.apply"):
        many(labels())
    with pytest.raises(DataError, match="binary outputs have one class per row"):
        one.apply(binary())
    with pytest.raises(DataError, match="tuned on binary outputs with classes 0, 1; these are multilabel"):
        one(labels())


@pytest.mark.parametrize("outputs", [binary(), labels(), three()])
def test_it_survives_json(outputs):
    policy = Tuned.fit(outputs, "f_beta", beta=2, by="class" if outputs.task == "multiclass" else None)
    text = policy.to_json()
    assert Policy.from_json(text) == policy
    assert json.loads(text, parse_constant=pytest.fail)["policy"] == "tuned"
    with pytest.raises(DataError, match="beta is missing"):
        Policy.from_json(text.replace('{"beta": 2.0}', "{}"))
    infinite = Tuned((np.inf,), "binary", ["0", "1"], "f1", {}, None, 9, 5, 0.0, 0.0, 0.0)
    assert Policy.from_json(infinite.to_json()) == infinite
