"""Fits of rows read in blocks: those of the same rows in memory, whatever they come from and however they are cut."""

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_array

from lastlayer._check import DataError
from lastlayer.train import Blocks, LinearClassifier, LinearClassifierCV, fit_blocks
from lastlayer.train import ranks as states
from lastlayer.train._block_scan import Sample

ROWS, WIDTH = 6000, 5
SOME = 60_000  # bytes: some 500 rows of a block
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(kind="binary", rows=ROWS, width=WIDTH, seed=0):
    """Features in different units, and what their target may be."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(rows, width))
    z = plain @ rng.normal(size=(width, 4))
    grade = (z + rng.gumbel(size=z.shape)).argmax(1)
    target = {
        "binary": lambda: (grade > 1) * 1,
        "classes": lambda: grade,
        "names": lambda: np.array(["ash", "beech", "cedar", "date"])[grade],
        "labels": lambda: np.stack([grade > 1, grade % 2 == 0, grade == 3], axis=1) * 1,
        "grades": lambda: np.digitize(z[:, 0] + rng.logistic(size=rows), [-2.0, 0.0, 1.0]),
    }[kind]()
    return plain * 10.0 ** np.linspace(-3, 3, width) + 0.5, target


def same(found, wanted, rtol=1e-9):
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=rtol, atol=rtol * np.abs(wanted.coef_).max())
    np.testing.assert_allclose(found.intercept_, wanted.intercept_, rtol=rtol, atol=rtol)
    assert found.certificate_.converged and found.certificate_.gradient <= found.tol
    assert found.n_features_in_ == wanted.n_features_in_
    np.testing.assert_array_equal(found.classes_, wanted.classes_)


SETTINGS = {
    "binary": {},
    "classes": {},
    "names": dict(class_weight={"ash": 2.0}),
    "labels": {},
    "grades": dict(ordinal=True),
    "balanced": dict(class_weight="balanced"),
    "no intercept": dict(fit_intercept=False, C=0.01),
}


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("case", SETTINGS)
def test_it_is_the_fit_in_memory(case, weighed):
    X, y = table(case if case in ("binary", "names", "labels", "grades") else "classes")
    rng = np.random.default_rng(1)
    outputs = {"binary": (), "grades": (), "labels": (3,)}.get(case, (4,))
    rest = (rng.uniform(0.2, 2.0, ROWS), rng.normal(size=(ROWS, *outputs))) if weighed else (None, None)
    settings = dict(tol=1e-10 if case == "labels" else 1e-11) | SETTINGS[case]
    wanted = LinearClassifier(**settings).fit(X, y, *rest)
    found = fit_blocks(LinearClassifier(**settings), Blocks.of_arrays(X, y, *rest, memory=SOME))
    same(found, wanted)
    np.testing.assert_allclose(found.certificate_.objective, wanted.certificate_.objective, rtol=1e-12)
    if wanted.inverse_hessian_ is not None and case != "labels":
        scale = np.abs(wanted.inverse_hessian_).max()
        np.testing.assert_allclose(found.inverse_hessian_, wanted.inverse_hessian_, rtol=1e-8, atol=1e-10 * scale)


def test_the_gradient_of_the_certificate_is_that_of_all_rows():
    X, y = table()
    model = fit_blocks(LinearClassifier(tol=1e-3), Blocks.of_arrays(X, y, memory=SOME))
    slope = model.predict_proba(X)[:, 1] - y
    inner = ((X - X.mean(0)).T @ slope + model.coef_[0]) / X.std(0)
    largest = max(np.abs(inner).max(), abs(slope.sum())) / ROWS
    assert largest / 2 <= model.certificate_.gradient <= 2 * largest  # scales are powers of two
    assert model.certificate_.objective == pytest.approx(
        np.logaddexp(0, -(2 * y - 1) * model.decision_function(X)).sum() + np.square(model.coef_).sum() / 2, rel=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
def test_many_parameters(dtype, sparse):
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(900, 240)) * (rng.random((900, 240)) < 0.2)).astype(dtype)
    y = (X @ rng.normal(size=(240, 5)).astype(dtype) + rng.gumbel(size=(900, 5))).argmax(1)
    X = csr_array(X) if sparse else X
    settings = dict(tol=1e-5 if dtype == np.float32 else 1e-9)
    wanted = LinearClassifier(**settings).fit(X, y)
    pieces = [(X[a : a + 100], y[a : a + 100]) for a in range(0, 900, 100)]
    found = fit_blocks(LinearClassifier(**settings), Blocks.of(pieces))
    assert found.certificate_.solver == wanted.certificate_.solver == "whitened"
    same(found, wanted, 3e-3 if dtype == np.float32 else 1e-6)


def test_a_class_in_one_block_alone():
    X, y = table("classes")
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    same(fit_blocks(LinearClassifier(), Blocks.of_arrays(X, y, memory=SOME)), LinearClassifier().fit(X, y), 1e-6)


def test_cuts_and_processes_change_no_bit_that_matters(tmp_path):
    X, y = table()
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = Blocks.of_arrays(mapped, y, memory=SOME)
    alone, again = (fit_blocks(LinearClassifier(), rows) for _ in range(2))
    both = fit_blocks(LinearClassifier(), rows, processes=2)
    for model in (again, both):
        np.testing.assert_array_equal(model.coef_, alone.coef_)
        np.testing.assert_array_equal(model.inverse_hessian_, alone.inverse_hessian_)
    with pytest.raises(DataError, match=r"NaN.*First rows: 4321"):
        X[4321, 2] = np.nan
        np.save(tmp_path / "x.npy", X)
        fit_blocks(LinearClassifier(), Blocks.of_arrays(tmp_path / "x.npy", y, memory=SOME), processes=2)
    with pytest.raises(ValueError, match="processes read the rows themselves"):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(X, y), processes=2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_another_process_maps_the_same_part_of_a_file(tmp_path, order):
    X, y = table()
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[100:5000, 1:]
    there = pickle.dumps(Blocks.of_arrays(mapped, y[100:5000], memory=SOME).part(1, 2))
    assert len(there) < y.nbytes + 2000
    blocks = pickle.loads(there)
    found = np.concatenate([block.features for part in blocks.parts() for block in blocks.read(part)])
    np.testing.assert_array_equal(found, X[2550:5000, 1:])
    assert Blocks.of_arrays(np.load(tmp_path / "x.npy", mmap_mode="c"), y).source.separate is False


def test_parts_of_arrays_and_of_files_are_all_the_rows(tmp_path):
    X, y = table()
    files = write(tmp_path, X, y)
    for rows in (Blocks.of_arrays(X, y, memory=SOME), Blocks.of_parquet(files, "y", memory=SOME)):
        parts = [rows.part(k, 3) for k in range(3)]
        read = [block.features for blocks in parts for part in blocks.parts() for block in blocks.read(part)]
        np.testing.assert_array_equal(np.concatenate(read), X)
        assert max(map(len, read)) <= rows.rows < ROWS / 3


def write(folder, X, y, group=1300, **more):
    """Two files of several row groups; the columns of the second in another order."""
    names = [f"x{j}" for j in range(X.shape[1])]
    columns = dict(zip(names, X.T, strict=True)) | {"y": y} | more
    files, half = [folder / "a.parquet", folder / "b.parquet"], len(y) // 2
    for file, cut, order in ((files[0], slice(half), columns), (files[1], slice(half, None), reversed(columns))):
        pq.write_table(pa.table({name: columns[name][cut] for name in order}), file, row_group_size=group)
    return files


@pytest.mark.parametrize("kind", ["binary", "names"])
@pytest.mark.parametrize("group", [70, 1300, 10_000])
def test_parquet(tmp_path, kind, group):
    X, y = table(kind)
    w, o = np.random.default_rng(3).uniform(0.5, 2.0, (2, ROWS))
    files = write(tmp_path, X, y, group, w=w, o=o)
    outputs = ["o"] * 4 if kind == "names" else "o"
    rows = Blocks.of_parquet(files, "y", sample_weight="w", offset=outputs, memory=SOME)
    wanted = LinearClassifier(tol=1e-11).fit(X, y, w, np.stack([o] * 4, axis=1) if kind == "names" else o)
    found = fit_blocks(LinearClassifier(tol=1e-11), rows)
    same(found, wanted)
    assert found.feature_names_in_.tolist() == [f"x{j}" for j in range(WIDTH)]
    if group == 1300 and kind == "binary":
        both = fit_blocks(LinearClassifier(tol=1e-11), rows, processes=2)
        np.testing.assert_array_equal(both.coef_, found.coef_)


def test_parquet_columns(tmp_path):
    X, y = table("labels")
    float32 = {f"x{j}": X[:, j].astype(np.float32) for j in range(3)}
    integers = dict(small=np.arange(ROWS, dtype=np.int16), yes=X[:, 0] > 0.5)
    labels = {f"y{j}": y[:, j] for j in range(3)}
    texts = dict(name=np.repeat("a", ROWS))
    pq.write_table(pa.table(float32 | integers | labels | texts), tmp_path / "a.parquet")
    features = [*float32, *integers]
    rows = Blocks.of_parquet(tmp_path / "a.parquet", list(labels), features=features, memory=SOME)
    assert rows.source.dtype == "float32"
    found = fit_blocks(LinearClassifier(tol=1e-5), rows)
    wide = np.column_stack([*float32.values(), *integers.values()]).astype(np.float64)
    same(found, LinearClassifier(tol=1e-9).fit(wide, y), 1e-3)
    with pytest.raises(DataError, match=r"a.parquet: name: a column of string, which holds no numbers"):
        Blocks.of_parquet(tmp_path / "a.parquet", list(labels))
    with pytest.raises(ValueError, match=r"a column is one of 'x0'.*not 'x9'"):
        Blocks.of_parquet(tmp_path / "a.parquet", "y0", features=["x9"])


def test_parquet_names_file_column_and_row(tmp_path):
    X, y = table()
    X[4321, 2] = np.nan
    with pytest.raises(DataError, match=r"b.parquet: x2: Input X contains NaN.*First rows: 1321"):
        fit_blocks(LinearClassifier(), Blocks.of_parquet(write(tmp_path, X, y), "y", memory=SOME))
    missing = pa.array([None if i == 4000 else int(v) for i, v in enumerate(y)])
    X[4321, 2] = 0
    with pytest.raises(DataError, match=r"b.parquet: y: the target is missing. First rows: 1000"):
        fit_blocks(LinearClassifier(), Blocks.of_parquet(write(tmp_path, X, missing), "y", memory=SOME))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a.parquet: damaged"):
        Blocks.of_parquet([tmp_path / "a.parquet"], "y")
    with pytest.raises(DataError, match=r"no.parquet: damaged"):
        Blocks.of_parquet([tmp_path / "no.parquet"], "y")


def test_blocks_of_ones_own():
    pd = pytest.importorskip("pandas")
    X, y = table("names")
    wanted = LinearClassifier(tol=1e-11).fit(X, y)

    def frames():
        for a in range(0, ROWS, 1000):
            yield pd.DataFrame(X[a : a + 1000], columns=list("abcde")), pd.Series(y[a : a + 1000], dtype=object)

    found = fit_blocks(LinearClassifier(tol=1e-11), Blocks.of(frames, memory=SOME))
    same(found, wanted)
    assert found.feature_names_in_.tolist() == list("abcde")
    with pytest.raises(ValueError, match="a generator is empty after the first"):
        Blocks.of(frames())
    with pytest.raises(ValueError, match=r"blocks of your own are not cut"):
        Blocks.of(frames).part(0, 2)
    with pytest.raises(TypeError, match=r"a block is \(X, y\)"):
        Blocks.of([X])
    with pytest.raises(DataError, match="there are no rows"):
        Blocks.of([])


def test_rows_without_weight_may_fill_a_block():
    X, y = table()
    weight = np.where(np.arange(ROWS) < 2000, 0.0, 1.0)
    found = fit_blocks(LinearClassifier(tol=1e-11), Blocks.of_arrays(X, y, weight, memory=SOME))
    same(found, LinearClassifier(tol=1e-11).fit(X[2000:], y[2000:]))
    for settings in ({}, dict(class_weight="balanced")):
        with pytest.raises(DataError, match="every weight is zero"):
            fit_blocks(LinearClassifier(**settings), Blocks.of_arrays(X, y, 0 * weight, memory=SOME))


def test_blocks_that_differ_are_refused():
    X, y = table()
    text = np.where(y, "yes", "no")
    offset = np.zeros(ROWS)
    for other, sentence in (
        ((X[:, :3], y), "one has 5 features, another 3"),
        ((csr_array(X), y), "one is sparse"),
        ((X, text), "classes of one are texts"),
        ((X, np.stack([y, y], axis=1)), "the target of one has 1 columns, that of another 2"),
        ((X, y, None, offset), "the offset of one has 0 columns, that of another 1"),
    ):
        with pytest.raises(DataError, match=sentence):
            fit_blocks(LinearClassifier(), Blocks.of([(X, y), other]))


def test_what_is_refused():
    X, y = table()
    rows = Blocks.of_arrays(X, y)
    with pytest.raises(DataError, match="the target is constant"):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(X, 0 * y))
    with pytest.raises(DataError, match="label 0 is 1 in every row"):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(X, np.stack([0 * y + 1, y], axis=1)))
    with pytest.raises(ValueError, match="an l1 penalty or bounds need all rows"):
        fit_blocks(LinearClassifier(l1_ratio=0.5), rows)
    with pytest.raises(TypeError, match="not LinearClassifierCV"):
        fit_blocks(LinearClassifierCV(), rows)
    with pytest.raises(TypeError, match=r"blocks are train\.Blocks"):
        fit_blocks(LinearClassifier(), X)
    with pytest.raises(ValueError, match="target has one entry for each of 6,000 rows"):
        Blocks.of_arrays(X, y[1:])
    with pytest.raises(ValueError, match="part 3 of 3"):
        rows.part(3, 3)
    with pytest.raises(ValueError, match="processes is a whole number"):
        fit_blocks(LinearClassifier(), rows, processes=0)
    with pytest.raises(ValueError, match="at most 700 features"):
        fit_blocks(LinearClassifier(ordinal=True), Blocks.of_arrays(np.eye(800), np.arange(800) % 3))
    with pytest.raises(ValueError, match=r"offset is one logit per row and output"):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(X, y, None, np.zeros((ROWS, 2))))


@pytest.mark.parametrize("memory", [SOME, "64MiB"])
def test_separated_classes(memory):
    X, _ = table()
    rows = Blocks.of_arrays(X, (X[:, 1] > 0.5) * 1, memory=memory)
    with pytest.raises(DataError, match="x1 separates all rows" if memory != SOME else "can be separated"):
        fit_blocks(LinearClassifier(C=np.inf), rows)


def test_a_warm_start_is_where_it_begins():
    X, y = table()
    rows, model = Blocks.of_arrays(X, y, memory=SOME), LinearClassifier(warm_start=True, tol=1e-8)
    first = fit_blocks(model, rows).certificate_.passes
    assert fit_blocks(model, rows).certificate_.passes == 2 < first


class Small:
    """An array that has memory for so many rows alone."""

    def __init__(self, array, most):
        self.array, self.most, self.shape, self.ndim = array, most, array.shape, array.ndim
        self.dtype, self.tried = array.dtype, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, cut):
        self.tried.append(cut.stop - cut.start)
        if self.tried[-1] > self.most:
            raise MemoryError
        return self.array[cut]


def test_out_of_memory_halves_the_blocks():
    X, y = table()
    few = Small(X, 1000)
    with pytest.warns(ResourceWarning, match="out of memory with") as caught:
        found = fit_blocks(LinearClassifier(tol=1e-11), Blocks.of_arrays(few, y))
    assert len(caught) == len([rows for rows in few.tried if rows > 1000]) > 3
    same(found, LinearClassifier(tol=1e-11).fit(X, y))


def test_one_row_is_the_least():
    X, y = table(rows=9)
    with pytest.warns(ResourceWarning), pytest.raises(MemoryError):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(Small(X, 0), y, memory=1000))


def test_a_memory_map_is_not_copied_by_fit(tmp_path):
    rows, width = 400_000, 20
    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, width))
    X[:] = np.random.default_rng(0).normal(size=(rows, width))
    y = (X[:, 0] + X[:, 1] * np.random.default_rng(1).normal(size=rows) > 0).astype(np.int8)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    LinearClassifier().fit(mapped[:1000], y[:1000])  # what is imported on first use
    tracemalloc.start()
    found = fit_blocks(LinearClassifier(), Blocks.of_arrays(mapped, y, memory="1MiB"))
    blocks = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    wanted = LinearClassifier().fit(mapped, y)
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    same(found, wanted, 1e-6)
    assert whole < X.nbytes  # vectors of the rows, not a table of them
    assert blocks < 2**22


class Text(tuple):
    """How it was added."""

    def plus(self, other):
        return Text((self, other))


def test_states_are_added_in_pairs():
    a, b, c, d, e = (Text(name) for name in "abcde")
    assert states.merged([a]) == a and states.merged([]) is None
    assert states.merged([a, b, c]) == ((a, b), c)
    assert states.merged([a, b, c, d, e]) == (((a, b), (c, d)), e)


def test_a_sample_is_the_same_however_rows_are_cut():
    X, y = table()
    ones = np.ones(ROWS)
    whole = Sample.of(X, y, ones, ones, 0, 1000)
    assert 1 < whole.every and 500 < len(whole.index) <= 1000
    for size in (37, 500, 4000):
        cuts = [slice(a, a + size) for a in range(0, ROWS, size)]
        parts = [Sample.of(X[c], y[c], ones[c], ones[c], c.start, 1000) for c in cuts]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined.plus(part, WIDTH)
        for mine, theirs in zip(whole, joined, strict=True):
            np.testing.assert_array_equal(mine, theirs)
