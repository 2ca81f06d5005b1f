"""The array libraries every promise is tested on, each with the same five verbs."""

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
    """A library that differentiates."""

    compiled: bool = False

    def gradient(self, function, values, cotangent=1.0):
        """The gradient of ``sum(cotangent * function(x))`` at ``x``, as NumPy."""
        x = self.of(values)
        if self.package == "torch":
            import torch

            x.requires_grad_()
            y = function(x)
            seed = torch.ones_like(y) * self.of(cotangent)
            return torch.autograd.grad(y, x, seed, materialize_grads=True)[0].numpy()
        import jax

        def pulled(x):
            y, pull = jax.vjp(function, x)
            return pull(jax.numpy.ones_like(y) * self.of(cotangent))[0]

        return np.asarray((jax.jit(pulled) if self.compiled else pulled)(x))


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
    JAX,
]
DIFFERENTIABLE = [TORCH, TORCH_32, JAX_JIT, JAX_JIT_64]
