"""``bench/numerics.py`` measures what it says: planted errors, lost results, its own references, and its page."""

import csv
import importlib
import pathlib

import mpmath
import numpy as np
import pytest

import reference

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bench():
    """The modules of the script, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield importlib.import_module


def planted(bench, dtype, units, exact):
    """The error that is found in a result so many units of the dtype away from the exact value."""
    digits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype]
    high, low = float(exact), float(exact - float(exact))
    unit = 2.0 ** (np.frexp(high)[1] - digits)
    got = np.array([[high + units * unit]])
    return bench("numerics").errors(got, (np.array([[high]]), np.array([[low]])), dtype).ulp.item()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("scale", [2.0**-10, 1.0, 40.0])
def test_a_planted_error_of_three_units_is_three(bench, dtype, scale):
    assert planted(bench, dtype, 3, mpmath.mpf(2) / 3 * scale) == pytest.approx(3, abs=0.5)
    assert planted(bench, dtype, 0, mpmath.mpf(2) / 3 * scale) <= 0.5


def test_what_float64_leaves_out_of_the_exact_value_counts(bench):
    exact = np.array([[1.0]]), np.array([[2.0**-54]])  # a quarter of a unit above 1
    assert bench("numerics").errors(np.array([[1.0]]), exact, "float64").ulp.item() == 0.25


def test_a_result_that_is_lost_is_counted_and_is_no_error(bench):
    exact = np.full((1, 4), 2e-9), np.zeros((1, 4))
    found = bench("numerics").errors(np.array([[0.0, np.nan, np.inf, 2e-9]]), exact, "float32")
    assert found.lost.tolist() == [[True, True, True, False]]
    assert np.isnan(found.ulp[0, :3]).all() and found.ulp[0, 3] == 0


def test_results_below_the_smallest_normal_number_are_left_out(bench):
    high = np.array([[2.0**-127, 2.0**-126, -np.inf, np.nan]])
    found = bench("numerics").errors(np.zeros((1, 4)), (high, np.zeros((1, 4))), "float32")
    assert found.lost.tolist() == [[False, True, False, False]] and np.isnan(found.ulp).all()


def test_errors_of_what_may_cancel_are_in_units_of_something_larger(bench):
    exact = np.array([[1e-9]]), np.array([[0.0]])
    for got, units in ((2.0**-23, 1), (0.0, 1e-9 * 2**23)):
        found = bench("numerics").errors(np.array([[got]]), exact, "float32", unit=np.array([[1.5]]))
        assert not found.lost.any() and found.ulp.item() == pytest.approx(units, rel=0.01)


PLAIN = {  # the same quantity as the textbook formula at 120 digits
    "softmax, base 2": lambda z, t: reference.softmax(z, base=2),
    "log_softmax, temperature 0.7": lambda z, t: reference.log_softmax(z, temperature=mpmath.mpf(0.7)),
    "logsumexp": lambda z, t: reference.logsumexp(z),
    "energy, temperature 2": lambda z, t: reference.energy(z, temperature=2),
    "entropy": lambda z, t: reference.entropy(z),
    "log_odds": lambda z, t: reference.log_odds(z),
    "sparsemax": lambda z, t: reference.sparsemax(z),
    "entmax, alpha 1.5": lambda z, t: reference.entmax(z, mpmath.mpf(1.5)),
    "standardize, zscore": lambda z, t: reference.standardize(z, how="zscore"),
    "pool": lambda z, t: reference.pool(z),
    "pool, linear": lambda z, t: reference.pool(z, how="linear"),
    "cross_entropy": lambda z, t: reference.cross_entropy(z, t),
    "cross_entropy, smoothing 0.1": lambda z, t: reference.cross_entropy(z, t, label_smoothing=mpmath.mpf(0.1)),
    "gradient of the row": lambda z, t: [p - (i == t) for i, p in enumerate(reference.softmax(z))],
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_references_are_the_textbook_formulas(bench, name):
    exact, block = bench("_numerics_exact"), bench("_numerics_rows").rows(10, "float64")
    for i in np.flatnonzero(np.isfinite(block.x).all(1))[::60]:
        with mpmath.workdps(exact.DIGITS):
            got = exact.ROWS[name](exact.Row(block, i))
        want = PLAIN[name](reference.exact(block.x[i]), int(block.beside["target"][i]))
        for a, b in zip(got, want, strict=True):
            assert abs(a - b) <= abs(b) * mpmath.mpf(10) ** -40, (block.kind[i], a, b)


@pytest.mark.parametrize("classes", [2, 10])
def test_half_rows_are_exact_in_both_halves(bench, classes):
    torch = pytest.importorskip("torch")
    x = bench("_numerics_rows").rows(classes, "half").x
    tensor = torch.from_numpy(x)
    assert tensor.to(torch.bfloat16).double().equal(tensor) and tensor.to(torch.float16).double().equal(tensor)


def test_margins_are_what_the_rows_say(bench):
    block = bench("_numerics_rows").rows(10, "float32")
    for i in np.flatnonzero(np.isfinite(block.margin)):
        target = block.beside["target"][i]
        others = np.delete(block.x[i], target).max()
        assert block.x[i, target] - others == pytest.approx(block.margin[i], abs=1e-4)


def test_the_page_and_the_plot_are_those_of_the_results(bench):
    written = bench("_numerics_page")
    assert (ROOT / "docs" / "numerics.md").read_text("utf-8") == written.page()
    assert (ROOT / "docs" / "numerics.svg").read_text("utf-8") == written.figure()


def test_the_worst_error_of_the_results_is_on_the_page():
    with open(ROOT / "bench" / "results" / "numerics.csv", newline="") as file:
        found = [
            float(line["worst"])
            for line in csv.DictReader(file)
            if (line["quantity"], line["dtype"]) == ("cross_entropy", "float32")
            and line["how"] in ("numpy", "torch", "jax")
        ]
    page = (ROOT / "docs" / "numerics.md").read_text("utf-8")
    line = next(line for line in page.split("\n") if line.startswith("| `cross_entropy` | **"))
    assert line.split("|")[2].strip() == f"**{max(found):.1f}**"
