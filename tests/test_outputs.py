"""`Outputs`: what it takes as it is, and the sentence for everything it refuses."""

import dataclasses
import re

import numpy as np
import pytest

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.outputs import same_meaning, wanted

Z = np.array([[2.0, 0.5, -1.0], [0.1, 1.0, 0.0]])


@pytest.mark.parametrize(
    "scores,target,task",
    [
        (Z, [0, 2], "multiclass"),
        (Z, np.array([[0.2, 0.3, 0.5], [1, 0, 0]]), "multiclass"),
        (Z, [[0, 1, 1], [1, 0, 0]], "multilabel"),
        (Z, np.zeros((2, 3), bool), "multilabel"),
        (Z[:, 0], [0, 1], "binary"),
        (Z[:, 0], np.array([0.5, 1.0]), "binary"),
        (Z, None, "multiclass"),
    ],
)
def test_shapes_and_dtypes_imply_the_task(scores, target, task):
    assert Outputs(scores, "logits", target=target).task == task


def test_a_floating_target_can_be_a_distribution_over_labels_when_it_is_said():
    outputs = Outputs(Z, "logits", target=np.full((2, 3), 0.9), task="multilabel")
    assert outputs.target.sum(1) == pytest.approx(2.7)


def test_scores_keep_their_float_and_lose_oddities_of_storage(tmp_path):
    kept = {
        np.float32: np.float32,
        np.float64: np.float64,
        np.float16: np.float32,
        np.int8: np.float64,
        ">f4": np.float32,
    }
    for given, want in kept.items():
        outputs = Outputs(np.array([[1, 0], [3, 2]]).astype(given), "logits")
        assert outputs.scores.dtype == want
        assert outputs.scores.dtype.isnative
        assert outputs.scores.tolist() == [[1, 0], [3, 2]]
    np.save(tmp_path / "z.npy", Z)
    mapped = Outputs(np.load(tmp_path / "z.npy", mmap_mode="r"), "logits").scores
    assert type(mapped) is np.ndarray
    assert isinstance(mapped.base, np.memmap)


def test_names_are_looked_up_and_booleans_are_0_and_1():
    names = Outputs(Z, "logits", target=["b", "c"], classes=["a", "b", "c"])
    assert names.target.tolist() == [1, 2]
    assert Outputs(Z, "logits", target=np.array([b"b", b"c"]), classes=["a", "b", "c"]).target.tolist() == [1, 2]
    assert Outputs(Z[:, 0], "logits", target=["yes", "no"], classes=["no", "yes"]).target.tolist() == [1, 0]
    assert Outputs(Z[:, 0], "logits", target=[True, False]).target.tolist() == [1, 0]
    assert names.target.dtype == np.int64
    assert names.classes == ("a", "b", "c")
    assert Outputs(Z, "logits").classes == ("0", "1", "2")
    assert Outputs(Z[:, 0], "logits").classes == ("0", "1")


def test_repr_says_what_it_is():
    assert repr(Outputs(Z, "logits", target=[0, 1])) == "Outputs(2 rows, 3 classes, logits float64, labelled)"
    grouped = Outputs(Z[:, 0].astype("f4"), "margin", groups={"site": ["a", "b"]})
    assert repr(grouped) == "Outputs(2 rows, binary, margin float32, no target, groups site)"
    assert "3 labels" in repr(Outputs(Z, "logits", target=np.zeros((2, 3), int)))


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outputs(Z, "logits").kind = "probs"


# As logits.


