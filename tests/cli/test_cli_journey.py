"""Every command on good data: the published numbers, what is written where, and what JSON holds."""

import csv
import json

import numpy as np
import pytest

from lastlayer import Outputs, evaluate, load, save
from lastlayer.calibrate import fit as calibrate_fit
from lastlayer.calibrate import load as load_calibrator
from lastlayer.decide import Cost
from lastlayer.measure import Evaluation
from lastlayer.report.codes import CODES

# Kull et al. 2019, supplement, and Guo et al. 2017's temperature: shared/data/logits/goldens_densenet40_c10.json.
PUBLISHED = {"ece": 0.055003, "ece_classwise": 0.114303, "mce": 0.333955, "brier_per_class": 0.012738}


def metrics(result):
    return {name: metric["value"] for name, metric in json.loads(result.stdout)["metrics"].items()}


def test_check_gives_the_published_numbers(run, densenet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = metrics(run("check", densenet, "--split", "test", "--json"))
    assert ours["nll"] == pytest.approx(0.430059, abs=1e-6)
    assert ours["accuracy"] == 0.9242
    kull = metrics(run("check", densenet, "--split", "test", "--json", "--convention", "kull2019"))
    assert {name: kull[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=1e-6)
    assert list(tmp_path.iterdir()) == [], "--json writes no page that was not asked for"


def test_fit_and_check_with_the_calibrator_give_the_published_numbers(run, densenet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("fit", densenet, "--split", "val", "--method", "temperature", "-o", "c.json")
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["schema_version"] == 1 and record["method"] == "temperature"
    assert record["parameters"]["temperature"] == pytest.approx(2.88256, abs=1e-4)
    result = run(
        "check",
        densenet,
        "--split",
        "test",
        "--calibrator",
        "c.json",
        "--convention",
        "kull2019",
        "--json",
        "--no-html",
    )
    after = metrics(result)
    assert after["nll"] == pytest.approx(0.225086, abs=2e-6)
    assert after["ece"] == pytest.approx(0.009463, abs=1e-6)
    assert after["ece_classwise"] == pytest.approx(0.039768, abs=1e-6)
    before = json.loads(result.stdout)["before"]["metrics"]
    assert before["nll"]["value"] == pytest.approx(0.430059, abs=1e-6)


def test_check_prints_a_card_and_writes_its_page_here(run, folder):
    result = run("check", "valid.npz")
    assert "over-confident" in result.stdout and "lastlayer fit valid.npz -o calibrator.json" in result.stdout
    assert result.stderr == "report: valid.report.html\nnext: lastlayer explain L501\n"
    assert "over-confident" in (folder / "valid.report.html").read_text()
    run("check", "valid.npz")  # the page is derived, so it replaces itself


def test_a_file_alone_is_checked(run, folder):
    assert run("valid.npz", "--quiet").stdout == run("check", "valid.npz", "--quiet").stdout != ""


def test_quiet_and_json_leave_stderr_empty(run, folder):
    assert run("check", "valid.npz", "--quiet").stderr == ""
    assert run("check", "valid.npz", "--json", "--html", "page.html").stderr == ""
    assert (folder / "page.html").exists()


def test_no_html_writes_nothing(run, folder):
    before = set(folder.iterdir())
    run("check", "valid.npz", "--no-html")
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--fail-on", "error"], 1, "--fail-on error: L501 over-confident"),
        (["--fail-on", "never"], 0, ""),
        (["--max", "nll=0.1"], 1, "--max nll=0.1: exceeded, nll is "),
        (["--max", "nll=9", "--max", "ece=0.01"], 1, "--max ece=0.01: exceeded, ece is "),
        (["--max", "nll=9"], 0, ""),
    ],
)
def test_findings_and_limits_fail_the_command(run, folder, flags, code, words):
    result = run("check", "valid.npz", "--quiet", "--no-html", *flags, code=code)
    assert result.stderr.startswith(words) and bool(words) == bool(result.stderr)
    assert "accuracy" in result.stdout, "the report is printed all the same"


def test_clean_data_pass_the_strictest_gate(run, folder):
    run("check", "true.npz", "--fail-on", "note", "--max", "ece=0.05")


def test_states_of_shards_merge_to_the_whole(run, folder):
    whole = load("valid.npz")
    for i, rows in enumerate((slice(0, 7), slice(7, 1500), slice(1500, 2000))):
        save(whole.rows(rows), f"shard-{i}.npz")
        run("check", f"shard-{i}.npz", "--state", f"shard-{i}.state.npz", "--no-html")
    expected = json.loads(run("check", "valid.npz", "--json").stdout)
    states = [f"shard-{i}.state.npz" for i in (2, 0, 1)]
    for arguments in (["merge", *states], ["check", "shard-1.npz", "shard-0.npz", "shard-2.npz"], ["check", *states]):
        found = json.loads(run(*arguments, "--json").stdout)
        assert found["rows"] == 2000
        for name, metric in expected["metrics"].items():
            for key, value in metric.items():
                assert found["metrics"][name][key] == pytest.approx(value, rel=1e-12, abs=1e-15), (name, key)
        assert [f["code"] for f in found["findings"]] == [f["code"] for f in expected["findings"]]


def test_merge_writes_a_state_and_a_page(run, folder):
    for name in ("valid", "test"):
        run("check", f"{name}.npz", "--state", f"{name}.state.npz", "--no-html")
    result = run("merge", "valid.state.npz", "test.state.npz", "-o", "all.state.npz", "--html", "all.html")
    assert "over-confident" in result.stdout and "report: all.html" in result.stderr
    state = Evaluation.from_bytes((folder / "all.state.npz").read_bytes())
    expected = evaluate(load("valid.npz")).merge(evaluate(load("test.npz")))
    assert state.metrics()["nll"] == pytest.approx(expected.metrics()["nll"], rel=1e-12)
    run("merge", "valid.state.npz", "-o", "all.state.npz", code=3)
    run("merge", "valid.state.npz", "-o", "all.state.npz", "--force")


def test_the_page_of_several_files_is_named_by_what_they_share(run, folder):
    whole = load("valid.npz")
    for i in range(2):
        save(whole.rows(slice(i * 1000, i * 1000 + 1000)), f"shard-{i}.npz")
    assert "report: shard.report.html" in run("check", "shard-0.npz", "shard-1.npz").stderr
    assert "report: test.report.html" in run("check", "test.npz", "valid.npz").stderr


def test_report_prints_where_its_page_is(run, folder):
    run("fit", "valid.npz", "-o", "c.json")
    assert run("report", "test.npz", "--calibrator", "c.json").stdout == "test.report.html\n"
    run("check", "test.npz", "--state", "s.npz", "--no-html")
    assert run("report", "s.npz", "-o", "page.html").stdout == "page.html\n"
    assert "over-confident" in (folder / "page.html").read_text()
    assert json.loads(run("report", "s.npz", "--json").stdout)["rows"] == 2000


def test_fit_shows_what_it_tried_and_saves_what_it_chose(run, folder):
    result = run("fit", "valid.npz", "-o", "c.json")
    fitted = load_calibrator("c.json")
    assert fitted.method == "temperature" and fitted.temperature == pytest.approx(2.5, rel=0.1)
    for trial in fitted.selection:
        line = next(line for line in result.stdout.splitlines() if line.startswith(trial.method + " "))
        assert trial.verdict.startswith("not tried") or f"{trial.nll:.6f}" in line
        assert line.split("  ")[-1].strip() in trial.verdict or "as good" in line
    assert f"temperature {fitted.temperature:.6g}" in result.stdout and "saved c.json" in result.stdout
    assert "next: lastlayer check TEST --calibrator c.json" in result.stderr


def test_fit_joins_shards_whatever_their_order(run, folder):
    whole = load("valid.npz")
    for i in range(2):
        save(whole.rows(slice(i * 1000, i * 1000 + 1000)), f"shard-{i}.npz")
    of_whole = json.loads(run("fit", "valid.npz", "--json").stdout)["calibrator"]
    of_shards = json.loads(run("fit", "shard-1.npz", "shard-0.npz", "--json").stdout)["calibrator"]
    assert of_shards["parameters"]["temperature"] == pytest.approx(of_whole["parameters"]["temperature"], rel=1e-9)
    assert of_shards["fitted_on"]["content"] == of_whole["fitted_on"]["content"]


def test_fit_takes_the_method_and_the_seed_it_is_given(run, folder):
    found = json.loads(run("fit", "valid.npz", "--method", "identity", "--json").stdout)["calibrator"]
    assert found["method"] == "identity"
    expected, other = (calibrate_fit(load("valid.npz"), seed=seed).selection[1].nll for seed in (3, 0))
    found = json.loads(run("fit", "valid.npz", "--seed", "3", "--json").stdout)["calibrator"]
    assert found["selection"][1]["nll"] == expected != other


def test_fit_without_output_saves_nothing(run, folder):
    before = set(folder.iterdir())
    assert "next: lastlayer fit valid.npz -o calibrator.json" in run("fit", "valid.npz").stderr
    assert set(folder.iterdir()) == before


def test_fit_keeps_identity_where_nothing_helps(run, folder):
    assert "\nidentity\n" in run("fit", "true.npz").stdout


def test_decide_by_costs(run, folder):
    run("fit", "valid.npz", "-o", "c.json")
    costs = ["--calibrator", "c.json", "--cost", "wrong=10,review=1"]
    result = run("decide", "test.npz", *costs, "-o", "decisions.csv")
    expected = Cost(wrong=10, review=1)(load_calibrator("c.json").apply(load("test.npz")))
    with open("decisions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["action"] for row in rows] == expected.action.tolist()
    assert [row["class"] for row in rows] == expected.names.tolist()
    summary = expected.summary()
    assert (
        f"accepted       {summary.accepted:,} rows ({summary.share:.1%}), from a probability of 0.9000" in result.stdout
    )
    assert f"{summary.error:.2%} of the accepted, at most {summary.error_high:.2%}" in result.stdout
    assert f"expected {summary.expected_cost:.4f}, realised {summary.realised_cost:.4f}" in result.stdout
    found = json.loads(run("decide", "test.npz", *costs, "--json").stdout)
    assert found["schema_version"] == 1 and found["policy"]["parameters"] == {"wrong": 10.0, "review": 1.0}
    assert found["summary"]["accepted"] == summary.accepted and found["decisions"] is None


def test_decide_by_a_cost_matrix(run, folder):
    names = ["pig", "owl", "dog", "cat"]  # any order
    lines = [",".join(["", *names, "review"])]
    lines += [",".join([true, *("0" if chosen == true else "5" for chosen in names), "1"]) for true in names]
    (folder / "costs.csv").write_text("\n".join(lines))
    by_matrix = json.loads(run("decide", "test.npz", "--cost", "costs.csv", "--json").stdout)["summary"]
    by_words = json.loads(run("decide", "test.npz", "--cost", "wrong=5,review=1", "--json").stdout)["summary"]
    assert by_matrix == pytest.approx(by_words)


@pytest.mark.parametrize(("goal", "at_least", "error"), [("--coverage", 0.9, 1.0), ("--risk", 0.3, 0.2)])
def test_decide_with_a_guarantee(run, folder, goal, at_least, error):
    run("fit", "valid.npz", "-o", "c.json")
    share = "0.9" if goal == "--coverage" else "0.2"
    arguments = ["test.npz", "--calibrator", "c.json", goal, share, "--held-out", "held.npz"]
    found = json.loads(run("decide", *arguments, "--json").stdout)
    assert found["policy"]["policy"] == goal.removeprefix("--") and found["policy"]["parameters"]["rows"] == 2000
    assert found["summary"]["share"] > at_least and found["summary"]["error"] < error
    words = "at least 0.9 accepted" if goal == "--coverage" else "at most 0.2 of the accepted wrong"
    assert f"{words} (95% confidence)" in run("decide", *arguments).stdout


@pytest.mark.parametrize("goal", ["risk", "coverage"])
def test_decide_keeps_the_promise_in_each_class(run, folder, goal):
    arguments = ("decide", "test.npz", f"--{goal}", "0.25", "--by", "class", "--held-out", "held.npz")
    result = run(*arguments, "-o", "out.csv")
    assert "0.25" in result.stdout and "in each class (95% confidence)" in result.stdout
    record = json.loads(run(*arguments, "--json").stdout)["policy"]
    assert record["policy"] == "thresholds" and record["parameters"]["names"] == ["cat", "dog", "owl", "pig"]


def test_decide_reads_held_out_rows_from_another_split(run, folder):
    test, held = load("test.npz"), load("held.npz")
    np.savez(
        "both.npz",
        test_logits=test.scores,
        held_logits=held.scores,
        held_target=held.target,
        classes=list(test.classes),
    )
    split = ["--split", "test", "--risk", ".2", "--held-out", "both.npz", "--held-out-split", "held", "--json"]
    apart = json.loads(run("decide", "test.npz", "--risk", ".2", "--held-out", "held.npz", "--json").stdout)
    together = json.loads(run("decide", "both.npz", *split).stdout)
    assert together["policy"] == apart["policy"]
    assert together["summary"]["accepted"] == apart["summary"]["accepted"]
    assert together["summary"]["error"] is None, "rows to decide on need no target"


def test_a_guarantee_on_the_rows_of_the_fit_is_refused(run, folder):
    run("fit", "valid.npz", "-o", "c.json")
    result = run("decide", "test.npz", "--calibrator", "c.json", "--risk", ".2", "--held-out", "valid.npz", code=3)
    assert "holds the rows that the calibrator was fitted on" in result.stderr


def test_compare(run, folder):
    outputs = load("test.npz")
    save(Outputs(outputs.scores / 2.5, "logits", target=outputs.target, classes=outputs.classes), "better.npz")
    result = run("compare", "test.npz", "better.npz")
    assert "A test.npz\nB better.npz" in result.stdout and "B is better: its nll is " in result.stdout
    assert "A alone is right on 0 rows, B alone on 0." in result.stdout
    found = json.loads(run("compare", "test.npz", "better.npz", "--json").stdout)
    assert found["schema_version"] == 1 and found["differences"]["nll"]["better"] == "B"
    a, b = evaluate(outputs).metrics()["nll"], evaluate(load("better.npz")).metrics()["nll"]
    assert found["differences"]["nll"]["difference"]["value"] == pytest.approx(b - a, rel=1e-9)


def test_explain_lists_and_explains_every_code(run):
    listed = run("explain").stdout
    for code in CODES:
        assert code in listed
        page = run("explain", code).stdout
        assert page.startswith(f"# {code} {CODES[code].title}\n")
    assert run("explain", "l501").stdout == run("explain", "L501").stdout
    assert json.loads(run("explain", "L501", "--json").stdout)["page"] == run("explain", "L501").stdout
    assert {c["code"] for c in json.loads(run("explain", "--json").stdout)["codes"]} == set(CODES)


def test_foreign_names_are_named(run, folder):
    outputs = load("valid.npz")
    np.savez("foreign.npz", z=outputs.scores, y=outputs.target)
    np.save("scores.npy", outputs.scores)
    np.save("labels.npy", outputs.target)
    foreign = run("check", "foreign.npz", "--scores-key", "z", "--target-key", "y", "--kind", "logits", "--json")
    bare = run("check", "scores.npy", "--kind", "logits", "--target-file", "labels.npy", "--json")
    assert metrics(foreign) == metrics(bare) == metrics(run("check", "valid.npz", "--json"))


def test_the_next_command_repeats_what_was_said_of_the_file(run, folder):
    outputs = load("true.npz")
    np.savez("two words.npz", val_logits=outputs.scores, val_target=outputs.target)
    stderr = run("check", "two words.npz", "--split", "val", "--no-html").stderr
    assert stderr == "next: lastlayer decide 'two words.npz' --split val --cost wrong=10,review=1\n"


def test_a_title_is_explained_as_its_code(run):
    for known in CODES.values():
        assert run("explain", known.title.upper()).stdout == run("explain", known.code).stdout


def test_fixes_of_states_name_the_data(run, folder):
    run("check", "valid.npz", "--state", "s.npz", "--no-html")
    run("check", "true.npz", "--state", "true.state.npz", "--no-html")
    for arguments in (["merge", "s.npz"], ["check", "s.npz"], ["report", "s.npz"], ["check", "valid.npz", "s.npz"]):
        fixes = [f["fix"] for f in json.loads(run(*arguments, "--json").stdout)["findings"]]
        assert "lastlayer fit DATA -o calibrator.json" in fixes and not any("npz" in fix for fix in fixes)
    assert "next: lastlayer decide DATA --cost" in run("check", "true.state.npz", "--no-html").stderr


def test_fixes_of_standard_input_name_the_data_of_a_state_alone(shell, run, folder):
    run("check", "valid.npz", "--state", "s.npz", "--no-html")
    for name, words in (("s.npz", b"lastlayer fit DATA -o"), ("valid.npz", b"lastlayer fit - -o")):
        assert words in shell("check", "-", "--no-html", input=(folder / name).read_bytes()).stdout
