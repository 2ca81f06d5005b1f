"""THE ONE TABLE: which kernel runs for which function, dtype, device and number of classes.

A public function is decorated with `dispatched`; its body is the formula. When its first argument is a concrete array
that a row of the table names, the kernel of that row runs instead, and must give what the formula gives
(``tests/kernels`` runs every row against its formula). The choice depends on the function, its settings, the dtype, the
device and the number of classes, never on the number of rows, the layout, the threads or what is compiled, so that a
row of data has the same bits whatever its neighbours. A kernel that is given what it was not made for returns
NotImplemented, and the formula runs. Kernels are named by dotted strings and imported on first use; nothing else
imports them.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from lastlayer._array import dtype_name, is_torch, readable


class Kernel(NamedTuple):
    """One row: ``run`` takes the arguments of the formula; ``backward`` the gradient that comes back, and those.

    ``settings`` are the keywords that the kernel knows: with any other than its default the formula runs.
    """

    function: str
    dtypes: tuple[str, ...]
    device: str
    classes: tuple[int, float]
    run: str
    backward: str | None = None
    libraries: tuple[str, ...] = ("numpy",)
    settings: tuple[str, ...] | None = None


ANY = (1, float("inf"))  # classes


def _of_arrays(function, run=None, dtypes=("float32", "float64"), classes=ANY):
    """A kernel that NumPy arrays alone reach; where its file bears its name, ``run`` of that file."""
    return Kernel(function, dtypes, "cpu", classes, f"lastlayer.kernels.cpu.{run or f'{function}:run'}")


def _of_rows(function, settings=()):
    """A kernel for NumPy and PyTorch with its slope, ``run`` and ``backward`` of the file of its name."""
    file = f"lastlayer.kernels.cpu.{function}"
    dtypes, libraries = ("float32", "float64", "float16", "bfloat16"), ("numpy", "torch")
    return Kernel(function, dtypes, "cpu", ANY, f"{file}:run", f"{file}:backward", libraries, settings)


TABLE = (
    _of_arrays("evaluation_sums", dtypes=("float64",)),
    _of_arrays("evaluation_sums", dtypes=("float32",), classes=(1, 31)),
    _of_arrays("evaluation_sums", "evaluation_sums32:run", dtypes=("float32",), classes=(32, float("inf"))),
    _of_arrays("extremes", dtypes=("float32",), classes=(32, float("inf"))),
    _of_arrays("top_label_bins"),
    _of_arrays("mixed_in", classes=(32, float("inf"))),  # below, NumPy is as fast, and a first `check` compiles less
    _of_arrays("gap_sums"),
    _of_arrays("diagonal_sums"),
    _of_arrays("class_pass", "block_products:classes", classes=(1, 32)),  # above, BLAS is as fast
    _of_arrays("label_pass", "block_products:labels", classes=(1, 32)),
    _of_arrays("class_slopes", "class_slopes:classes"),
    _of_arrays("label_slopes", "class_slopes:labels"),
    _of_arrays("sparse_product"),
    _of_arrays("fit_slopes"),
    _of_arrays("logistic_newton", classes=(1, 1024)),  # features; above, a block of rows leaves the cache
    _of_arrays("model_descent", "coordinate:model", dtypes=("float64",)),
    _of_arrays("column_descent", "coordinate:columns"),
    _of_rows("logsumexp", settings=("axis",)),
    _of_rows("softmax", settings=("axis", "empty", "out")),
    _of_rows("cross_entropy"),
    _of_rows("log_softmax", settings=("axis", "empty")),
    _of_rows("entropy", settings=("axis",)),
    _of_rows("binary_cross_entropy", settings=("pos_weight", "valid")),
    _of_rows("top_k"),
    _of_rows("row_statistics")._replace(backward=None, settings=None),  # `row_stats` records it
    _of_arrays("head_entries", dtypes=("float32", "uint16")),
    *(
        _of_arrays(f"head_{name}", f"head_rows:{name}", dtypes=("float32", "uint16"))  # uint16: the bits of bfloat16
        for name in ("parts", "totals", "slopes", "ranks", "stats")
    ),
)

_ROWS = {name: [row for row in TABLE if row.function == name] for name in {row.function for row in TABLE}}
_formulas: ContextVar[bool] = ContextVar("formulas", default=False)


@contextmanager
def formulas():
    """Run every function by its formula, for a test or a doubt: ``with ll.formulas(): ...``."""
    token = _formulas.set(True)
    try:
        yield
    finally:
        _formulas.reset(token)


def choose(function: str, array) -> Callable | None:
    """The kernel for ``function`` of this array, or None where the formula runs (tracers and tensors of others do)."""
    row = _row(function, array)
    return None if row is None else resolve(row.run)


def cold(function: str) -> bool:
    """Whether the kernels of ``function`` have still to be compiled for this machine, which takes seconds."""
    return resolve("lastlayer.kernels.cpu:cold")(function)


def _row(function, array) -> Kernel | None:
    rows = _ROWS.get(function)
    if rows is None or not _concrete(array) or array.ndim == 0 or _formulas.get():
        return None
    library, dtype = ("torch", dtype_name(array)) if is_torch(array) else ("numpy", array.dtype.name)
    for row in rows:
        low, high = row.classes
        fits = dtype in row.dtypes and library in row.libraries and row.device == "cpu"
        if fits and low <= array.shape[-1] <= high:
            return row
    return None


def _concrete(array):
    """Whether it is an array of numbers in memory, which nobody traces, maps or differentiates forward."""
    if is_torch(array):
        return readable(array) and resolve("lastlayer.kernels.autograd:concrete")(array)
    return type(array) is np.ndarray


@functools.cache
def resolve(dotted: str) -> Callable:
    """``"module:function"`` as the function, imported on first use."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def dispatched(formula):
    """Run ``formula``, or the kernel that the table names for its first argument.

    The formulas are written for limits, so NumPy's warnings about infinities say nothing and are off inside.
    """
    name, parameters = formula.__name__, inspect.signature(formula).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    first = next(p.name for p in parameters)

    @functools.wraps(formula)
    def front(*args, **kwargs):
        array = args[0] if args else kwargs.get(first)
        row = _row(name, array)
        if row is not None:
            result = _by_kernel(row, formula, first, defaults, args, kwargs)
            if result is not NotImplemented:
                return result
        if is_torch(array):  # no warnings to silence, and torch.compile cannot trace np.errstate
            return formula(*args, **kwargs)
        with np.errstate(all="ignore"):
            return formula(*args, **kwargs)

    return front


