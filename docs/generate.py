"""Writes the pages that code already says: ``cli.md`` from the commands' help, ``laws.md`` from ``tests/laws.py``.

python docs/generate.py            writes both
python docs/generate.py --check    exits 1 and says which page is out of date
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["NO_COLOR"] = "1"

import laws  # noqa: E402  (the two paths come first)
from lastlayer.cli import COMMANDS, main  # noqa: E402

WIDTH = 80


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
    """What every function of ``transform`` and ``loss`` promises: a table, and the reasons where it does not."""
    columns = ("shift", "permutation", "masked", "order", "empty", "infinite", "half", "ulp", "slope_ulp")
    rows, reasons = [], []
    for law in laws.LAWS:
        cells = [_cell(getattr(law, column)) for column in columns]
        rows.append([f"`{law.name}`", *cells, f"`{law.symmetry.says}`"])
        for column in columns:
            value = getattr(law, column)
            if isinstance(value, laws.Exempt):
                instead = f" (instead of {value.instead_of!r})" if value.instead_of else ""
                reasons.append(f"- `{law.name}`, {column}{instead}: {value.why}.")
    meaning = laws.__doc__.split("\n\n", 2)[2].rstrip()
    return "\n".join(
        [
            "# Laws\n\nWhat every function of `transform` and `loss` promises, whatever the array library. Written by "
            "`docs/generate.py` from `tests/laws.py`, whose rows `tests/test_laws.py` runs.\n",
            f"```text\n{meaning}\n```\n",
            _table(["function", *columns, "symmetry"], rows),
            "\n## Promises that are not made\n",
            *reasons,
            "",
        ]
    )


PAGES = {"cli.md": cli_page, "laws.md": laws_page}


def _block(text):
    return f"```text\n{text.rstrip()}\n```"


def _cell(value):
    if isinstance(value, laws.Exempt):
        return "no"
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
