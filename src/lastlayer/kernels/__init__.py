"""THE ONE TABLE: which kernel runs for which function, dtype, device and number of classes.

A public function is decorated with `dispatched`; its body is the formula. When its first argument is a concrete array
that a row of the table names, the kernel of that row runs instead, and must give what the formula gives
(``tests/kernels`` runs every row against its formula). The choice depends on the function, the dtype, the device and
the number of classes, never on the number of rows, the layout, the threads or what is compiled, so that a row of data
has the same bits whatever its neighbours. Kernels are named by dotted strings and imported on first use; nothing else
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

from lastlayer._array import is_torch


class Kernel(NamedTuple):
    """One row: ``run`` takes the arguments of the formula; ``backward`` takes them and the gradient that comes back."""

    function: str
    dtypes: tuple[str, ...]
    device: str
    classes: tuple[int, float]
    run: str
    backward: str | None = None


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
    rows = _ROWS.get(function)
    if rows is None or type(array) is not np.ndarray or array.ndim == 0 or _formulas.get():
        return None
    for row in rows:
        low, high = row.classes
        if array.dtype.name in row.dtypes and row.device == "cpu" and low <= array.shape[-1] <= high:
            return resolve(row.run)
    return None


@functools.cache
def resolve(dotted: str) -> Callable:
    """``"module:function"`` as the function, imported on first use."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def dispatched(formula):
    """Run ``formula``, or the kernel that the table names for its first argument.

    The formulas are written for limits, so NumPy's warnings about infinities say nothing and are off inside.
    """
    name, first = formula.__name__, next(iter(inspect.signature(formula).parameters))

    @functools.wraps(formula)
    def front(*args, **kwargs):
        array = args[0] if args else kwargs.get(first)
        kernel = choose(name, array)
        if kernel is not None:
            return kernel(*args, **kwargs)
        if is_torch(array):  # no warnings to silence, and torch.compile cannot trace np.errstate
            return formula(*args, **kwargs)
        with np.errstate(all="ignore"):
            return formula(*args, **kwargs)

    return front
