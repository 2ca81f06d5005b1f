"""`Evaluation`: the law over any cut, every reading against direct computation, published numbers, intervals."""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.measure import evaluation as module
from lastlayer.measure.rows import TEMPERATURES
from lastlayer.state import pack, unpack

RAW = ["multiclass", "binary", "multilabel"]
KINDS = [*RAW, "margin", "probs", "logp"]
every_kind = pytest.mark.parametrize("what", KINDS)
steady = settings(derandomize=True, deadline=None, database=None, max_examples=12)


def sample(what, n=120, seed=0, bad=True, weighted=True, dtype=np.float64):
    """Outputs with everything: weights with zeros, groups, masked classes, nan and empty rows."""
    rng = np.random.default_rng(seed)
    task = what if what in ("binary", "multilabel") else "multiclass"
    shape = {"binary": (n,), "multilabel": (n, 3), "multiclass": (n, 6)}[task]
    z = rng.normal(scale=3, size=shape)
    target = rng.integers(0, 6, n) if task == "multiclass" else rng.integers(0, 2, shape)
    if task == "multiclass":
        z[: n // 2, 0][target[: n // 2] != 0] = -np.inf  # masked where it is not the target
        z[5] = z[6]
        target[5] = target[6]
    if bad:
        z[1] = np.nan
        z[2 : n // 4 : 5] = np.inf if task == "binary" else z[0]
        z.reshape(n, -1)[n // 2, -1] = np.nan
        if task == "multiclass":
            z[3] = -np.inf
    if what == "probs":
        with np.errstate(invalid="ignore"):
            z = ll.softmax(z)
    elif what == "logp":
        z = ll.log_softmax(z)
    weight = rng.choice([0.0, 1.0, 0.25], n) if weighted else None
    groups = {"site": rng.choice(["a", "b", "ü/0"], n), "none": np.full(n, "all")}
    kind = what if what in ("margin", "probs", "logp") else "logits"
    return ll.Outputs(z.astype(dtype), kind, target=target, weight=weight, groups=groups, task=task)


def pieces(outputs, rng):
    """Outputs cut anywhere, empty pieces left out (Outputs have rows)."""
    n = len(outputs)
    borders = [0, *np.sort(rng.integers(0, n + 1, rng.integers(0, 7))), n]
    return [outputs.rows(slice(a, b)) for a, b in itertools.pairwise(borders) if b > a]


def merged(parts, rng):
    parts = list(parts)
    while len(parts) > 1:
        a = parts.pop(rng.integers(len(parts)))
        b = parts.pop(rng.integers(len(parts)))
        parts.append(a.merge(b))
    return parts[0]


def arrays_of(evaluation):
    arrays = {"curve_nll": evaluation.curve_nll}
    for name in module._STATES:
        arrays |= {f"{name}.{key}": a for key, a in getattr(evaluation, name).arrays().items()}
    for name, parts in evaluation.groups.items():
        for value, part in parts.items():
            for state in (part.means, part.top):
                arrays |= {f"{name}={value}.{type(state).__name__}.{key}": a for key, a in state.arrays().items()}
    return arrays


def assert_same(found, want):
    """Integers exactly, sums to 1e-12 of what was added up."""
    found, want = arrays_of(found), arrays_of(want)
    assert set(found) == set(want)
    for name, a in want.items():
        assert found[name].dtype == a.dtype, name
        if a.dtype.kind in "iu":
            assert np.array_equal(found[name], a), name
        else:
            np.testing.assert_allclose(found[name], a, rtol=1e-12, atol=1e-11, err_msg=name)


def assert_same_bits(found, want):
    found, want = arrays_of(found), arrays_of(want)
    assert set(found) == set(want)
    for name, a in want.items():
        assert (found[name].dtype, found[name].tobytes()) == (a.dtype, a.tobytes()), name


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@steady
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_any_cut_and_any_tree_give_the_whole(what, dtype, seed, weighted):
    rng = np.random.default_rng(seed)
    outputs = sample(what, seed=seed % 1000, weighted=weighted, dtype=dtype)
    empty = ll.Evaluation.empty(outputs.classes, outputs.task, outputs.kind, groups=outputs.groups)
    state = merged([empty, *(ll.Evaluation.of(part) for part in pieces(outputs, rng))], rng)
    whole = ll.evaluate(outputs)
    assert_same(state, whole)
    for name, metric in whole.metrics().items():
        twin = state.metrics()[name]
        for field in ("value", "low", "high", "n", "bound"):
            assert getattr(twin, field) == pytest.approx(getattr(metric, field), rel=1e-12, abs=1e-12), (name, field)


@every_kind
def test_one_merge_tree_gives_the_same_bits_every_time(what):
    parts = [sample(what, seed=s) for s in range(5)]
    once, again = (merged([ll.evaluate(p) for p in parts], np.random.default_rng(0)) for _ in "ab")
    assert_same_bits(once, again)
    assert_same(ll.merge(*(ll.evaluate(p) for p in parts)), once)


@every_kind
def test_blocks_are_cuts_too(what, monkeypatch):
    outputs = sample(what)
    whole = ll.evaluate(outputs)
    monkeypatch.setattr(module, "rows_at_once", lambda *_: 7)
    assert_same(ll.evaluate(outputs), whole)


@every_kind
def test_rows_of_weight_0_leave_no_trace(what):
    outputs = sample(what)
    counted = outputs.rows(outputs.weight > 0)
    assert_same_bits(ll.evaluate(outputs), ll.evaluate(counted))
    nothing = ll.Evaluation.of(outputs.rows(outputs.weight == 0))
    empty = ll.Evaluation.empty(outputs.classes, outputs.task, outputs.kind, groups=outputs.groups)
    assert_same_bits(nothing, empty)


def test_a_block_without_weight_is_evaluated_like_any_other(monkeypatch):
    outputs = sample("multiclass", n=40)
    weight = np.repeat([0.0, 1.0], 20)
    outputs = ll.Outputs(outputs.scores, "logits", target=outputs.target, weight=weight)
    monkeypatch.setattr(module, "rows_at_once", lambda *_: 10)
    assert_same(ll.evaluate(outputs), ll.evaluate(outputs.rows(slice(20, 40))))


@every_kind
def test_bytes_round_trip_bit_for_bit(what):
    outputs = sample(what)
    state = ll.evaluate(outputs, convention="kull2019")
    back = ll.Evaluation.from_bytes(state.to_bytes())
    assert_same_bits(back, state)
    header = ("task", "kind", "classes", "convention")
    assert [getattr(back, name) for name in header] == [getattr(state, name) for name in header]
    assert {g: list(parts) for g, parts in back.groups.items()} == {g: list(p) for g, p in state.groups.items()}
    empty = ll.Evaluation.empty(outputs.classes, outputs.task, outputs.kind, groups=outputs.groups)
    assert_same_bits(ll.Evaluation.from_bytes(empty.to_bytes()), empty)


SMALL = ll.evaluate(ll.Outputs([[2.0, 0.0], [0.0, 1.0]], "logits", target=[0, 1], groups={"g": ["x", "y"]}))
DATA = SMALL.to_bytes()


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
def test_truncated_and_flipped_bytes_are_refused_or_change_nothing(at, bit):
    with pytest.raises(DataError):
        ll.Evaluation.from_bytes(DATA[:at])
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    try:
        state = ll.Evaluation.from_bytes(bytes(data))
    except DataError:
        return
    assert_same_bits(state, SMALL)


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(st.data())
def test_well_packed_nonsense_is_refused(data):
    arrays = unpack(DATA, "Evaluation")
    name = data.draw(st.sampled_from(sorted(arrays)))
    nonsense = [np.array("x"), np.zeros((2, 2, 2, 2)), np.zeros((1, 7)), np.array(["a", "b"]), np.array([1j]), None]
    value = data.draw(st.sampled_from(nonsense))
    arrays = {key: value if key == name else a for key, a in arrays.items() if key != name or value is not None}
    with pytest.raises(DataError, match="incomplete"):
        ll.Evaluation.from_bytes(pack(arrays, "Evaluation"))


@pytest.mark.parametrize("keys, counts", [("confusion.pair", "confusion.weight"), ("signs.hashes", "signs.hash_count")])
def test_counts_that_do_not_ascend_or_lack_one_are_refused(keys, counts):
    arrays = unpack(DATA, "Evaluation")
    assert len(arrays[keys]) == 2
    for changed in ({keys: arrays[keys][::-1]}, {keys: arrays[keys][[0, 0]]}, {counts: arrays[counts][:1]}):
        with pytest.raises(DataError, match="incomplete"):
            ll.Evaluation.from_bytes(pack(arrays | changed, "Evaluation"))


# Readings.


def test_state_and_array_measures_agree():
    outputs = sample("multiclass", n=300, bad=False)
    rows = outputs.rows(outputs.weight > 0)
    found = ll.evaluate(outputs).metrics()
    exact = {
        "nll": ll.nll(rows.scores, rows.target, weight=rows.weight),
        "brier": ll.brier(rows.scores, rows.target, weight=rows.weight),
        "accuracy": ll.accuracy(rows.scores, rows.target, weight=rows.weight),
        "top5_accuracy": ll.accuracy(rows.scores, rows.target, k=5, weight=rows.weight),
        "ece": ll.calibration_error(rows.scores, rows.target, weight=rows.weight),
        "ece_classwise": ll.calibration_error(rows.scores, rows.target, over="classwise", weight=rows.weight),
        "mce": ll.calibration_error(rows.scores, rows.target, norm="max", weight=rows.weight),
    }
    for name, metric in exact.items():
        for field in ("value", "low", "high", "n"):
            assert getattr(found[name], field) == pytest.approx(getattr(metric, field), rel=1e-12), name
    assert found["error"] == pytest.approx(1 - found["accuracy"], abs=1e-15)
    assert found["error"].low == pytest.approx(1 - found["accuracy"].high)
    assert found["brier_per_class"] == pytest.approx(found["brier"] / 6)
    p = ll.softmax(rows.scores).max(1)
    assert found["confidence"] == pytest.approx(np.average(p, weights=rows.weight), rel=1e-12)


@pytest.mark.parametrize("what", RAW)
@pytest.mark.parametrize("scale", [0.01, 1.0])  # many undecided pairs, few
def test_grid_ranking_is_within_its_bound_of_the_exact_one(what, scale):
    outputs = sample(what, n=400, bad=False, weighted=scale == 1)
    z = np.where(np.isfinite(outputs.scores), outputs.scores * scale, outputs.scores)
    found = ll.evaluate(outputs.with_logits(z)).metrics()
    for name, measure in (("auroc", ll.roc_auc), ("average_precision", ll.average_precision)):
        exact = measure(z, outputs.target, weight=outputs.weight)
        assert abs(found[name] - exact) <= found[name].bound + 1e-12
        assert found[name].bound > 0


def test_a_margin_has_only_what_ranks():
    outputs = sample("margin", n=400, bad=False, weighted=False)
    z, y = np.maximum(outputs.scores, -50), outputs.target
    outputs = ll.Outputs(z, "margin", target=y, groups=outputs.groups)
    state = ll.evaluate(outputs)
    found = state.metrics()
    assert list(found) == ["accuracy", "error", "top5_accuracy", "auroc", "average_precision"]
    auc = np.mean([roc_auc_score(y == k, z[:, k]) for k in range(6)])
    precision = np.mean([average_precision_score(y == k, z[:, k]) for k in range(6)])
    assert abs(found["auroc"] - auc) <= found["auroc"].bound
    assert abs(found["average_precision"] - precision) <= found["average_precision"].bound
    assert found["accuracy"] == (z.argmax(1) == y).mean()
    assert state.curve() == state.reliability() == []
    for row in state.per_class():
        assert np.isnan([row.bias, row.mean_prob, row.ece]).all()
        assert not np.isnan([row.recall, row.precision, row.auroc]).any()
    for row in state.per_group():
        assert np.isnan([row.confidence, row.overconfidence, row.nll, row.ece]).all()
        assert row.accuracy == (z.argmax(1) == y)[outputs.groups[row.group] == row.value].mean()


@pytest.mark.parametrize("what", RAW)
@pytest.mark.parametrize("at", range(0, len(TEMPERATURES), 4))
def test_the_curve_is_what_each_temperature_would_give(what, at):
    outputs = sample(what, n=150)
    row = ll.evaluate(outputs).curve()[at]
    with np.errstate(invalid="ignore"):
        cooled = ll.evaluate(outputs.with_logits(outputs.scores / TEMPERATURES[at]))
    want = cooled.metrics()
    assert row.temperature == TEMPERATURES[at]
    assert row.nll == pytest.approx(want["nll"].value, rel=1e-9)
    assert row.ece == pytest.approx(want["ece"].value, abs=1e-9)
    assert row.confidence == pytest.approx(want["confidence"].value, rel=1e-9)
    for a, b in zip(row.bins, cooled.reliability(), strict=True):
        assert (a.low, a.high, a.share) == pytest.approx((b.low, b.high, b.share), abs=1e-9)
        assert a.accuracy == pytest.approx(b.accuracy, nan_ok=True)


def test_binary_equals_two_columns_with_a_zero():
    one = sample("binary", bad=False)
    two = ll.Outputs(np.stack([np.zeros(len(one)), one.scores], 1), "logits", target=one.target, weight=one.weight)
    a, b = ll.evaluate(one).metrics(), ll.evaluate(two).metrics()
    for name in ("nll", "accuracy", "ece", "mce", "confidence"):
        for field in ("value", "low", "high", "n"):
            assert getattr(a[name], field) == pytest.approx(getattr(b[name], field), rel=1e-12), name
    assert a["brier"] == pytest.approx(b["brier"] / 2)
    back = two.to_binary()
    assert_same_bits(
        ll.evaluate(ll.Outputs(back.scores, "logits", target=back.target, weight=back.weight)), ll.evaluate(back)
    )
    assert ll.evaluate(back).metrics()["nll"] == pytest.approx(a["nll"], rel=1e-12)


def test_multilabel_sums_over_labels_and_pools_their_decisions():
    outputs = sample("multilabel", bad=False, weighted=False)
    labels = [ll.evaluate(ll.Outputs(outputs.scores[:, k], "logits", target=outputs.target[:, k])) for k in range(3)]
    each = [label.metrics() for label in labels]
    state = ll.evaluate(outputs)
    found = state.metrics()
    assert found["nll"] == pytest.approx(sum(m["nll"] for m in each), rel=1e-12)
    assert found["brier"] == pytest.approx(sum(m["brier"] for m in each), rel=1e-12)
    assert found["brier_per_class"] == pytest.approx(np.mean([m["brier"] for m in each]), rel=1e-12)
    for name in ("accuracy", "confidence", "ece_classwise", "auroc", "average_precision"):
        assert found[name] == pytest.approx(np.mean([m[name] for m in each]), rel=1e-12), name
    pooled = ll.Outputs(outputs.scores.reshape(-1), "logits", target=outputs.target.reshape(-1))
    assert found["ece"] == pytest.approx(ll.evaluate(pooled).metrics()["ece"], rel=1e-12)
    assert found["nll"].n == len(outputs)
    for row, label in zip(state.per_class(), labels, strict=True):
        (alone,) = label.per_class()
        assert (row.frequency, row.bias, row.ece, row.auroc) == pytest.approx(
            (alone.frequency, alone.bias, alone.ece, alone.auroc), rel=1e-12
        )


def test_a_multilabel_row_with_one_nan_is_left_out_of_everything():
    z, y = np.array([[1.0, np.nan], [2.0, -1.0]]), np.array([[0, 1], [1, 0]])
    found, want = ll.evaluate(ll.Outputs(z, "logits", target=y)), ll.evaluate(ll.Outputs(z[1:], "logits", target=y[1:]))
    assert found.signs.nan_rows == 1
    for name in ("means", "top", "classwise", "odds", "class_odds", "curve_bins"):
        for key, a in getattr(want, name).arrays().items():
            assert np.array_equal(getattr(found, name).arrays()[key], a), (name, key)
    assert np.array_equal(found.curve_nll, want.curve_nll)


def test_tables_per_class_and_per_group_are_direct_computation():
    outputs = sample("multiclass", n=300, bad=False)
    z, y, w = outputs.scores, outputs.target, outputs.weight
    p, top = ll.softmax(z), z.argmax(1)
    state = ll.evaluate(outputs)
    for k, row in enumerate(state.per_class()):
        occurs = (y == k).astype(float)
        assert row.name == str(k)
        assert row.frequency == pytest.approx(np.average(occurs, weights=w))
        assert row.mean_prob == pytest.approx(np.average(p[:, k], weights=w))
        assert row.bias == pytest.approx(np.average(p[:, k] - occurs, weights=w))
        assert row.bias.low < row.bias < row.bias.high
        assert row.recall == pytest.approx(np.average(top[y == k] == k, weights=w[y == k]))
        assert row.precision == pytest.approx(np.average(y[top == k] == k, weights=w[top == k]))
        error = binned(p[:, k], occurs, w)
        assert row.ece == pytest.approx(error)
        exact = roc_auc_score(occurs, np.maximum(ll.log_odds(z, np.full(300, k)), -1e9), sample_weight=w)
        assert abs(row.auroc - exact) <= row.auroc.bound
    rows = state.per_group()
    assert [(row.group, row.value) for row in rows] == [("site", "a"), ("site", "b"), ("site", "ü/0"), ("none", "all")]
    for row in rows:
        mine = outputs.groups[row.group] == row.value
        alone = ll.evaluate(outputs.rows(mine)).metrics()
        assert row.n == alone["nll"].n
        for name in ("accuracy", "nll", "ece"):
            for field in ("value", "low", "high"):
                assert getattr(getattr(row, name), field) == pytest.approx(getattr(alone[name], field), rel=1e-12)
        assert row.confidence == pytest.approx(alone["confidence"].value)
        assert row.overconfidence == pytest.approx(alone["confidence"] - alone["accuracy"])


def binned(confidence, hits, weight, bins=15):
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins) | ((b == 0) & (confidence == 0))
        total += abs((weight * (hits - confidence))[inside].sum())
    return total / weight.sum()


def test_reliability_is_the_table_of_bins():
    outputs = sample("multiclass", n=300, bad=False, weighted=False)
    confidence, hit = ll.softmax(outputs.scores).max(1), outputs.scores.argmax(1) == outputs.target
    rows = ll.evaluate(outputs).reliability()
    assert sum(row.share for row in rows) == pytest.approx(1)
    for row in rows:
        inside = (confidence > row.low) & (confidence <= row.high)
        assert row.share == pytest.approx(inside.mean())
        if inside.any():
            assert row.confidence == pytest.approx(confidence[inside].mean())
            assert (row.accuracy, row.accuracy.n) == (pytest.approx(hit[inside].mean()), inside.sum())
        else:
            assert np.isnan(row.confidence)
            assert np.isnan(row.accuracy)


def test_the_tail_of_a_confident_model_is_kept():
    found = ll.evaluate(ll.Outputs([[200.0, 0.0, 0.0]] * 2, "logits", target=[0, 0])).metrics()["nll"]
    with mpmath.workdps(200):
        assert found == pytest.approx(float(mpmath.log1p(2 * mpmath.exp(-200))), rel=1e-14)


# Refusals.


def test_evaluation_refuses_what_has_no_hits():
    with pytest.raises(DataError, match="no target: this needs labelled rows") as refused:
        ll.evaluate(ll.Outputs([[0.0, 1.0]], "logits"))
    assert refused.value.field == "target"
    with pytest.raises(DataError, match=r"the target is a distribution.*argmax") as refused:
        ll.evaluate(ll.Outputs([[0.0, 1.0]], "logits", target=[[0.5, 0.5]]))
    assert refused.value.field == "target"
    with pytest.raises(DataError, match=r"the target is a distribution.*target > 0\.5"):
        ll.evaluate(ll.Outputs([0.0, 1.0], "logits", target=[0.0, 0.9]))
    with pytest.raises(TypeError, match=r"evaluate: takes Outputs, not ndarray \(6, 3\); wrap it: ll\.Outputs\(z"):
        ll.evaluate(np.zeros((6, 3)))


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_a_floating_target_of_0_and_1_counts_as_the_integers_it_holds(task):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 3) if task != "binary" else 200)
    y = rng.integers(0, 3, 200) if task == "multiclass" else rng.integers(0, 2, z.shape)
    floating = np.eye(3, dtype=np.float32)[y] if task == "multiclass" else y.astype(np.float32)
    hard, same = (ll.Outputs(z, "logits", target=target, task=task) for target in (y, floating))
    assert_same_bits(ll.evaluate(same), ll.evaluate(hard))


