"""The law of every state: summarising the whole = merging the summaries of any cut, along any merge tree."""

import io
import itertools
import struct
import zipfile
from functools import partial
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lastlayer._check import DataError
from lastlayer.state import (
    GRID_CELLS,
    ArgMax,
    Bins,
    Confusion,
    Distinct,
    Grid,
    LogSumExp,
    Moments,
    TopK,
    WeightedSum,
    cell_edges,
    cells,
    pack,
)

steady = partial(settings, derandomize=True, deadline=None, database=None)
ULPS = 4  # of logsumexp: 1.3 is the worst of 2,400 rows over random trees; of rest 3.3
seeds = st.integers(0, 2**32 - 1)


def cut(length, rng):
    """Borders of up to 8 pieces; some are empty."""
    return np.sort(rng.integers(0, length + 1, rng.integers(0, 8)))


def merged(parts, rng):
    """``parts`` merged along a random tree, in any order."""
    parts = list(parts)
    while len(parts) > 1:
        a = parts.pop(rng.integers(len(parts)))
        b = parts.pop(rng.integers(len(parts)))
        parts.append(a.merge(b))
    return parts[0]


def same_bits(a, b):
    for name, x in a.arrays().items():
        y = b.arrays()[name]
        assert np.asarray(x).dtype == np.asarray(y).dtype, name
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), name


# LogSumExp, ArgMax, TopK: a row is cut along its classes.

special = st.sampled_from([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, 1.0, -87.5, 88.0, 1e4, -745.0, 3e38])
entries = st.one_of(special, st.floats(-100, 100, width=32))
rows_of_32 = arrays(np.float32, st.tuples(st.just(3), st.integers(1, 24)), elements=entries)
rows_of_64 = arrays(np.float64, st.tuples(st.just(3), st.integers(1, 24)), elements=entries)
blocks = st.one_of(rows_of_32, rows_of_64)


def exact_rest(row):
    """(max, rest) of a row by mpmath, with the contract's special values."""
    if np.isnan(row).any():
        return np.nan, np.nan
    m = row.max()
    if np.isinf(m):
        return m, mpmath.mpf(int((row == m).sum()) - 1 if m > 0 else 0)
    others = np.delete(row, row.argmax())
    return m, mpmath.fsum(mpmath.exp(mpmath.mpf(float(x)) - mpmath.mpf(float(m))) for x in others if x > -np.inf)


def ulps(found, want, scale=None):
    """How many units in the last place of ``want`` (or of ``scale``, where it is larger) lie between."""
    unit = np.spacing(max(abs(found.dtype.type(want)), abs(scale or found.dtype.type(0))))
    return abs(mpmath.mpf(float(found)) - want) / mpmath.mpf(float(unit))


def assert_logsumexp(state, x):
    values = state.value()
    for i, row in enumerate(x):
        m, rest = exact_rest(row)
        assert np.array_equal(state.max[i], m, equal_nan=True)
        if np.isnan(m) or np.isinf(m):
            assert np.array_equal(state.rest[i], float(rest), equal_nan=True)
            assert np.array_equal(values[i], m, equal_nan=True)
            continue
        with mpmath.workdps(50):
            assert ulps(state.rest[i], rest) <= 2 * ULPS
            value = mpmath.mpf(float(m)) + mpmath.log1p(rest)
            assert ulps(values[i], value, scale=m) <= ULPS


@steady(max_examples=60)
@given(blocks, seeds)
def test_logsumexp_of_any_cut_and_tree(x, seed):
    rng = np.random.default_rng(seed)
    parts = [LogSumExp.of(part) for part in np.split(x, cut(x.shape[1], rng), axis=1)]
    assert_logsumexp(merged([*parts, LogSumExp.empty((3,), x.dtype)], rng), x)
    assert_logsumexp(LogSumExp.of(x), x)


