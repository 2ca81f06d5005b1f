"""What do log_softmax, entropy, row_stats, the k largest and binary cross-entropy cost, and beside PyTorch and SciPy?

    python bench/rows.py [rows x classes ...]

float32 logits. Results are checked against the formulas in float64 first. Slopes are those of one loss by autograd, of
PyTorch's functions and of ours alike. ``torch.topk`` gives values and places alone, where `top_k` writes all logits
again: beside it stands what makes the same of it. `row_stats` should take no more than 1.3 times as long as our
`logsumexp`, which has a column; PyTorch's is one call after the other. The floor is ``torch.sum`` of every row, which
reads the same bytes.
"""

import sys
import tracemalloc

import numpy as np
import torch
from scipy import special
from torch.nn import functional

import lastlayer as ll
from _measure import alternate, report
from _picture import ratios

SHAPES = ((50_000, 1000), (1000, 32_000), (200_000, 10))
K = 8
STATISTICS = ("lse", "argmax", "top2_gap", "entropy", "logp", "rank", "max_prob")
BARS = {
    "log_softmax": 1.5,
    "entropy": 8,
    f"top_k, {K}": 2,
    "binary_cross_entropy": 2,
    "binary_cross_entropy and its slope": 2,
}


def torch_entropy(x):
    logp = torch.log_softmax(x, 1)
    return -(logp.exp() * logp).sum(1)


def torch_top_k(x):
    values, index = torch.topk(x, K)
    return torch.full_like(x, -torch.inf).scatter_(1, index, values)


def torch_statistics(x, y):
    logp, top = torch.log_softmax(x, 1), torch.topk(x, 2).values
    own, p = x.gather(1, y[:, None]), logp.exp()
    rank = (x > own).sum(1)
    gap = top[:, 0] - top[:, 1]
    return (
        torch.logsumexp(x, 1),
        x.argmax(1),
        gap,
        -(p * logp).sum(1),
        logp.gather(1, y[:, None])[:, 0],
        rank,
        p.amax(1),
    )


def torch_binary(x, y):
    return functional.binary_cross_entropy_with_logits(x, y, reduction="none")


def slope(function, x, seed, *more):
    return torch.autograd.grad(function(x, *more), x, seed)[0]


def check(z, y):
    """The first rows against float64: 4 units in the last place; slopes against those of the largest of the row."""
    some, wide = torch.from_numpy(z[:100]).requires_grad_(), torch.from_numpy(z[:100]).double().requires_grad_()
    target = torch.from_numpy(y[:100])
    for function, more in ((ll.log_softmax, ()), (ll.entropy, ()), (ll.binary_cross_entropy, (target,))):
        found, exact = function(some, *more), function(wide, *more)
        size = np.spacing(np.abs(exact.detach().numpy()).astype(np.float32))
        assert (np.abs((found - exact).detach().numpy()) <= 4 * size).all(), function.__name__
        seed = torch.rand(found.shape)
        found, exact = slope(function, some, seed, *more), slope(function, wide, seed.double(), *more)
        assert (np.abs((found - exact).numpy()) <= 16 * 2.0**-23 * exact.abs().max(1, keepdim=True)[0].numpy()).all()
    assert torch.equal(ll.transform.top_k(some.detach(), K), torch_top_k(some.detach()))
    label = target.argmax(1).long()
    theirs = torch_statistics(wide.detach(), label)
    for found, exact in zip(ll.row_stats(some.detach(), STATISTICS, label).values(), theirs, strict=True):
        assert torch.allclose(found.double(), exact.double(), rtol=2e-6, atol=1e-9)