def test_repr_is_one_line():
    z, y = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), [0, 1, 1]
    nll = (np.log1p(np.exp(-3)) + np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 3
    found = repr(ll.evaluate(ll.Outputs(z, "logits", target=y)))
    assert found.startswith(f"Evaluation(3 rows, 2 classes, logits: nll {nll:.4f}, accuracy 0.6667, ece 0.")
    margin = repr(ll.evaluate(ll.Outputs(z, "margin", target=y)))
    assert margin == "Evaluation(3 rows, 2 classes, margin: accuracy 0.6667)"
    assert repr(ll.Evaluation.empty(["no", "yes"], "binary")) == "Evaluation(0 rows, binary, logits)"


def test_rows_that_cannot_be_scored_are_named_when_there_are_no_others():
    z = [[np.nan, 0.0], [-np.inf, -np.inf], [1.0, np.nan], [0.0, 1.0]]
    outputs = ll.Outputs(z, "logits", target=[0, 0, 1, 1], weight=[1, 1, 1, 0])
    with pytest.raises(DataError, match="of 4 rows 2 hold nan, 1 hold nothing but -inf, 1 have weight 0") as refused:
        ll.evaluate(outputs)
    assert (refused.value.field, refused.value.rows) == ("logits", [0, 1, 2])
    scored = ll.Outputs(z, "logits", target=[0, 0, 1, 1])
    assert ll.evaluate(scored).metrics()["nll"].n == 1


def test_states_of_another_kind_do_not_merge():
    z = np.array([[0.0, 1.0], [1.0, 0.0]])
    base = ll.evaluate(ll.Outputs(z, "logits", target=[0, 1]))
    others = {
        "kind": ll.evaluate(ll.Outputs(z, "margin", target=[0, 1])),
        "task": ll.evaluate(ll.Outputs(z[:, 0], "logits", target=[0, 1])),
        "classes": ll.evaluate(ll.Outputs(z, "logits", target=[0, 1], classes=["1", "0"])),
        "convention": ll.evaluate(ll.Outputs(z, "logits", target=[0, 1]), convention="kull2019"),
        "groups": ll.evaluate(ll.Outputs(z, "logits", target=[0, 1], groups={"g": ["a", "b"]})),
    }
    for field, other in others.items():
        with pytest.raises(DataError) as refused:
            ll.merge(base, other)
        assert refused.value.field == field
        assert " here, " in str(refused.value) and " there." in str(refused.value)
    with pytest.raises(DataError, match=r"the classes differ: 0, 1 here, 1, 0 there\."):
        ll.merge(base, others["classes"])


def test_a_column_of_ids_is_no_grouping_in_one_block_or_in_many(monkeypatch):
    n = module.GROUPS + 1
    outputs = ll.Outputs(np.zeros((n, 2)), "logits", target=np.zeros(n, int), groups={"id": np.arange(n).astype(str)})
    with pytest.raises(DataError, match="more than 1000 values"):
        ll.evaluate(outputs)
    monkeypatch.setattr(module, "rows_at_once", lambda *_: 100)
    with pytest.raises(DataError, match="more than 1000 values") as refused:
        ll.evaluate(outputs)
    assert refused.value.field == "group_id"


def test_beyond_256_classes_nothing_is_ranked_but_all_else_is_read():
    rng = np.random.default_rng(0)
    outputs = ll.Outputs(rng.normal(size=(50, 300)), "logits", target=rng.integers(0, 300, 50))
    state = ll.evaluate(outputs)
    assert not {"auroc", "average_precision"} & set(state.metrics())
    assert len(state.per_class()) == 300
    assert all(np.isnan(row.auroc) for row in state.per_class())
    assert state.metrics()["nll"] == pytest.approx(ll.nll(outputs.scores, outputs.target), rel=1e-12)


# Published numbers, and intervals.


@pytest.fixture(scope="module")
def densenet(shared_data):
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as data:
        return ll.Outputs(data["test_logits"], "logits", target=data["test_labels"])


PUBLISHED = {  # Kull et al. 2019, dirichletcal's notebook, reproduced from the same logits in float64
    1.0: {
        "nll": 0.430059,
        "accuracy": 0.9242,
        "ece": 0.055003,
        "ece_classwise": 0.114303,
        "mce": 0.333955,
        "brier_per_class": 0.012738,
    },
    2.8825607: {
        "nll": 0.225086,
        "accuracy": 0.9242,
        "ece": 0.009463,
        "ece_classwise": 0.039768,
        "mce": 0.099292,
        "brier_per_class": 0.010997,
    },
}


@pytest.mark.parametrize("temperature", PUBLISHED)
def test_published_numbers_of_densenet40(densenet, temperature):
    z = densenet.scores.astype(np.float64) / temperature
    found = ll.evaluate(densenet.with_logits(z), convention="kull2019").metrics()
    for name, value in PUBLISHED[temperature].items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    guo = ll.evaluate(densenet.with_logits(z), convention="guo2017").metrics()
    assert guo["ece"] == pytest.approx(PUBLISHED[temperature]["ece"], abs=1e-6)
    assert guo["ece_classwise"] < 0.05  # a mean over classes, not their sum
    over = ll.calibration_error(z, densenet.target, over="classwise", convention="kull2019")
    assert over == pytest.approx(PUBLISHED[temperature]["ece_classwise"], abs=1e-6)


def test_probabilities_are_logits_in_disguise(shared_data):
    with np.load(shared_data / "logits" / "lenet5_c10_probs.npz") as data:
        p, y = data["predictions"], data["ground_truth"]
    found = ll.evaluate(ll.Outputs(p, "probs", target=y)).metrics()
    assert found["nll"] == pytest.approx(1.369868, abs=2e-6)
    assert found["ece"] == pytest.approx(0.107888, abs=2e-6)
    assert found["accuracy"] == pytest.approx(0.5308)
    for name, metric in ll.evaluate(ll.Outputs(np.log(p), "logits", target=y)).metrics().items():
        assert metric == pytest.approx(found[name], rel=1e-12), name


def overconfident(rng, n, binary):
    """Logits of a model twice as confident as it should be, and the true probabilities."""
    if binary:
        z = rng.normal(0.5, 3, size=n)
        p = 1 / (1 + np.exp(-z / 2))
        return z, np.stack([1 - p, p], 1)
    z = rng.normal(scale=3, size=(n, 3))
    p = np.exp(z / 2)
    return z, p / p.sum(1, keepdims=True)


def truth(binary):
    """The metrics of the population, from 200,000 rows whose targets are averaged out: each counts once per class."""
    z, p = overconfident(np.random.default_rng(99), 200_000, binary)
    classes = p.shape[1]
    target = np.tile(np.arange(classes), len(z))
    outputs = ll.Outputs(np.repeat(z, classes, 0), "logits", target=target, weight=p.reshape(-1))
    return ll.evaluate(outputs).metrics()


@pytest.mark.parametrize("binary", [False, True], ids=["three classes", "binary"])
def test_intervals_cover_the_truth(binary):
    want, rng, runs = truth(binary), np.random.default_rng(0), 400
    names = ["nll", "accuracy", "brier", "ece", "ece_classwise", "mce", "confidence", "auroc", "average_precision"]
    covered = dict.fromkeys(names, 0)
    for _ in range(runs):
        z, p = overconfident(rng, 400, binary)
        target = (rng.uniform(size=(400, 1)) > np.cumsum(p, 1)[:, :-1]).sum(1)
        found = ll.evaluate(ll.Outputs(z, "logits", target=target)).metrics()
        for name in names:
            covered[name] += found[name].low <= want[name] <= found[name].high
    share = {name: count / runs for name, count in covered.items()}
    wide = {"mce"}  # for all bins at once; and over classes the mean of their intervals
    wide |= set() if binary else {"ece_classwise", "auroc", "average_precision"}
    assert all(0.9 <= share[name] <= (1 if name in wide else 0.99) for name in names), share