@pytest.mark.parametrize("dominant", range(0, 60, 7))
def test_tiles_of_8_in_float32_keep_the_tail_of_a_class_80_above(dominant):
    x = np.random.default_rng(dominant).normal(scale=0.01, size=(1, 60)).astype(np.float32)
    x[0, dominant] += 80
    tiles = [LogSumExp.of(x[:, start : start + 8]) for start in range(0, 60, 8)]
    state = merged(tiles, np.random.default_rng(dominant))
    _, rest = exact_rest(x[0])
    assert ulps(state.rest[0], rest) <= ULPS
    assert 0 < state.rest[0] < 1e-30


def test_merge_counts_a_tie_of_the_maximum_exactly_once():
    one = LogSumExp.of(np.array([np.inf, 0.0]))
    assert (one.rest, one.merge(one).rest, one.merge(one).max) == (0, 1, np.inf)
    ties = LogSumExp.of(np.array([2.0, 2.0]))
    assert ties.merge(ties).rest == 3
    nothing = LogSumExp.of(np.array([-np.inf]))
    assert (nothing.merge(nothing).max, nothing.merge(nothing).rest) == (-np.inf, 0)


@pytest.fixture(scope="module", params=["strict", "torch"])
def library(request):
    if request.param == "strict":
        return pytest.importorskip("array_api_strict", reason="pip install array-api-strict")
    pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    import array_api_compat.torch

    return array_api_compat.torch


@steady(max_examples=25)
@given(blocks, seeds)
def test_logsumexp_and_argmax_on_other_libraries(library, x, seed):
    rng = np.random.default_rng(seed)
    borders = cut(x.shape[1], rng)
    parts = np.split(x, borders, axis=1)
    offsets = np.cumsum([0, *(part.shape[1] for part in parts)])
    state = merged([LogSumExp.of(library.asarray(part.copy())) for part in parts], rng)
    assert type(state.max) is type(library.asarray(x))
    assert_logsumexp(LogSumExp(np.asarray(state.max), np.asarray(state.rest)), x)
    largest = [ArgMax.of(library.asarray(p.copy()), offset=int(o)) for p, o in zip(parts, offsets[:-1], strict=True)]
    assert np.array_equal(np.asarray(merged(largest, rng).value()), x.argmax(1))


def best(row, k):
    """Indices of the k largest entries by their definition: nan first, then by value, ties by index."""
    order = sorted(range(len(row)), key=lambda i: (not np.isnan(row[i]), -np.nan_to_num(row[i], posinf=1e309), i))
    return (order + [np.iinfo(np.int64).max] * k)[:k]


@steady(max_examples=60)
@given(blocks, st.integers(1, 6), seeds)
def test_argmax_and_topk_of_any_cut_and_tree(x, k, seed):
    rng = np.random.default_rng(seed)
    parts = np.split(x, cut(x.shape[1], rng), axis=1)
    offsets = np.cumsum([0, *(part.shape[1] for part in parts)])[:-1]
    at = list(zip(parts, offsets, strict=True))
    top = merged([ArgMax.empty((3,), x.dtype), *(ArgMax.of(part, offset=o) for part, o in at)], rng)
    several = merged([TopK.empty(k, (3,), x.dtype), *(TopK.of(part, k, offset=o) for part, o in at)], rng)
    assert np.array_equal(top.value(), x.argmax(1))
    assert np.array_equal(top.largest, np.take_along_axis(x, x.argmax(1)[:, None], 1)[:, 0], equal_nan=True)
    for i in range(3):
        assert list(several.value()[i]) == best(x[i], k)
    same_bits(several, TopK.of(x, k))


# The others: rows are cut.


class Rows(NamedTuple):
    """Random rows that every state of rows can be made of."""

    x: np.ndarray  # (n, 2), any float
    share: np.ndarray  # (n,), in [0, 1]
    index: np.ndarray  # (n,), 0..4
    weight: np.ndarray | None

    def __getitem__(self, piece):
        return Rows(*(None if column is None else column[piece] for column in tuple(self)))

    @property
    def w(self):
        return np.ones(len(self.x)) if self.weight is None else self.weight


moderate = st.floats(-1e3, 1e3, width=32)


