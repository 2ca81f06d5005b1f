"""The HTML report: one file with everything in it, drawn from sums, so merged states give the page of the whole."""

import base64
import hashlib
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from lastlayer._check import DataError
from lastlayer.measure.convention import CONVENTIONS
from lastlayer.report import chart, wording
from lastlayer.state import Confusion

CLASS_ROWS = 200  # more classes than this, and the table has the LISTED of the largest bias
LISTED = 100
GROUP_ROWS = 200
MATRIX = 30  # classes in the confusion matrix; beyond, the PAIRS heaviest confusions
PAIRS = 20
SHADES = 8
NAME = 60  # characters of a class or group name
TEXT = 2000  # characters of a sentence or a command, which may hold such names
JSON_NAMES = 30_000  # characters of class names in the embedded JSON
MARK = '<meta name="generator" content="lastlayer">'  # by which a page of ours is known
DOCTYPE = "<!doctype html>"
HEAD = 1024  # bytes within which a page of ours holds its mark
DIGITS = 10  # of a number in the embedded JSON, so that the page of merged shards is that of the whole


def render(report) -> str:
    """The page of a `Report`: self-contained, without any request, usable without its script.

    Scripts and styles run by their hash alone, so a name that came with the data cannot become either.
    """
    import jinja2
    from markupsafe import Markup

    here = files("lastlayer.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    for write in (wording.number, wording.percent, wording.signed, wording.count, wording.between):
        environment.filters[write.__name__] = write
    environment.globals["percent"] = wording.percent  # {{ metric | between(percent) }}
    environment.filters["name"] = lambda text: wording.plain(text, NAME)
    environment.filters["plain"] = lambda text: wording.plain(text, TEXT)
    environment.filters["sentence"] = lambda text: wording.plain(text, TEXT).rstrip(".") + "."
    style, script = (Markup((here / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    page = environment.from_string((here / "template.html").read_text(encoding="utf-8"))
    return page.render(mark=Markup(MARK), style=style, script=script, **hashes, **_content(report))


def refuse_to_replace(path):
    """A page takes the place of an older page of ours alone; any other file may be somebody's data."""
    path = Path(path)
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD)
    except OSError:  # what may not be read is not known to be ours
        start = b""
    if not start.startswith(DOCTYPE.encode()) or MARK.encode() not in start:
        raise DataError(
            "exists already, and is not a page of ours.",
            file=path,
            fix="give another name, or replace it with --force (in Python: force=True).",
        )


def _content(report) -> dict[str, Any]:
    from lastlayer import __version__

    e = report.evaluation
    probable = e.kind != "margin"
    return {
        "version": __version__,
        "report": report,
        "task": e.task,
        "unit": "labels" if e.task == "multilabel" else "rows",
        "summary": [*wording.summary(e), *_effective(e)],
        "severity": _worst(report.findings),
        "findings": report.findings,
        **_metrics(report),
        "probable": probable,
        **(_calibration(report) if probable else {}),
        "histogram": chart.confidence_histogram(e.odds.weight, probable),
        **_classes(e),
        **_groups(e),
        **_confusions(e),
        "convention": CONVENTIONS[e.convention],
        "json": json.dumps(_embedded(report), indent=2, ensure_ascii=False, allow_nan=False),
    }


def _metrics(report):
    """Every metric with its texts, those of the tiles first."""
    before = report.before.metrics() if report.before is not None else {}
    listed = {}
    for name, metric in report.metrics.items():
        value, interval = wording.metric_texts(name, metric)
        earlier = wording.metric_texts(name, before[name])[0] if name in before else None
        names = wording.NAMES[name]
        listed[name] = {
            "name": name,
            "title": names.title,
            "meaning": names.meaning,
            "value": value,
            "interval": interval,
            "before": earlier,
            "n": metric.n,
        }
    return {"metrics": list(listed.values()), "tiles": [listed[name] for name in wording.HEADLINE if name in listed]}


def _calibration(report):
    """Reliability, its table, and what the temperature slider shows at each of its stops."""
    e = report.evaluation
    bins, curve = e.reliability(), e.curve()
    before = report.before.reliability() if report.before is not None else None
    stops = [_stop(point) for point in curve]
    best = chart.lowest(curve)
    return {
        "bins": bins,
        "reliability": chart.reliability(bins, before),
        "curve": chart.temperature_curve(curve),
        "stops": stops,
        "best": best,
        "given": chart.given(curve),
        "slider": {"stops": stops, "at": chart.temperature_positions(curve), "side": chart.SIDE, "bars": chart.SHARES},
    }


def _stop(point):
    """One temperature: its numbers as text, and its bins in units of 1/10,000 (0: empty)."""
    return {
        "temperature": wording.number(point.temperature),
        "nll": wording.number(point.nll),
        "ece": wording.percent(point.ece),
        "confidence": wording.percent(point.confidence),
        "most": wording.percent(max(b.share for b in point.bins)),
        "bins": [_units(b) if b.share > 0 else 0 for b in point.bins],
    }


def _units(b):
    return [round(1e4 * float(v)) for v in (b.share, b.confidence, b.accuracy, b.accuracy.low, b.accuracy.high)]


def _classes(evaluation):
    """The table per class: all of them, or those with the largest bias."""
    rows = evaluation.per_class()
    total = len(rows)
    if total > CLASS_ROWS:
        rows = _largest(rows, [row.bias for row in rows])
    probable = evaluation.kind != "margin"
    reach = _reach(row.bias for row in rows)
    return {
        "class_total": total,
        "class_rows": [(row, chart.interval_mark(row.bias, reach) if probable else "") for row in rows],
        "class_found": any(not math.isnan(row.recall) for row in rows),
        "class_ranked": any(not math.isnan(row.auroc) for row in rows),
    }


def _groups(evaluation):
    """The table per group, those with the largest difference first where there are too many."""
    rows = evaluation.per_group()
    total = len(rows)
    if total > GROUP_ROWS:
        rows = _largest(rows, [row.overconfidence for row in rows])
    reach = _reach(row.overconfidence for row in rows)
    return {
        "group_total": total,
        "group_rows": [(row, chart.interval_mark(row.overconfidence, reach)) for row in rows],
    }


def _largest(rows, differences):
    """The `LISTED` rows of the largest difference, in their order; rounded, so that shards choose as the whole does."""
    order = sorted(range(len(rows)), key=lambda k: (-abs(round(float(differences[k]), 12)), k))
    return [rows[k] for k in sorted(order[:LISTED])]


def _reach(differences):
    """What the axis of a column of intervals has to hold: every estimate, and three quarters of the intervals."""
    known = [m for m in differences if math.isfinite(m)]
    if not known:
        return 0.0
    ends = sorted(max(abs(m.low), abs(m.high)) for m in known)
    return max(max(map(abs, known)), ends[len(ends) * 3 // 4])


def _confusions(evaluation):
    """A shaded matrix up to `MATRIX` classes; the heaviest pairs of different classes beyond."""
    none = {"matrix": None, "pairs": []}
    state, classes = evaluation.confusion, evaluation.classes
    if evaluation.task == "multilabel":
        return none
    if len(classes) <= MATRIX:
        return none | {"matrix": _matrix(state.value(), classes)}
    apart = state.pair // state.classes != state.pair % state.classes
    heaviest = Confusion(state.classes, state.pair[apart], state.weight[apart], state.lost).heaviest(PAIRS)
    of_target = np.bincount(state.pair // state.classes, state.weight, len(classes))
    pairs = [
        {"target": classes[t], "predicted": classes[p], "rows": float(w), "share": float(w / of_target[t])}
        for t, p, w in zip(*heaviest, strict=True)
    ]
    return none | {"pairs": pairs}


def _matrix(weight, classes):
    """Rows of (name, cells); a cell is its weight and a shade from the share of its row, by the square root."""
    with np.errstate(all="ignore"):
        share = np.nan_to_num(weight / weight.sum(1, keepdims=True))
    shade = np.ceil(SHADES * np.sqrt(share) - 1e-9).astype(int)
    rows = []
    for k, name in enumerate(classes):
        side = ["right" if j == k else "wrong" for j in range(len(classes))]
        css = [f"{hue}-{step}" if step else "" for hue, step in zip(side, shade[k], strict=True)]
        rows.append((name, list(zip(weight[k].tolist(), css, strict=True))))
    return rows


def _effective(evaluation):
    """What weights leave of the number of rows."""
    mean = evaluation.means.value()
    if np.isclose(mean.effective, mean.rows):
        return []
    return [f"weighted, worth {round(float(mean.effective)):,} rows"]


def _worst(findings):
    from lastlayer.report.finding import SEVERITIES

    return max((f.severity for f in findings), key=SEVERITIES.index, default="none")


def _embedded(report):
    """The report as JSON, its numbers to `DIGITS` digits, without class names that would swell the page."""
    record = report.to_dict()
    if sum(map(len, record["classes"])) > JSON_NAMES:
        del record["classes"]
    return _rounded(record)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _hash(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
