"""The losses of the gallery, by family: the curves that `gallery` draws, and what they are drawn against.

A curve takes a tensor of numbers and gives a loss for each. What a loss is, its formula and (where it says so) its "Use
it" are those of its docstring.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lastlayer.loss.binary import binary_cross_entropy, multilabel_cross_entropy
from lastlayer.loss.contrastive import clip, info_nce, nt_xent, sup_con
from lastlayer.loss.contrastive_pairs import siglip, triplet
from lastlayer.loss.cross_entropy import cross_entropy
from lastlayer.loss.distillation import distill
from lastlayer.loss.fenchel_young import fenchel_young
from lastlayer.loss.focal import asymmetric, binary_focal, focal, poly
from lastlayer.loss.imbalance import balanced_softmax, ldam, logit_adjusted
from lastlayer.loss.listwise import list_mle, list_net
from lastlayer.loss.margin import am_softmax, arcface, multiclass_hinge
from lastlayer.loss.ordinal import coral, cumulative_link
from lastlayer.loss.penalty import confidence_penalty, dca, mmce, soft_ece
from lastlayer.loss.policy import grpo, kl_to_reference, ppo, reinforce, reinforce_leave_one_out
from lastlayer.loss.preference import dpo, ipo, kto, orpo, simpo
from lastlayer.loss.ranking import bpr, lambda_rank, pair_hinge, rank_net, warp
from lastlayer.loss.sampled import gbce, in_batch, sampled_softmax
from lastlayer.loss.teacher import top_k_cross_entropy

NO_CURVE = {"mean", "class_balanced_weights", "policy_logp", "sequence_logp"}  # averages, weights, log-probabilities


@dataclass(frozen=True)
class Loss:
    """A loss, its curves by name (each takes a tensor and gives a loss per number), and what they are drawn against."""

    function: Callable
    axis: str
    curves: dict[str, Callable] | Callable
    reach: tuple[float, float] = (-8, 8)
    use: str = ""  # where the docstring does not say it

    @property
    def name(self):
        return self.function.__name__

    @property
    def named(self):
        """The curves by name; a single one needs none."""
        return {"": self.curves} if callable(self.curves) else self.curves


def row(z, *others):
    """Rows of logits ``[z, *others]``."""
    return torch.stack([z, *(torch.full_like(z, other) for other in others)], -1)


def every(z, what):
    """The target ``what``, for each number."""
    return np.zeros((len(z), *np.shape(what)), np.asarray(what).dtype) + np.asarray(what)


def first(z):
    return every(z, 0)


def three_of_four(loss):
    """A measure of a batch of four equal rows ``[z, 0]``, of which three are of the first class, for each z."""
    target = np.array([0, 0, 0, 1])
    return lambda z: torch.stack([loss(one.expand(4, 2), target) for one in row(z, 0.0)])


def of_four_views(z):
    pairs = torch.tensor(np.roll(np.eye(4), 2, axis=0))
    return nt_xent(z[:, None, None] * pairs, temperature=1.0)[:, 0]


def of_two_pairs(z):
    return clip(z[:, None, None] * torch.eye(2, dtype=z.dtype), temperature=1.0)[:, 0]


def of_two_positives(z):
    return sup_con(row(z, 0.0, 0.0)[:, None, :], every(z, [0]), every(z, [0, 0, 1]), temperature=1.0)[:, 0]


def of_pair(loss, **settings):
    """A loss of log-probabilities of a chosen and a rejected sequence: the chosen has gained z on the reference."""

    def curve(z):
        fixed = torch.full_like(z, -80)
        return loss(z - 80, fixed, fixed, fixed, **settings)

    return curve


def of_members(loss, other):
    """A loss of two members of a group, rewarded with 1 and 0: of each at z, the other at ``other``."""

    def of(k):
        return lambda z: loss(row(z, other).roll(k, -1), every(z, [1, 0]))[:, k]

    return {"the better": of(0), "the worse": of(1)}


def grpo_from_zero(logp, reward):
    return grpo(logp, torch.zeros_like(logp), reward)


TARGET = "logit of the target, the other at 0"
COSINE = "cosine of the target, the other at 0"
GAINED = "log-ratio of the chosen, less the rejected"
SHARED = "logit of the class of three rows in four, the other at 0"
RATIO = "log-probability of the action, less the old"

FAMILIES = {
    "Classes": [
        Loss(
            cross_entropy,
            TARGET,
            {
                "": lambda z: cross_entropy(row(z, 0.0), first(z)),
                "label_smoothing=0.1": lambda z: cross_entropy(row(z, 0.0), first(z), label_smoothing=0.1),
                "temperature=2": lambda z: cross_entropy(row(z, 0.0), first(z), temperature=2.0),
            },
            use="Use it for one class of several, unless you know why not.",
        ),
        Loss(
            binary_cross_entropy,
            "logit",
            {
                "target 1": lambda z: binary_cross_entropy(z, every(z, 1)),
                "target 0": lambda z: binary_cross_entropy(z, first(z)),
            },
            use="Use it for yes or no, and for each label on its own.",
        ),
        Loss(
            multilabel_cross_entropy,
            "logit of a label that is there, one that is not at 0",
            lambda z: multilabel_cross_entropy(row(z, 0.0), every(z, [1, 0])),
            use="Use it where a row may have several labels, or none.",
        ),
        Loss(
            poly,
            TARGET,
            {
                "epsilon=1": lambda z: poly(row(z, 0.0), first(z)),
                "epsilon=-0.5": lambda z: poly(row(z, 0.0), first(z), epsilon=-0.5),
            },
        ),
        Loss(
            fenchel_young,
            TARGET,
            {
                kind: lambda z, kind=kind: fenchel_young(row(z, 0.0), first(z), regularizer=kind)
                for kind in ("softmax", "sparsemax", "entmax")
            },
        ),
    ],
    "A teacher": [
        Loss(
            distill,
            "logit of the student, the other at 0; the teacher: 2, 0",
            {
                kind: lambda z, kind=kind: distill(row(z, 0.0), z.new_tensor([2.0, 0.0]).expand(len(z), 2), kind=kind)
                for kind in ("forward", "reverse", "jensen_shannon")
            },
            use="Use it to train a small model on the logits of a large one.",
        ),
        Loss(
            top_k_cross_entropy,
            "logit of the class that is named with 0.9, two others at 0",
            lambda z: top_k_cross_entropy(row(z, 0.0, 0.0), every(z, [0]), every(z, [0.9])),
            use="Use it when only the largest probabilities of the teacher were kept.",
        ),
    ],
    "Few positives, rare classes": [
        Loss(focal, TARGET, lambda z: focal(row(z, 0.0), first(z))),
        Loss(
            binary_focal,
            "logit",
            {"target 1": lambda z: binary_focal(z, every(z, 1)), "target 0": lambda z: binary_focal(z, first(z))},
        ),
        Loss(
            asymmetric,
            "logit",
            {"target 1": lambda z: asymmetric(z, every(z, 1)), "target 0": lambda z: asymmetric(z, first(z))},
        ),
        Loss(
            logit_adjusted,
            TARGET,
            {
                "prior 0.01": lambda z: logit_adjusted(row(z, 0.0), first(z), [0.01, 0.99]),
                "prior 0.99": lambda z: logit_adjusted(row(z, 0.0), first(z), [0.99, 0.01]),
            },
        ),
        Loss(
            balanced_softmax,
            TARGET,
            {
                "10 rows of 1000": lambda z: balanced_softmax(row(z, 0.0), first(z), [10, 990]),
                "990 rows of 1000": lambda z: balanced_softmax(row(z, 0.0), first(z), [990, 10]),
            },
            use="Use it as `logit_adjusted`, where the numbers of rows are at hand.",
        ),
        Loss(
            ldam,
            COSINE,
            {
                "10 rows of 1000": lambda z: ldam(row(z, 0.0), first(z), [10, 990]),
                "990 rows of 1000": lambda z: ldam(row(z, 0.0), first(z), [990, 10]),
            },
            reach=(-1, 1),
        ),
    ],
    "Margins": [
        Loss(
            multiclass_hinge,
            "logit of the target, two others at 0 and -2",
            {
                kind: lambda z, kind=kind: multiclass_hinge(row(z, 0.0, -2.0), first(z), kind=kind)
                for kind in ("crammer_singer", "weston_watkins")
            },
        ),
        Loss(am_softmax, COSINE, lambda z: am_softmax(row(z, 0.0), first(z)), reach=(-1, 1)),
        Loss(arcface, COSINE, lambda z: arcface(row(z, 0.0), first(z)), reach=(-1, 1)),
    ],
    "Ordered classes": [
        Loss(
            cumulative_link,
            "score; thresholds at -2 and 2",
            {f"class {k}": lambda z, k=k: cumulative_link(z, every(z, k), z.new_tensor([-2.0, 2.0])) for k in range(3)},
        ),
        Loss(
            coral,
            "score; the two steps have the biases 2 and -2",
            {f"class {k}": lambda z, k=k: coral(torch.stack([z + 2, z - 2], -1), every(z, k)) for k in range(3)},
        ),
    ],
    "Contrasts": [
        Loss(info_nce, "similarity of the match, the other at 0", lambda z: info_nce(row(z, 0.0), first(z))),
        Loss(nt_xent, "similarity of the two views of an item, the others at 0", of_four_views),
        Loss(clip, "similarity of each of two pairs, 0 across", of_two_pairs),
        Loss(sup_con, "similarity of one match; another and a negative at 0", of_two_positives),
        Loss(
            siglip,
            "similarity of the pair, scale 1, bias 0",
            {
                "a match": lambda z: siglip(z[:, None], every(z, [True]), scale=1.0, bias=0.0),
                "no match": lambda z: siglip(z[:, None], every(z, [False]), scale=1.0, bias=0.0),
            },
        ),
        Loss(
            triplet,
            "distance to the match, less that to the other; margin 1",
            {
                kind: lambda z, kind=kind: triplet(z + 8, torch.full_like(z, 8), margin=1.0, kind=kind)
                for kind in ("hinge", "softplus")
            },
        ),
    ],
    "Rankings": [
        Loss(bpr, "score of the positive, the negative at 0", lambda z: bpr(z, torch.zeros_like(z))),
        Loss(pair_hinge, "score of the positive, the negative at 0", lambda z: pair_hinge(z, torch.zeros_like(z))),
        Loss(
            warp,
            "score of the positive; three others, of 100, at 0, 1, 2",
            lambda z: warp(z, row(torch.zeros_like(z), 1.0, 2.0), items=100),
        ),
        Loss(
            rank_net,
            "score of the relevant item, the other at 0",
            lambda z: rank_net(row(z, 0.0), every(z, [1, 0])),
        ),
        Loss(
            lambda_rank,
            "score of the relevant item, the other at 0",
            lambda z: lambda_rank(row(z, 0.0), every(z, [1, 0])),
        ),
        Loss(
            list_net,
            "score of the relevant item, the other at 0",
            {
                kind: lambda z, kind=kind: list_net(row(z, 0.0), every(z, [1, 0]), gain=kind)
                for kind in ("softmax", "linear")
            },
        ),
        Loss(
            list_mle,
            "score of the item in the first place, the other at 0",
            lambda z: list_mle(row(z, 0.0), every(z, [0, 1])),
        ),
    ],
    "Sampled negatives": [
        Loss(
            sampled_softmax,
            "score of the positive, two negatives at 0",
            lambda z: sampled_softmax(z, row(torch.zeros_like(z), 0.0)),
        ),
        Loss(
            in_batch,
            "score of a row's own item, the other row's at 0",
            lambda z: in_batch(row(z, 0.0)[:, None, :])[:, 0],
        ),
        Loss(
            gbce,
            "score of the positive, one negative of 1000 items at 0",
            lambda z: gbce(z, torch.zeros_like(z)[:, None], items=1000),
        ),
    ],
    "Policies": [
        Loss(
            reinforce,
            "log-probability of the action",
            {f"advantage {a:+.0f}": lambda z, a=a: reinforce(z, torch.full_like(z, a)) for a in (1.0, -1.0)},
            reach=(-8, 0),
        ),
        Loss(
            reinforce_leave_one_out,
            "log-probability of one of two, rewarded with 1 and 0",
            of_members(reinforce_leave_one_out, -1.0),
            reach=(-8, 0),
        ),
        Loss(
            ppo,
            RATIO,
            {
                f"advantage {a:+.0f}": lambda z, a=a: ppo(z, torch.zeros_like(z), torch.full_like(z, a))
                for a in (1.0, -1.0)
            },
            reach=(-1, 1),
        ),
        Loss(
            grpo,
            f"{RATIO}; rewards 1, 0",
            of_members(grpo_from_zero, 0.0),
            reach=(-1, 1),
        ),
        Loss(
            kl_to_reference,
            "log-probability of the draw, less that of the reference",
            {
                kind: lambda z, kind=kind: kl_to_reference(z, torch.zeros_like(z), kind=kind)
                for kind in ("k1", "k2", "k3")
            },
            reach=(-2, 2),
        ),
    ],
    "Preferences": [
        Loss(dpo, f"{GAINED}; beta 1", of_pair(dpo, beta=1.0)),
        Loss(ipo, GAINED, of_pair(ipo), reach=(-20, 20)),
        Loss(
            kto,
            "log-ratio of the answer; reference point 0, beta 1",
            {
                name: lambda z, good=good: kto(z - 80, torch.full_like(z, -80), every(z, good), 0.0, beta=1.0)
                for name, good in (("desirable", True), ("undesirable", False))
            },
        ),
        Loss(
            orpo,
            "average log-probability of the chosen, the rejected at -1",
            lambda z: orpo(z, torch.full_like(z, -1)),
            reach=(-8, 0),
        ),
        Loss(
            simpo,
            "log-probability of a token: chosen less rejected",
            lambda z: simpo(z - 8, torch.full_like(z, -8), every(z, 1), every(z, 1)),
        ),
    ],
    "Penalties": [
        Loss(mmce, SHARED, three_of_four(mmce)),
        Loss(soft_ece, SHARED, three_of_four(soft_ece)),
        Loss(dca, SHARED, three_of_four(dca)),
        Loss(confidence_penalty, "logit, the other at 0", lambda z: confidence_penalty(row(z, 0.0))),
    ],
}
LOSSES = [loss for losses in FAMILIES.values() for loss in losses]