@st.composite
def rows(draw, elements=moderate):
    n = draw(st.integers(0, 30))
    weight = arrays(np.float64, n, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e-3]))
    share = st.one_of(st.sampled_from([0.0, 1 / 15, 1 / 3, 0.2, 1.0]), st.floats(0, 1))
    return Rows(
        draw(arrays(np.float64, (n, 2), elements=elements)),
        draw(arrays(np.float64, n, elements=share)),
        draw(arrays(np.int64, n, elements=st.integers(0, 4))),
        draw(st.one_of(st.none(), weight)),
    )


def column_sums(r):
    return WeightedSum.of(r.x, r.weight)


def bins(r):
    return Bins.of(r.share, r.index == 0, r.weight)


def classwise_bins(r):
    table = np.stack([r.share, 1 - r.share], 1)
    return Bins.of(table, np.stack([r.index == 0, r.index == 1], 1), r.weight, np.linspace(0, 1, 8))


def grid(r):
    return Grid.of(r.x, np.stack([r.index % 2, r.index % 2], 1).reshape(-1), (2,), np.repeat(r.w, 2))


def confusion(r):
    return Confusion.of(r.index, r.index[::-1], 5, r.weight)


def moments(r):
    return Moments.of(r.x, r.weight)


EMPTY = {
    column_sums: WeightedSum.empty((2,)),
    bins: Bins.empty(),
    classwise_bins: Bins.empty(np.linspace(0, 1, 8), (2,)),
    grid: Grid.empty((2,)),
}
EXACT = {"rows", "least", "largest", "edges", "pair", "classes", "hashes", "count"}


def assert_sums(found, want, scale):
    """Counts and extremes exact, sums to 1e-12 of what was added up."""
    for name, array in want.arrays().items():
        if name in EXACT:
            assert np.array_equal(found.arrays()[name], array, equal_nan=True), name
        else:
            np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-12, atol=1e-12 * scale, err_msg=name)


@pytest.mark.parametrize("of", EMPTY)
@steady(max_examples=30)
@given(rows(), seeds)
def test_sums_of_any_cut_and_tree(of, r, seed):
    rng = np.random.default_rng(seed)
    parts = [of(r[a:b]) for a, b in pieces(len(r.x), rng)]
    scale = max(1.0, (r.w @ (r.x**2).sum(1)) if of is column_sums else 1.0)
    assert_sums(merged([EMPTY[of], *parts], rng), of(r), scale)


def pieces(n, rng):
    borders = [0, *cut(n, rng), n]
    return list(itertools.pairwise(borders))


