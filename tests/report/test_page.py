import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from reports import HOSTILE, OF_EVERY_KIND, calibrated, classified, hostile, many_classes, margin, multiclass, report

from lastlayer import Outputs, check
from lastlayer._check import DataError
from lastlayer.measure import evaluate
from lastlayer.report import Report, page, wording


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text within each."""

    VOID = ("meta", "input", "link", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def of(self, tag, **having):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in having.items())]

    def table(self, heading):
        """Cells of the body of the table whose first column is called so."""
        start = next(i for i, e in enumerate(self.elements) if e.get("scope") == "col" and e["text"] == heading)
        rows = []
        for element in self.elements[start:]:
            if element["tag"] in ("table", "section"):
                break
            if element["tag"] == "tr":
                rows.append([])
            if element["tag"] in ("td", "th") and rows:
                rows[-1].append(element["text"])
        return rows


@pytest.fixture(scope="module", params=OF_EVERY_KIND)
def html(request):
    return page.render(OF_EVERY_KIND[request.param]())


def test_no_page_asks_for_anything(html):
    assert not re.findall(r"https?:|@import|\bsrc\s*=|url\((?!['\"]?data:)", html)
    for element in Page(html).elements:
        assert element["tag"] not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert element.get("href", "#").startswith("#")


def test_a_page_is_small(html):
    assert len(html.encode()) < 120_000


def test_a_page_runs_nothing_but_its_own_script_and_style(html):
    parsed = Page(html)
    (policy,) = [e["content"] for e in parsed.of("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    data = [e for e in parsed.of("script") if e.get("type")]
    assert len(parsed.of("script")) == 1 + len(data) and all(e["type"] == "application/json" for e in data)
    assert not [name for e in parsed.elements for name in e if name.startswith("on") or name == "style"]


def test_names_from_the_data_stay_text():
    html = page.render(report(hostile()))
    assert "\x1b" not in html and "alert(" in html
    parsed = Page(html)
    shown = HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert (
        parsed.of("h1")[0]["text"]
        == f"{shown}.npz"
        == parsed.of("title")[0]["text"].removesuffix(" · lastlayer report")
    )
    names = {row[0] for row in parsed.table("class")}
    assert wording.plain(f"3{HOSTILE}", page.NAME) in names
    assert json.loads(parsed.of("pre", id="json")[0]["text"])["classes"][3] == f"3{HOSTILE}"


def test_very_long_names_do_not_swell_the_page():
    names = [f"{i} " + "long " * 4000 for i in range(10)]
    groups = {"g" * 5000: [f"{i % 900}" + "v" * 5000 for i in range(2000)]}
    html = page.render(report(multiclass(classes=names, groups=groups, source="s" * 50_000)))
    assert len(html.encode()) < 300_000


def test_the_same_report_is_the_same_page():
    assert page.render(report(multiclass())) == page.render(report(multiclass()))


def test_the_page_of_merged_shards_is_that_of_the_whole():
    whole = hostile()
    cuts = [0, 300, 301, 1400, 2000]
    parts = [evaluate(whole.rows(slice(a, b))) for a, b in itertools.pairwise(cuts)]
    merged = parts[2].merge(parts[0]).merge(parts[3].merge(parts[1]))
    assert page.render(Report(merged, whole.source)) == page.render(report(whole))


def test_the_page_holds_the_report_as_json():
    shown = calibrated()
    held = json.loads(Page(page.render(shown)).of("pre", id="json")[0]["text"])
    given = shown.to_dict()
    assert held["verdict"] == given["verdict"]
    for where in (lambda r: r["metrics"], lambda r: r["before"]["metrics"]):
        for name, metric in where(given).items():
            assert where(held)[name] == pytest.approx(metric, rel=1e-9)


def test_headings_come_in_the_order_of_reading():
    parsed = Page(page.render(report(hostile())))
    assert [e["text"] for e in parsed.of("h2")] == [
        "Metrics",
        "Is the confidence true?",
        "Findings",
        "Classes",
        "Groups",
        "Confusion",
    ]


def test_tiles_show_before_and_after():
    shown = calibrated()
    tiles = [" ".join(e["text"].split()) for e in Page(page.render(shown)).of("dd")]
    before, after = (wording.metric_texts("nll", r["nll"]) for r in (shown.before.metrics(), shown.metrics))
    assert f"{before[0]} → {after[0]} {after[1]}" in tiles


def test_findings_stand_with_code_evidence_and_fix():
    logits, target = classified()
    logits[0] = np.nan
    shown = report(Outputs(logits, "logits", target=target))
    parsed = Page(page.render(shown))
    articles = [e["text"] for e in parsed.of("article")]
    assert len(articles) == len(shown.findings) > 1
    for text, finding in zip(articles, shown.findings, strict=True):
        for part in (finding.code, finding.severity, finding.title, finding.meaning):
            assert part in text
    assert [b for b in parsed.of("button", **{"class": "copy"}) if "hidden" not in b] == []


def test_classes_up_to_200_are_all_listed():
    assert len(Page(page.render(report(many_classes(40)))).table("class")) == 40


def test_of_more_classes_those_with_the_largest_bias_are_listed():
    outputs = many_classes(300)
    p = np.exp(outputs.scores - outputs.scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    bias = p.mean(0) - np.bincount(outputs.target, minlength=300) / len(outputs)
    largest = {str(k) for k in np.argsort(-np.abs(bias))[: page.LISTED]}
    html = page.render(report(outputs))
    assert {row[0] for row in Page(html).table("class")} == largest
    assert "100 of 300: those with the largest bias" in html


def test_the_matrix_counts_rows_by_target_and_prediction():
    outputs = multiclass()
    count = Counter(zip(outputs.target.tolist(), outputs.scores.argmax(1).tolist(), strict=True))
    parsed = Page(page.render(report(outputs)))
    cells = [e for e in parsed.of("td") if re.match("(right|wrong)-", e.get("class", ""))]
    want = [count[t, p] for t in range(10) for p in range(10) if count[t, p]]
    assert [int(e["text"].replace(",", "")) for e in cells] == want
    assert sum(e["class"].startswith("right") for e in cells) == 10


def test_beyond_thirty_classes_the_heaviest_confusions_are_listed():
    outputs = many_classes(40)
    predicted = outputs.scores.argmax(1)
    wrong = Counter((t, p) for t, p in zip(outputs.target.tolist(), predicted.tolist(), strict=True) if t != p)
    heaviest = sorted(wrong, key=lambda pair: (-wrong[pair], pair))[: page.PAIRS]
    rows = Page(page.render(report(outputs))).table("what was there")
    assert [(int(t), int(p), int(n)) for t, p, n, _ in rows] == [(t, p, wrong[t, p]) for t, p in heaviest]
    t, _, n, share = rows[0]
    assert share == wording.percent(int(n) / (outputs.target == int(t)).sum())


def stops(html):
    return json.loads(Page(html).of("script", id="stops")[0]["text"])["stops"]


def test_the_slider_holds_what_the_rows_give_at_each_temperature():
    outputs = multiclass()
    at_two = next(stop for stop in stops(page.render(report(outputs))) if stop["temperature"] == "2.000")
    z = outputs.scores / 2
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    confidence, hit = p.max(1), p.argmax(1) == outputs.target
    inside = (confidence > 10 / 15) & (confidence <= 11 / 15)
    share, mean, right, low, high = at_two["bins"][10]
    assert share == pytest.approx(1e4 * inside.mean(), abs=0.51)
    assert mean == pytest.approx(1e4 * confidence[inside].mean(), abs=0.51)
    assert right == pytest.approx(1e4 * hit[inside].mean(), abs=0.51)
    assert low < right < high
    loss = -np.log(p[np.arange(len(p)), outputs.target]).mean()
    assert at_two["nll"] == wording.number(loss)
    assert at_two["confidence"] == wording.percent(confidence.mean())


def test_the_slider_starts_at_the_rows_as_they_are_and_knows_the_lowest_loss():
    html = page.render(report(multiclass()))
    (slider,) = Page(html).of("input", id="temperature")
    found = stops(html)
    assert found[int(slider["data-given"])]["temperature"] == "1.000" and slider["value"] == slider["data-given"]
    assert min(float(stop["nll"]) for stop in found) == float(found[int(slider["data-best"])]["nll"])
    assert 2 < float(found[int(slider["data-best"])]["temperature"]) < 4  # the logits were made three times too large


def test_without_its_script_a_page_offers_no_dead_control(html):
    parsed = Page(html)
    assert all("hidden" in e for e in parsed.of("div", **{"class": "slider"}))
    assert all("hidden" in e for e in parsed.of("button") if not e.get("id", "").startswith("to-"))


def test_margins_have_no_reliability_and_no_slider():
    parsed = Page(page.render(report(margin())))
    charts = [e["class"] for e in parsed.of("svg")]
    assert charts == ["chart histogram"]
    assert parsed.of("input") == []


def test_a_loss_that_is_infinite_has_no_slider():
    logits = np.zeros((50, 3))
    logits[0, 0] = -np.inf
    html = page.render(report(Outputs(logits, "logits", target=np.zeros(50, int))))
    assert Page(html).of("input") == []


def test_every_chart_is_named_for_who_cannot_see_it(html):
    parsed = Page(html)
    named = {e["id"]: e["text"] for e in parsed.elements if e.get("id")}
    for chart in (e for e in parsed.of("svg") if e.get("aria-hidden") != "true"):
        assert chart["role"] == "img" and all(named[part] for part in chart["aria-labelledby"].split())


def test_identities_are_unique(html):
    identities = [e["id"] for e in Page(html).elements if e.get("id")]
    assert len(identities) == len(set(identities))


def test_the_reliability_table_says_what_the_diagram_shows():
    shown = report(multiclass())
    rows = Page(page.render(shown)).table("confidence")
    bins = [b for b in shown.evaluation.reliability() if b.share > 0]
    assert [row[3] for row in rows] == [wording.percent(b.accuracy) for b in bins]


def test_densenet_on_cifar_10(shared_data):
    held = np.load(shared_data / "logits" / "densenet40_c10_logits.npz")
    outputs = Outputs(held["test_logits"], "logits", target=held["test_labels"], source="densenet40_c10_logits.npz")
    html = page.render(report(outputs))
    tiles = {" ".join(e["text"].split()) for e in Page(html).of("span", **{"class": "value"})}
    assert {"0.4301", "92.42 %", "5.50 %"} <= tiles
    assert len(html.encode()) < 80_000


DRIVE = """<script>{
const slider = document.getElementById("temperature");
slider.value = slider.dataset.best;
slider.dispatchEvent(new Event("input"));
const bias = [...document.querySelectorAll("#classes ~ .scroll th button")].find((b) => b.textContent === "bias");
bias.click();
}</script>"""


def test_the_script_moves_the_points_and_sorts_the_tables(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    shown = report(multiclass())
    html = page.render(shown)
    free = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", html).replace("</body>", f"{DRIVE}</body>")
    (tmp_path / "page.html").write_text(free, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path}/page.html"]
    dom = Page(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    stop = stops(html)[int(dom.of("input", id="temperature")[0]["data-best"])]
    assert (
        stop["nll"] in dom.of("output")[0]["text"]
        and stop["temperature"] in dom.of("span", **{"class": "at-given"})[0]["text"]
    )
    point = dom.of("circle", **{"class": "point"})[14]
    assert float(point["cy"]) == pytest.approx(400 * (1 - stop["bins"][14][2] / 1e4))
    rows = dom.table("class")
    largest = max(shown.evaluation.per_class(), key=lambda row: row.bias)
    assert rows[0][0] == largest.name
    assert "hidden" not in dom.of("div", **{"class": "slider"})[0]


def test_a_page_replaces_older_pages_alone(tmp_path):
    shown, path = report(multiclass()), tmp_path / "page.html"
    assert shown.to_html(path) == path == shown.to_html(path)
    for content in (b"", b"PK\x03\x04", b"<!doctype html>\n<title>mine</title>", page.MARK.encode(), b"\xff" * 5000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"page.html: exists already, and is not a page of ours.*force=True"):
            shown.to_html(path)
        assert path.read_bytes() == content
        assert shown.to_html(path, force=True).read_text().startswith(page.DOCTYPE)
    link = tmp_path / "link.html"
    link.symlink_to(path)
    shown.to_html(link)
    with pytest.raises(DataError, match="is a directory"):
        shown.to_html(tmp_path)


def test_every_page_is_known_as_ours(html, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(html)
    page.refuse_to_replace(path)


def test_findings_name_the_rows_in_every_form(tmp_path, monkeypatch):
    """Those of a model have no file yet, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.npz").touch()
    for source, data in (("a b.npz", "'a b.npz'"), (None, "FILE"), ("MLPClassifier.predict_proba", "FILE")):
        shown = check(multiclass(source=source))
        words = f"lastlayer fit {data} -o"
        fix = shown.findings[0].fix
        assert fix.startswith(words)
        assert json.loads(shown.to_json())["findings"][0]["fix"] == fix
        assert [e["text"] for e in Page(page.render(shown)).of("code")].count(fix) == 1
        assert fix in " ".join(repr(shown).split())
