"""The libraries, each by the public function best suited to the question, called as its users call it.

A subject maps our names to its functions. What a library does not have is left out; a form of a function it does not
have raises NotImplementedError. Both are "not offered". A gradient is that of the library's own automatic
differentiation, so scipy, sklearn and torchmetrics, which measure, have none to offer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lastlayer import loss, transform
from lastlayer._check import MissingExtra, one_of
from lastlayer.conformance.arrays import ON, library, package


@dataclass(frozen=True)
class Subject:
    """A library under test: ``functions`` take arrays of the library ``on``."""

    name: str
    on: str
    versions: dict
    functions: dict[str, Callable]


def subjects(name):
    """The subjects of that name: one, or lastlayer on every array library that is installed."""
    one_of("conformance", "subject", name, tuple(SUBJECTS))
    return SUBJECTS[name]()


def _version(*names):
    return {name: package(name, f"conformance of {name}").__version__ for name in names}


def _lastlayer():
    from lastlayer import __version__

    functions = {
        name: getattr(module, name) for module, names in _OURS.items() for name in names if hasattr(module, name)
    }
    found = []
    for on in ON:
        try:
            library(on)
        except MissingExtra:
            continue
        found.append(Subject(f"lastlayer {on}", on, {"lastlayer": __version__} | _version(on), functions))
    return found


_OURS = {
    transform: (
        "softmax log_softmax logsumexp logaddexp entropy sigmoid log_sigmoid softplus logit log1mexp sparsemax entmax"
    ).split(),
    loss: ("cross_entropy", "binary_cross_entropy"),
}


def _torch():
    torch = package("torch", "conformance of torch")
    functional = torch.nn.functional

    def cross_entropy(logits, target, label_smoothing=0.0, class_weight=None, valid=None):
        if valid is not None:
            if target.is_floating_point():
                raise NotImplementedError("torch ignores rows by class index only")
            target = torch.where(valid, target, -100)
        return functional.cross_entropy(
            logits, target, weight=class_weight, label_smoothing=label_smoothing, reduction="none"
        )

    def binary_cross_entropy(logits, target, pos_weight=None, valid=None):
        if valid is not None:
            raise NotImplementedError("torch ignores no entries of a binary loss")
        return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")

    def entropy(logits):
        # without the check of values, which would refuse nan and empty rows
        return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()

    functions = {
        "softmax": lambda z: torch.softmax(z, -1),
        "log_softmax": lambda z: torch.log_softmax(z, -1),
        "logsumexp": lambda z: torch.logsumexp(z, -1),
        "logaddexp": torch.logaddexp,
        "entropy": entropy,
        "sigmoid": torch.sigmoid,
        "log_sigmoid": functional.logsigmoid,
        "softplus": functional.softplus,
        "logit": torch.logit,
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
    }
    return [Subject("torch", "torch", _version("torch"), functions)]


def _scipy():
    special, stats = package("scipy.special", "conformance of scipy"), package("scipy.stats", "conformance of scipy")
    functions = {
        "softmax": lambda z: special.softmax(z, axis=-1),
        "log_softmax": lambda z: special.log_softmax(z, axis=-1),
        "logsumexp": lambda z: special.logsumexp(z, axis=-1),
        "logaddexp": np.logaddexp,  # NumPy's, on which scipy stands
        "entropy": lambda z: stats.entropy(special.softmax(z, axis=-1), axis=-1),
        "sigmoid": special.expit,
        "log_sigmoid": special.log_expit,
        "logit": special.logit,
    }
    if hasattr(special, "softplus"):  # scipy 1.15
        functions["softplus"] = special.softplus
    return [Subject("scipy", "numpy", _version("scipy", "numpy"), functions)]


def _jax():
    jax = package("jax", "conformance of jax")
    special = package("jax.scipy.special", "conformance of jax")
    functions = {
        "softmax": jax.nn.softmax,
        "log_softmax": jax.nn.log_softmax,
        "logsumexp": lambda z: jax.nn.logsumexp(z, axis=-1),
        "logaddexp": jax.numpy.logaddexp,
        "entropy": lambda z: special.entr(jax.nn.softmax(z)).sum(-1),
        "sigmoid": jax.nn.sigmoid,
        "log_sigmoid": jax.nn.log_sigmoid,
        "softplus": jax.nn.softplus,
        "logit": special.logit,
    }
    if hasattr(jax.nn, "log1mexp"):  # jax 0.7.1; of the negated argument
        functions["log1mexp"] = lambda x: jax.nn.log1mexp(-x)
    return [Subject("jax", "jax", _version("jax"), functions)]


def _optax():
    jax, optax = package("jax", "conformance of optax"), package("optax", "conformance of optax")

    def cross_entropy(logits, target, label_smoothing=0.0, class_weight=None, valid=None):
        if class_weight is not None or valid is not None:
            raise NotImplementedError("optax weighs and ignores no rows")
        if jax.numpy.issubdtype(target.dtype, jax.numpy.integer):
            if not label_smoothing:
                return optax.softmax_cross_entropy_with_integer_labels(logits, target)
            target = jax.nn.one_hot(target, logits.shape[-1], dtype=logits.dtype)
        # the one of its two that takes 0 * inf as 0
        return optax.safe_softmax_cross_entropy(logits, optax.smooth_labels(target, label_smoothing))

    def binary_cross_entropy(logits, target, pos_weight=None, valid=None):
        if pos_weight is not None or valid is not None:
            raise NotImplementedError("optax weighs and ignores no entries")
        return optax.sigmoid_binary_cross_entropy(logits, target)

    functions = {
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
        "sparsemax": jax.vmap(optax.projections.projection_simplex),  # which it is
    }
    return [Subject("optax", "jax", _version("optax", "jax"), functions)]


def _sklearn():
    extmath, metrics = package("sklearn.utils.extmath", "conformance of sklearn"), package("sklearn.metrics", "")
    special = package("scipy.special", "conformance of sklearn")

    def softmax(logits):
        return extmath.softmax(logits, copy=True)

    def log_loss(target, probs):
        """It gives means, so each row is asked for by itself."""
        labels = np.arange(probs.shape[-1])
        return np.array([metrics.log_loss([y], p[None], labels=labels) for y, p in zip(target, probs, strict=True)])

    def cross_entropy(logits, target, label_smoothing=0.0, class_weight=None, valid=None):
        if target.dtype.kind == "f" or label_smoothing or class_weight is not None or valid is not None:
            raise NotImplementedError(
                "sklearn's log_loss takes class indices, without smoothing, weights or ignored rows"
            )
        return log_loss(target, softmax(logits))

    def binary_cross_entropy(logits, target, pos_weight=None, valid=None):
        if not np.isin(target, (0.0, 1.0)).all() or pos_weight is not None or valid is not None:
            raise NotImplementedError("sklearn's log_loss takes labels of 0 and 1, without weights or ignored entries")
        probs = np.stack([special.expit(-logits), special.expit(logits)], axis=-1)
        return log_loss(target.astype(int), probs)

    functions = {"softmax": softmax, "cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}
    return [Subject("sklearn", "numpy", {"scikit-learn": package("sklearn", "").__version__}, functions)]


def _torchmetrics():
    compute = package("torchmetrics.utilities.compute", "conformance of torchmetrics")

    def normalised(by):
        """What every one of its classification metrics does with logits first."""

        def function(logits):
            if logits.requires_grad:
                raise NotImplementedError("torchmetrics measures")
            return compute.normalize_logits_if_needed(logits, by)

        return function

    functions = {"softmax": normalised("softmax"), "sigmoid": normalised("sigmoid")}
    return [Subject("torchmetrics", "torch", _version("torchmetrics", "torch"), functions)]


SUBJECTS = {
    "torch": _torch,
    "scipy": _scipy,
    "jax": _jax,
    "optax": _optax,
    "sklearn": _sklearn,
    "torchmetrics": _torchmetrics,
    "lastlayer": _lastlayer,
}