def test_probabilities_and_their_logarithms_become_logits():
    p = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    assert np.array_equal(Outputs(p, "probs").logits, log_p)
    assert np.array_equal(Outputs(log_p, "logp").logits, log_p)
    q = np.array([0.0, 0.1, 0.5, 0.999, 1.0])
    with np.errstate(divide="ignore"):
        log_q, odds = np.log(q), np.log(q) - np.log1p(-q)
    np.testing.assert_allclose(Outputs(q, "probs").logits, odds, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(Outputs(log_q, "logp").logits, odds, rtol=1e-12, atol=1e-15)
    tiny = Outputs([-1e-20], "logp").logits  # p = 1 - 1e-20, which no float64 probability can say
    assert tiny == pytest.approx([20 * np.log(10)])


def test_what_is_no_probability_is_nan():
    assert np.isnan(Outputs([[1.1, -0.1]], "probs").logits).tolist() == [[False, True]]
    assert np.isnan(Outputs([1.1, -0.1], "probs").logits).all()
    assert np.isnan(Outputs([0.1], "logp").logits).all()


def test_a_margin_has_no_logits():
    with pytest.raises(DataError, match="margins, of unknown scale, so they have no likelihood") as refused:
        _ = Outputs(Z, "margin", source="svm.npz").logits
    assert refused.value.file == "svm.npz"
    assert "--kind logits" in refused.value.fix
    assert "--kind logits (in Python: kind='logits')" in refused.value.fix


def test_two_classes_become_one_logit():
    z = np.array([[1.0, 3.0], [-np.inf, 0.0], [-np.inf, -np.inf]])
    two = Outputs(z, "logits", target=["n", "y", "y"], classes=["n", "y"], weight=[1, 2, 3], ids=["i", "j", "k"])
    one = two.to_binary()
    assert (one.task, one.kind, one.classes) == ("binary", "logits", ("n", "y"))
    assert np.array_equal(one.scores, [2.0, np.inf, np.nan], equal_nan=True)
    assert one.target.tolist() == [0, 1, 1]
    assert one.weight.tolist() == [1, 2, 3]
    assert Outputs([[0.2, 0.8]], "probs").to_binary().scores == pytest.approx([np.log(4)])
    assert Outputs([[0.2, 0.8]], "margin").to_binary().kind == "margin"


def test_only_two_exclusive_classes_become_one_logit():
    for outputs in (Outputs(Z, "logits"), Outputs(Z[:, 0], "logits"), Outputs(Z[:, :2], "logits", task="multilabel")):
        with pytest.raises(ValueError, match="to_binary: two classes become one logit"):
            outputs.to_binary()
    with pytest.raises(ValueError, match="the target is a distribution"):
        Outputs(Z[:, :2], "logits", target=[[0.5, 0.5], [0.1, 0.9]]).to_binary()


def test_a_target_that_is_certain_is_integers_whatever_it_came_as():
    onehot = Outputs(Z, "logits", target=np.eye(3)[[2, 0]], source="z.npz")
    assert onehot.true_target.tolist() == [2, 0]
    hard = onehot.hard("a test counts hits")
    assert (hard.target.tolist(), hard.target.dtype, hard.source) == ([2, 0], np.int64, "z.npz")
    assert onehot.target.dtype == np.float64
    labels = Outputs(Z, "logits", target=np.array([[1.0, 1, 0], [0, 0, 0]]), task="multilabel")
    assert labels.true_target.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert Outputs(Z[:, 0], "logits", target=[1.0, 0.0]).true_target.tolist() == [1, 0]
    assert Outputs(Z[:, :2], "logits", target=[[0.0, 1.0], [1.0, 0.0]]).to_binary().target.tolist() == [1, 0]
    assert Outputs(Z, "logits").true_target is None
    kept = full()
    assert kept.hard("a test counts hits") is kept


@pytest.mark.parametrize(
    "scores,target,fix", [(Z, [[0.5, 0.5, 0], [1, 0, 0]], "argmax"), (Z[:, 0], [1.0, 0.9], "target > 0.5")]
)
def test_a_distribution_is_not_certain(scores, target, fix):
    outputs = Outputs(scores, "logits", target=np.array(target), source="z.npz")
    assert outputs.true_target is None
    with pytest.raises(DataError, match="the target is a distribution; a test counts hits") as refused:
        outputs.hard("a test counts hits")
    assert (refused.value.file, refused.value.field) == ("z.npz", "target")
    assert fix in refused.value.fix


@pytest.mark.parametrize("value,what", [(Z, r"ndarray \(2, 3\)"), ([1, 2], "list"), (None, "NoneType")])
def test_what_is_no_outputs_is_to_be_wrapped(value, what):
    outputs = full()
    assert wanted("f", outputs) is outputs
    with pytest.raises(TypeError, match=rf"f: takes Outputs, not {what}; wrap it: ll.Outputs\(z, 'logits', target=y"):
        wanted("f", value)


def test_groups_are_named_and_an_array_alone_is_one_grouping():
    for groups in (["a", "b"], np.array(["a", "b"])):
        outputs = Outputs(Z, "logits", groups=groups)
        assert {name: values.tolist() for name, values in outputs.groups.items()} == {"group": ["a", "b"]}
    assert Outputs(Z, "logits", groups={"site": [1, 2]}).groups["site"].tolist() == ["1", "2"]


# Rows.


def full():
    return Outputs(
        np.arange(12.0).reshape(4, 3),
        "logits",
        target=[0, 1, 2, 0],
        classes=["a", "b", "c"],
        groups={"g": ["x", "x", "y", "y"]},
        weight=[1, 0, 0, 2],
        ids=[10, 11, 12, 13],
        source="f.npz",
    )


@pytest.mark.parametrize("index", [slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])])
def test_rows_take_everything_along_even_where_all_weights_are_0(index):
    part = full().rows(index)
    assert part.scores.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert (part.target.tolist(), part.weight.tolist(), part.ids.tolist()) == ([1, 2], [0, 0], [11, 12])
    assert part.groups["g"].tolist() == ["x", "y"]
    assert (part.classes, part.task, part.kind, part.source) == (("a", "b", "c"), "multiclass", "logits", "f.npz")
    assert len(full()) == 4


