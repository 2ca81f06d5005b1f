"""Every row of the kernel table equals its formula, and a row of data has the same bits whatever happens around it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np
import pytest

import lastlayer as ll
import lastlayer.kernels.cpu
from lastlayer import kernels, parallel
from lastlayer.calibrate._affine_structure import diagonal_sums
from lastlayer.calibrate.temperature import gap_sums
from lastlayer.kernels.cpu.evaluation_sums import run as in_float64
from lastlayer.kernels.cpu.evaluation_sums32 import run as in_float32
from lastlayer.measure import evaluation
from lastlayer.measure._entries import top_label_bins
from lastlayer.measure.rows import CURVE_BINS, TEMPERATURES, EvaluationSums, evaluation_sums
from lastlayer.measure.signs import extremes, mixed_in
from lastlayer.transform.row_stats import row_statistics

TILE = 32768  # rows of three or four classes


def special_rows(classes, dtype):
    """Each kind of row of the special-value contract, once."""
    rng = np.random.default_rng(classes)
    ramp = np.arange(classes, dtype=float)
    rows = [rng.normal(scale=scale, size=classes) for scale in (4, 1e-30, 1e30)]
    rows += [np.zeros(classes), np.full(classes, -3.5), ramp, -ramp, ramp / 8]
    tie = rng.normal(size=classes)
    tie[[0, classes // 2, -1]] = 5.0
    dominant = rng.normal(scale=0.01, size=classes)
    dominant[classes // 3] += 80
    rows += [tie, dominant, -dominant, dominant * 10]
    masked = rng.normal(scale=4, size=classes)
    masked[: classes // 2] = -np.inf
    lone = np.full(classes, -np.inf)
    lone[-1] = 2.0
    rows += [masked, lone, np.full(classes, -np.inf)]
    for infinities in ([0], [-1], [0, classes // 2, -1]):
        rows += [rng.normal(size=classes), masked.copy()]
        rows[-1][infinities] = rows[-2][infinities] = np.inf
    for fill in (0.0, np.inf, -np.inf):
        rows.append(np.full(classes, fill))
        rows[-1][classes // 2] = np.nan
    return np.array(rows).astype(dtype)


def evaluation_sums_arguments(logits):
    n, classes = logits.shape
    rng = np.random.default_rng(n)
    weight = rng.choice([0.0, 1.0, 0.25], n)
    return logits, rng.integers(0, classes, n), weight, TEMPERATURES, CURVE_BINS, 14, classes < 256


def top_label_bins_arguments(logits):
    return *evaluation_sums_arguments(logits)[:3], np.linspace(0.0, 1.0, 16)


def usual(logits):
    """The rows that a fit sees: no nan, no +inf, no row of masked classes alone, no size that only overflows."""
    size = np.abs(np.where(np.isinf(logits), 0.0, logits)).max(1)
    return logits[np.isfinite(logits.max(1)) & (size < 1e3)]


def gap_sums_arguments(logits):
    logits = usual(logits)
    return logits, logits.argmax(1), 0.7


def diagonal_sums_arguments(logits):
    logits = usual(logits)
    rng = np.random.default_rng(len(logits))
    n, classes = logits.shape
    shift = 0.8 * logits.max(1) + 1.0  # every x is below 0, so that no sum cancels
    return (logits, 0.8, shift, rng.uniform(0.1, 2.0, n), *rng.uniform(0.5, 2.0, (2, classes)))


def mixed_in_arguments(table):
    return table, np.random.default_rng(len(table)).integers(0, 2**63, len(table), dtype=np.uint64)


def hashed(*args):
    return (mixed_in(*args),)


def logits_alone(logits):
    return (logits,)


def indexed_arguments(logits):
    return logits, np.random.default_rng(len(logits)).integers(0, logits.shape[1], len(logits))


def row_statistics_arguments(logits):
    names = ("logp", "lse", "entropy", "argmax", "rank", "topk:1", "top2_gap", "max_prob")
    return logits, names, indexed_arguments(logits)[1]


def in_a_tuple(function):
    return lambda *args: (function(*args),)


ELSEWHERE = {  # tests/linear/test_head_rows.py, tests/train/test_{objective,whitened,coordinate,many}.py
    *(f"head_{name}" for name in ("parts", "totals", "slopes", "ranks", "stats")),
    "head_entries",
    "logistic_newton",
    *("class_pass", "label_pass", "class_slopes", "label_slopes", "sparse_product", "fit_slopes"),
    "model_descent",
    "column_descent",
}
ARGUMENTS = {
    "logsumexp": (in_a_tuple(ll.logsumexp), logits_alone),
    "softmax": (in_a_tuple(ll.softmax), logits_alone),
    "cross_entropy": (in_a_tuple(ll.cross_entropy), indexed_arguments),
    "log_softmax": (in_a_tuple(ll.log_softmax), logits_alone),
    "entropy": (in_a_tuple(ll.entropy), logits_alone),
    "top_k": (in_a_tuple(ll.transform.top_k), lambda logits: (logits, 3)),
    "row_statistics": (row_statistics, row_statistics_arguments),
    "binary_cross_entropy": (in_a_tuple(ll.binary_cross_entropy), lambda logits: (logits, logits > 0)),
    "mixed_in": (hashed, mixed_in_arguments),
    "gap_sums": (gap_sums, gap_sums_arguments),
    "diagonal_sums": (diagonal_sums, diagonal_sums_arguments),
    "evaluation_sums": (evaluation_sums, evaluation_sums_arguments),
    "extremes": (extremes, logits_alone),
    "top_label_bins": (top_label_bins, top_label_bins_arguments),
}
TOLERANCE = 1e-11  # the curve reaches its temperatures by squaring, up to six times


TOLERANCES = {
    in_float64: {"rtol": TOLERANCE, "atol": 1e-13},  # the gain in Brier score is a difference
    in_float32: {"rtol": 3e-6, "atol": 1e-12},  # a probability below 2^-60 of the next counts as 0
}


def assert_close(found, want, tolerance=None):
    for a, b in zip(found, want, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        relative, absolute = (1e-6, 1e-37) if a.dtype == np.float32 else (TOLERANCE, 1e-300)
        np.testing.assert_allclose(a, b, **({"rtol": relative, "atol": absolute} | (tolerance or {})))


def assert_same_bits(found, want):
    for a, b in zip(found, want, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_every_function_of_the_table_is_tested_here():
    assert {row.function for row in kernels.TABLE} == set(ARGUMENTS) | ELSEWHERE


@pytest.mark.parametrize("row", [row for row in kernels.TABLE if row.function in ARGUMENTS], ids=lambda r: r.function)
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 257])  # a lone class, a pair, an odd number, digits, one above 2^8
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_equals_formula(row, classes, dtype):
    function, arguments = ARGUMENTS[row.function]
    logits = special_rows(classes, dtype)
    args = arguments(np.tile(logits, (max(1, 8 // classes), 1)))
    fits = [r for r in kernels.TABLE if r.function == row.function and r.classes[0] <= classes <= r.classes[1]]
    chosen = [kernels.resolve(r.run) for r in fits if dtype in r.dtypes]
    assert chosen[1:] == []
    assert kernels.choose(row.function, args[0]) is (chosen or [None])[0]
    found = function(*args)
    with ll.formulas():
        assert_close(found, function(*args), TOLERANCES.get(chosen[0] if chosen else None))


def test_no_rows_are_an_empty_block():
    args = evaluation_sums_arguments(np.zeros((0, 3)))
    found = evaluation_sums(*args)
    with ll.formulas():
        assert_close(found, evaluation_sums(*args))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layout_and_byte_order_change_no_bit_and_no_input(dtype):
    plain = np.tile(special_rows(10, dtype), (3, 1))
    _, *others = evaluation_sums_arguments(plain)
    for array in others[:2]:
        array.flags.writeable = False
    want = evaluation_sums(plain, *others)
    wide = np.zeros((2 * len(plain), 20), dtype)
    wide[::2, ::2] = plain
    frozen = plain.copy()
    frozen.flags.writeable = False
    layouts = {
        "strided": wide[::2, ::2],
        "reversed": plain[::-1].copy()[::-1],
        "F-ordered": np.asfortranarray(plain),
        "other byte order": plain.astype(plain.dtype.newbyteorder()),
        "read-only": frozen,
    }
    for name, x in layouts.items():
        before = x.tobytes()
        found = evaluation_sums(x, *others)
        assert x.tobytes() == before, name
        assert_same_bits(found, want)


def row_columns(logits, target, weight):
    """What belongs to single rows: the columns."""
    return tuple(EvaluationSums.of(logits, target, weight, ranked=False))[:7]


@pytest.mark.parametrize("n", [1, TILE - 1, TILE, TILE + 1, 2 * TILE + 6])
def test_a_row_has_the_same_bits_in_any_block(n):
    rng = np.random.default_rng(n)
    logits = rng.normal(scale=5, size=(n, 3))
    logits[:: max(1, n // 5)] = np.resize(special_rows(3, float), logits[:: max(1, n // 5)].shape)
    target, weight = rng.integers(0, 3, n), rng.uniform(size=n)
    whole = row_columns(logits, target, weight)
    for i in {0, n // 2, n - 1, min(TILE - 1, n - 1), min(TILE, n - 1)}:
        alone = row_columns(logits[i : i + 1], target[i : i + 1], weight[i : i + 1])
        assert_same_bits(alone, [column[i : i + 1] for column in whole])
    shift = n // 3  # the same rows, elsewhere in their tiles
    rolled = row_columns(np.roll(logits, shift, 0), np.roll(target, shift), np.roll(weight, shift))
    assert_same_bits([np.roll(column, -shift, 0) for column in rolled], whole)


def many_rows(seed, n=3 * TILE + 5):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=5, size=(n, 4)), rng.integers(0, 4, n), rng.uniform(size=n)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(monkeypatch, threads):
    logits, target, weight = many_rows(0)
    outputs = ll.Outputs(logits, "logits", target=target, weight=weight)
    monkeypatch.setattr(evaluation, "rows_at_once", lambda *_: 5000)
    want = ll.evaluate(outputs)
    monkeypatch.setattr(parallel, "workers", lambda: threads)
    monkeypatch.setattr(parallel, "_pool", None)
    found = ll.evaluate(outputs)
    assert (parallel._pool is None) == (threads == 1)
    assert found.to_bytes() == want.to_bytes()


def test_what_ran_before_changes_no_bit():
    want = EvaluationSums.of(*many_rows(0, 100))
    EvaluationSums.of(*many_rows(1))
    with ll.formulas():
        EvaluationSums.of(*many_rows(2, 50))
    assert_same_bits(EvaluationSums.of(*many_rows(0, 100)), want)


def test_four_threads_at_once_get_what_one_gets():
    want = [EvaluationSums.of(*many_rows(seed)) for seed in range(4)]
    together = threading.Barrier(4)

    def run(seed):
        together.wait()
        return [EvaluationSums.of(*many_rows(seed)) for _ in range(3)]

    with ThreadPoolExecutor(4) as threads:
        for seed, results in enumerate(threads.map(run, range(4))):
            for found in results:
                assert_same_bits(found, want[seed])


def test_the_choice_looks_at_dtype_and_classes_alone():
    chosen = kernels.choose("evaluation_sums", np.zeros((1, 3)))
    assert chosen is not None
    for x in (np.zeros((100_000, 3)), np.zeros((3, 8)).T, np.zeros((2, 5), np.float32), np.zeros((2, 3), ">f8")):
        assert kernels.choose("evaluation_sums", x) is chosen
    for x in (np.zeros((2, 3), np.float16), np.zeros((2, 3), int), [[0.0, 1.0]], np.array(1.0)):
        assert kernels.choose("evaluation_sums", x) is None
    assert kernels.choose("softmax", np.zeros((2, 3), int)) is None


def test_formulas_nest_end_with_an_error_and_stay_in_their_thread():
    x = np.zeros((2, 3))

    def on():
        return kernels.choose("evaluation_sums", x) is not None

    with ll.formulas():
        assert not on()
        with ll.formulas():
            assert not on()
        assert not on()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(on()))
        thread.start()
        thread.join()
        assert seen == [True]
    assert on()
    with pytest.raises(KeyError), ll.formulas():
        raise KeyError
    assert on()


# Other processes.

PROGRAM = """
import os, sys
import numpy as np
import lastlayer as ll

