"""How far is one pass over float32 logits from reading them, and from PyTorch and SciPy?

    python bench/softmax.py

Each result is checked against the formula in float64 first. The floor is ``torch.sum`` of every row, which reads the
same bytes. Fresh outputs are fresh each time: NumPy asks the system for large pages, PyTorch does not.
"""

import pathlib

import numpy as np
import torch
from scipy import special
from torch.nn import functional

import lastlayer as ll
from _measure import alternate, report

SHAPES = ((50_000, 1000), (1000, 32_000), (200_000, 10))
PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def check(z, target):
    """The first rows against float64: 4 units in the last place."""
    some, y = z[:100], target[:100]
    wide = some.astype(np.float64)
    for ours, exact in (
        (ll.logsumexp(some), ll.logsumexp(wide)),
        (ll.cross_entropy(some, y), ll.cross_entropy(wide, y)),
        (ll.softmax(some), ll.softmax(wide)),
    ):
        assert (np.abs(ours - exact) <= 4 * np.spacing(exact.astype(np.float32))).all()
    learning, seed = torch.from_numpy(some).requires_grad_(), torch.ones(len(y))
    slope = step(ll.cross_entropy, learning, torch.from_numpy(y), seed).numpy()
    exact = ll.softmax(wide) - np.eye(z.shape[1])[y]
    assert (np.abs(slope - exact) <= 4 * np.spacing(np.abs(exact).astype(np.float32))).all()


def step(loss, x, y, seed):
    """Losses and their slope; the seed stands for what a mean would send back."""
    return torch.autograd.grad(loss(x, y), x, seed)[0]


def questions(z, target):
    """For each question the ways to answer it: ours, PyTorch's, SciPy's where it has one, and the floor."""
    x, y, out, torch_out = torch.from_numpy(z), torch.from_numpy(target), np.empty_like(z), torch.empty(z.shape)
    learning, seed, floor = x.clone().requires_grad_(), torch.full((len(z),), 1 / len(z)), {"read": lambda: x.sum(1)}

    def by_row(x, y):
        return functional.cross_entropy(x, y, reduction="none")

    yield (
        "logsumexp",
        {
            "lastlayer": lambda: ll.logsumexp(z),
            "torch": lambda: torch.logsumexp(x, 1),
            "scipy": lambda: special.logsumexp(z, axis=1),
        }
        | floor,
    )
    yield (
        "cross_entropy",
        {
            "lastlayer": lambda: ll.cross_entropy(z, target),
            "torch": lambda: by_row(x, y),
        }
        | floor,
    )
    yield (
        "cross_entropy and its slope",
        {
            "lastlayer": lambda: step(ll.cross_entropy, learning, y, seed),
            "torch": lambda: step(by_row, learning, y, seed),
        }
        | floor,
    )
    yield (
        "softmax",
        {
            "lastlayer": lambda: ll.softmax(z),
            "torch": lambda: torch.softmax(x, 1),
            "scipy": lambda: special.softmax(z, axis=1),
        }
        | floor,
    )
    yield (
        "softmax, out=",
        {"lastlayer": lambda: ll.softmax(z, out=out), "torch": lambda: torch.softmax(x, 1, out=torch_out)} | floor,
    )


def main():
    rng, rows = np.random.default_rng(0), []
    pages = PAGES.read_text().split("[")[1].split("]")[0] if PAGES.exists() else "unknown"
    for n, classes in SHAPES:
        z, target = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)
        check(z, target)
        for question, ways in questions(z, target):
            seconds = alternate(ways)
            ours = seconds["lastlayer"]
            scipy = f"{seconds['scipy'] / ours:.1f}" if "scipy" in seconds else ""
            rows.append(
                (
                    f"{n:,} x {classes:,}",
                    question,
                    f"{ours * 1e3:.1f}",
                    f"{seconds['torch'] / ours:.1f}",
                    scipy,
                    f"{ours / seconds['read']:.1f}",
                    f"glibc, {pages}",
                )
            )
    header = (
        "logits",
        "question",
        "ms",
        "times the speed of PyTorch",
        "times the speed of SciPy",
        "times the time of a read",
        "allocator, huge pages",
    )
    report("softmax", header, rows)


if __name__ == "__main__":
    main()
