"""Namespaces, devices, dtypes and axes: the only file that knows which array libraries exist.

Nothing is imported to find out: an array's library is already loaded, so it is looked up in ``sys.modules``.
"""

import importlib
import sys
from typing import Any

import numpy as np

from lastlayer._typing import Array

_HALF = ("float16", "bfloat16")
_NUMPY = (np.ndarray, np.generic)  # a name: torch.compile cannot trace the union


def dtype_name(x):
    """``"float32"``, whatever the library calls it, and in whichever order the bytes lie."""
    return x.dtype.name if isinstance(x, _NUMPY) else str(x.dtype).rpartition(".")[2]


def namespace(x) -> Any:
    """The array-API namespace of ``x``: NumPy itself, array_api_compat's for PyTorch, the array's own otherwise."""
    if isinstance(x, _NUMPY):
        return np
    if is_torch(x):
        return importlib.import_module("array_api_compat.torch")
    import array_api_compat

    return array_api_compat.array_namespace(x)


def as_array(x, like=None) -> Array:
    """``x`` if it is an array of some library, else a NumPy array; beside ``like``, one of its library and device."""
    foreign = (hasattr(x, "__array_namespace__") or is_torch(x)) and not isinstance(x, _NUMPY)
    if like is None:
        return x if foreign else np.asarray(x)
    if isinstance(like, _NUMPY):
        return to_numpy(x)
    if foreign:
        return x
    import array_api_compat

    # a copy: PyTorch warns where it would share the memory of a read-only array
    return namespace(like).asarray(np.array(x), device=array_api_compat.device(like))


def floating(x, like=None) -> Array:
    """``x`` as an array to compute with: integers become the default float, bfloat16 and float16 become float32."""
    x = as_array(x, like)
    xp = namespace(x)
    name = dtype_name(x)
    if name in _HALF:
        return xp.astype(x, xp.float32)
    if not name.startswith("float"):
        if name == "bool":
            raise TypeError("logits are numbers, not booleans; a mask belongs in `valid=` or in -inf entries.")
        if name.startswith("complex"):
            raise TypeError(f"logits are real numbers, not {name}.")
        return xp.astype(x, xp.float64 if xp is np else xp.asarray(1.0).dtype)
    return x


def together(*arrays):
    """Arrays to compute with, of one library and dtype, and their namespace; plain numbers take those of the arrays."""
    given = [x for x in arrays if hasattr(x, "dtype")] or [as_array(x) for x in arrays]
    found = [floating(x, like=given[0]) for x in arrays]
    xp = namespace(found[0])
    dtype = xp.result_type(*(floating(x, like=given[0]) for x in given))
    return [xp.astype(x, dtype) for x in found], xp


def two_floats(exact, like) -> tuple[float, float]:
    """A number (a Fraction, a Decimal or a float) as the sum of two floats, the first of the dtype of ``like``."""
    high = float(np.float32(float(exact))) if dtype_name(like) == "float32" else float(exact)
    return high, float(exact - type(exact)(high))


def two_arrays(array, like) -> tuple[Array, Array]:
    """``array`` as the sum of two arrays of the library and dtype of ``like``."""
    xp = namespace(array)
    dtype = np.dtype(dtype_name(like)) if xp is np else like.dtype
    high = xp.astype(array, dtype)
    low = xp.astype(array - xp.astype(high, array.dtype), dtype)
    return as_array(high, like=like), as_array(low, like=like)


def restore(y, like) -> Array:
    """``y`` in the floating dtype that ``like`` came with, in our byte order (halves are computed in float32)."""
    if hasattr(like, "dtype") and dtype_name(like) in _HALF:
        xp = namespace(y)
        return xp.astype(y, like.dtype.newbyteorder("=") if xp is np else like.dtype)
    return y


def is_torch(x):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_jax(x):
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def readable(x):
    """Whether a check may look at the values: a NumPy array, or a PyTorch tensor on the CPU that nobody traces.

    A traced array has no values yet, and one on a GPU would have to be waited for.
    """
    if not is_torch(x):
        return isinstance(x, _NUMPY)
    torch = sys.modules["torch"]
    plain = type(x) is torch.Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def iterate(step, state, times) -> Any:
    """``step(state, i)`` from ``state`` on, until it says that nothing moves any more, at most so many ``times``.

    A step gives the next state, an array or a tuple of some, and what moves. Where nobody may look all the steps are
    taken; under JAX's tracing as one loop, which compiles in the time of a single step. For constants of the
    differentiation.
    """
    first = state[0] if isinstance(state, tuple) else state
    if is_jax(first) and isinstance(first, sys.modules["jax"].core.Tracer):
        return sys.modules["jax"].lax.fori_loop(0, times, lambda i, last: step(last, i)[0], state)
    for i in range(times):
        state, moving = step(state, i)
        if readable(moving) and not bool(moving.any()):
            break
    return state


def stop_gradient(x) -> Array:
    """``x`` as a constant of the differentiation."""
    if is_torch(x):
        return x.detach()
    if is_jax(x):
        return sys.modules["jax"].lax.stop_gradient(x)
    return x


def take(x, index, xp) -> Array:
    """``x[..., index]`` row by row, for an index of shape ``(*batch,)``."""
    return xp.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def arange_like(x, xp) -> Array:
    """``0 .. n-1`` along the last axis of ``x``, on its device."""
    if xp is np:
        return np.arange(x.shape[-1])
    import array_api_compat

    return xp.arange(x.shape[-1], device=array_api_compat.device(x))


def last_axis(x, axis, xp) -> Array:
    """``x`` with ``axis`` moved to the end."""
    return x if axis in (-1, x.ndim - 1) else xp.moveaxis(x, axis, -1)


def to_numpy(x):
    """Any array, tensor, column or nested list as a NumPy array; bfloat16 becomes float32, which is exact."""
    if isinstance(x, np.ndarray):
        return x
    if is_torch(x):
        x = x.detach().cpu()
        return x.float().numpy() if str(x.dtype) == "torch.bfloat16" else x.numpy()
    if hasattr(x, "__array__") or not hasattr(x, "__dlpack__"):
        array = np.asarray(x)
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    return np.from_dlpack(x)
