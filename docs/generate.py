"""Writes the pages that code already says.

``cli.md`` from the commands' help, ``laws.md`` from ``tests/laws.py``, ``speed.md`` from ``bench/`` and its results.

python docs/generate.py            writes them
python docs/generate.py --check    exits 1 and says which page is out of date
"""

import ast
import csv
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["NO_COLOR"] = "1"

import laws  # noqa: E402  (the two paths come first)
import test_laws  # noqa: E402
from lastlayer.cli import COMMANDS, main  # noqa: E402

WIDTH = 80
NUMBER_WORDS = ("order", "ends", "half", "ulp", "slope_ulp")
WORDS = ("shift", "permutation", "masked", "order", "empty", "infinite", "half", "ulp", "slope_ulp")
COLUMNS = ("shift", "permutation", "masked", "order", "empty", "infinite", "ends", "half", "ulp", "slope_ulp")


def cli_page():
    """The help of every command, as a terminal of 80 columns shows it."""
    width = {"terminal_width": WIDTH, "max_content_width": WIDTH, "resilient_parsing": True}
    top = main.make_context("lastlayer", [], **width)
    parts = [
        "# The command line\n\nWritten by `docs/generate.py` from the help of each command; `lastlayer` is also "
        "`python -m lastlayer`. The same in Python: [journey.md](journey.md).\n",
        _block(main.get_help(top)),
    ]
    for name in COMMANDS:
        command = main.get_command(top, name)
        context = command.make_context(name, [], parent=top, **width)
        parts.append(f"\n## lastlayer {name}\n")
        parts.append(_block(command.get_help(context)))
    return "\n".join(parts)


def laws_page():
    """What every function of ``transform`` and ``loss`` promises: the laws, who keeps them, and the table of rows."""
    sentences, reasons = [], []
    for law in test_laws.every_law().values():
        exempt = law.exempt()
        sentences.append([law.name, law.says, f"{len(law.kept())} of {len(law.rows)}"])
        reasons += [f"- **{law.name}**, `{row.name}`: {row.exempt[law.name].why}." for row in exempt]
    rows = []
    for row in laws.ROWS:
        words = WORDS if row.takes != "number" else NUMBER_WORDS
        cells = [_cell(getattr(row, column)) if column in words else "" for column in COLUMNS]
        cells[COLUMNS.index("shift")] += f" to {row.shift_ulp} ulp" if row.shift_ulp else ""
        rows.append([f"`{row.name}`", *cells, f"`{row.symmetry.says}`"])
    meaning = laws.__doc__.split("\n\n", 2)[2].rstrip()
    return "\n".join(
        [
            "# Laws\n\nWhat every function of `transform` and `loss` promises, whatever the array library: NumPy (also "
            "read-only and Fortran-ordered), array-api-strict, PyTorch and JAX. Written by `docs/generate.py` from "
            f"the {len(laws.ROWS)} rows of `tests/laws.py` and the {len(sentences)} laws of the test files, each of "
            "which is checked on every row that it speaks of.\n",
            _table(["law", "says", "kept by"], sentences),
            "\n## Exemptions\n\nEach names a counter-example in its row, and the suite sees the law fail on it.\n",
            *reasons,
            f"\n## Rows\n\n```text\n{meaning}\n```\n",
            _table(["function", *COLUMNS, "symmetry"], rows),
            "",
        ]
    )


def speed_page():
    """Every bench: its question, its command, what it measured beside whom, and where; as the last run left it."""
    parts = [
        "# Speed\n\nWritten by `docs/generate.py` from the docstrings in `bench/` and the tables that they left in "
        "`bench/results`; `make bench` runs them all. Peers run in the same process, in turn with us, after a check "
        "that both give the same; figures are medians. Machines differ and are noisy: compare the ratios. A ratio "
        "below 1 is a loss, and stays in.\n"
    ]
    for script in sorted(BENCH.glob("[a-z]*.py")):
        tables = [path for path in sorted((BENCH / "results").glob("*.csv")) if path.stem.startswith(script.stem)]
        if script.stem == "numerics" or not tables:  # numerics.md is the page of that one
            continue
        parts.append(f"## {script.stem}\n\n{_paragraphs(ast.get_docstring(ast.parse(script.read_text('utf-8'))))}\n")
        for path in tables:
            parts.append(_measured(path))
            picture = path.with_suffix(".svg")
            if picture.exists():
                parts.append(f"![{path.stem}](../bench/results/{picture.name})\n")
    return "\n".join(parts)


def _paragraphs(text):
    """A docstring as Markdown: its command, which is indented, as a block of code; names in single quotes."""
    shown = [
        _block("\n".join(line.strip() for line in part.splitlines()))
        if part.startswith("    ")
        else " ".join(part.replace("``", "`").split())
        for part in text.split("\n\n")
    ]
    return "\n\n".join(shown)


def _measured(path):
    with open(path, newline="", encoding="utf-8") as file:
        (*header, _), *rows = csv.reader(file)
    machines = "; ".join(sorted({row[-1] for row in rows}))
    return f"{_table(header, [row[:-1] for row in rows])}\n\nMeasured on {machines}.\n"


PAGES = {"cli.md": cli_page, "laws.md": laws_page, "speed.md": speed_page}


def _block(text):
    return f"```text\n{text.rstrip()}\n```"


def _cell(value):
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(_cell(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def run(check):
    """Write the pages, or say which are out of date."""
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / "docs" / name, page()
        if check and (not path.exists() or path.read_text("utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, "utf-8")
    if stale:
        sys.exit(f"out of date: docs/{', docs/'.join(stale)}. `make docs` writes them.")


if __name__ == "__main__":
    run(check="--check" in sys.argv[1:])
