"""Statistics of rows: each by its definition, in every array library, with the special values of the contract."""

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import reference
from lastlayer.linear import linear_stats
from lastlayer.transform import TopK, row_stats

EVERY = ("logp", "lse", "entropy", "argmax", "rank", "topk:3", "top2_gap", "max_prob")
FLOATS = ("logp", "lse", "entropy", "topk:3", "top2_gap", "max_prob")
INF, NAN = np.inf, np.nan


def column(name, target):
    """A function of logits and target that gives one array."""

    def function(z, *given):
        found = row_stats(z, (name,), *(given or (target,)))[name]
        return found.values if isinstance(found, TopK) else found

    return function


def by_definition(row, y):
    """Every statistic of one row of finite numbers, in 60 digits and with Python's stable sort."""
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(v)) for v in row]
        lse = mpmath.log(sum(mpmath.exp(v - max(z)) for v in z)) + max(z)
        order = sorted(range(len(z)), key=lambda k: -z[k])
        p = [mpmath.exp(v - lse) for v in z]
        return {
            "logp": float(z[y] - lse),
            "lse": float(lse),
            "entropy": float(-sum(q * (v - lse) for q, v in zip(p, z, strict=True))),
            "argmax": order[0],
            "rank": order.index(y),
            "topk:3": [float(z[k]) for k in order[:3]],
            "index": order[:3],
            "top2_gap": float(z[order[0]] - z[order[1]]),
            "max_prob": float(p[order[0]]),
        }


def rows_and_target():
    rng = np.random.default_rng(0)
    rows = rng.integers(-24, 24, (12, 7)) / 4
    rows[0, [1, 4]] = 9.0  # a tie at the top
    rows[1, 3] += 40.0  # nearly sure
    rows[2] = 0.5
    rows[3, [0, 2]], rows[3, 5] = 0.0, -0.0
    rows[4] = -np.arange(7.0) - 3
    return rows, np.array([4, 3, 6, 5, 0, 1, 2, 3, 4, 5, 6, 0])


def without_ties():
    rows, target = rows_and_target()
    return rows[4:8] + np.arange(7) / 64, target[4:8]


@pytest.mark.parametrize("name", EVERY)
def test_each_statistic_by_its_definition(name, library):
    rows, target = rows_and_target()
    want = np.array([by_definition(row, y)[name] for row, y in zip(rows, target, strict=True)])
    found = library.run(column(name, library.of(target)), rows, target)
    if name in ("argmax", "rank"):
        np.testing.assert_array_equal(found, want)
    else:
        np.testing.assert_allclose(found, want, rtol=4 * library.eps, atol=4 * library.eps * (name == "lse"))


def test_classes_of_the_first_k(library):
    rows, _ = rows_and_target()
    found = library.numpy(row_stats(library.of(rows), ("topk:3",))["topk:3"].index)
    np.testing.assert_array_equal(found, [by_definition(row, 0)["index"] for row in rows])


def test_the_log_probability_of_a_sure_right_answer_is_not_0(library):
    rows = np.array([[40.0, 0.0, 0.0]])
    want = float(-mpmath.log1p(2 * mpmath.exp(-40)))
    np.testing.assert_allclose(
        library.run(column("logp", library.of(np.array([0]))), rows, np.array([0])), want, rtol=4 * library.eps
    )


SPECIAL = np.array(
    [
        [INF, 0.0, INF, 1.0],
        [0.0, INF, 2.0, -INF],
        [-INF, 1.0, -INF, 1.0],
        [-INF, -INF, 5.0, -INF],
        [-INF] * 4,
        [1.0, NAN, 2.0, 0.0],
        [INF, NAN, -INF, 0.0],
    ]
)
OF_SPECIAL = {  # of the classes 2, 1, 0, 2, 2, 2, 0
    "logp": [-np.log(2), 0.0, -INF, 0.0, NAN, NAN, NAN],
    "lse": [INF, INF, 1 + np.log(2), 5.0, -INF, NAN, NAN],
    "entropy": [np.log(2), 0.0, np.log(2), 0.0, NAN, NAN, NAN],
    "argmax": [0, 1, 1, 2, -1, -1, -1],
    "rank": [1, 0, 2, 0, 4, 4, 4],
    "top2_gap": [0.0, INF, 0.0, INF, NAN, NAN, NAN],
    "max_prob": [0.5, 1.0, 0.5, 1.0, NAN, NAN, NAN],
    "topk:3": [[INF, INF, 1], [INF, 2, 0], [1, 1, -INF], [5, -INF, -INF], [NAN] * 3, [NAN] * 3, [NAN] * 3],
}
PLACES = [[0, 2, 3], [1, 2, 0], [1, 3, 0], [2, 0, 1], [-1] * 3, [-1] * 3, [-1] * 3]