rng = np.random.default_rng(0)
outputs = ll.Outputs(rng.normal(size=(400_000, 3)), "logits", target=rng.integers(0, 3, 400_000))
nll = float(ll.evaluate(outputs).metrics()["nll"])
"""


def run_program(text, **environment):
    command = [sys.executable, "-W", "error", "-c", PROGRAM + textwrap.dedent(text)]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def want_nll():
    rng = np.random.default_rng(0)
    outputs = ll.Outputs(rng.normal(size=(400_000, 3)), "logits", target=rng.integers(0, 3, 400_000))
    return float(ll.evaluate(outputs).metrics()["nll"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_evaluates_and_ends(tmp_path, want_nll):
    printed = run_program(
        """
        import warnings
        from lastlayer import parallel
        parallel.workers = lambda: 3
        ll.evaluate(outputs)
        assert parallel._pool is not None
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks with threads: they are the point
        child = os.fork()
        if child == 0:
            assert parallel._pool is None
            same = float(ll.evaluate(outputs).metrics()["nll"]) == nll
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(nll)
        """,
        LASTLAYER_CACHE_DIR=str(tmp_path),
    )
    assert float(printed) == want_nll
    folders = list(tmp_path.glob("lastlayer/kernels/*"))
    assert len(folders) == 1
    assert list(folders[0].rglob("*.nbc")), "the compiled kernel is kept in the folder named for its sources"


def test_workers_of_a_data_loader_evaluate(want_nll):
    pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    printed = run_program(
        """
        import warnings
        warnings.simplefilter("ignore")  # PyTorch's and Python's, about forks
        import torch

        class Rows(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                return float(ll.evaluate(outputs).metrics()["nll"])

        values = torch.cat(list(torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=2)))
        assert set(values.tolist()) == {nll}, values
        print(nll)
        """
    )
    assert float(printed) == want_nll


@pytest.mark.parametrize("variable", ["LASTLAYER_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_without_a_writable_folder_kernels_compile_uncached(tmp_path, want_nll, variable):
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made below a file")
    places = {"LASTLAYER_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": str(blocked), variable: str(blocked)}
    printed = run_program(
        """
        from lastlayer.kernels.cpu import cache_folder
        assert cache_folder() is None
        print(nll)
        """,
        **places,
    )
    assert float(printed) == want_nll
    assert blocked.is_file()


def folder_of(source):
    """The cache folder that a copy of the kernels would use."""
    spec = importlib.util.spec_from_file_location("copied_kernels", source / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.cache_folder())


def test_the_cache_folder_changes_with_every_kernel_source(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTLAYER_CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "cpu"
    shutil.copytree(Path(lastlayer.kernels.cpu.__file__).parent, source)
    seen = [folder_of(source)]
    assert seen[0].is_relative_to(tmp_path / "cache")
    assert folder_of(source) == seen[0]
    for path in sorted(source.glob("*.py")):
        path.write_text(path.read_text() + "\n# edited\n")
        seen.append(folder_of(source))
    (source / "helper.py").write_text("# a new helper\n")
    seen.append(folder_of(source))
    assert len(set(seen)) == len(seen)


def test_no_home_at_all_is_no_place_to_cache(monkeypatch):
    from lastlayer.kernels import cpu

    monkeypatch.delenv("LASTLAYER_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cpu.cache_folder.__wrapped__() is None


@pytest.mark.parametrize("margin", [0.0, 20.0, 77.0])
@pytest.mark.parametrize("classes", [2, 1000, 32_000])
def test_the_kernel_keeps_the_tail_to_four_units(margin, classes):
    """A difference without its rounding cost 60 units at a margin of 77, a running sum 47 over 32,000 classes."""
    row = np.random.default_rng(classes).normal(0, 1, classes)
    row[0] = row[1:].max() + margin
    with mpmath.workdps(60):
        rest = mpmath.fsum(mpmath.exp(mpmath.mpf(v) - mpmath.mpf(row[0])) for v in row[1:])
        want = {"nll": float(mpmath.log1p(rest)), "log_odds": float(-mpmath.log(rest))}
    got = EvaluationSums.of(row[None, :], np.array([0]), np.ones(1))
    size = max(abs(want["log_odds"]), margin, 1.0)
    assert abs(got.nll[0] - want["nll"]) <= 4 * np.spacing(want["nll"])
    assert abs(got.log_odds[0] - want["log_odds"]) <= 4 * np.spacing(size)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
def test_hashes_of_rows_are_those_of_the_formula_bit_for_bit(dtype):
    table = np.random.default_rng(0).normal(size=(50, 40)).astype(dtype)
    table[3], table[4, :3] = 0.0, (-0.0, np.inf, -np.inf)
    table.flags.writeable = False
    found = mixed_in(*mixed_in_arguments(table))
    with ll.formulas():
        assert found.tobytes() == mixed_in(*mixed_in_arguments(table)).tobytes()
