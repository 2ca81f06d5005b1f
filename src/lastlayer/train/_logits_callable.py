"""Any function of a batch, of JAX for instance: only its author knows what it gives, so ``kind=`` says it."""

import sys

from lastlayer._array import is_torch
from lastlayer.train._logits_reading import Reading, applied


def reading(function, asked):
    name = getattr(function, "__name__", None) or type(function).__name__
    return Reading(lambda X: applied(function, _placed(X, asked.device)), name, batch=1024)


def _placed(X, device):
    if device is None:
        return X
    if is_torch(X):
        return X.to(device)
    if "jax" not in sys.modules:
        raise ValueError("logits_of: device= of a function is for JAX and for tensors; NumPy arrays have none.")
    jax = sys.modules["jax"]
    return jax.device_put(X, jax.devices(device)[0] if isinstance(device, str) else device)
