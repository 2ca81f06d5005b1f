"""The cheapest decision, against expected costs written out in full."""

import json

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.decide import Cost, CostMatrix, Policy, read_costs

NAMES = ["cat", "dog", "owl"]


def three(n=400, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return Outputs(rng.normal(0, scale, (n, 3)), "logits", target=rng.integers(0, 3, n), classes=NAMES)


def probabilities(logits):
    """Plain float64 softmax, the reference of this file."""
    z = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64))
    return z / z.sum(axis=1, keepdims=True)


def test_cost_accepts_where_an_error_is_expected_to_cost_no_more_than_a_review(shared_data):
    with np.load(shared_data / "logits/densenet40_c10_logits.npz") as archive:
        logits, target = archive["test_logits"] / np.float32(2.88256), archive["test_labels"].ravel()
    assert logits.dtype == np.float32
    decisions = Cost(wrong=10, review=1)(Outputs(logits, "logits", target=target))
    p = np.sort(probabilities(logits), axis=1)
    p_wrong, p = p[:, :-1].sum(axis=1), p[:, -1]
    accept = 10 * p_wrong <= 1
    assert 0.5 < accept.mean() < 0.95
    np.testing.assert_array_equal(decisions.accept, accept)
    np.testing.assert_array_equal(decisions.index, logits.argmax(axis=1))
    np.testing.assert_allclose(decisions.prob, p, rtol=1e-13)
    np.testing.assert_allclose(decisions.expected_cost, np.where(accept, 10 * p_wrong, 1), rtol=1e-12)
    wrong = logits.argmax(axis=1) != target
    assert decisions.summary().realised_cost == pytest.approx(np.where(accept, 10.0 * wrong, 1.0).mean(), rel=1e-12)


def test_cost_is_exact_where_the_probability_rounds_to_one():
    # p = 1 - 4e-18 rounds to 1 and 1 - p to 0; an error that costs 1e18 is worth a review all the same.
    decisions = Cost(wrong=1e18, review=1)(Outputs([40.0, 42.0], "logits"))
    assert decisions.action.tolist() == ["review", "accept"]
    with mpmath.workdps(40):
        exact = 1e18 / (1 + mpmath.exp(42))
    assert decisions.expected_cost[1] == pytest.approx(float(exact), rel=1e-14)
    assert decisions.expected_cost[0] == 1


@pytest.mark.parametrize(
    ("wrong", "review", "accepted"),
    [
        (10, 1, [True, True, False, False, True]),  # p = 0.9 exactly at the border, a tie: accepted
        (2, 1, [True, True, True, True, True]),  # p = 1/2 is a tie
        (1, 1, [True, True, True, True, True]),  # a review as dear as an error is never worth it
        (1, 5, [True, True, True, True, True]),
        (10, 0, [False, False, False, False, True]),  # a free one always is, unless there is nothing to learn
    ],
)
def test_cost_at_its_edges(wrong, review, accepted):
    outputs = Outputs([5.0, np.log(9), 1.0, 0.0, np.inf], "logits")
    assert Cost(wrong, review)(outputs).accept.tolist() == accepted


def test_a_row_without_a_class_is_reviewed_at_the_cost_of_a_review():
    for row in (np.nan, [-np.inf, -np.inf], [np.nan, 9]):
        outputs = Outputs([row], "logits")
        for policy in (Cost(1, 5), CostMatrix([[0, 3], [1, 0]], review=5)):
            decisions = policy(outputs)
            assert (decisions.action[0], decisions.index[0], decisions.names[0]) == ("review", -1, None)
            assert decisions.expected_cost[0] == 5
            assert np.isnan(decisions.log_odds[0])


@pytest.mark.parametrize("wrong", [0, -1, np.inf, np.nan])
def test_cost_refuses_a_cost_of_errors_that_leaves_nothing_to_decide(wrong):
    with pytest.raises(ValueError, match="Cost: wrong is a finite number above 0"):
        Cost(wrong, 1)


