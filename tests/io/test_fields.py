"""What columns are called: kinds, splits, foreign names, targets."""

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.io import load

Z = np.array([[1.0, -2.0], [0.5, 3.0]])


@pytest.mark.parametrize("kind", ["logits", "logp", "probs", "margin"])
def test_a_name_implies_its_kind(kind):
    assert load({kind: Z}).kind == kind
    prefix = {"logits": "logit_", "logp": "logp_", "probs": "p_", "margin": "margin_"}[kind]
    wide = load({prefix + "a": Z[:, 0], prefix + "b": Z[:, 1]})
    assert (wide.kind, wide.classes) == (kind, ("a", "b"))


def test_two_kinds_are_a_choice():
    both = {"logits": Z, "probs": Z / 10}
    with pytest.raises(
        DataError,
        match=r"several kinds of scores: logits \(logits\) and probs \(probs\).*--kind logits or --kind probs",
    ):
        load(both)
    assert load(both, "probs").scores.tolist() == (Z / 10).tolist()


def test_a_kind_that_is_said_wins_over_the_name():
    assert load({"logits": Z}, "probs").kind == "probs"
    assert load({"logits": Z}, "probs", scores_key="logits").kind == "probs"
    wide = load({"logit_a": Z[:, 0], "logit_b": Z[:, 1]}, "probs")
    assert (wide.kind, wide.classes) == ("probs", ("a", "b"))
    with pytest.raises(DataError, match="--kind logits or --kind probs"):
        load({"logits": Z, "probs": Z}, "margin")


def test_foreign_names_need_a_kind_and_the_error_gives_the_flags():
    foreign = {"predictions": Z, "ground_truth": [1, 0]}
    with pytest.raises(DataError) as caught:
        load(foreign)
    assert "predictions: nothing says what these scores are: shape (2, 2), min -2, max 3" in str(caught.value)
    assert "rows sum to -1 .. 3.5" in str(caught.value)
    assert "add --scores-key predictions --target-key ground_truth --kind logits" in str(caught.value)
    outputs = load(foreign, "logits", scores_key="predictions", target_key="ground_truth")
    assert outputs.target.tolist() == [1, 0]


def test_a_foreign_prefix_names_the_columns_of_all_classes():
    table = {"score_a": Z[:, 0], "score_b": Z[:, 1], "y": ["b", "a"]}
    outputs = load(table, "margin", scores_key="score_", target_key="y")
    assert outputs.classes == ("a", "b") and outputs.target.tolist() == [1, 0]


def test_log_probs_are_neither_probabilities_nor_a_split():
    with pytest.raises(DataError, match="nothing says what these scores are"):
        load({"log_probs": Z})
    with pytest.raises(DataError, match="nothing says what these scores are"):
        load({"log_probs": Z}, scores_key="log_probs")
    assert load({"log_probs": Z}, "logp", scores_key="log_probs").kind == "logp"
    assert load({"val_probs": Z}, scores_key="val_probs").kind == "probs"


@pytest.mark.parametrize(
    "columns, flags, says",
    [
        ({"logits": Z}, {"scores_key": "z"}, "z: no 'z' among logits float64"),
        ({"logits": Z}, {"target_key": "y"}, "y: no 'y' among logits float64"),
        ({"logits": Z}, {"split": "val"}, "no scores of a split 'val'; there are no splits"),
        ({"logits": Z, "target": [0, 1], "labels": [1, 0]}, {}, "two columns could be the target: target and labels"),
        ({"logits": Z, "target": [0, 1, 1]}, {}, "one target per row"),
        ({"logits": Z, "target": [0, 2]}, {}, "target 2 is out of range for 2 classes"),
        ({"logits": Z, "target": ["a", "b"]}, {}, "'a' is not one of the classes 0, 1"),
        ({"logits": Z}, {"target_key": "logits"}, "named as scores and as target"),
        ({"a": Z, "b": Z}, {}, "no scores among a float64"),
        ({"logits": Z * np.nan}, {}, "all 2 rows hold nan"),
        ({"logits": Z, "classes": ["a"]}, {}, "1 class names for 2 classes"),
    ],
)
def test_what_cannot_be_found_or_fit(columns, flags, says):
    with pytest.raises(DataError, match=says):
        load(columns, **flags)


def test_some_rows_of_nan_are_data():
    assert np.isnan(load({"logits": np.where([[True], [False]], np.nan, Z)}).scores).any(1).tolist() == [True, False]


def test_labels_and_label_are_targets_too():
    assert load({"logits": Z, "labels": [0, 1]}).target.tolist() == [0, 1]
    assert load({"logits": Z, "label": [0, 1]}).target.tolist() == [0, 1]


def test_integers_are_indices_beside_an_array_and_names_beside_columns():
    assert load({"logits": Z, "target": [1, 1], "classes": ["1", "2"]}).target.tolist() == [1, 1]
    assert load({"logit_1": Z[:, 0], "logit_2": Z[:, 1], "target": [1, 2]}).target.tolist() == [0, 1]


def test_classes_name_the_columns_by_position():
    assert load({"logits": Z, "classes": ["a", "b"]}, classes=["x", "y"]).classes == ("x", "y")
    wide = load({"logit_0": Z[:, 0], "logit_1": Z[:, 1], "target": ["y", "x"]}, classes=["x", "y"])
    assert wide.classes == ("x", "y") and wide.target.tolist() == [1, 0]


def test_one_column_is_binary_when_said_so():
    outputs = load({"logits": Z[:, :1], "target": [0, 1]}, task="binary")
    assert outputs.scores.shape == (2,) and outputs.task == "binary"


@pytest.mark.parametrize("name", ["group", "groups"])
def test_a_bare_group_is_a_grouping_of_that_name(name):
    outputs = load({"val_logits": Z, f"val_{name}": ["a", "b"], "val_group_age": [1, 2]}, split="val")
    assert {key: list(values) for key, values in outputs.groups.items()} == {name: ["a", "b"], "age": ["1", "2"]}
    with pytest.raises(DataError, match=f"group_{name} and {name} are both the grouping '{name}'"):
        load({"logits": Z, name: [1, 2], f"group_{name}": [1, 2]})


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_the_kind_itself_begins_the_columns_of_classes(kind):
    wide = {f"{kind}_0": Z[:, 0], f"{kind}_1": Z[:, 1]}
    for outputs in (load(wide), load(wide, scores_key=f"{kind}_")):
        assert (outputs.kind, outputs.classes, outputs.scores.tolist()) == (kind, ("0", "1"), Z.tolist())
    short = {"logits": "logit_", "probs": "p_"}[kind]
    with pytest.raises(DataError, match=f"--scores-key {short} or --scores-key {kind}_"):
        load(wide | {f"{short}a": Z[:, 0]})


def test_arrays_of_two_axes_are_no_classes():
    with pytest.raises(DataError, match=r"no scores among logits_val.*what the columns of the classes begin with"):
        load({"logits_val": Z, "logits_test": Z})


def test_a_kind_that_is_given_is_not_asked_for():
    with pytest.raises(DataError) as caught:
        load({"predictions": Z, "ground_truth": [1, 0]}, "probs")
    assert caught.value.fix == "add --scores-key predictions --target-key ground_truth."
    assert "nothing says" not in str(caught.value)


@pytest.mark.parametrize(
    "word, kind", [("probabilities", "probs"), ("log_probs", "logp"), ("logit", "logits"), ("softmax", "probs")]
)
def test_another_word_for_a_kind_is_answered_with_ours(word, kind):
    with pytest.raises(ValueError, match=f"not '{word}'. Did you mean '{kind}'"):
        load(Z, word)