@steady(max_examples=60)
@given(rows(elements=st.one_of(st.floats(-1e3, 1e3), st.sampled_from([np.inf, -np.inf, np.nan]))), seeds)
def test_moments_of_any_cut_and_tree(r, seed):
    rng = np.random.default_rng(seed)
    state = merged([Moments.empty((2,)), *(moments(r[a:b]) for a, b in pieces(len(r.x), rng))], rng)
    assert_sums(state, moments(r), scale=1e6 * max(1.0, r.w.sum()))
    counted, w = r.x[r.w > 0], r.w[r.w > 0][:, None]
    if len(counted) and np.isfinite(counted).all():
        mean = (w * counted).sum(0) / w.sum()
        np.testing.assert_allclose(state.value(), mean, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(state.variance(), (w * (counted - mean) ** 2).sum(0) / w.sum(), rtol=1e-9, atol=1e-7)
        assert np.array_equal(state.least, counted.min(0))
        assert np.array_equal(state.largest, counted.max(0))
    elif not len(counted):
        assert np.isnan(state.value()).all()
        assert np.isnan(state.variance()).all()


def test_moments_keep_the_variance_of_values_far_from_0():
    x = 1e8 + np.random.default_rng(0).normal(size=1000)
    state = merged([Moments.of(x[a : a + 100]) for a in range(0, 1000, 100)], np.random.default_rng(0))
    assert state.variance() == pytest.approx(np.var(x - 1e8), rel=1e-6)


@steady(max_examples=40)
@given(rows())
def test_weighted_sum_is_the_mean_and_its_error_by_definition(r):
    mean = column_sums(r).value()
    counted, w = r.x[r.w > 0], r.w[r.w > 0]
    assert mean.rows == len(w)
    if len(w) < 2:
        assert not len(w) or np.allclose(mean.mean, counted[0])
        assert np.isinf(mean.error).all()
        return
    want = (w[:, None] * counted).sum(0) / w.sum()
    k = w.sum() ** 2 / (w**2).sum()
    error = np.sqrt((w[:, None] ** 2 * (counted - want) ** 2).sum(0)) / w.sum() * np.sqrt(k / (k - 1))
    np.testing.assert_allclose(mean.mean, want, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(mean.error, error, rtol=1e-6, atol=1e-4)  # sums of squares lose half the digits
    assert mean.effective == pytest.approx(k)


def test_a_row_of_weight_0_leaves_no_trace():
    x, w = np.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 4.0]]), np.array([1.0, 0.0, 2.0])
    kept = w > 0
    share, target = np.array([0.2, np.nan, 0.9]), np.array([0, 1, 1])
    same_bits(WeightedSum.of(x, w), WeightedSum.of(x[kept], w[kept]))
    same_bits(Moments.of(x, w), Moments.of(x[kept], w[kept]))
    same_bits(Bins.of(share, target, w), Bins.of(share[kept], target[kept], w[kept]))
    same_bits(Confusion.of(target, target[::-1], 300, w), Confusion.of(target[kept], target[::-1][kept], 300, w[kept]))


@steady(max_examples=40)
@given(rows())
def test_bins_are_open_below_and_closed_above_by_definition(r):
    state = bins(r)
    for b in range(15):
        low, high = state.edges[b], state.edges[b + 1]
        inside = (r.share > low) & (r.share <= high) | ((b == 0) & (r.share == 0))
        w, hit = r.w[inside], (r.index == 0)[inside]
        want = w.sum(), w @ r.share[inside], w @ hit, (w * (hit - r.share[inside])) @ (w * (hit - r.share[inside]))
        found = state.weight[b], state.confidence[b], state.hits[b], state.square[b]
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-15)


def test_bins_of_other_edges_do_not_merge():
    with pytest.raises(ValueError, match="only equal edges merge"):
        Bins.empty(15).merge(Bins.empty(14))


def test_grid_cells_are_the_formula_and_hold_their_edges():
    x = np.random.default_rng(0).normal(size=10_000) * 10 ** np.random.default_rng(1).uniform(-3, 5, 10_000)
    want = np.clip(1 + np.floor((np.arcsinh(x) + 10) / 20 * 4094), 0, 4095)
    assert np.array_equal(cells(x), want)
    assert list(cells(np.array([-np.inf, -1e300, 0.0, 1e300, np.inf]))) == [0, 0, 2048, 4095, 4095]
    edges = cell_edges()
    assert len(edges) == GRID_CELLS - 1
    inside = (cells(x) > 0) & (cells(x) < GRID_CELLS - 1)
    assert (edges[cells(x[inside]) - 1] <= x[inside] * (1 + np.sign(x[inside]) * 1e-9) + 1e-9).all()
    assert (x[inside] <= edges[cells(x[inside])] + 1e-9 * np.abs(x[inside])).all()