@pytest.mark.parametrize("review", [-1, np.inf, np.nan])
def test_cost_refuses_a_cost_of_review_that_is_none(review):
    with pytest.raises(ValueError, match="Cost: review is a finite number of at least 0"):
        Cost(10, review)


def test_cost_matrix_chooses_the_least_expected_cost_of_all_written_out():
    outputs = three()
    costs, review = np.array([[0, 1, 5], [20, 0.5, 1], [3, 2, 0.0]]), np.array([1.0, 0.25, 2.0])
    decisions = CostMatrix(costs, review, NAMES)(outputs)
    p = probabilities(outputs.scores)
    for i, row in enumerate(p):
        expected = [sum(row[k] * costs[k, a] for k in range(3)) for a in range(3)]
        best = expected.index(min(expected))
        referred = sum(row * review)
        assert decisions.index[i] == best
        assert decisions.accept[i] == (min(expected) <= referred)
        assert decisions.expected_cost[i] == pytest.approx(min(*expected, referred), rel=1e-12)
        assert decisions.prob[i] == pytest.approx(row[best], rel=1e-12)
        assert decisions.names[i] == NAMES[best]
    assert {0, 1, 2} == set(decisions.index.tolist())
    assert 0 < decisions.accept.sum() < len(decisions)
    assert (decisions.index != outputs.scores.argmax(axis=1)).any()  # the dear error moves decisions off the likeliest


def test_rows_of_the_cost_matrix_are_true_and_columns_chosen():
    # Choosing class 0 where 1 is true costs 100, so at even odds class 1 is chosen.
    assert CostMatrix([[0, 1], [100, 0]])(Outputs([[0.0, 0.0]], "logits")).index[0] == 1


def test_equal_errors_in_a_matrix_decide_as_one_cost():
    outputs = three(scale=1.5)
    one, many = Cost(10, 1)(outputs), CostMatrix(10 - 10 * np.eye(3), review=1)(outputs)
    np.testing.assert_array_equal(one.accept, many.accept)
    np.testing.assert_array_equal(one.index, many.index)
    np.testing.assert_array_equal(one.log_odds, many.log_odds)
    np.testing.assert_allclose(one.expected_cost, many.expected_cost, rtol=1e-12)
    assert one.summary() == pytest.approx(many.summary())


def test_equally_cheap_classes_give_the_first_whatever_the_neighbours():
    tie = np.zeros((1, 3))
    assert CostMatrix(1 - np.eye(3))(Outputs(tie, "logits")).index.tolist() == [0]
    assert CostMatrix([[0, 1, 1], [2, 0, 0], [2, 0, 0]])(Outputs(tie, "logits")).index.tolist() == [1]
    outputs = three(64)
    matrix = CostMatrix(np.random.default_rng(3).uniform(0, 9, (3, 3)), review=1.0)
    alone = [matrix(outputs.rows(slice(i, i + 1))).expected_cost[0] for i in range(64)]
    np.testing.assert_array_equal(matrix(outputs).expected_cost, alone)


def test_a_class_as_dear_as_its_review_is_accepted():
    assert CostMatrix([[0, 2], [2, 0]], review=1)(Outputs([0.0], "logits")).action.tolist() == ["accept"]


def test_a_matrix_without_review_accepts_every_row_that_has_a_class():
    outputs = Outputs([[1.0, 0.0], [np.nan, 0.0]], "logits", target=[0, 1])
    decisions = CostMatrix([[0, 1], [20, 0]])(outputs)
    assert decisions.accept.tolist() == [True, False]
    assert np.isnan(decisions.expected_cost[1])
    summary = decisions.summary()
    assert (summary.undecided, summary.realised_cost, summary.cost_all) == (
        1,
        1.0,
        1.0,
    )  # row 0: class 1 chosen, 0 true


