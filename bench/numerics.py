"""How many digits do we keep? Every transform, loss and target gradient against mpmath, beside the libraries in use.

    python bench/numerics.py            measures, writes results/numerics*.csv, docs/numerics.md and its plot
    python bench/numerics.py --page     writes the page and the plot from the results that are there

Errors are in units in the last place (ULP) of the exact result in the dtype that comes out. Exact results below the
smallest normal number of that dtype are left out. A 0, inf or nan where the exact result is a normal number is *lost*:
it is counted, and is no part of the errors.
"""

import csv
import importlib.metadata
import platform
import sys
from typing import NamedTuple

import numpy as np

import _numerics_exact as reference
from _measure import RESULTS
from _numerics_page import write
from _numerics_rows import CLASSES, numbers, rows

HELD_BY = {"float64": ("float64",), "float32": ("float32",), "half": ("bfloat16", "float16")}
FORMATS = {"float64": (53, -1022), "float32": (24, -126), "float16": (11, -14), "bfloat16": (8, -126)}
KEY = ("quantity", "whose", "how", "dtype", "came out", "classes")
HEADER = (*KEY, "values", "worst", "q999", "median", "lost", "where")
MARGINS = ("quantity", "whose", "how", "margin", "worst", "lost")
PACKAGES = ("numpy", "torch", "scipy", "jax", "optax", "mpmath", "python")
PLOTTED = ("cross_entropy", "gradient at the target")


class Errors(NamedTuple):
    """Of each result: the error in ULP, nan where it does not count or is lost; and whether it is lost."""

    ulp: np.ndarray  # (rows, results)
    lost: np.ndarray


def errors(got, exact, dtype, unit=None):
    """``exact`` is the values and what float64 leaves out of them; ``unit`` replaces the size of smaller results."""
    high, low = exact
    digits, smallest = FORMATS[dtype]
    size = np.abs(high) if unit is None else np.maximum(np.abs(high), unit)
    counts = np.isfinite(high) & (size >= 2.0**smallest)
    lost = counts & (~np.isfinite(got) | ((got == 0) & (unit is None)))
    counts &= ~lost
    _, exponent = np.frexp(np.where(counts, size, 1.0))
    with np.errstate(invalid="ignore"):
        difference = np.where(counts, np.abs((got - high) - low), np.nan)
    return Errors(np.ldexp(difference, np.maximum(digits - exponent, digits - 1 - 1074)), lost)


class Results:
    """Errors of every quantity, subject, dtype and length, pooled over the kinds of rows."""

    def __init__(self):
        self.lines, self.pools, self.margins = [], {}, {}

    def add(self, name, subject, dtype, came, classes, block, found):
        key = (name, subject.whose, subject.how, dtype, came)
        self.lines.append((*key, classes, *_summary([(block.kind, classes, found)])))
        self.pools.setdefault(key, []).append((block.kind, classes, found))
        if name in PLOTTED and dtype == "float32":
            for margin in np.unique(block.margin[np.isfinite(block.margin)]):
                at = block.margin == margin
                so_far = self.margins.setdefault((name, subject.whose, subject.how, int(margin)), Errors([], []))
                so_far.ulp.append(np.nanmax(found.ulp[at], initial=0.0))
                so_far.lost.extend(found.lost[at, 0])

    def write(self):
        pooled = [(*key, "all", *_summary(pool)) for key, pool in self.pools.items() if len(pool) > 1]
        margins = [(*key, f"{max(at.ulp):.4g}", f"{np.mean(at.lost):.4g}") for key, at in sorted(self.margins.items())]
        _table("numerics", HEADER, [*self.lines, *pooled])
        _table("numerics_margin", MARGINS, margins)
        _table("numerics_versions", ("package", "version"), [(name, _version(name)) for name in PACKAGES])


def _version(name):
    if name == "python":
        return f"{platform.python_version()} on {platform.machine()}"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _summary(pool):
    """Number of results, worst error, 99.9 % quantile, median, share lost, and where the worst one is."""
    ulp = np.concatenate([found.ulp.ravel() for *_, found in pool])
    lost = sum(int(found.lost.sum()) for *_, found in pool)
    ulp = ulp[~np.isnan(ulp)]
    values = len(ulp) + lost
    if not len(ulp):
        return values, "", "", "", f"{lost / values:.4g}" if values else "", ""
    largest = [(np.nanmax(found.ulp, axis=1, initial=-1.0), kind, classes) for kind, classes, found in pool]
    each, kind, classes = max(largest, key=lambda one: one[0].max())
    where = kind[int(each.argmax())] + (f", {classes:,} classes" if isinstance(classes, int) else "")
    q999, median = np.quantile(ulp, [0.999, 0.5])
    return values, f"{ulp.max():.4g}", f"{q999:.4g}", f"{median:.4g}", f"{lost / values:.4g}", where


def _table(name, header, lines):
    with open(RESULTS / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def measure(everyone):
    """Every subject on every block; the exact values of a block serve all of them."""
    results = Results()
    for precision, dtypes in HELD_BY.items():
        for classes in CLASSES:
            if precision == "half" and classes == max(CLASSES):  # computed in float32, which is measured
                continue
            block = rows(classes, precision)
            fit = [subject for subject in everyone if classes <= subject.longest]
            _measure_block(results, fit, dtypes, classes, block, reference.of_rows(block))
        block = numbers(precision)
        _measure_block(results, everyone, dtypes, "numbers", block, reference.of_numbers(block))
    return results


def _measure_block(results, everyone, dtypes, classes, block, exact):
    for subject in everyone:
        for dtype in [dtype for dtype in dtypes if dtype in subject.dtypes]:
            for name, came, got in subject(block, dtype, exact):
                unit = reference.UNITS[name][1](block.x, block.beside) if name in reference.UNITS else None
                results.add(name, subject, dtype, came, classes, block, errors(got, exact[name], came, unit))
    print(f"{', '.join(dtypes)}: {len(block.x)} rows of {classes}", file=sys.stderr)


def main():
    if "--page" not in sys.argv[1:]:
        from _numerics_subjects import subjects

        RESULTS.mkdir(exist_ok=True)
        with np.errstate(all="ignore"):  # the peers'
            measure(subjects()).write()
    write()


if __name__ == "__main__":
    main()