@steady(max_examples=30)
@given(rows())
def test_grid_counts_every_value_once(r):
    x = r.x.copy()
    x[: len(x) // 3] = np.nan
    column = np.stack([r.index % 2, r.index % 2], 1).reshape(-1)
    state = Grid.of(x, column, (2,), np.repeat(r.w, 2))
    want = np.zeros((2, GRID_CELLS))
    for value, k, w in zip(x.reshape(-1), column, np.repeat(r.w, 2), strict=True):
        if not np.isnan(value):
            want[k, cells(np.array(value))] += w
    np.testing.assert_allclose(state.value(), want, rtol=1e-12)


@pytest.mark.parametrize("classes", [5, 256, 257, 3000])
@steady(max_examples=20)
@given(seeds)
def test_confusion_of_any_cut_and_tree(classes, seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 60)
    target, predicted = rng.integers(0, classes, (2, n))
    w = rng.choice([0.0, 1.0, 2.5], n)

    def of(piece):
        return Confusion.of(target[piece], predicted[piece], classes, w[piece])

    whole = of(slice(None))
    parts = [of(slice(a, b)) for a, b in pieces(n, rng)]
    state = merged([Confusion.empty(classes), *parts], rng)
    same_bits(state, whole)
    counts = {}
    for t, p, weight in zip(target, predicted, w, strict=True):
        if weight:
            counts[int(t), int(p)] = counts.get((int(t), int(p)), 0) + weight
    t, p, weight = state.heaviest(classes**2)
    assert dict(zip(zip(t.tolist(), p.tolist(), strict=True), weight, strict=True)) == counts
    assert (np.diff(weight) <= 0).all()
    assert state.lost == 0
    if classes <= 2048:
        assert state.value().shape == (classes, classes)
        assert all(state.value()[pair] == v for pair, v in counts.items())
        assert state.value().sum() == sum(counts.values())
    else:
        with pytest.raises(ValueError, match="make no matrix"):
            state.value()


def test_confusion_beyond_2048_classes_keeps_the_heaviest_million_and_says_what_is_lost():
    classes = 2100
    pair = np.arange(2**20 + 1000)
    weight = np.where(pair < 1000, 0.5, 1.0)
    state = Confusion.of(pair // classes, pair % classes, classes, weight)
    assert len(state.pair) == 2**20
    assert state.pair.min() == 1000
    assert state.lost == 500
    again = state.merge(Confusion.of(np.array([0]), np.array([0]), classes, np.array([0.25])))
    assert again.lost == 500.25


@steady(max_examples=20)
@given(seeds, st.booleans())
def test_distinct_of_any_cut_and_tree(seed, many):
    rng = np.random.default_rng(seed)
    n = 40_000 if many else int(rng.integers(0, 50))
    hashes = rng.integers(0, 2**63, n // 2 + 1, dtype=np.uint64)[rng.integers(0, n // 2 + 1, n)]
    parts = [Distinct.of(hashes[a:b]) for a, b in pieces(n, rng)]
    state = merged([Distinct.empty(), *parts], rng)
    same_bits(state, Distinct.of(hashes))
    present, count = np.unique(hashes, return_counts=True)
    assert np.array_equal(state.hashes, present[: Distinct.LIMIT])
    assert np.array_equal(state.count, count[: Distinct.LIMIT])
    if len(present) <= Distinct.LIMIT:
        assert state.value() == (1 - len(present) / n if n else 0)
    else:
        assert state.value() == pytest.approx(1 - len(present) / n, abs=0.02)


def test_distinct_counts_its_largest_hash_and_none_beyond():
    hashes = np.arange(Distinct.LIMIT, dtype=np.uint64) * np.uint64(2)
    last = hashes[-1:]
    full = Distinct.of(hashes)
    for few in (np.concatenate([last, last + np.uint64(1)]), last, last + np.uint64(1)):
        found = full.merge(Distinct.of(few))
        same_bits(found, Distinct.of(few).merge(full))
        assert np.array_equal(found.hashes, hashes)
        assert found.count[-1] == 1 + (last in few)
        assert found.count[:-1].max() == 1
    below = full.merge(Distinct.of(np.array([1], np.uint64)))
    assert below.hashes[:3].tolist() == [0, 1, 2]
    assert len(below.hashes) == Distinct.LIMIT


# One tree, bit for bit; bytes.

SAMPLE = Rows(
    np.random.default_rng(5).normal(size=(40, 2)),
    np.random.default_rng(6).uniform(size=40),
    np.random.default_rng(7).integers(0, 5, 40),
    np.random.default_rng(8).choice([0.0, 1.0, 0.3], 40),
)
STATES = {
    "LogSumExp": lambda r: LogSumExp.of(r.x.T),
    "LogSumExp32": lambda r: LogSumExp.of(r.x.T.astype(np.float32)),
    "ArgMax": lambda r: ArgMax.of(r.x.T),
    "TopK": lambda r: TopK.of(r.x.T, 3),
    "Moments": moments,
    "WeightedSum": column_sums,
    "Bins": bins,
    "Grid": grid,
    "Confusion": confusion,
    "Distinct": lambda r: Distinct.of(r.index.astype(np.uint64)),
}
every_state = pytest.mark.parametrize("of", STATES.values(), ids=STATES)


@every_state
def test_one_merge_tree_gives_the_same_bits_every_time(of):
    once, again = (merged([of(SAMPLE[a : a + 7]) for a in range(0, 40, 7)], np.random.default_rng(3)) for _ in "ab")
    same_bits(once, again)


@every_state
def test_bytes_round_trip_bit_for_bit(of):
    state = of(SAMPLE)
    same_bits(type(state).from_bytes(state.to_bytes()), state)
    empty = of(SAMPLE[:0])
    same_bits(type(empty).from_bytes(empty.to_bytes()), empty)
    assert {name: a.dtype for name, a in empty.arrays().items()} == {
        name: a.dtype for name, a in state.arrays().items()
    }


DATA = Bins.of(SAMPLE.share, SAMPLE.index == 0).to_bytes()


def assert_refused_or_same(data):
    try:
        state = Bins.from_bytes(data)
    except DataError:
        return
    same_bits(state, Bins.from_bytes(DATA))  # the change was in what a zip archive does not use, a date for instance


@steady(max_examples=150)
@given(st.integers(0, len(DATA) - 1))
def test_truncated_bytes_are_refused(length):
    with pytest.raises(DataError):
        Bins.from_bytes(DATA[:length])


@steady(max_examples=300)
@given(st.integers(0, len(DATA) * 8 - 1), st.integers(0, len(DATA) * 8 - 1))
def test_flipped_bits_are_refused_or_change_nothing(first, second):
    data = bytearray(DATA)
    for bit in {first, second}:
        data[bit // 8] ^= 1 << bit % 8
    assert_refused_or_same(bytes(data))


@steady(max_examples=100)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=50).map(lambda b: b"\x93NUMPY" + b)))
def test_foreign_bytes_are_refused(data):
    with pytest.raises(DataError, match="no Bins state"):
        Bins.from_bytes(data)


def test_another_state_another_version_and_other_fields_are_refused(monkeypatch):
    with pytest.raises(DataError, match="hold a Grid of schema 1; a Bins of schema 1 is wanted"):
        Bins.from_bytes(Grid.empty().to_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("lastlayer.state.SCHEMA_VERSION", 2)
        newer = Bins.empty().to_bytes()
    with pytest.raises(DataError, match="schema 2"):
        Bins.from_bytes(newer)
    with pytest.raises(DataError, match="a Bins holds"):
        Bins.from_bytes(pack({"edges": np.zeros(3)}, "Bins"))


def test_a_pickle_inside_is_not_opened():
    buffer = io.BytesIO()
    fields = Bins.empty().arrays() | {"weight": np.array([{"not": "data"}], dtype=object)}
    np.savez(buffer, state=np.array("Bins"), schema_version=np.array(1), **fields)
    with pytest.raises(DataError, match="no Bins state"):
        Bins.from_bytes(buffer.getvalue())


def test_an_array_larger_than_its_bytes_is_refused():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("state.npy", npy)
    with pytest.raises(DataError):
        Bins.from_bytes(buffer.getvalue())


def test_what_a_state_would_unpack_to_is_asked_before_it_is():
    """Zeros compress a thousandfold: two megabytes can claim two gigabytes."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("hashes.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(DataError, match="300 MiB when unpacked; the largest has 256"):
        Distinct.from_bytes(buffer.getvalue())