def test_realised_cost_of_a_matrix_reads_the_true_row():
    outputs = Outputs([[9.0, 0.0], [9.0, 0.0], [0.1, 0.0]], "logits", target=[0, 1, 1])
    summary = CostMatrix([[0, 1], [7, 0]], review=[0.5, 0.25])(outputs).summary()
    # Rows 0 and 1 choose 0: cost 0 and 7. Row 2 chooses 1 (expected 0.525 against 3.3) and is reviewed: 0.25.
    assert (summary.accepted, summary.realised_cost) == (2, pytest.approx(7.25 / 3))
    assert summary.cost_all == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("costs", "review", "words"),
    [
        ([[0, 1]], None, r"K by K; these are \(1, 2\)"),
        ([[3, 3], [1, 1]], 1, "every decision costs the same"),
        ([[7]], None, "every decision costs the same"),
        ([[0, -1], [1, 0]], None, "at least 0; a gain is a cost of 0"),
        ([[0, np.nan], [1, 0]], None, "finite numbers"),
        ([[0, "x"], [1, 0]], None, "costs are numbers in a regular table"),
        ([[0, 1], [1]], None, "costs are numbers in a regular table"),
        ([[0, 1], [1, 0]], [1, 2, 3], r"one per true class \(2\); this is \(3,\)"),
        ([[0, 1], [1, 0]], -1, "review are finite numbers of at least 0"),
    ],
)
def test_cost_matrix_refuses(costs, review, words):
    with pytest.raises(ValueError, match=words):
        CostMatrix(costs, review)


def test_cost_matrix_refuses_names_that_do_not_fit():
    with pytest.raises(ValueError, match="2 different class names are wanted, not a, a"):
        CostMatrix([[0, 1], [1, 0]], classes=["a", "a"])


def test_cost_matrix_is_a_copy_that_cannot_change():
    mine = np.array([[0.0, 1.0], [1.0, 0.0]])
    matrix = CostMatrix(mine)
    mine[0, 1] = 50
    assert matrix.costs[0, 1] == 1
    with pytest.raises(ValueError, match="read-only"):
        matrix.costs[0, 1] = 50


@pytest.mark.parametrize("classes", [["a", "b"], ["cat", "owl", "dog"]])
def test_outputs_with_other_classes_are_refused(classes):
    matrix = CostMatrix(1 - np.eye(3), classes=NAMES)
    outputs = Outputs(np.zeros((2, len(classes))), "logits", classes=classes, source="new.npz")
    with pytest.raises(
        DataError, match=rf"new.npz: classes: the cost matrix is for cat, dog, owl.* {', '.join(classes)}"
    ):
        matrix(outputs)
    with pytest.raises(DataError, match="the cost matrix is for 3 classes, these outputs have 0, 1"):
        CostMatrix(1 - np.eye(3))(Outputs([1.0], "logits"))


def test_costs_read_from_text():
    assert read_costs("wrong=10,review=1", NAMES) == Cost(10, 1)
    assert read_costs(" review = .5 , wrong=1e3", NAMES) == Cost(1000, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrong=10", "does not say what review costs"),
        ("review=1", "does not say what wrong costs"),
        ("wrnog=10,review=1", "not 'wrnog'. Did you mean 'wrong'?"),
        ("wrong=ten,review=1", "wrong is a number, not 'ten'"),
        ("wrong=10,wrong=11,review=1", "wrong stands twice"),
        ("10,1", "'10' is neither"),
        ("", "'' is neither"),
        ("wrong=-10,review=1", "Cost: wrong is a finite number above 0"),
        ("wrong=10,review=-1", "Cost: review is a finite number of at least 0"),
        ("wrong=inf,review=1", "finite"),
    ],
)
def test_costs_that_are_not_text_of_ours(text, words):
    with pytest.raises(ValueError) as caught:
        read_costs(text, NAMES)
    assert words in str(caught.value)
    assert not isinstance(caught.value, DataError)  # a wrong call, exit 2


