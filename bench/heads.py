"""What do losses of pairs and of labels cost when their logits never exist, beside PyTorch that holds them?

    python bench/heads.py

Loss and gradients of the mean, in float32, by both sides of the product; before timing they are checked against
float64. The composed side makes the matrix: ``cross_entropy(q @ k.T / t)`` for InfoNCE, ``-logsigmoid(y (s q @ k.T +
b))`` for SigLIP, ``binary_cross_entropy_with_logits(x @ w.T, y)`` for labels. Extra memory is what tracemalloc counts
beside the gradients (NumPy), over the matrix that the composed side holds at least twice.
"""

import functools
import tracemalloc

import torch
import torch.nn.functional as F

from _measure import alternate, report
from lastlayer import linear

PAIRS, WIDTH, LABELS = 4096, 256, (1024, 256, 8192)
BUDGETS = ("64MiB", "4MiB")
MIB = 2**20


def unit(n, make):
    return F.normalize(torch.randn(n, WIDTH, generator=make), dim=1)


def problems():
    """By name: both sides, the target or None, the loss composed, and the streamed one with its partner in NumPy."""
    make = torch.Generator().manual_seed(0)
    queries, keys, each = unit(PAIRS, make), unit(PAIRS, make), torch.arange(PAIRS)
    rows, width, labels = LABELS
    features, weight = torch.randn(rows, width, generator=make), torch.randn(labels, width, generator=make) / 16
    target = (torch.rand(rows, labels, generator=make) < 0.01).float()
    signs = 2 * torch.eye(PAIRS) - 1

    def both_ways(q, k):
        similarity = q @ k.T / 0.07
        return (F.cross_entropy(similarity, each) + F.cross_entropy(similarity.T, each)) / 2

    def of(name, *rest, **settings):
        plain, grad = getattr(linear, name), getattr(linear, f"{name}_grad")
        return (
            lambda q, k, memory: plain(q, k, *rest, memory=memory, **settings).mean(),
            lambda q, k, memory: grad(q, k, *rest, memory=memory, **settings),
        )

    return {
        "InfoNCE": (
            queries,
            keys,
            lambda q, k: F.cross_entropy(q @ k.T / 0.07, each),
            *of("linear_info_nce", temperature=0.07),
        ),
        "CLIP": (
            queries,
            keys,
            both_ways,
            *of("linear_clip", temperature=0.07),
        ),
        "SigLIP": (
            queries,
            keys,
            lambda q, k: -F.logsigmoid(signs.to(q.dtype) * (10 * (q @ k.T) - 10)).sum(1).mean(),
            *of("linear_siglip", scale=10.0, bias=-10.0),
        ),
        "labels": (
            features,
            weight,
            lambda x, w: (
                F.binary_cross_entropy_with_logits(x @ w.T, target.to(x.dtype), reduction="none").sum(1).mean()
            ),
            *of("linear_multilabel_cross_entropy", target),
        ),
    }


def step(loss, left, right):
    """One forward and backward."""

    def run():
        left.grad = right.grad = None
        loss(left, right).backward()

    return run


def check(left, right, composed, streamed):
    """Both give the gradients of float64."""
    exact = [t.detach().double().requires_grad_() for t in (left, right)]
    composed(*exact).backward()
    found = [t.detach().clone().requires_grad_() for t in (left, right)]
    for memory in BUDGETS:
        step(lambda a, b, memory=memory: streamed(a, b, memory), *found)()
        for a, b in zip(found, exact, strict=True):
            assert (a.grad - b.grad).norm() <= 2e-5 * b.grad.norm()


def extra_memory(left, right, grad, memory):
    """Bytes beside the results at the peak."""
    left, right = left.numpy(), right.numpy()
    grad(left, right, memory)
    tracemalloc.start()
    found = grad(left, right, memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - sum(part.nbytes for part in found if part is not None)


def losses(name, left, right, composed, streamed, grad):
    """One loss, measured, as cells."""
    check(left, right, composed, streamed)
    left, right = left.requires_grad_(), right.requires_grad_()
    sides = {memory: functools.partial(streamed, memory=memory) for memory in BUDGETS}
    sides |= {"composed": composed}
    times = alternate({side: step(loss, left, right) for side, loss in sides.items()}, rounds=5)
    matrix = left.shape[0] * right.shape[0] * 4
    extra = [extra_memory(left.detach(), right.detach(), grad, memory) for memory in BUDGETS]
    return (
        name,
        f"{left.shape[0]:,} x {left.shape[1]:,} x {right.shape[0]:,}",
        f"{times['composed'] * 1e3:.0f}",
        *(f"{times['composed'] / times[memory]:.2f}" for memory in BUDGETS),
        f"{matrix / MIB:.0f}",
        *(f"{each / MIB:.1f}" for each in extra),
    )


def main():
    header = (
        "loss",
        "rows x width x columns",
        "composed, ms",
        *(f"composed / time, {memory}" for memory in BUDGETS),
        "the matrix, MiB",
        *(f"extra MiB, {memory}" for memory in BUDGETS),
    )
    report("heads", header, [losses(name, *problem) for name, problem in problems().items()])


if __name__ == "__main__":
    main()
