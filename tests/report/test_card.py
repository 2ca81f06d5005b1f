import io
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest
from reports import HOSTILE, OF_EVERY_KIND, calibrated, classified, hostile, multiclass, report
from rich.cells import cell_len
from rich.console import Console

from lastlayer import Outputs
from lastlayer.measure import Metric
from lastlayer.measure.read import METRICS, BinRow
from lastlayer.report import card, wording


def printed(what, width=80, **options):
    console = Console(file=io.StringIO(), width=width, highlight=False, **({"no_color": True} | options))
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("kind", OF_EVERY_KIND)
@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_wider_than_80_columns_and_no_metric_is_wrapped(kind, width):
    shown = OF_EVERY_KIND[kind]()
    lines = printed(shown, width).splitlines()
    assert max(map(cell_len, lines)) <= 80
    for name, metric in shown.metrics.items():
        if name not in card.LEFT_OUT:
            value, interval = wording.metric_texts(name, metric)
            (line,) = [line for line in lines if line.startswith(f"{wording.NAMES[name].title} ")]
            assert value in line and line.rstrip().endswith(interval)


def test_the_order_of_a_card():
    shown = report(multiclass())
    text = printed(shown)
    first, *_, last = text.strip().splitlines()
    assert first.rstrip() == "scores.npz · 2,000 rows · 10 classes · logits"
    places = [text.index(part) for part in (first, "metric", "confidence  0", "ERROR  over-confident", "fix: ")]
    assert places == sorted(places)
    assert text.rstrip().replace("\n", " ").endswith(shown.verdict)
    assert last


def test_a_card_without_colour_holds_no_escape_code_and_says_how_bad_it_is():
    text = printed(report(multiclass()), no_color=True)
    assert "\x1b" not in text and "ERROR" in text


def test_before_and_after_stand_side_by_side():
    shown = calibrated()
    text = printed(shown)
    (line,) = [line for line in text.splitlines() if line.startswith("NLL ")]
    before = wording.metric_texts("nll", shown.before.metrics()["nll"])[0]
    assert line.split()[1:3] == [before, wording.metric_texts("nll", shown.metrics["nll"])[0]]
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith("metric")] == [["before", "after"]]


def test_names_from_the_data_cannot_speak_to_the_terminal_or_to_rich():
    text = printed(report(hostile()), force_terminal=False)
    assert "\x1b" not in text
    assert HOSTILE[-6:] == "[bold]" and "[bold]" in text


def test_a_terminal_without_unicode_gets_ascii():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80, no_color=True)
    console.print(report(multiclass(source="é.npz")))
    console.file.flush()
    text = raw.getvalue().decode("ascii")
    assert text.startswith("?.npz | 2,000 rows") and "v over-confident" in text


def test_a_long_path_keeps_its_end():
    text = printed(report(multiclass(source="/".join(["folder"] * 30) + "/the_file.npz")))
    first = text.splitlines()[0].rstrip()
    assert first.startswith("…") and first.endswith("/the_file.npz · 2,000 rows · 10 classes · logits")
    assert cell_len(first) == 80


def bin_row(share, confidence, low, high):
    return BinRow(0.0, 1.0, share, confidence, Metric((low + high) / 2, low, high, 9))


@pytest.mark.parametrize(
    ("row", "mark"),
    [
        (bin_row(0.5, 0.9, 0.6, 0.8), "▼"),
        (bin_row(0.5, 0.5, 0.6, 0.8), "▲"),
        (bin_row(0.5, 0.75, 0.6, 0.8), "="),
        (bin_row(0.5, 0.65, 0.6, 0.8), "="),
        (bin_row(0.0, math.nan, 0.0, 1.0), " "),
    ],
)
def test_a_mark_says_on_which_side_of_the_truth_a_bin_is(row, mark):
    assert card._side(row) == mark


def test_bars_follow_the_bins():
    shown = report(multiclass())
    bins = shown.evaluation.reliability()
    rows, sides = (line.split("▕")[1].split("▏")[0] for line in printed(shown).splitlines() if "▕" in line)
    assert len(rows) == len(sides) == len(bins)
    assert [mark != " " for mark in rows] == [b.share > 0 for b in bins]
    assert rows[max(range(15), key=lambda i: bins[i].share)] == "█"