def matrix_file(folder, text, name="costs.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_matrix_file_is_read_by_name(tmp_path):
    path = matrix_file(tmp_path, "\ufefftrue,owl,cat,dog\n\ncat,5,0,1\nowl,0, 3 ,2\r\ndog,1,20,0.5\n")
    matrix = read_costs(str(path), NAMES)
    assert matrix.costs.tolist() == [[0, 1, 5], [20, 0.5, 1], [3, 2, 0]]
    assert (matrix.review, matrix.classes) == (None, tuple(NAMES))


def test_a_matrix_file_may_say_what_a_review_costs(tmp_path):
    head = "true,cat,dog,review\n"
    one = read_costs(matrix_file(tmp_path, head + "cat,0,1,0.5\ndog,2,0,0.5\n"), ["cat", "dog"])
    assert one.review.shape == ()
    assert one.review == 0.5
    two = read_costs(matrix_file(tmp_path, head + "cat,0,1,0.5\ndog,2,0,3\n"), ["cat", "dog"])
    assert two.review.tolist() == [0.5, 3]
    named = read_costs(matrix_file(tmp_path, ",cat,review\ncat,0,1\nreview,2,0\n"), ["cat", "review"])
    assert named.review is None
    assert named.costs.tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty: not even a header line"),
        ("\n\n", "empty: not even a header line"),
        (",cat,dog\ncat,0,1\ndog,1,0\n", "there is no column 'owl'"),
        (",cat,dog,owl,emu\ncat,0,1,1,1\ndog,1,0,1,1\nowl,1,1,0,1\n", "an unknown column 'emu'"),
        (",cat,dog,owl,cat\ncat,0,1,1,1\ndog,1,0,1,1\nowl,1,1,0,1\n", "more than one column 'cat'"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,1\n", "there is no row 'owl'"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,1\nowl,1,1,0\nemu,1,1,1\n", "an unknown row 'emu'"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,1\nowl,1,1,0\nowl,1,1,0\n", "more than one row 'owl'"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0\nowl,1,1,0\n", "row 'dog' has 3 cells, the header has 4"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,x\nowl,1,1,0\n", "true 'dog', chosen 'owl': a cost is a finite number"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,\nowl,1,1,0\n", "not ''"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,-2\nowl,1,1,0\n", "not '-2'"),
        (",cat,dog,owl\ncat,0,1,1\ndog,1,0,inf\nowl,1,1,0\n", "not 'inf'"),
        (",cat,dog,owl\ncat,1,1,1\ndog,2,2,2\nowl,3,3,3\n", "every decision costs the same"),
        (b"\xff\xfe\x00c", "not a cost matrix"),
        (b'"', "not a cost matrix"),
    ],
)
def test_a_matrix_file_that_is_none_is_named(tmp_path, text, words):
    path = matrix_file(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_costs(path, NAMES)
    assert words in str(caught.value)
    assert caught.value.file == path
    assert caught.value.fix


def test_a_matrix_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent.csv: not a cost matrix: No such file"):
        read_costs(str(tmp_path / "absent.csv"), NAMES)
    with pytest.raises(DataError, match="Is a directory"):
        read_costs(tmp_path, NAMES)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='cat,dog\n"0159.-x', max_size=60)))
def test_no_bytes_make_the_matrix_reader_fail_in_another_way(tmp_path_factory, data):
    path = matrix_file(tmp_path_factory.mktemp("fuzz"), data)
    try:
        matrix = read_costs(path, ["cat", "dog"])
    except DataError:
        return
    assert matrix.costs.shape == (2, 2)


@pytest.mark.parametrize(
    "policy",
    [
        Cost(10, 0.1),
        Cost(np.float32(10), np.int64(1)),
        CostMatrix([[0, 1 / 3], [2, 0]], review=[1, 2], classes=["é", "b"]),
        CostMatrix([[0, 1], [2, 0]], review=1e-300),
        CostMatrix([[0, 1], [2, 0]]),
    ],
    ids=repr,
)
def test_costs_survive_json(policy):
    text = policy.to_json()
    again = Policy.from_json(text)
    assert type(again) is type(policy)
    assert again.to_json() == text
    outputs = Outputs([0.3, -2.0, np.nan], "logits", classes=["é", "b"])
    np.testing.assert_array_equal(again(outputs).expected_cost, policy(outputs).expected_cost)
    assert json.loads(text)["schema_version"] == 1