def questions(z, y):
    """For each question the ways to answer it: ours and others'."""
    x, target = torch.from_numpy(z), torch.from_numpy(y)
    learning, one, all_ = x.clone().requires_grad_(), torch.full((len(z),), 1 / len(z)), torch.full(z.shape, 1 / z.size)

    label = y.argmax(1)
    labels = torch.from_numpy(label)

    def logp(x):
        return torch.log_softmax(x, 1)

    yield (
        "log_softmax",
        {
            "lastlayer": lambda: ll.log_softmax(z),
            "PyTorch": lambda: logp(x),
            "SciPy": lambda: special.log_softmax(z, axis=1),
        },
    )
    yield (
        "log_softmax and its slope",
        {
            "lastlayer": lambda: slope(ll.log_softmax, learning, all_),
            "PyTorch": lambda: slope(logp, learning, all_),
        },
    )
    yield (
        "entropy",
        {
            "lastlayer": lambda: ll.entropy(z),
            "PyTorch": lambda: torch_entropy(x),
            "SciPy": lambda: special.entr(special.softmax(z, axis=1)).sum(1),
        },
    )
    yield (
        "entropy and its slope",
        {
            "lastlayer": lambda: slope(ll.entropy, learning, one),
            "PyTorch": lambda: slope(torch_entropy, learning, one),
        },
    )
    yield (
        "row_stats, all in one read",
        {
            "lastlayer": lambda: ll.row_stats(z, STATISTICS, label),
            "PyTorch": lambda: torch_statistics(x, labels),
            "logsumexp": lambda: ll.logsumexp(z),
        },
    )
    yield (
        f"top_k, {K}",
        {
            "lastlayer": lambda: ll.transform.top_k(z, K),
            "PyTorch": lambda: torch_top_k(x),
            "torch.topk alone": lambda: torch.topk(x, K),
        },
    )
    yield (
        "binary_cross_entropy",
        {
            "lastlayer": lambda: ll.binary_cross_entropy(z, y),
            "PyTorch": lambda: torch_binary(x, target),
        },
    )
    yield (
        "binary_cross_entropy and its slope",
        {
            "lastlayer": lambda: slope(ll.binary_cross_entropy, learning, all_, target),
            "PyTorch": lambda: slope(torch_binary, learning, all_, target),
        },
    )


def beside(run):
    """Megabytes that are held at the worst moment of ``run`` beside its result."""
    tracemalloc.start()
    result = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = result.values() if isinstance(result, dict) else [result]
    return (peak - sum(array.nbytes for array in kept)) / 2**20


def main():
    named = [tuple(int(part.replace(",", "")) for part in word.split("x")) for word in sys.argv[1:]]
    rng, rows, dots = np.random.default_rng(0), [], []
    for n, classes in named or SHAPES:
        z, y = rng.normal(size=(n, classes)).astype(np.float32), (rng.random((n, classes)) < 0.3).astype(np.float32)
        check(z, y)
        read = torch.from_numpy(z)
        for question, ways in questions(z, y):
            seconds = alternate(ways | {"read": lambda x=read: x.sum(1)}, rounds=5)
            ours, floor = seconds.pop("lastlayer"), seconds.pop("read")
            times = {peer: each / ours for peer, each in seconds.items()}
            dots.append((f"{question}, {n:,} x {classes:,}", times["PyTorch"], BARS.get(question)))
            cells = [f"{times[peer]:.1f}" if peer in times else "" for peer in ("PyTorch", "SciPy", "torch.topk alone")]
            cells += [f"{1 / times['logsumexp']:.2f}" if "logsumexp" in times else "", f"{ours / floor:.1f}"]
            memory = f"{beside(ways['lastlayer']):.1f}"
            rows.append((f"{n:,} x {classes:,}", question, f"{ours * 1e3:.1f}", *cells, memory))
    header = (
        "logits",
        "question",
        "ms",
        "times the speed of PyTorch",
        "times the speed of SciPy",
        "times the speed of torch.topk alone",
        "times the time of our logsumexp",
        "times the time of a read",
        "MB beside the result",
    )
    if not named:
        report("rows", header, rows)
        ratios("rows", "Times the speed of PyTorch, float32", dots)


if __name__ == "__main__":
    main()
