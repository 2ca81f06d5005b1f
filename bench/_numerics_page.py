"""docs/numerics.md and its plot, written from results/numerics*.csv."""

import csv
import pathlib

from _measure import RESULTS
from _numerics_exact import UNITS
from _numerics_plot import SERIES, plot

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
LIBRARIES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
PEERS = SERIES[1:]
SAME = {"PyTorch": "torch", "SciPy": "numpy", "JAX": "jax", "optax": "jax"}  # the library a peer computes with
DTYPES = ("float32", "float64", "bfloat16", "float16")
NO_BAR = 8  # ULP above which a quantity without a bar is named
BARS = {
    "cross_entropy": 4,
    "gradient at the target": 4,
    "cross_entropy, temperature 0.7": 8,
    "gradient at the target, temperature 0.7": 8,
    "cross_entropy, distribution": 4,
    "cross_entropy, smoothing 0.1": 4,
    "top_k_cross_entropy": 4,
    "binary_cross_entropy": 4,
    "gradient, binary": 4,
    "log_softmax": 4,
    "log_softmax, temperature 0.7": 8,
    "log_softmax, base 2": 8,
    "softmax": 5,
    "softmax, temperature 0.7": 8,
    "softmax, base 2": 8,
}


class Table:
    """The lines of numerics.csv by what they are of."""

    def __init__(self):
        self.lines = [_line(line) for line in _read("numerics")]
        self.of = {
            (line["quantity"], line["whose"], line["how"], line["dtype"]): line
            for line in self.lines
            if line["classes"] in ("all", "numbers")
        }
        measured = dict.fromkeys(line["quantity"] for line in self.lines)
        self.quantities = [*BARS, *(name for name in measured if name not in BARS)]

    def ours(self, name, dtype):
        """``{library: line}``."""
        found = {how: self.of.get((name, "lastlayer", how, dtype)) for how in LIBRARIES}
        return {how: line for how, line in found.items() if line}

    def worst(self, name, dtype):
        """The worst of the libraries, or None where none has it."""
        return max((line["worst"] for line in self.ours(name, dtype).values()), default=None)

    def peer(self, name, peer, dtype):
        return self.of.get((name, peer, "", dtype))


def write():
    """Write the page and the plot."""
    (DOCS / "numerics.md").write_text(page(), "utf-8")
    (DOCS / "numerics.svg").write_text(figure(), "utf-8")


def figure():
    """The plot: errors in float32 of the loss and its gradient at the target."""
    panels = {}
    for title, name in (("loss", "cross_entropy"), ("gradient at the target", "gradient at the target")):
        series = {who: {} for who in SERIES}
        for line in _read("numerics_margin"):
            if line["quantity"] == name and line["whose"] in series and line["how"] in ("", *LIBRARIES):
                worst, lost = series[line["whose"]].get(int(line["margin"]), (0.0, 0.0))
                found = max(worst, float(line["worst"])), max(lost, float(line["lost"]))
                series[line["whose"]][int(line["margin"])] = found
        panels[title] = {
            who: [(margin, *at) for margin, at in sorted(points.items())] for who, points in series.items()
        }
    said = (
        "Worst error in units in the last place in float32, and the share of rows that are lost, against the margin of "
        f"the target, for {', '.join(SERIES)}."
    )
    return plot(panels, BARS["cross_entropy"], said)


def page():
    """The text of docs/numerics.md."""
    table = Table()
    loss = {peer: table.peer("cross_entropy", peer, "float32") for peer in PEERS}
    lost = ", ".join(f"{peer} {_percent(line['lost'])}" for peer, line in loss.items() if line)
    parts = [
        "# Numerics",
        "How many digits are kept: every transform and loss, and the gradient at the target, against mpmath with 50 "
        "digits. Errors are in units in the last place (ULP) of the exact result in the dtype that comes out; half a "
        "unit is as good as rounding can be.",
        "![Worst error against margin](numerics.svg)",
        "float32, worst row of 2 to 256,000 classes at each margin; lastlayer is the worst of NumPy, PyTorch and JAX. "
        "A result of 0 (or inf, or nan) where the exact one is a normal number is *lost*: it counts in the bands on "
        f"top, not in the curves. Of all rows measured, so much of the loss is lost: {lost}; lastlayer "
        f"{_percent(max(line['lost'] for line in table.ours('cross_entropy', 'float32').values()))}.",
        "## Worst error, float32",
        "Ours is the worst of NumPy, PyTorch and JAX, over all rows and lengths. *Bar* is what we promise. *Lost* is a "
        "share of the results: one per row of a loss, one per class of a softmax.",
        _summary(table, "float32"),
        "## Where a bar is missed, and where others are better",
        *_shortfalls(table),
        "## Worst error, float64",
        _summary(table, "float64"),
        "## One block, tiles, kernel",
        "`transform.logsumexp_parts` of tiles of so many classes, joined by `merge_logsumexp`: the loss is "
        "`(max - z_t) + log1p(rest)`, the gradient at a target that is the largest is `-rest / (1 + rest)`. "
        "`row_stats` finds the log-probability beside entropy and rank, from one read. Worst error in ULP. What "
        "`evaluate` and `check` add up of float32 rows with 32 classes and more is held to 3e-6 by a test.",
        _ways(table),
        "## By number of classes",
        "Ours, worst of the libraries: float32 / float64.",
        _lengths(table),
        "## Everything",
        "Worst / 99.9 % / median; then *lost*, where anything is. Of all rows and lengths.",
    ]
    for dtype in DTYPES:
        parts += [f"### {dtype}", _details(table, dtype)]
    parts += ["## How it was measured", *_method(table)]
    return "\n\n".join(parts) + "\n"