def test_no_rows_are_refused_also_as_a_choice():
    with pytest.raises(DataError, match="no rows"):
        full().rows(slice(0, 0))


def test_other_logits_for_the_same_rows():
    other = full().with_logits(np.zeros((4, 3), np.float32))
    assert (other.kind, other.scores.dtype, other.target.tolist()) == ("logits", np.float32, [0, 1, 2, 0])
    with pytest.raises(DataError, match="one target per row"):
        full().with_logits(np.zeros((3, 3)))


def changed(**columns):
    kept = {name: getattr(full(), name) for name in ("scores", "kind", "target", "classes", "groups", "weight", "ids")}
    return Outputs(**(kept | columns), source="other.npz")


@pytest.mark.parametrize(
    "columns,field,sentence",
    [
        ({"kind": "margin"}, "kind", "kind margin here, logits in f.npz"),
        ({"classes": ["b", "a", "c"]}, "classes", "classes b, a, c here, a, b, c in f.npz"),
        ({"target": None}, "target", "target is in some of the shards only"),
        ({"weight": None}, "weight", "weight is in some of the shards only"),
        ({"ids": None}, "ids", "ids is in some of the shards only"),
        ({"groups": {}}, "groups", r"groups \[\] here, \['g'\] in f.npz"),
        ({"target": np.full((4, 3), 1 / 3)}, "target", "a distribution in some of the shards only"),
        ({"target": np.zeros((4, 3), int), "task": "multilabel"}, "task", "task multilabel here, multiclass in f.npz"),
    ],
)
def test_parts_that_differ_are_named(columns, field, sentence):
    with pytest.raises(DataError, match=sentence) as refused:
        same_meaning([full(), changed(**columns)])
    assert (refused.value.file, refused.value.field) == ("other.npz", field)
    assert refused.value.fix


def test_an_absent_target_is_a_complaint_of_whoever_needs_it():
    outputs = Outputs(Z, "logits", source="z.npz")
    with pytest.raises(DataError, match="no target: this needs labelled rows") as refused:
        _ = outputs.labelled
    assert (refused.value.file, refused.value.field) == ("z.npz", "target")
    assert "--target-key (in Python: target=array)" in refused.value.fix
    labelled = full()
    assert labelled.labelled is labelled


# Refusals of the constructor: what came, the field, the first rows, the fix.

