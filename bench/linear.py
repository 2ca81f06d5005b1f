"""What does a last layer's loss cost when its logits never exist, beside PyTorch that holds them, or chunks them?

    python bench/linear.py

Loss and gradients of the mean by features and weight; before timing they are checked against float64. The naive side
is ``F.cross_entropy(x @ w.T, y)``; PyTorch's own ``F.linear_cross_entropy`` runs with its default and with the best of
several chunks set by hand. Ours runs with the default budget and with a sixteenth of the logits' size. The floor is the
products alone: three of matrices, at the rate of PyTorch's ``mm`` of these shapes into memory that is there. Extra
memory is what tracemalloc counts, and how far the resident memory rises, beside the gradients. Below are the statistics
of rows.
"""

import ctypes
import math
import pathlib
import tracemalloc
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from _measure import alternate, report
from _picture import ratios
from lastlayer.linear import linear_cross_entropy, linear_stats, plan

SHAPES = ((512, 256, 16384), (1024, 512, 32000))
CHUNKS = (128, 256, 512)
EVERY = ("logp", "entropy", "topk:8", "rank")


def problem(shape, dtype):
    n, width, classes = shape
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
    """Bytes beside the gradients at the peak: those that tracemalloc saw, and those that were resident."""
    run, status = step(streamed(memory), x, w, y), pathlib.Path("/proc/self/status")
    run()
    gradients = x.grad.nbytes + w.grad.nbytes
    x.grad = w.grad = None
    tracemalloc.start()
    run()
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    x.grad = w.grad = None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is resident otherwise
    before = resident(status, "VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    run()
    return traced - gradients, resident(status, "VmHWM") - before - gradients


def resident(status, name):
    return int(status.read_text("utf-8").split(name + ":")[1].split()[0]) * 1024


def floor(x, w):
    """Seconds of three products of matrices."""
    x, w = x.detach(), w.detach()
    z, dx, dw = torch.zeros(len(x), len(w), dtype=x.dtype), torch.zeros_like(x), torch.zeros_like(w)
    with torch.no_grad():
        ways = {
            "logits": lambda: torch.mm(x, w.T, out=z),
            "features": lambda: torch.mm(z, w, out=dx),
            "weight": lambda: torch.mm(z.T, x, out=dw),
        }
        return sum(alternate(ways, rounds=3).values())


class Row(NamedTuple):
    """What was measured of a shape: seconds by side and of the products alone, and the extra memory of both budgets."""

    shape: tuple
    dtype: torch.dtype
    times: dict
    floor: float
    small: int
    extra: list

    @property
    def label(self):
        return f"{name_of(self.shape)} {str(self.dtype).rpartition('.')[2]}"

    @property
    def best(self):
        """PyTorch's best chunk."""
        return min(seconds for side, seconds in self.times.items() if side.startswith("chunk"))

    def cells(self):
        t, budgets = self.times, (2**26, self.small)
        flops = 6 * math.prod(self.shape)
        yield from (self.label, f"{t['naive'] * 1e3:.1f}", f"{t['ours'] * 1e3:.1f}", f"{t['a sixteenth'] * 1e3:.1f}")
        yield from (f"{t['ours'] / t['naive']:.2f}", f"{t['a sixteenth'] / t['naive']:.2f}")
        yield from (f"{t['ours'] / self.best:.2f}", f"{t['default'] / t['ours']:.1f}")
        yield from (f"{self.floor * 1e3:.1f}", f"{flops / self.floor / 1e9:.0f}")
        for kind in (0, 1):
            yield from (f"{each[kind] / budget:.2f}" for each, budget in zip(self.extra, budgets, strict=True))
        shapes = (self.shape[0], self.shape[1]), (self.shape[2], self.shape[1])
        yield " x ".join(map(str, plan(*shapes, dtype=str(self.dtype).rpartition(".")[2], memory=self.small).tile))

    def dots(self):
        t, half = self.times, self.dtype == torch.bfloat16
        yield f"{self.label}, naive", t["naive"] / t["ours"], 1 / (1.2 if half else 0.9)
        yield "at a sixteenth", t["naive"] / t["a sixteenth"], 1 / (1.2 if half else 1.1)
        yield "PyTorch's best chunk", self.best / t["ours"], None if half else 1.0
        yield "PyTorch's default", t["default"] / t["ours"], 5.0 if half else 3.0


def losses(shape, dtype):
    """One shape, measured."""
    x, w, y = problem(shape, dtype)
    small = shape[0] * shape[2] * 4 // 16
    check(x, w, y, small)
    sides = {
        "naive": lambda x, w, y: F.cross_entropy(x @ w.T, y),
        "ours": streamed("64MiB"),
        "a sixteenth": streamed(small),
        **{f"chunk {size}": chunked(size) for size in CHUNKS},
    }
    runs = {name: step(loss, x, w, y) for name, loss in sides.items()}
    times = alternate(runs, rounds=11 if shape[0] == 512 else 3)
    slow = alternate({"default": step(chunked(None), x, w, y)}, rounds=1)
    return Row(shape, dtype, times | slow, floor(x, w), small, [extra_memory(x, w, y, b) for b in (2**26, small)])


def stats(shape):
    """The statistics of one shape, as cells."""
    x, w, y = (t.detach().numpy() for t in problem(shape, torch.float32))
    z = x.astype(float) @ w.astype(float).T
    found = linear_stats(x, w, EVERY, y)
    np.testing.assert_allclose(found["logp"], z[np.arange(len(z)), y] - np.logaddexp.reduce(z, 1), rtol=1e-4)
    runs = {
        "one": lambda: linear_stats(x, w, ("logp",), y),
        "all": lambda: linear_stats(x, w, EVERY, y),
    }
    times = alternate(runs, rounds=15 if shape[0] == 512 else 7)
    return name_of(shape), f"{times['one'] * 1e3:.1f}", f"{times['all'] / times['one']:.2f}"


def name_of(shape):
    return " x ".join(f"{n:,}" for n in shape)


def main():
    header = (
        "rows x width x classes",
        "naive ms",
        "ours ms",
        "1/16 ms",
        "time / naive",
        "time / naive, 1/16",
        "time / torch's best chunk",
        "torch's default / time",
        "products alone ms",
        "GFLOP/s of products",
        "traced / budget",
        "traced / budget, 1/16",
        "resident / budget",
        "resident / budget, 1/16",
        "tile, 1/16",
    )
    rows = [losses(shape, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)]
    report("linear", header, [tuple(row.cells()) for row in rows])
    ratios(
        "linear", "Loss and gradients of a last layer: how many times as fast", [d for row in rows for d in row.dots()]
    )
    report(
        "linear_stats",
        ("rows x width x classes", "logp ms", "logp, entropy, top 8 and rank / logp alone"),
        [stats(shape) for shape in SHAPES],
    )


if __name__ == "__main__":
    main()
