"""Evaluating a case on an array library: plain numbers in, plain numbers out, gradients by the library itself."""

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import MissingExtra, one_of

ON = ("numpy", "torch", "jax")
_ON_PYPI = {"sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Library:
    """What a case needs of an array library."""

    make: Callable  # (a NumPy array, the name of a dtype) -> an array of the library
    value: Callable  # (function, x, rest, settings) -> function(x, *rest, **settings)
    gradient: Callable | None  # the same -> the gradient of its sum at x
    context: Callable[[], AbstractContextManager]


def package(name, purpose) -> Any:
    """Import a package that is optional here, or say how to get it."""
    top = name.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        raise MissingExtra(f"{purpose} needs {top}: pip install {_ON_PYPI.get(top, top)}")
    return importlib.import_module(name)


@functools.cache
def library(on):
    """The array library of that name."""
    one_of("conformance", "on", on, ON)
    return {"numpy": _numpy, "torch": _torch, "jax": _jax}[on]()


def _called(function, x, rest, settings):
    return function(x, *rest, **settings)


def _numpy():
    def make(array, dtype):
        if dtype == "bfloat16":
            raise NotImplementedError("NumPy has no bfloat16")
        return array.astype(dtype)

    return Library(make, _called, None, lambda: np.errstate(all="ignore"))


def _torch():
    torch = package("torch", "conformance on torch")

    def make(array, dtype):
        return torch.tensor(array).to(getattr(torch, dtype))

    def gradient(function, x, rest, settings):
        x.requires_grad_()
        y = function(x, *rest, **settings)
        return torch.autograd.grad(y, x, torch.ones_like(y), materialize_grads=True)[0]

    return Library(make, _called, gradient, torch.enable_grad)


def _jax():
    """Compiled, as JAX is used; cases of one shape share the compilation."""
    jax = package("jax", "conformance on jax")

    def make(array, dtype):
        return jax.numpy.asarray(array).astype(dtype)

    @functools.lru_cache(maxsize=64)
    def compiled(function, differentiated, fixed):
        def pulled(x, *rest, **settings):
            y, pull = jax.vjp(lambda z: function(z, *rest, **settings), x)
            return pull(jax.numpy.ones_like(y))[0]

        return jax.jit(pulled if differentiated else function, static_argnames=fixed)

    def evaluated(differentiated):
        def evaluate(function, x, rest, settings):
            fixed = tuple(name for name, value in settings.items() if isinstance(value, int | float))
            return compiled(function, differentiated, fixed)(x, *rest, **settings)

        return evaluate

    return Library(make, evaluated(False), evaluated(True), lambda: jax.enable_x64(True))


def evaluate(case, function, on):
    """What ``function`` gives for a case, as a flat list of floats."""
    chosen = library(on)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(chosen.context())
        x, *rest = (_array(chosen, values, case.dtype) for values in case.arguments)
        settings = {name: _array(chosen, value, case.dtype) for name, value in case.settings.items()}
        if case.asks == "value":
            return _floats(chosen.value(function, x, rest, settings))
        if chosen.gradient is None:
            raise NotImplementedError(f"{on} has no gradients")
        gradient = _floats(chosen.gradient(function, x, rest, settings))
    if case.asks == "gradient":
        return gradient
    return [math.fsum(gradient) if all(map(math.isfinite, gradient)) else math.nan]


def _array(chosen, value, dtype):
    """Lists as arrays: whole numbers and booleans as they are, the others in the dtype of the case."""
    if not isinstance(value, list):
        return value
    array = np.array(value)
    return chosen.make(array, dtype if array.dtype.kind == "f" else array.dtype.name)


def _floats(result):
    return np.asarray(to_numpy(result), np.float64).reshape(-1).tolist()
