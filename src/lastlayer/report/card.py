"""The terminal card: a report in 80 columns, readable without colour, and in ASCII where the terminal has no more."""

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from lastlayer.report import wording

WIDTH = 80
LONGEST = 2000  # characters of a sentence, which may hold names that came with the data
NBSP = "\N{NO-BREAK SPACE}"
WORD = r"""(?:[^\s'"]|'[^']*'|"[^"]*"|['"])+"""  # as a shell sees it: quotes hold it together
GROUP_ROWS = 6
LEFT_OUT = ("error", "brier_per_class", "mce")  # the first two are others in another form, the third is mostly noise
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = str.maketrans(
    {"·": "|", "−": "-", "–": "-", "…": "~", "→": "->", "▕": "|", "▏": "|", "▼": "v", "▲": "^", "█": "#"}
    | dict(zip(BLOCKS[1:-1], ".:-=+*%", strict=True))
)


def card(report) -> "Card":
    """The card of a `Report`, for a rich console."""
    return Card(report)


@dataclass(frozen=True)
class Card:
    """What rich prints: the data in a line, metrics, confidence and reliability, findings with fixes, the verdict."""

    report: Any

    def __rich_console__(self, console, options):
        from rich.constrain import Constrain

        width = min(options.max_width, WIDTH)
        say = _ascii if options.ascii_only else str
        parts = [
            _first_line(self.report, width, say),
            "",
            _metrics(self.report, say),
            "",
            *_bars(self.report.evaluation, say),
            *_groups(self.report.evaluation, width, say),
            *_findings(self.report, width, say),
            _verdict(self.report, width, say),
        ]
        for part in parts:
            yield Constrain(part, width)


def _ascii(text):
    return text.translate(ASCII).encode("ascii", "replace").decode()


def _first_line(report, width, say):
    from rich.cells import cell_len
    from rich.text import Text

    facts = " · ".join(["", *wording.summary(report.evaluation)])
    source = wording.plain(report.source, LONGEST)
    if cell_len(source + facts) > width:
        while source and cell_len("…" + source + facts) > width:
            source = source[1:]  # the end of a path says more than its beginning
        source = "…" + source
    return Text.assemble((say(source), "bold"), say(facts), no_wrap=True, overflow="ellipsis")


def _metrics(report, say):
    from rich.table import Table
    from rich.text import Text

    before = report.before.metrics() if report.before is not None else None
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("metric", no_wrap=True)
    for heading in ("before", "after") if before is not None else ("value",):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    for name, metric in report.metrics.items():
        if name in LEFT_OUT:
            continue
        value, interval = wording.metric_texts(name, metric)
        earlier = [] if before is None else [wording.metric_texts(name, before[name])[0] if name in before else "–"]
        cells = [wording.NAMES[name].title, *earlier, value, interval]
        table.add_row(*(Text(say(cell)) for cell in cells))
    return table


def _bars(evaluation, say):
    """A character per bin of confidence: how many rows, and on which side of the truth."""
    from rich.text import Text

    if evaluation.kind == "margin":
        return [Text("margins rank, but are not probabilities yet: no confidence to draw"), ""]
    bins = evaluation.reliability()
    most = max(b.share for b in bins)
    rows = "".join(BLOCKS[max(1, round(8 * b.share / most))] if b.share > 0 else " " for b in bins)
    sides = "".join(_side(b) for b in bins)
    legend = "".join(
        f"  {mark} {what}"
        for mark, what in (("▼", "over-confident"), ("▲", "under-confident"), ("=", "neither"))
        if mark in sides
    )
    lines = (f"confidence  0▕{rows}▏1  rows per bin", f"reliability 0▕{sides}▏1{legend}")
    return [*(Text(say(line), no_wrap=True, overflow="ellipsis") for line in lines), ""]


def _side(b):
    """Whether the 95 % interval of the accuracy lies below the confidence of the bin, above it, or holds it."""
    if not b.share > 0:
        return " "
    return "▼" if b.accuracy.high < b.confidence else "▲" if b.accuracy.low > b.confidence else "="


def _groups(evaluation, width, say):
    """The groups whose confidence is furthest from their accuracy, in a table; nothing where there are none."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    # Rounded, so that shards choose as the whole does; a margin has no confidence, so its groups keep their order.
    found = sorted(evaluation.per_group(), key=lambda row: -abs(round(float(row.overconfidence), 12) or 0.0))
    if not found:
        return []
    shown = found[:GROUP_ROWS]
    some = f" ({len(shown)} of {len(found)})" if len(found) > len(shown) else ""
    lines = [(f"group{some}", "rows", "accuracy", "conf. − acc.", "95 % interval")]
    lines += [
        (
            wording.plain(f"{row.group} = {row.value}"),
            wording.count(row.n),
            wording.percent(row.accuracy),
            wording.signed(row.overconfidence),
            wording.between(row.overconfidence, wording.signed),
        )
        for row in shown
    ]
    gap, (names, *others) = 3, zip(*lines, strict=True)
    room = max(width - sum(gap + max(map(cell_len, column)) for column in others), cell_len(names[0]))
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for k, heading in enumerate(lines[0]):
        table.add_column(say(heading), justify="right" if k in (1, 2, 3) else "left", no_wrap=True)
    for name, *cells in lines[1:]:
        text = Text(name)
        text.truncate(room, overflow="ellipsis")
        table.add_row(*(Text(say(cell)) for cell in (text.plain, *cells)))
    return [table, ""]


def _findings(report, width, say):
    from rich.text import Text

    lines = []
    for found in report.findings:
        title, evidence, fix = (say(wording.plain(part, LONGEST)) for part in (found.title, found.evidence, found.fix))
        severity = (found.severity.upper(), STYLES[found.severity])
        lines.append(Text.assemble(severity, "  ", (title, "bold"), (f"  {found.code}", "dim")))
        lines.append(Text(_fold(evidence, width, "  ")))
        if fix:
            lines.append(Text(_command(f"fix: {fix}", width)))
        lines.append("")
    return lines


def _fold(text, width, indent=""):
    """Lines of at most ``width``, broken between words but never between a number and its unit or its name."""
    kept = text.replace(" %", NBSP + "%").replace(" = ", f"{NBSP}={NBSP}")
    lines = textwrap.wrap(kept, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines).replace(NBSP, " ")


def _command(text, width):
    """A shell's command broken between words, with the backslash that it wants there; Python is broken as text."""
    if not text.startswith("fix: lastlayer "):
        return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="       ", break_on_hyphens=False)
    lines = ["  "]
    for word in re.findall(WORD, text):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines.append("      ")
        lines[-1] += word if lines[-1] == "  " else f" {word}"
    return " \\\n".join(lines)


def _verdict(report, width, say):
    from rich.text import Text

    serious = [f.severity for f in report.findings if f.severity != "note"]
    style = STYLES[serious[0]] if serious else "bold green"
    return Text(_fold(say(wording.plain(report.verdict, LONGEST)), width), style=style)