NAN_TARGET = np.array([[0.5, 0.5, 0.0], [np.nan, 1.0, 0.0]])
REFUSED = {
    "objects": (
        {"scores": np.array([[1, None]], object)},
        "scores are object, not numbers",
        "logits",
        None,
        "float array",
    ),
    "booleans": ({"scores": np.eye(2, dtype=bool)}, "scores are bool, not numbers", "logits", None, "float array"),
    "complex": ({"scores": Z + 1j}, "scores are complex128", "logits", None, "float array"),
    "strings": ({"scores": np.array([["a", "b"]])}, "scores are <U1", "logits", None, "float array"),
    "masked": ({"scores": np.ma.masked_less(Z, 0)}, "masked array", "logits", None, "filled"),
    "a number": ({"scores": np.array(1.0)}, r"shape \(\)", "logits", None, "reshape"),
    "three axes": ({"scores": np.zeros((2, 3, 4))}, r"shape \(2, 3, 4\)", "logits", None, r"reshape\(-1, K\)"),
    "no classes": ({"scores": np.zeros((2, 0))}, "no classes", "logits", None, "one column per class"),
    "no rows": ({"scores": np.zeros((0, 3))}, "no rows", "logits", None, "empty array"),
    "no rows, binary": ({"scores": np.zeros(0)}, "no rows", "logits", None, "empty array"),
    "binary columns": ({"task": "binary"}, r"task binary needs scores \(n,\).*\(2, 3\)", "task", None, "to_binary"),
    "classes in a row": ({"scores": Z[0], "task": "multiclass"}, r"needs scores \(n, K\)", "task", None, "is binary"),
    "labels in a row": ({"scores": Z[0], "task": "multilabel"}, r"needs scores \(n, K\)", "task", None, "is binary"),
    "two names": ({"classes": ["a", "b"]}, "2 class names for 3 classes", "classes", None, "one name per column"),
    "three names, binary": ({"scores": Z[:, 0], "classes": "abc"}, "for 2 classes", "classes", None, "negative first"),
    "a name twice": ({"classes": ["a", "b", "a"]}, "'a' stands twice", "classes", None, "its own name"),
    "floating indices": (
        {"target": np.array([0.0, 1.0])},
        r"target is float64 \(2,\); a floating target is a distribution",
        "target",
        None,
        r"astype\(int\)",
    ),
    "negative": ({"target": np.array([[0.5, 0.5, 0], [-0.5, 1.5, 0]])}, "between 0 and 1", "target", [1], "astype"),
    "nan": ({"target": NAN_TARGET}, "between 0 and 1", "target", [1], "probabilities"),
    "above 1": ({"scores": Z[:, 0], "target": np.array([0.5, 2.0])}, "between 0 and 1", "target", [1], "astype"),
    "sum": ({"target": np.array([[0.5, 0.6, 0.2], [1, 0, 0]])}, "row 0 sums to 1.3", "target", [0], "divide each row"),
    "too few": (
        {"target": [0]},
        r"one target per row: scores are \(2, 3\), target is \(1,\)",
        "target",
        None,
        r"\(2,\)",
    ),
    "row targets of labels": (
        {"target": [0, 1], "task": "multilabel"},
        "one target per row and label",
        "target",
        None,
        r"shape \(2, 3\)",
    ),
    "unknown name": (
        {"target": ["a", "z"], "classes": ["a", "b", "c"]},
        "target 'z' is not one of the classes a, b, c",
        "target",
        [1],
        "spelled as in the target",
    ),
    "no utf-8": (
        {"target": np.array([b"a", b"\xff"]), "classes": ["a", "b", "c"]},
        "is not one of the classes",
        "target",
        [1],
        "spelled",
    ),
    "names of labels": (
        {"target": np.full((2, 3), "0"), "task": "multilabel"},
        "a label is there or not",
        "target",
        None,
        "0/1",
    ),
    "dates": ({"target": np.array(["2020", "2021"], "M8[Y]")}, "target is datetime64", "target", None, "integers"),
    "-100": (
        {"target": [0, -100]},
        r"target -100 is out of range for 3 classes \(1 of 2",
        "target",
        [1],
        r"weight=\(target != -100\)",
    ),
    "-1, several classes": ({"target": [-1, 0]}, "target -1 is out of range", "target", [0], r"targets are 0\.\.2"),
    "-1/+1": ({"scores": Z[:, 0], "target": [-1, 1]}, "target -1 is out of range", "target", [0], "target > 0"),
    "numbers that are names": (
        {"target": [1, 3], "classes": [1, 2, 3]},
        "target 3 is out of range",
        "target",
        [1],
        r"looked up when they are text: target\.astype\(str\)\.$",
    ),
    "transposed": (
        {"scores": Z.T, "target": [0, 1]},
        r"scores are \(3, 2\), target is \(2,\)",
        "target",
        None,
        r"classes last: give scores\.T",
    ),
    "transposed labels": (
        {"scores": Z.T, "target": np.ones((2, 3), int), "task": "multilabel"},
        r"scores are \(3, 2\), target is \(2, 3\)",
        "target",
        None,
        r"give scores\.T",
    ),
    "transposed with names": ({"scores": Z.T, "classes": "abc"}, "3 class names for 2", "classes", None, r"scores\.T"),
    "several labels": (
        {"target": np.array([[1.0, 1, 0], [1, 0, 0]])},
        "row 0 sums to 2",
        "target",
        [0],
        r"task='multilabel' \(--task multilabel\) if a row can have several labels",
    ),
    "groups of two columns": ({"groups": np.zeros((2, 2))}, r"groups is \(2, 2\)", "groups", None, "as many values"),
    "groups of one word": ({"groups": "site"}, r"groups is \(\)", "groups", None, "as many values"),
    "from 1": ({"target": [1, 3]}, "target 3 is out of range", "target", [1], "target - 1"),
    "2 of 0/1": ({"scores": Z[:, 0], "target": [0, 2]}, "target 2 is out of range", "target", [1], "0 or 1"),
    "labels": ({"target": [[0, 1, 1], [1, 0, 5]]}, "target 5 is out of range for 3 labels", "target", [1], "0 or 1"),
    "wraps": ({"target": np.array([0, 2**64 - 1], np.uint64)}, "out of range", "target", [1], "0..2"),
    "weights": ({"weight": [1.0]}, r"there are 2 rows, weight is \(1,\)", "weight", None, "as many values as rows"),
    "weight of words": ({"weight": ["a", "b"]}, "weight is <U1", "weight", None, "non-negative numbers"),
    "negative weight": ({"weight": [1, -1]}, "finite number of at least 0", "weight", [1], "0 leaves a row out"),
    "infinite weight": ({"weight": [np.inf, np.nan]}, "finite number of at least 0", "weight", [0, 1], "leaves"),
    "no weight": ({"weight": [0, 0]}, "every weight is 0", "weight", None, "above 0"),
    "ids": ({"ids": [1, 2, 3]}, r"there are 2 rows, id is \(3,\)", "id", None, "as many values as rows"),
    "groups": ({"groups": {"site": [["a"], ["b"]]}}, r"group_site is \(2, 1\)", "group_site", None, "as many values"),
}