def _summary(table, dtype):
    header = ["", "lastlayer", "bar", *PEERS]
    lines = []
    for name in table.quantities:
        worst = table.worst(name, dtype)
        if worst is None:
            continue
        ours = max(table.ours(name, dtype).values(), key=lambda line: line["lost"])["lost"]
        cells = [_cell(table.peer(name, peer, dtype)) for peer in PEERS]
        lines.append([f"`{name}`", f"**{_ulp(worst)}**{_loss(ours)}", str(BARS.get(name, "")), *cells])
    return _markdown(header, lines)


def _cell(line):
    if line is None:
        return ""
    return "all lost" if line["lost"] == 1 else f"{_ulp(line['worst'])}{_loss(line['lost'])}"


def _loss(share):
    return f", {_percent(share)} lost" if share else ""


def _shortfalls(table):
    """Bars that are missed, what is lost, and where a peer is nearer, each with its figures."""
    missed, nearer = _missed(table), _nearer(table)
    parts = ["No bar is missed, and nothing is lost."]
    if missed:
        header = ["", "dtype", "with", "worst", "bar", "lost", "worst row", "peers in that library"]
        said = f"Above its bar (or, where there is none, above {NO_BAR} ULP), or with anything lost:"
        parts = [said, _markdown(header, missed)]
    if nearer:
        parts.append("Nearer to the exact value than we are, at worst, in the same library, with nothing lost:")
        return [*parts, _markdown(["", "dtype", "who", "worst", "ours"], nearer)]
    return [*parts, "In float32 and float64 no peer is nearer to an exact value without losing another."]


def _missed(table):
    lines = []
    for line in table.of.values():
        name, how, dtype = line["quantity"], line["how"], line["dtype"]
        bar = BARS.get(name)
        if line["whose"] != "lastlayer" or not (line["worst"] > (bar or NO_BAR) or line["lost"]):
            continue
        beside = {peer: table.peer(name, peer, dtype) for peer in PEERS if SAME[peer] == how}
        peers = ", ".join(f"{peer} {_cell(theirs)}" for peer, theirs in beside.items() if theirs)
        lost = _percent(line["lost"]) if line["lost"] else ""
        lines.append([f"`{name}`", dtype, how, _ulp(line["worst"]), str(bar or ""), lost, line["where"], peers])
    return sorted(lines)


def _nearer(table):
    lines = []
    for name in table.quantities:
        for dtype in ("float32", "float64"):
            for peer in PEERS:
                theirs, mine = table.peer(name, peer, dtype), table.ours(name, dtype).get(SAME[peer])
                if theirs and mine and not theirs["lost"] and theirs["worst"] < mine["worst"] - 0.05:
                    ours = f"{_ulp(mine['worst'])} ({LIBRARIES[SAME[peer]]})"
                    lines.append([f"`{name}`", dtype, peer, _ulp(theirs["worst"]), ours])
    return lines


def _ways(table):
    columns = [
        (name, dtype)
        for name in ("cross_entropy", "gradient at the target", "log_odds")
        for dtype in ("float32", "float64")
    ]
    hows = dict.fromkeys(line["how"] for line in table.lines if line["whose"] == "lastlayer")
    first = ("jax", "numpy", "torch")
    ordered = sorted(hows, key=lambda how: (how.split(",")[0] not in first, how.split(",")[0], len(how), how))
    lines = []
    for how in ordered:
        found = [table.of.get((name, "lastlayer", how, dtype)) for name, dtype in columns]
        package, _, way = how.partition(", ")
        lines.append(
            [
                LIBRARIES.get(package, package),
                way or "one block",
                *("" if line is None else _ulp(line["worst"]) for line in found),
            ]
        )
    return _markdown(["", "", *(f"{name}, {dtype}" for name, dtype in columns)], lines)


