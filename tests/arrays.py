"""The array libraries every promise is tested on, each with the same five verbs."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Library:
    """``of`` makes an array of NumPy's values, with floats as ``dtype``; ``numpy`` takes one back."""

    name: str
    package: str
    make: Callable
    dtype: str = "float64"
    context: Callable[[], AbstractContextManager] = nullcontext

    def __str__(self):
        return self.name

    @property
    def eps(self):
        return float(np.finfo(self.dtype).eps)

    def of(self, values):
        array = np.array(values)
        return self.make(array.astype(self.dtype) if array.dtype.kind == "f" else array)

    def numpy(self, array):
        if self.package == "array_api_strict":
            return np.from_dlpack(array)
        return np.asarray(array)

    def run(self, function, values, target=None):
        """``function(x)``, or ``function(x, target)``, back as NumPy."""
        return self.numpy(function(self.of(values), *self._fixed(target)))

    def _fixed(self, target):
        return () if target is None else (self.of(target),)

    def require(self):
        pytest.importorskip(self.package, reason=f"pip install {self.package.replace('_', '-')}")


def read_only(array):
    array.flags.writeable = False
    return array


def fortran(array):
    return np.array(array, order="F")


def strict(array):
    import array_api_strict

    return array_api_strict.asarray(array)


def torch_tensor(array):
    import torch

    return torch.from_numpy(np.array(array))


def jax_array(array):
    import jax.numpy as jnp

    return jnp.asarray(array)


def wide_jax():
    import jax

    return jax.enable_x64(True)


@dataclass(frozen=True)
class Differentiable(Library):
    """A library that differentiates; ``compiled`` JAX traces a function once for each shape."""

    compiled: bool = False

    def run(self, function, values, target=None):
        return super().run(jitted(function) if self.compiled else function, values, target)

    def gradient(self, function, values, target=None, cotangent=1.0):
        """The gradient of ``sum(cotangent * function(x, target))`` at ``x``, as NumPy."""
        x, fixed, cotangent = self.of(values), self._fixed(target), self.of(cotangent)
        if self.package == "jax":
            return np.asarray((jitted if self.compiled else lambda f: f)(pullback(function))(x, cotangent, *fixed))
        import torch

        x.requires_grad_()
        y = function(x, *fixed)
        return torch.autograd.grad(y, x, torch.ones_like(y) * cotangent, materialize_grads=True)[0].numpy()


@functools.cache
def jitted(function):
    import jax

    return jax.jit(lambda *args: function(*args))


@functools.cache
def pullback(function):
    import jax

    def pulled(x, cotangent, *fixed):
        y, pull = jax.vjp(lambda z: function(z, *fixed), x)
        return pull(jax.numpy.ones_like(y) * cotangent)[0]

    return pulled


TORCH = Differentiable("torch", "torch", torch_tensor)
TORCH_32 = Differentiable("torch-float32", "torch", torch_tensor, dtype="float32")
JAX = Differentiable("jax", "jax", jax_array, dtype="float32")
JAX_JIT = Differentiable("jax-jit", "jax", jax_array, dtype="float32", compiled=True)
JAX_JIT_64 = Differentiable("jax-jit-float64", "jax", jax_array, context=wide_jax, compiled=True)

LIBRARIES = [
    Library("numpy", "numpy", np.array),
    Library("numpy-float32", "numpy", np.array, dtype="float32"),
    Library("numpy-read-only", "numpy", read_only),
    Library("numpy-fortran", "numpy", fortran),
    Library("strict", "array_api_strict", strict),
    TORCH,
    TORCH_32,
    JAX_JIT,
]
DIFFERENTIABLE = [TORCH, TORCH_32, JAX_JIT]
