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

from lastlayer._array import dtype_name, floating, is_torch, readable, restore


class Kernel(NamedTuple):
    """One row: ``run`` takes the arguments of the formula; ``backward`` the gradient that comes back, and those.

    ``settings`` are the keywords that the kernel knows: with any other than its default the formula runs. ``half`` is
    for kernels that float16 and bfloat16 reach as float32: the dtype that comes out.
    """

    function: str
    dtypes: tuple[str, ...]
    device: str
    classes: tuple[int, float]
    run: str
    backward: str | None = None
    libraries: tuple[str, ...] = ("numpy",)
    settings: tuple[str, ...] | None = None
    half: str | None = None


TABLE = (
    Kernel(
        "row_statistics",
        dtypes=("float32", "float64"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.row_statistics:run",
    ),
    Kernel(
        "top_label_bins",
        dtypes=("float32", "float64"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.top_label_bins:run",
    ),
    Kernel(
        "mixed_in",
        dtypes=("float32", "float64"),
        device="cpu",
        classes=(32, float("inf")),  # below, NumPy is as fast, and a first `check` compiles one kernel less
        run="lastlayer.kernels.cpu.mixed_in:run",
    ),
    Kernel(
        "gap_sums",
        dtypes=("float32", "float64"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.gap_sums:run",
    ),
    Kernel(
        "diagonal_sums",
        dtypes=("float32", "float64"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.diagonal_sums:run",
    ),
    Kernel(
        "logsumexp",
        dtypes=("float32", "float16", "bfloat16"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.logsumexp:run",
        backward="lastlayer.kernels.cpu.logsumexp:backward",
        libraries=("numpy", "torch"),
        settings=("axis",),
        half="same",
    ),
    Kernel(
        "softmax",
        dtypes=("float32", "float16", "bfloat16"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.softmax:run",
        backward="lastlayer.kernels.cpu.softmax:backward",
        libraries=("numpy", "torch"),
        settings=("axis", "empty", "out"),
        half="same",
    ),
    Kernel(
        "cross_entropy",
        dtypes=("float32", "float16", "bfloat16"),
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.cross_entropy:run",
        backward="lastlayer.kernels.cpu.cross_entropy:backward",
        libraries=("numpy", "torch"),
        settings=(),
        half="float32",
    ),
    Kernel(
        "head_parts",
        dtypes=("float32", "uint16"),  # the bits of bfloat16
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.head_rows:parts",
    ),
    Kernel(
        "head_totals",
        dtypes=("float32", "uint16"),  # the bits of bfloat16
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.head_rows:totals",
    ),
    Kernel(
        "head_slopes",
        dtypes=("float32", "uint16"),  # the bits of bfloat16
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.head_rows:slopes",
    ),
    Kernel(
        "head_ranks",
        dtypes=("float32", "uint16"),  # the bits of bfloat16
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.head_rows:ranks",
    ),
    Kernel(
        "head_tops",
        dtypes=("float32", "uint16"),  # the bits of bfloat16
        device="cpu",
        classes=(1, float("inf")),
        run="lastlayer.kernels.cpu.head_rows:tops",
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
    """What the kernel of ``row`` gives, of a tensor with its slope; float16 and bfloat16 go in as float32."""
    run = resolve(row.run)
    if row.settings is None:
        return run(*args, **kwargs)
    settings = {name: value for name, value in kwargs.items() if name in row.settings or name not in defaults}
    if not all(name in settings or _same(value, defaults[name]) for name, value in kwargs.items()):
        return NotImplemented
    given, *others = args or (settings.pop(first),)
    x = floating(given) if dtype_name(given) in ("float16", "bfloat16") else given
    if is_torch(x):
        result = resolve("lastlayer.kernels.autograd:apply")(run, row.backward, formula, x, others, settings)
    else:
        result = run(x, *others, **settings)
    if result is NotImplemented or result is settings.get("out"):
        return result
    result = restore(result, given) if row.half == "same" else result
    return result if is_torch(result) else result[()]  # of a single row NumPy gives a number


def _same(value, default):
    """Whether a setting is its default, as far as one can tell without looking into an array."""
    return value is default or (isinstance(value, int | float | str) and value == default)