def _lengths(table):
    lengths = ["2", "10", "1000", "32000", "256000"]
    worst = {}
    for line in table.lines:
        if line["whose"] == "lastlayer" and line["how"] in LIBRARIES and line["classes"] in lengths:
            key = line["quantity"], line["classes"], line["dtype"]
            worst[key] = max(worst.get(key, 0.0), line["worst"])
    lines = []
    for name in table.quantities:
        cells = [[worst.get((name, length, dtype)) for dtype in ("float32", "float64")] for length in lengths]
        if any(both != [None, None] for both in cells):
            lines.append([f"`{name}`", *(" / ".join(_ulp(v) for v in both if v is not None) for both in cells)])
    return _markdown(["", *(f"{int(length):,}" for length in lengths)], lines)


def _details(table, dtype):
    columns = [("lastlayer", how) for how in LIBRARIES] + [(peer, "") for peer in PEERS]
    columns = [
        (whose, how) for whose, how in columns if any((q, whose, how, dtype) in table.of for q in table.quantities)
    ]
    lines = []
    for name in table.quantities:
        found = [table.of.get((name, whose, how, dtype)) for whose, how in columns]
        if any(found):
            lines.append([f"`{name}`", *("" if line is None else _three(line) for line in found)])
    names = [f"lastlayer, {LIBRARIES[how]}" if how else whose for whose, how in columns]
    return _markdown(["", *names], lines)


def _three(line):
    return " / ".join(_ulp(line[key]) for key in ("worst", "q999", "median")) + _loss(line["lost"])


def _method(table):
    counts = [
        f"{int(line['values']):,} of {int(line['classes']):,}"
        for line in table.lines
        if (line["quantity"], line["how"], line["dtype"]) == ("cross_entropy", "numpy", "float32")
        and line["classes"] != "all"
    ]
    versions = ", ".join(f"{line['package']} {line['version']}" for line in _read("numerics_versions"))
    units = "; ".join(f"`{name}`: {words}" for name, (words, _) in UNITS.items())
    return [
        "`python bench/numerics.py` measures and writes this page, `bench/results/numerics*.csv` and the plot; "
        "`--page` writes them from the results that are there. Rows and seeds are fixed. "
        f"Measured with {versions}.",
        "- *Rows*: normal logits of scale 1, 3, 10 and 30; one class 0 to 80 above the rest, which is the target; all "
        "equal; a ramp from -20 to 20; 30 % masked with -inf. Results of the loss in float32: "
        f"{', '.join(counts)} classes. Half precision, other temperatures and bases go to 32,000 classes, `sparsemax`, "
        "`entmax`, `standardize`, `pool` and `adjust_prior` to 1,000. Single numbers: normal of scale 0.001 to 30, and "
        "0 to 81 on either side of 0. "
        "Each dtype has rows that it holds exactly, with all bits in use (bfloat16 and float16 share theirs).\n"
        "- *Exact*: mpmath, 50 digits, in steps that do not cancel (`bench/_numerics_exact.py`).\n"
        "- *Left out*: results below the smallest normal number of their dtype, where only the size matters, and "
        "masked classes. `cross_entropy, smoothing 0.1` has no masked rows, since there PyTorch and optax mean "
        "something else.\n"
        f"- *Units* of a larger size where a result may cancel to nothing: {units}.\n"
        "- *Gradients* are those of PyTorch's autograd and `jax.grad`; SciPy's is `softmax - 1` as one writes it. JAX "
        "runs under `jit`, tiles in it without. Our losses come out in float32 for half precision, those of PyTorch, "
        "JAX and optax in half precision, and each is measured in its own units. `row_stats` to 32,000 classes, "
        "its formula to 1,000.\n"
        "- *Peers*: the functions of that name in `torch.nn.functional`, `torch`, `scipy.special`, `numpy`, `jax.nn`, "
        "`jax.scipy.special` and `optax.losses`, or the formula one writes with them; `bench/_numerics_subjects.py` "
        "has each as a line.",
    ]


def _read(name):
    with open(RESULTS / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def _line(line):
    """Figures as floats; a worst error that is not there, since everything is lost or left out, is 0."""
    return {**line, **{key: float(line[key] or 0) for key in ("worst", "q999", "median", "lost")}}


def _ulp(value):
    if value < 9.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 10_000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def _percent(share):
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _markdown(header, lines):
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
