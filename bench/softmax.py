"""How far is one pass over logits from reading them, and from PyTorch and SciPy?

    python bench/softmax.py

Each result is checked against the formula in float64 first. The floor is ``torch.sum`` of every row, which reads the
same bytes on both cores. Fresh outputs are fresh each time: NumPy asks the system for large pages, PyTorch does not.
A slope is that of the mean loss. bfloat16 is PyTorch's on both sides. The last rows are a first call in a process of
its own, imports apart: with an empty cache of compiled code, and with a full one.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from html import escape

import numpy as np
import torch
from scipy import special
from torch.nn import functional

import lastlayer as ll
from _measure import RESULTS, alternate, report

SHAPES = ((50_000, 1000), (1000, 32_000), (200_000, 10))
OTHER_DTYPES = (torch.float64, torch.bfloat16)  # of the first shape
PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
HEADER = (
    "logits",
    "question",
    "ms",
    "times the speed of PyTorch",
    "times the speed of SciPy",
    "times the time of a read",
    "allocator, huge pages",
)
FIRST_CALL = """
import time
import numpy as np
import lastlayer as ll
from lastlayer.loss import cross_entropy
x = np.zeros((2, 40), np.float32)
start = time.perf_counter()
cross_entropy(x, np.zeros(2, int))
print(time.perf_counter() - start)
"""


def check(x, target):
    """The first rows against float64: 4 units in the last place, of bfloat16 half of one more."""
    some, y = x[:100], target[:100]
    wide = some.double().numpy()
    with ll.formulas():
        exact = ll.logsumexp(wide), ll.cross_entropy(wide, y.numpy()), ll.softmax(wide)
    slope = exact[2] - np.eye(x.shape[1])[y]
    learning = some.clone().requires_grad_()
    found = ll.logsumexp(some), ll.cross_entropy(some, y), ll.softmax(some), step(ll.cross_entropy, learning, y) * 100
    for ours, want in zip(found, (*exact, slope), strict=True):
        unit = np.spacing(np.abs(want).astype(np.float32)).astype(float) if ours.dtype != torch.float64 else 1e-15
        unit = np.abs(want) * 2.0**-8 if ours.dtype == torch.bfloat16 else unit
        assert (np.abs(ours.double().numpy() - want) <= 5 * unit).all()


def step(loss, x, y):
    """The slope of the mean loss."""
    return torch.autograd.grad(loss(x, y).mean(), x)[0]


def by_row(x, y):
    return functional.cross_entropy(x, y, reduction="none")


def questions(x, y):
    """For each question the ways to answer it: ours, PyTorch's, SciPy's where it has one, and the floor."""
    out, torch_out, learning = torch.empty_like(x), torch.empty_like(x), x.clone().requires_grad_()
    z, floor = None if x.dtype == torch.bfloat16 else x.numpy(), {"read": lambda: x.sum(1)}
    yield (
        "logsumexp",
        {"lastlayer": lambda: ll.logsumexp(x), "torch": lambda: torch.logsumexp(x, 1)}
        | ({} if z is None else {"scipy": lambda: special.logsumexp(z, axis=1)})
        | floor,
    )
    yield (
        "cross_entropy",
        {"lastlayer": lambda: ll.cross_entropy(x, y), "torch": lambda: by_row(x, y)} | floor,
    )
    yield (
        "cross_entropy and its slope",
        {"lastlayer": lambda: step(ll.cross_entropy, learning, y), "torch": lambda: step(by_row, learning, y)} | floor,
    )
    yield (
        "softmax",
        {"lastlayer": lambda: ll.softmax(x), "torch": lambda: torch.softmax(x, 1)}
        | ({} if z is None else {"scipy": lambda: special.softmax(z, axis=1)})
        | floor,
    )
    yield (
        "softmax, out=",
        {"lastlayer": lambda: ll.softmax(x, out=out), "torch": lambda: torch.softmax(x, 1, out=torch_out)} | floor,
    )


def timed(x, y, pages):
    """A row of the table for each question."""
    dtype = str(x.dtype).rpartition(".")[2]
    for question, ways in questions(x, y):
        seconds = alternate(ways, rounds=5)
        ours = seconds["lastlayer"]
        yield (
            f"{x.shape[0]:,} x {x.shape[1]:,} {dtype}",
            question,
            f"{ours * 1e3:.1f}",
            f"{seconds['torch'] / ours:.1f}",
            f"{seconds['scipy'] / ours:.1f}" if "scipy" in seconds else "",
            f"{ours / seconds['read']:.1f}",
            f"glibc, {pages}",
        )


def first_calls():
    """Seconds of a first call that compiles, and of one that finds what that left."""
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty", "full"):
            run = subprocess.run(
                [sys.executable, "-c", FIRST_CALL],
                env={**os.environ, "LASTLAYER_CACHE_DIR": folder},
                check=True,
                capture_output=True,
                text=True,
            )
            yield "2 x 40 float32", f"first cross_entropy, {cache} cache", f"{float(run.stdout) * 1e3:.0f}", *[""] * 4


def picture(rows):
    """Bars: how many times as fast as PyTorch, one for each row that has a peer."""
    shown = [(f"{logits}: {question}", float(ratio)) for logits, question, _, ratio, *_ in rows if ratio]
    scale, lane = 300 / max(ratio for _, ratio in shown), 18
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {lane * len(shown) + 40}" role="img"',
        'aria-label="Speed against PyTorch of each question and shape">',
        "<style>svg { font: 12px system-ui, sans-serif; } .paper { fill: #fff; } text { fill: #24292f; }",
        "rect.bar { fill: #0b5fcc; } rect.slower { fill: #c2410c; } line { stroke: #24292f; stroke-dasharray: 2 3; }",
        "@media (prefers-color-scheme: dark) { .paper { fill: #0d1117; } text { fill: #e6edf3; }",
        "line { stroke: #e6edf3; } rect.bar { fill: #58a6ff; } rect.slower { fill: #ff9b6b; } }</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        '<text x="395" y="16" text-anchor="end">times the speed of PyTorch</text>',
    ]
    for i, (name, ratio) in enumerate(shown):
        y, width = 24 + lane * i, ratio * scale
        lines += [
            f'<text x="395" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="bar{" slower" if ratio < 1 else ""}" x="402" y="{y + 2}" width="{width:.1f}" height="14"/>',
            f'<text x="{408 + width:.1f}" y="{y + 13}">{ratio:.1f}</text>',
        ]
    x = 402 + scale
    lines += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{24 + lane * len(shown)}"/>', "</svg>\n"]
    (RESULTS / "softmax.svg").write_text("\n".join(lines))


def main():
    rng, rows = np.random.default_rng(0), []
    pages = PAGES.read_text().split("[")[1].split("]")[0] if PAGES.exists() else "unknown"
    cases = [(shape, torch.float32) for shape in SHAPES] + [(SHAPES[0], dtype) for dtype in OTHER_DTYPES]
    for (n, classes), dtype in cases:
        x = torch.from_numpy(rng.standard_normal((n, classes), np.float32)).to(dtype)
        y = torch.from_numpy(rng.integers(0, classes, n))
        check(x, y)
        rows += timed(x, y, pages)
    rows += first_calls()
    report("softmax", HEADER, rows)
    picture(rows)


if __name__ == "__main__":
    main()