@pytest.mark.parametrize("given,sentence,field,rows,fix", REFUSED.values(), ids=REFUSED)
def test_refused(given, sentence, field, rows, fix):
    with pytest.raises(DataError, match=sentence) as refused:
        Outputs(**({"scores": Z, "kind": "logits"} | given))
    error = refused.value
    assert (error.field, error.rows) == (field, rows)
    assert re.search(fix, error.fix)
    assert str(error).startswith(f"{field}: ")
    assert f"Fix: {error.fix}" in str(error)


@pytest.mark.parametrize("target", [[0, 1], [[0], [1]], [0.0, 1.0], [[0.0], [1.0]], [[False], [True]]])
def test_one_column_is_a_binary_score_once_it_is_said(target):
    column = Z[:, :1]
    with pytest.raises(DataError, match=r"scores are \(2, 1\).*one column is a binary score") as refused:
        Outputs(column, "logits", target=np.array(target))
    assert "scores[:, 0], or say task='binary' (--task binary)" in refused.value.fix
    said = Outputs(column, "logits", target=np.array(target), task="binary")
    assert (said.scores.shape, said.true_target.tolist()) == ((2,), [0, 1])
    if np.ndim(target) == 2:
        assert Outputs(column, "logits", target=np.array(target), task="multilabel").classes == ("0",)


def test_one_column_without_a_1_stays_one_class():
    assert Outputs(Z[:, :1], "logits", target=[0, 0]).task == "multiclass"
    assert Outputs(Z[:, :1], "logits", target=["cat", "cat"], classes=["cat"]).classes == ("cat",)
    assert Outputs(Z[:, :1], "logits", task="binary").scores.tolist() == [2.0, 0.1]


def test_numbers_that_are_names_are_looked_up_as_text():
    assert Outputs(Z, "logits", target=np.array([1, 3]).astype(str), classes=[1, 2, 3]).target.tolist() == [0, 2]


def test_at_most_three_rows_are_named_and_all_are_counted():
    with pytest.raises(DataError, match=r"\(5 of 5 rows\)") as refused:
        Outputs(np.zeros((5, 2)), "logits", target=[7] * 5)
    assert refused.value.rows == [0, 1, 2]
    assert "First rows: 0, 1, 2." in str(refused.value)


def test_words_outside_the_known_ones_are_wrong_calls():
    with pytest.raises(ValueError, match=r"Outputs: kind is one of .* not 'logit'. Did you mean 'logits'\?") as refused:
        Outputs(Z, "logit")
    assert not isinstance(refused.value, DataError)
    with pytest.raises(ValueError, match=r"Outputs: task is one of .* Did you mean 'multilabel'\?"):
        Outputs(Z, "logits", task="multi-label")


def test_a_long_list_of_classes_is_shortened():
    with pytest.raises(DataError, match=r"classes .{57}\.\.\."):
        Outputs(np.zeros((1, 100)), "logits", target=["cat"])