def test_margins_have_no_confidence_to_draw():
    text = printed(OF_EVERY_KIND["margin"]())
    assert "▕" not in text and "not probabilities" in text


def test_a_long_command_is_broken_as_a_shell_reads_it():
    command = f"lastlayer fit 'a file with {'many ' * 8}blanks.npz' --method temperature --split val -o calibrator.json"
    shown = card._command(f"fix: {command}", 80)
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) > 1
    assert shlex.split(shown.removeprefix("  fix: ").replace("\\\n", "")) == shlex.split(command)


def test_python_gets_no_backslash():
    shown = card._command(f"fix: logits = logits + np.log({'frequency, ' * 12}1)  # then check again", 80)
    assert "\\" not in shown and max(map(len, shown.splitlines())) <= 80


def test_a_number_keeps_its_unit_and_its_name_when_a_line_is_broken():
    text = "x" * 72 + " 97.91 % of rows " + "x" * 55 + " (z = 22.4)"
    lines = card._fold(text, 78).splitlines()
    assert lines[1].startswith("97.91 % of rows") and lines[2] == "(z = 22.4)"


def test_every_metric_has_a_name():
    assert set(wording.NAMES) == set(METRICS)
    assert set(wording.HEADLINE) | set(card.LEFT_OUT) <= set(METRICS)


def grouped(values, **given):
    logits, target = classified(rows=len(values))
    return multiclass_of(logits, target, groups={"site": np.asarray(values)}, **given)


def multiclass_of(logits, target, **given):
    return Outputs(logits, "logits", target=target, source="scores.npz", **given)


def rows_of_groups(text):
    return [line.rstrip() for line in text.splitlines() if line.startswith("site = ")]


def test_the_groups_furthest_from_the_truth_are_shown():
    logits, target = classified(rows=1600, sharpness=1.0)
    site = np.arange(1600) % 8
    logits *= (1 + site)[:, None]  # the higher the number, the more over-confident
    shown = report(multiclass_of(logits, target, groups={"site": site}))
    text = printed(shown)
    assert "group (6 of 8)" in text and text.index("group (6") < text.index("fix: ")
    lines = rows_of_groups(text)
    z = logits - logits.max(1, keepdims=True)
    confidence = 1 / np.exp(z).sum(1)
    right = logits.argmax(1) == target
    gaps = {k: (confidence - right)[site == k].mean() for k in range(8)}
    order = sorted(gaps, key=lambda k: -abs(gaps[k]))[:6]
    assert [line.split()[2] for line in lines] == [str(k) for k in order]
    for k, line in zip(order, lines, strict=True):
        _, _, _, n, accuracy, _, difference, _, low, to, high, _ = line.split()
        assert n == "200" and float(accuracy) == pytest.approx(100 * right[site == k].mean(), abs=0.01)
        assert float(difference) == pytest.approx(100 * gaps[k], abs=0.01)
        assert float(low.replace("−", "-")) < float(difference) < float(high) and to == "to"


def test_few_groups_are_all_shown_and_none_are_no_table():
    text = printed(report(grouped(["a", "b"] * 500)))
    assert len(rows_of_groups(text)) == 2 and "group (" not in text
    assert "conf. − acc." not in printed(report(multiclass()))


def test_the_groups_of_a_margin_have_no_difference():
    outputs = replace(grouped(["a", "b"] * 500), kind="margin")
    lines = rows_of_groups(printed(report(outputs)))
    assert [line.split()[2:4] for line in lines] == [["a", "500"], ["b", "500"]]
    assert all(line.endswith("–") for line in lines)


def test_a_long_group_is_cut_where_its_numbers_need_the_room():
    lines = rows_of_groups(printed(report(grouped(["long " * 30, "short"] * 500))))
    assert all(cell_len(line) <= 80 and "500" in line and " to " in line for line in lines)
    assert any("…" in line for line in lines)


def test_a_verdict_allows_for_notes():
    few = printed(report(multiclass_of(*classified(rows=60, sharpness=1.0))))
    assert "NOTE" in few and few.rstrip().endswith("Nothing that must be fixed before these scores are used.")
