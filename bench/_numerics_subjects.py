"""Who is measured by `numerics.py`: every quantity as lastlayer writes it, and as one writes it with each peer.

A peer without a function for a quantity is given the formula that its users write, or is left out.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import array_api_compat
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F

import lastlayer as ll
from _numerics_exact import CAP, HOT, SMOOTHING, TEMPERATURE
from lastlayer import loss, transform

GRADIENTS = {  # quantity: the loss it is the gradient of
    "gradient at the target": "cross_entropy",
    "gradient of the row": "cross_entropy",
    "gradient at the target, temperature 0.7": "cross_entropy, temperature 0.7",
    "gradient, binary": "binary_cross_entropy",
}


class Library(NamedTuple):
    """``of(values, dtype)`` makes an array, ``numpy`` takes one back; ``run`` calls, ``gradient`` differentiates."""

    name: str
    dtypes: tuple[str, ...]
    of: Callable
    numpy: Callable
    run: Callable = lambda function, x, beside: function(x, beside)
    gradient: Callable | None = None
    context: Callable[[str], AbstractContextManager] = lambda dtype: nullcontext()


class Subject(NamedTuple):
    """``functions`` by quantity; ``whose`` is lastlayer or the peer, ``how`` tells apart the ways of one of them."""

    whose: str
    how: str
    library: Library
    functions: dict[str, Callable]
    dtypes: tuple[str, ...]
    longest: int = 256_000

    def __call__(self, block, dtype, wanted):
        """``(quantity, name of the dtype that came out, values as float64)``, one by one."""
        with self.library.context(dtype):
            x = self.library.of(block.x, dtype)
            beside = SimpleNamespace(**{name: self.library.of(v, dtype) for name, v in block.beside.items()})
            rows = np.arange(len(block.x))
            for name in wanted:
                base = GRADIENTS.get(name)
                if name in self.functions:
                    got = self.library.run(self.functions[name], x, beside)
                elif base in self.functions and self.library.gradient:
                    got = self.library.gradient(self.functions[base], x, beside)
                else:
                    continue
                values, came = self.library.numpy(got)
                if name.startswith("gradient at") and values.shape == block.x.shape:
                    values = values[rows, block.beside["target"]]
                yield name, came, values.reshape(len(rows), -1)


def _numpy_of(values, dtype):
    return values.astype(dtype) if values.dtype.kind == "f" else values


def _numpy_back(array):
    array = np.asarray(array)
    return array.astype(np.float64), array.dtype.name


def _torch_of(values, dtype):
    tensor = torch.from_numpy(np.array(values))
    return tensor.to(getattr(torch, dtype)) if values.dtype.kind == "f" else tensor


def _torch_back(tensor):
    tensor = tensor.detach()
    return tensor.double().numpy(), str(tensor.dtype).removeprefix("torch.")


def _torch_gradient(function, x, beside):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x, beside).sum(), x)[0]


def _jax_of(values, dtype):
    return jnp.asarray(values, dtype=dtype) if values.dtype.kind == "f" else jnp.asarray(values)


def _jax_run(function, x, beside):
    return jax.jit(lambda x, beside: function(x, SimpleNamespace(**beside)))(x, vars(beside))


def _jax_gradient(function, x, beside):
    return _jax_run(lambda x, beside: jax.grad(lambda z: function(z, beside).sum())(x), x, beside)


NUMPY = Library("numpy", ("float64", "float32", "float16"), _numpy_of, _numpy_back)
TORCH = Library(
    "torch", ("float64", "float32", "bfloat16", "float16"), _torch_of, _torch_back, gradient=_torch_gradient
)
JAX = Library(
    "jax",
    TORCH.dtypes,
    _jax_of,
    _numpy_back,
    _jax_run,
    _jax_gradient,
    lambda dtype: jax.enable_x64(dtype == "float64"),
)
JAX_EAGER = JAX._replace(run=NUMPY.run, gradient=None)

OURS = {
    "softmax": lambda x, b: transform.softmax(x),
    "softmax, temperature 0.7": lambda x, b: transform.softmax(x, temperature=TEMPERATURE),
    "softmax, base 2": lambda x, b: transform.softmax(x, base=2.0),
    "log_softmax": lambda x, b: transform.log_softmax(x),
    "log_softmax, temperature 0.7": lambda x, b: transform.log_softmax(x, temperature=TEMPERATURE),
    "log_softmax, base 2": lambda x, b: transform.log_softmax(x, base=2.0),
    "logsumexp": lambda x, b: transform.logsumexp(x),
    "energy, temperature 2": lambda x, b: transform.energy(x, temperature=HOT),
    "max_logit": lambda x, b: transform.max_logit(x),
    "entropy": lambda x, b: transform.entropy(x),
    "log_odds": lambda x, b: transform.log_odds(x),
    "top2_gap": lambda x, b: transform.top2_gap(x),
    "sparsemax": lambda x, b: transform.sparsemax(x),
    "entmax, alpha 1.5": lambda x, b: transform.entmax(x, 1.5),
    "standardize": lambda x, b: transform.standardize(x),
    "standardize, zscore": lambda x, b: transform.standardize(x, how="zscore"),
    "pool": lambda x, b: transform.pool([x, x / 2]),
    "pool, linear": lambda x, b: transform.pool([x, x / 2], how="linear"),
    "adjust_prior": lambda x, b: transform.adjust_prior(x, b.source, b.prior),
    "cross_entropy": lambda x, b: loss.cross_entropy(x, b.target),
    "cross_entropy, temperature 0.7": lambda x, b: loss.cross_entropy(x, b.target, temperature=TEMPERATURE),
    "cross_entropy, distribution": lambda x, b: loss.cross_entropy(x, b.share),
    "cross_entropy, smoothing 0.1": lambda x, b: loss.cross_entropy(x, b.target, label_smoothing=SMOOTHING),
    "top_k_cross_entropy": lambda x, b: loss.top_k_cross_entropy(x, b.few, b.few_share),
    "sigmoid": lambda x, b: transform.sigmoid(x),
    "log_sigmoid": lambda x, b: transform.log_sigmoid(x),
    "softplus": lambda x, b: transform.softplus(x),
    "logit": lambda x, b: transform.logit(b.p),
    "log1mexp": lambda x, b: transform.log1mexp(b.logp),
    "softcap, 30": lambda x, b: transform.softcap(x, CAP),
    "logaddexp": lambda x, b: transform.logaddexp(x, b.other),
    "binary_cross_entropy": lambda x, b: loss.binary_cross_entropy(x, b.y),
}
PYTORCH = {
    "softmax": lambda x, b: F.softmax(x, -1),
    "softmax, temperature 0.7": lambda x, b: F.softmax(x / TEMPERATURE, -1),
    "log_softmax": lambda x, b: F.log_softmax(x, -1),
    "log_softmax, temperature 0.7": lambda x, b: F.log_softmax(x / TEMPERATURE, -1),
    "logsumexp": lambda x, b: torch.logsumexp(x, -1),
    "energy, temperature 2": lambda x, b: -HOT * torch.logsumexp(x / HOT, -1),
    "entropy": lambda x, b: torch.distributions.Categorical(logits=x, validate_args=False).entropy(),
    "cross_entropy": lambda x, b: F.cross_entropy(x, b.target, reduction="none"),
    "cross_entropy, temperature 0.7": lambda x, b: F.cross_entropy(x / TEMPERATURE, b.target, reduction="none"),
    "cross_entropy, distribution": lambda x, b: F.cross_entropy(x, b.share, reduction="none"),
    "cross_entropy, smoothing 0.1": lambda x, b: F.cross_entropy(
        x, b.target, reduction="none", label_smoothing=SMOOTHING
    ),
    "sigmoid": lambda x, b: torch.sigmoid(x),
    "log_sigmoid": lambda x, b: F.logsigmoid(x),
    "softplus": lambda x, b: F.softplus(x),
    "logit": lambda x, b: torch.logit(b.p),
    "softcap, 30": lambda x, b: CAP * torch.tanh(x / CAP),
    "logaddexp": lambda x, b: torch.logaddexp(x, b.other),
    "binary_cross_entropy": lambda x, b: F.binary_cross_entropy_with_logits(x, b.y, reduction="none"),
}
SCIPY = {
    "softmax": lambda x, b: scipy.special.softmax(x, -1),
    "softmax, temperature 0.7": lambda x, b: scipy.special.softmax(x / TEMPERATURE, -1),
    "log_softmax": lambda x, b: scipy.special.log_softmax(x, -1),
    "log_softmax, temperature 0.7": lambda x, b: scipy.special.log_softmax(x / TEMPERATURE, -1),
    "logsumexp": lambda x, b: scipy.special.logsumexp(x, -1),
    "energy, temperature 2": lambda x, b: -HOT * scipy.special.logsumexp(x / HOT, -1),
    "entropy": lambda x, b: scipy.stats.entropy(scipy.special.softmax(x, -1), axis=-1),
    "cross_entropy": lambda x, b: -_chosen(scipy.special.log_softmax(x, -1), b.target),
    "cross_entropy, temperature 0.7": lambda x, b: -_chosen(scipy.special.log_softmax(x / TEMPERATURE, -1), b.target),
    "gradient at the target": lambda x, b: _chosen(scipy.special.softmax(x, -1), b.target) - 1,
    "sigmoid": lambda x, b: scipy.special.expit(x),
    "log_sigmoid": lambda x, b: scipy.special.log_expit(x),
    "softplus": lambda x, b: np.logaddexp(x.dtype.type(0), x),
    "logit": lambda x, b: scipy.special.logit(b.p),
    "logaddexp": lambda x, b: np.logaddexp(x, b.other),
    "binary_cross_entropy": lambda x, b: -scipy.special.log_expit(np.where(b.y, x, -x)),
    "gradient, binary": lambda x, b: scipy.special.expit(x) - b.y,
}
JAX_NN = {
    "softmax": lambda x, b: jax.nn.softmax(x),
    "softmax, temperature 0.7": lambda x, b: jax.nn.softmax(x / TEMPERATURE),
    "log_softmax": lambda x, b: jax.nn.log_softmax(x),
    "log_softmax, temperature 0.7": lambda x, b: jax.nn.log_softmax(x / TEMPERATURE),
    "logsumexp": lambda x, b: jax.nn.logsumexp(x, -1),
    "energy, temperature 2": lambda x, b: -HOT * jax.nn.logsumexp(x / HOT, -1),
    "standardize, zscore": lambda x, b: jax.nn.standardize(x, epsilon=0.0),
    "cross_entropy": lambda x, b: -_chosen(jax.nn.log_softmax(x), b.target),
    "cross_entropy, temperature 0.7": lambda x, b: -_chosen(jax.nn.log_softmax(x / TEMPERATURE), b.target),
    "sigmoid": lambda x, b: jax.nn.sigmoid(x),
    "log_sigmoid": lambda x, b: jax.nn.log_sigmoid(x),
    "softplus": lambda x, b: jax.nn.softplus(x),
    "logit": lambda x, b: jax.scipy.special.logit(b.p),
    "log1mexp": lambda x, b: jax.nn.log1mexp(-b.logp),
    "softcap, 30": lambda x, b: CAP * jnp.tanh(x / CAP),
    "logaddexp": lambda x, b: jnp.logaddexp(x, b.other),
    "binary_cross_entropy": lambda x, b: -jax.nn.log_sigmoid(jnp.where(b.y == 1, x, -x)),
}


def _optax(losses: Any):
    index, soft = losses.softmax_cross_entropy_with_integer_labels, losses.softmax_cross_entropy
    return {
        "cross_entropy": lambda x, b: index(x, b.target),
        "cross_entropy, temperature 0.7": lambda x, b: index(x / TEMPERATURE, b.target),
        "cross_entropy, distribution": lambda x, b: soft(x, b.share),
        "cross_entropy, smoothing 0.1": lambda x, b: soft(
            x, losses.smooth_labels(jax.nn.one_hot(b.target, x.shape[-1], dtype=x.dtype), SMOOTHING)
        ),
        "binary_cross_entropy": lambda x, b: losses.sigmoid_binary_cross_entropy(x, b.y),
    }


def _chosen(x, target):
    return x[np.arange(len(x)), target]


def kernel(x, b):
    """The loss by the compiled loop that finds all statistics of a row at once, or by its formula in `ll.formulas`."""
    return -ll.row_stats(x, ("logp", "entropy", "rank"), b.target)["logp"]


def formula(x, b):
    with ll.formulas():
        return kernel(x, b)


def merged(width):
    """Max and rest of each tile of so many classes, joined by `merge_logsumexp`: then loss and slope are two lines."""

    def whole(x):
        xp = array_api_compat.array_namespace(x)
        count = -(-x.shape[1] // width)
        padding = xp.full((x.shape[0], count * width - x.shape[1]), -xp.inf, dtype=x.dtype)
        tiles = transform.logsumexp_parts(xp.reshape(xp.concat([x, padding], axis=1), (x.shape[0], count, width)))
        pieces = (transform.LogSumExpParts(tiles.max[:, i], tiles.rest[:, i]) for i in range(count))
        return transform.merge_logsumexp(*pieces), xp

    def cost(x, b):
        (largest, rest), xp = whole(x)
        return (largest - _chosen(x, b.target)) + xp.log1p(rest)

    def slope(x, b):
        (largest, rest), xp = whole(x)
        z = _chosen(x, b.target)
        return xp.where(z == largest, -rest / (1 + rest), xp.exp(z - largest) / (1 + rest) - 1)

    return {"cross_entropy": cost, "gradient at the target": slope}


def subjects():
    """All of them; optax only where it is installed."""
    both = ("float64", "float32")
    found = [Subject("lastlayer", library.name, library, OURS, library.dtypes) for library in (NUMPY, TORCH, JAX)]
    found.append(Subject("lastlayer", "row_stats, kernel", NUMPY, {"cross_entropy": kernel}, both, longest=32_000))
    found.append(Subject("lastlayer", "row_stats, formula", NUMPY, {"cross_entropy": formula}, both, longest=1_000))
    for library in (NUMPY, TORCH._replace(gradient=None), JAX_EAGER):
        for width in (8, 512, 2048):
            longest = 1_000 if width == 8 and library is not NUMPY else 256_000
            found.append(
                Subject("lastlayer", f"{library.name}, tiles of {width}", library, merged(width), both, longest)
            )
    found += [
        Subject("PyTorch", "", TORCH, PYTORCH, TORCH.dtypes),
        Subject("SciPy", "", NUMPY, SCIPY, both),
        Subject("JAX", "", JAX, JAX_NN, JAX.dtypes),
    ]
    try:
        import optax.losses
    except ModuleNotFoundError:
        print("optax is not installed: left out", file=sys.stderr)
        return found
    return [*found, Subject("optax", "", JAX, _optax(optax.losses), JAX.dtypes)]
