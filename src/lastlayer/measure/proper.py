"""Proper scores besides nll and the Brier score, each a loss: 0 is perfect."""

import numpy as np

from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import mean_of, outputs_of, probs_and_onehot
from lastlayer.measure.metric import Metric
from lastlayer.transform import sigmoid, softmax


def spherical_score(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Spherical score as a loss: 1 less the cosine between the probabilities and the class that came true.

        spherical_score = mean of 1 - p_y / sqrt(sum_k p_k^2)

    Roby 1965; without the ``1 -`` in Gneiting and Raftery 2007. Between 0 and 1; multilabel: the sum over
    labels. A target that is a distribution takes its expectation. A confident right row keeps its digits.

    >>> float(spherical_score([[0.0, 0.0, 0.0, 0.0]], [1]))
    0.5
    """
    rows = outputs_of(logits, target, weight)
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task == "multiclass":
        p, hit = softmax(z), probs_and_onehot(rows)[1]
    else:
        p, hit = np.stack([sigmoid(-z), sigmoid(z)], -1), np.stack([1 - rows.target, rows.target], -1)
    top = np.arange(p.shape[-1]) == p.argmax(-1)[..., None]
    others = (np.where(top, 0.0, p) ** 2).sum(-1, keepdims=True)
    largest = p.max(-1, keepdims=True)
    length = np.sqrt(largest**2 + others)
    # 1 - p / length = (length^2 - p^2) / (length (length + p)): at the top one the difference is the others' squares.
    missed = np.where(top, others, others + (largest - p) * (largest + p))
    losses = (hit * missed / (length * (length + p))).sum(-1)
    return mean_of(losses.reshape(len(rows), -1).sum(-1), rows, low=0.0)


def ranked_probability_score(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Ranked probability score, for classes in an order: a miss costs more the further it is from the truth.

        ranked_probability_score = mean of sum_(k < K - 1) (P(class <= k) - 1[y <= k])^2

    Epstein 1969, Murphy 1971; without the division by K - 1 that some software has. The order is that of the columns.
    Binary: the Brier score ``(p - y)^2``. The target may also be a distribution over the classes.

    >>> z = np.log([[0.7, 0.2, 0.1]])
    >>> [round(float(ranked_probability_score(z, [y])), 4) for y in range(3)]
    [0.1, 0.5, 1.3]
    """
    rows = outputs_of(logits, target, weight)
    if rows.task == "multilabel":
        raise ValueError("ranked_probability_score: labels have no order; it is for classes, one target per row.")
    p, hit = probs_and_onehot(rows)
    gap = np.cumsum(p - hit, -1)[:, :-1] if p.ndim == 2 else (p - hit)[:, None]
    return mean_of((gap**2).sum(-1), rows, low=0.0)
