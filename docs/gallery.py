"""Writes the gallery of losses: ``losses.md``, and ``losses/<name>.svg``, each loss and its gradient against a number.

python docs/gallery.py            writes them
python docs/gallery.py --check    exits 1 and says which are out of date

What a loss is, its formula and (where it says so) its "Use it" are those of its docstring; `gallery_losses` has the
curves. Gradients are PyTorch's, through the functions of the library.
"""

import inspect
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]

import numpy as np  # noqa: E402  (the path comes first)
import torch  # noqa: E402
from gallery_losses import FAMILIES, LOSSES  # noqa: E402

from lastlayer.report.svg import Svg, group, line, tag, text  # noqa: E402

DOCS = ROOT / "docs"
POINTS, WIDE, HIGH = 161, 320, 150
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #24292f; } .faint { fill: #59636e; } .grid { stroke: #d8dee4; }
.zero { stroke: #8c959f; } polyline, .key { fill: none; stroke-width: 2; } .slope { stroke-dasharray: 5 3; }
.hue0 { stroke: #0b5fcc; } .hue1 { stroke: #c2410c; } .hue2 { stroke: #0f766e; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .grid { stroke: #30363d; }
.zero { stroke: #6e7681; } .hue0 { stroke: #58a6ff; } .hue1 { stroke: #ff9b6b; } .hue2 { stroke: #4fd1c0; }
}
"""


@dataclass(frozen=True)
class Drawn:
    """A curve at `POINTS` places: where, the loss, and its gradient."""

    at: np.ndarray
    value: np.ndarray
    slope: np.ndarray


INTRODUCTION = """# Losses

One figure per loss: its value against one number (solid), and its gradient in that number (dashed). Written by
`docs/gallery.py`, which draws the functions themselves; kinks are drawn as they are, and a jump as a
steep line.

All have in common: one number per row (pair, list or sequence; the penalties of a batch, at the end, give one in all),
which `ll.mean` averages; `valid=` leaves rows out, with gradient exactly 0; both tails are exact, in value and
gradient. What every function promises is in [laws.md](laws.md), how exact it is in [numerics.md](numerics.md), and one
call of each in [journey.md](journey.md).

Worked examples:

"""


def evaluated(loss, curve):
    """The curve and its gradient, by autograd."""
    at = torch.linspace(*loss.reach, POINTS, dtype=torch.float64, requires_grad=True)
    value = curve(at)
    (slope,) = torch.autograd.grad(value.sum(), at)
    return Drawn(at.detach().numpy(), value.detach().numpy(), slope.numpy())


def figure(loss):
    """The curves of a loss and their gradients, as an SVG that stands alone and follows light and dark."""
    drawn = {name: evaluated(loss, curve) for name, curve in loss.named.items()}
    low, high = extent([y for curve in drawn.values() for y in (curve.value, curve.slope)])

    def height(y):
        return round(HIGH * (high - y) / (high - low), 1)

    def path(y, class_):
        points = " ".join(f"{WIDE * i / (POINTS - 1):g},{height(v):g}" for i, v in enumerate(y))
        return tag("polyline", points=points, class_=class_)

    lines = [line(0, height(y), WIDE, height(y), "zero" if y == 0 else "grid") for y in ticks(low, high)]
    lines += [text(-6, height(y) + 4, f"{y:g}".replace("-", "−"), "end", "faint") for y in ticks(low, high)]
    for share, x in zip((0, 0.5, 1), np.linspace(*loss.reach, 3), strict=True):
        lines += [line(WIDE * share, 0, WIDE * share, HIGH, "grid")]
        lines += [text(WIDE * share, HIGH + 16, f"{x:g}".replace("-", "−"), class_="faint")]
    for i, curve in reversed(list(enumerate(drawn.values()))):
        lines += [path(curve.slope, f"slope hue{i if len(drawn) > 1 else 1}"), path(curve.value, f"hue{i}")]
    caption = text(WIDE / 2, HIGH + 34, loss.axis)
    plot = group((46, 12), *lines, caption, legend(loss, drawn, (low, high)))
    said = f"{loss.name} and its gradient against the {loss.axis}"
    width, tall = WIDE + 66, HIGH + 56
    return (
        tag(
            "svg",
            tag("title", said),
            Svg(f"<style>{STYLE}</style>"),
            tag("rect", class_="paper", width=width, height=tall),
            plot,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {tall}",
            width=width,
            height=tall,
            role="img",
        ).replace("><", ">\n<")
        + "\n"
    )


def extent(curves):
    """The lowest and the highest number of the curves, and 0, with some room."""
    numbers = np.concatenate(curves)
    low, high = min(numbers.min(), 0), max(numbers.max(), 0)
    room = 0.04 * (high - low)
    return low - room, high + room


def ticks(low, high):
    """0, and a number of one digit near either end where that is away from 0."""
    return [0, *(tick for tick in (one_digit(low), one_digit(high)) if abs(tick) > 0.08 * (high - low))]


def one_digit(number):
    """``number`` rounded towards 0 to its first digit."""
    if number == 0:
        return 0
    unit = 10.0 ** math.floor(math.log10(abs(number)))
    return math.copysign(math.floor(abs(number) / unit) * unit, number)


def legend(loss, drawn, extent):
    """What each line is, at the side of the plot where the fewest points are."""
    low, high = extent
    names = [(name or loss.name, f"hue{i}") for i, name in enumerate(drawn)]
    names.append(("gradient", f"slope hue{0 if len(drawn) > 1 else 1}"))
    wide, tall = 44 + 6.5 * max(len(name) for name, _ in names), 16 * len(names) + 4
    y = np.concatenate([line for curve in drawn.values() for line in (curve.value, curve.slope)])
    x, y = np.resize(np.linspace(0, WIDE, POINTS), len(y)), HIGH * (high - y) / (high - low)

    def points(place):
        left, top = place
        return ((x >= left) & (x <= left + wide) & (y >= top) & (y <= top + tall)).sum()

    tops, lefts = (4, HIGH - tall - 4, (HIGH - tall) / 2), (WIDE - wide - 4, 4, (WIDE - wide) / 2)
    place = min(((left, top) for top in tops for left in lefts), key=points)
    parts = []
    for i, (name, class_) in enumerate(names):
        parts += [line(4, 16 * i + 10, 30, 16 * i + 10, f"key {class_}"), text(36, 16 * i + 14, name, "start")]
    return group(place, *parts)


def page():
    """``losses.md``: every loss by family, with what its docstring says of it."""
    parts = [INTRODUCTION + "\n".join(examples())]
    for family, losses in FAMILIES.items():
        parts.append(f"## {family}")
        parts += [entry(loss) for loss in losses]
    return "\n\n".join(parts) + "\n"


def examples():
    """A line for each script of ``examples``, with what its docstring begins with."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        first_line = path.read_text("utf-8").split('"""')[1].split("\n")[0]
        yield f"- [{path.name}](../examples/{path.name}): {first_line}"


def entry(loss):
    """The section of a loss: what it is, its formula, its figure and when to use it."""
    what, *paragraphs = inspect.getdoc(loss.function).split("\n\n")
    formula = next(p for p in paragraphs if p.startswith("    "))
    return "\n\n".join(
        [
            f"### {loss.name}",
            " ".join(what.split()).replace("``", "`"),
            "```text\n" + inspect.cleandoc("\n" + formula) + "\n```",
            f"![{loss.name} and its gradient against the {loss.axis}](losses/{loss.name}.svg)",
            advice(loss),
        ]
    )


def advice(loss):
    """When to use a loss: the sentence of its docstring, or of the table."""
    above = inspect.getdoc(loss.function).split("\n>>>")[0]
    said = re.findall(r"Use it\s.*?\.(?=\s|$)", above, re.DOTALL)
    (sentence,) = [" ".join(words.split()).replace("``", "`") for words in [*said, *filter(None, [loss.use])]]
    return sentence


def pages():
    """The text of every file of the gallery, by its path from ``docs``."""
    return {"losses.md": page(), **{f"losses/{loss.name}.svg": figure(loss) for loss in LOSSES}}


def current(path, text):
    """Whether a file holds this text; numbers of a figure may differ by 0.1, as ``exp`` does between machines."""
    if not path.exists():
        return False
    there = path.read_text("utf-8")
    if there == text or path.suffix != ".svg":
        return there == text
    pattern = r"-?\d+(?:\.\d+)?"
    if re.sub(pattern, "#", there) != re.sub(pattern, "#", text):
        return False
    numbers = (np.array(re.findall(pattern, words), float) for words in (there, text))
    return bool(np.allclose(*numbers, rtol=0, atol=0.11))


def run(check):
    """Write the gallery, or say what of it is out of date."""
    wanted = pages()
    left_over = {f"losses/{path.name}" for path in (DOCS / "losses").glob("*")} - set(wanted)
    if check:
        stale = [name for name, text in wanted.items() if not current(DOCS / name, text)] + sorted(left_over)
        if stale:
            sys.exit(f"out of date: docs/{', docs/'.join(stale)}. `python docs/gallery.py` writes them.")
        return
    (DOCS / "losses").mkdir(exist_ok=True)
    for name in left_over:
        (DOCS / name).unlink()
    for name, page in wanted.items():
        (DOCS / name).write_text(page, "utf-8")


if __name__ == "__main__":
    run(check="--check" in sys.argv[1:])