@pytest.mark.parametrize("name", EVERY)
def test_special_rows(name, library):
    target = np.array([2, 1, 0, 2, 2, 2, 0])
    found = library.run(column(name, library.of(target)), SPECIAL, target)
    np.testing.assert_allclose(found, OF_SPECIAL[name], rtol=4 * library.eps)


def test_classes_of_special_rows(library):
    found = row_stats(library.of(SPECIAL), ("topk:3",))["topk:3"].index
    np.testing.assert_array_equal(library.numpy(found), PLACES)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_linear_stats_of_logits_that_are_there(name):
    """Features of ones, so that the weight is the logits; the empty row and those with a nan too."""
    rows, target = SPECIAL[1:5], np.array([1, 0, 2, 2])
    for row, y in zip(rows, target, strict=True):
        layer = np.ones((1, 1)), np.zeros((4, 1))
        theirs = linear_stats(*layer, (name,), np.array([y]), bias=row)[name]
        ours = row_stats(row[None], (name,), np.array([y]))[name]
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", FLOATS)
def test_gradients(name, differentiable):
    """Against the differences of the definition."""
    rows, target = without_ties()
    weight = np.arange(1.0, 4.0) if name == "topk:3" else 1.0
    found = differentiable.gradient(column(name, differentiable.of(target)), rows, target, weight)
    step, want = 1e-6, np.zeros_like(rows)
    for i, k in np.ndindex(rows.shape):
        up, down = rows[i].copy(), rows[i].copy()
        up[k], down[k] = up[k] + step, down[k] - step
        change = (np.array(by_definition(r, target[i])[name]) for r in (up, down))
        want[i, k] = (weight * (next(change) - next(change))).sum() / (2 * step)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FLOATS)
def test_rows_without_a_distribution_have_no_slope_and_a_nan_stays_in_its_row(name, differentiable):
    rows = np.array([[-INF] * 4, [1.0, NAN, 2.0, 0.0], [3.0, -INF, 1.0, 2.0]])
    slope = differentiable.gradient(column(name, differentiable.of(np.array([0, 0, 0]))), rows, np.array([0, 0, 0]))
    np.testing.assert_array_equal(slope[0], 0)
    assert np.isnan(slope[1]).any()
    assert np.isfinite(slope[2]).all()
    assert slope[2, 1] == 0


def test_several_gradients_at_once_and_twice():
    torch = pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    rows, target = without_ties()
    x, y = torch.from_numpy(rows).requires_grad_(), torch.from_numpy(target)
    found = row_stats(x, ("argmax", *FLOATS, "rank"), y)
    assert not found["argmax"].requires_grad and not found["rank"].requires_grad
    total = sum((found[name].values if name == "topk:3" else found[name]).pow(2).sum() for name in FLOATS)
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    (second,) = torch.autograd.grad((slope * torch.arange(7.0)).sum(), x)
    z = x.detach().clone().requires_grad_()
    logp, top = torch.log_softmax(z, 1), torch.topk(z, 3).values
    by_hand = [logp[torch.arange(4), y], z.logsumexp(1), -(logp.exp() * logp).sum(1), top, top[:, 0] - top[:, 1]]
    by_hand.append(logp.exp().max(1).values)
    (want,) = torch.autograd.grad(sum(each.pow(2).sum() for each in by_hand), z, create_graph=True)
    torch.testing.assert_close(slope, want, rtol=1e-11, atol=1e-11)
    (twice,) = torch.autograd.grad((want * torch.arange(7.0)).sum(), z)
    torch.testing.assert_close(second, twice, rtol=1e-9, atol=1e-9)