def _by_kernel(row, formula, first, defaults, args, kwargs):
    """What the kernel of ``row`` gives, of a tensor with its slope; bfloat16 goes in, and comes out, as its bits."""
    run = resolve(row.run)
    if row.settings is None:
        return run(*args, **kwargs)
    settings = {name: value for name, value in kwargs.items() if name in row.settings or name not in defaults}
    if not all(name in settings or _same(value, defaults[name]) for name, value in kwargs.items()):
        return NotImplemented
    x, *others = args or (settings.pop(first),)
    out = settings.get("out")
    if out is not None and (type(out) is not type(x) or out.dtype != x.dtype):
        del settings["out"]
    if is_torch(x):
        result = resolve("lastlayer.kernels.autograd:apply")(run, row.backward, formula, x, others, settings)
    else:
        if "out" in settings:
            settings["out"] = _bits(out)
        result = run(_bits(x), *others, **settings)
    if result is NotImplemented:
        return result
    if not is_torch(result):
        result = result.view(x.dtype) if result.dtype == np.uint16 else result
        result = result[()]  # of a single row NumPy gives a number
    if out is None:
        return result
    if "out" not in settings:
        out[...] = result
    return out


def _bits(value):
    """An array of bfloat16 as its bits, anything else as it is."""
    return value.view(np.uint16) if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16" else value


def _same(value, default):
    """Whether a setting is its default, as far as one can tell without looking into an array."""
    return value is default or (isinstance(value, int | float | str) and value == default)
