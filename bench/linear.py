"""What does a last layer's loss cost when its logits never exist, beside PyTorch that holds them, or chunks them?

    python bench/linear.py

Loss and gradients of the mean by features and weight; before timing they are checked against float64. The naive side
is ``F.cross_entropy(x @ w.T, y)``; PyTorch's own ``F.linear_cross_entropy`` runs with its default and with the best of
several chunks set by hand. Ours runs with the default budget and with a sixteenth of the logits' size; its extra memory
is what tracemalloc counts beside the gradients (NumPy). Below are the statistics of rows.
"""

import tracemalloc

import numpy as np
import torch
import torch.nn.functional as F

from _measure import alternate, report
from lastlayer.linear import linear_cross_entropy, linear_cross_entropy_grad, linear_stats, plan

SHAPES = ((512, 256, 16384), (1024, 512, 32000))
CHUNKS = (64, 128, 256)
EVERY = ("logp", "entropy", "topk:8", "rank")


def problem(n, width, classes, dtype):
    make = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=make)
    w = torch.randn(classes, width, generator=make) / width**0.5
    return *(t.to(dtype).requires_grad_() for t in (x, w)), torch.randint(0, classes, (n,), generator=make)


def step(loss, x, w, y):
    """One forward and backward."""

    def run():
        x.grad = w.grad = None
        loss(x, w, y).backward()

    return run


def chunked(size):
    options = torch.nn.LinearCrossEntropyOptions(**({} if size is None else {"batch_chunk_size": size}))
    return lambda x, w, y: F.linear_cross_entropy(x, w, y, options=options)


def streamed(memory):
    return lambda x, w, y: linear_cross_entropy(x, w, y, memory=memory).mean()


def check(x, w, y, memory):
    """Both budgets give the gradients of float64."""
    exact = [t.detach().double().requires_grad_() for t in (x, w)]
    F.cross_entropy(exact[0] @ exact[1].T, y).backward()
    room = 2e-5 if x.dtype == torch.float32 else 2e-2
    for budget in ("64MiB", memory):
        step(streamed(budget), x, w, y)()
        for found, want in zip((x, w), exact, strict=True):
            assert (found.grad - want.grad).norm() <= room * want.grad.norm()


def extra_memory(x, w, y, memory):
    """Bytes beside the gradients at the peak."""
    x, w, y = x.detach().numpy(), w.detach().numpy(), y.numpy()
    linear_cross_entropy_grad(x[:2], w, y[:2], memory=memory)
    tracemalloc.start()
    linear_cross_entropy_grad(x, w, y, memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - x.nbytes - w.nbytes


def losses():
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x, w, y = problem(*shape, dtype)
            small = shape[0] * shape[2] * 4 // 16
            check(x, w, y, small)
            sides = {
                "naive": lambda x, w, y: F.cross_entropy(x @ w.T, y),
                "ours": streamed("64MiB"),
                "a sixteenth": streamed(small),
                "default": chunked(None),
                **{f"chunk {size}": chunked(size) for size in CHUNKS},
            }
            times = alternate({name: step(loss, x, w, y) for name, loss in sides.items()}, rounds=5)
            best = min(times[f"chunk {size}"] for size in CHUNKS)
            numpy = dtype == torch.float32
            yield (
                " x ".join(f"{n:,}" for n in shape) + f" {str(dtype).rpartition('.')[2]}",
                f"{times['ours'] / times['naive']:.2f}",
                f"{times['a sixteenth'] / times['naive']:.2f}",
                f"{times['ours'] / best:.2f}",
                f"{times['default'] / times['ours']:.1f}",
                f"{extra_memory(x, w, y, '64MiB') / 2**26:.2f}" if numpy else "",
                f"{extra_memory(x, w, y, small) / small:.2f}" if numpy else "",
                " x ".join(map(str, plan(x, w, memory=small).tile)),
            )


def statistics():
    for shape in SHAPES:
        x, w, y = (t.detach().numpy() for t in problem(*shape, torch.float32))
        z = x.astype(float) @ w.astype(float).T
        found = linear_stats(x, w, EVERY, y)
        np.testing.assert_allclose(found["logp"], z[np.arange(len(z)), y] - np.logaddexp.reduce(z, 1), rtol=1e-4)
        times = alternate(
            {"one": lambda a=(x, w, y): linear_stats(a[0], a[1], ("logp",), a[2])}
            | {"all": lambda a=(x, w, y): linear_stats(a[0], a[1], EVERY, a[2])},
            rounds=9,
        )
        yield " x ".join(f"{n:,}" for n in shape), f"{times['all'] / times['one']:.2f}"


def main():
    header = (
        "rows x width x classes",
        "time / naive",
        "time / naive, 1/16",
        "time / torch's best chunk",
        "torch's default / time",
        "memory / budget",
        "memory / budget, 1/16",
        "tile, 1/16",
    )
    report("linear", header, list(losses()))
    report("linear_stats", ("rows x width x classes", "logp, entropy, top 8 and rank / logp alone"), list(statistics()))


if __name__ == "__main__":
    main()