def test_shapes_and_types(library):
    rows, target = rows_and_target()
    found = row_stats(library.of(rows.reshape(3, 4, 7)), EVERY, library.of(target.reshape(3, 4)))
    assert list(found) == list(EVERY)
    for name in EVERY:
        for each in found[name] if name == "topk:3" else [found[name]]:
            assert tuple(each.shape) == (3, 4, 3)[: each.ndim]
    assert str(found["lse"].dtype).endswith(library.dtype)
    assert "int" in str(found["argmax"].dtype) and "int" in str(found["topk:3"].index.dtype)


def test_one_row_one_class_and_no_rows():
    found = row_stats([1.0, 3.0], ("lse", "argmax", "rank", "topk:1"), 0)
    np.testing.assert_allclose(found["lse"], 3 + np.log1p(np.exp(-2)))
    assert (found["argmax"], found["rank"], found["topk:1"].index.tolist()) == (1, 1, [1])
    lone = row_stats(np.array([[2.0], [-1.0]]), ("top2_gap", "max_prob", "entropy", "lse"))
    assert (lone["top2_gap"] == INF).all() and (lone["max_prob"] == 1).all() and (lone["entropy"] == 0).all()
    none = row_stats(np.zeros((0, 4)), EVERY, np.zeros(0, int))
    assert none["rank"].shape == (0,) and none["topk:3"].index.shape == (0, 3)
    assert row_stats(np.zeros((2, 3)), ()) == {}


def test_compiled_jax_gives_what_eager_does_and_poisons_targets_out_of_range():
    jax = pytest.importorskip("jax", reason="pip install jax")
    rows, target = rows_and_target()
    x, y = jax.numpy.asarray(rows), jax.numpy.asarray(target)
    eager = row_stats(x, EVERY, y)
    compiled = jax.jit(lambda z, t: row_stats(z, EVERY, t))(x, y)
    for a, b in zip(jax.tree_util.tree_leaves(compiled), jax.tree_util.tree_leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    outside = jax.jit(lambda z, t: row_stats(z, ("logp", "rank"), t))(x, y.at[0].set(7))
    assert np.isnan(outside["logp"][0]) and outside["rank"][0] == 7 and outside["rank"][1] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((np.zeros((2, 3)), ("lsee",)), ValueError, "row_stats: want is one of .* Did you mean 'lse'"),
        ((np.zeros((2, 3)), ("kl",)), ValueError, "row_stats: want is one of"),
        ((np.zeros((2, 3)), ("topk",)), ValueError, 'row_stats: the first k classes are "topk:8"'),
        ((np.zeros((2, 3)), ("topk:4",)), ValueError, "row_stats: topk:4 asks for 4 of 3 classes"),
        ((np.zeros((2, 3)), ("rank",)), ValueError, "row_stats: rank is that of a target; target=... is missing"),
        ((np.zeros((2, 3)), ("lse",), np.array([0, 3])), ValueError, "row_stats: target 3 is not one of the 3 classes"),
        ((np.zeros((2, 3)), ("lse",), np.array([0, -100])), ValueError, "valid=target != -100"),
        ((np.zeros((2, 3)), ("lse",), [0.0, 1.0]), ValueError, "row_stats: target is the index of a class"),
        ((np.zeros((2, 3)), ("lse",), [0]), ValueError, r"row_stats: one target per row of logits, \(2,\)"),
        ((np.zeros((2, 0)), ("lse",)), ValueError, "the last axis is empty"),
        ((1.0, ("lse",)), ValueError, "a single number"),
        (([[True, False]], ("lse",)), TypeError, "not booleans"),
    ],
)
def test_wrong_calls(arguments, error, says):
    with pytest.raises(error, match=says):
        row_stats(*arguments)


def test_whole_numbers_and_halves_come_out_in_what_they_are_computed_in():
    whole = row_stats(np.array([[3, 1, 2]]), ("lse", "topk:2"))
    assert whole["lse"].dtype == np.float64 and whole["topk:2"].values.tolist() == [[3.0, 2.0]]
    assert row_stats(np.zeros((2, 3), np.float16))["lse"].dtype == np.float32


def test_entropy_and_the_others_have_one_truth():
    """What other functions of ours say of a row, this says too."""
    rows, target = rows_and_target()
    found = row_stats(rows, EVERY, target)
    np.testing.assert_allclose(found["logp"], -ll.cross_entropy(rows, target), rtol=1e-15)
    np.testing.assert_allclose(found["entropy"], [float(reference.entropy(reference.exact(r))[0]) for r in rows], 1e-15)
