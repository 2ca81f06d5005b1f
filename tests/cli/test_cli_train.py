"""`lastlayer train` and `lastlayer predict`, from tables to decisions, and what they refuse."""

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from lastlayer import load, nll
from lastlayer.calibrate import load as load_calibrator
from lastlayer.train.model_file import load_model
from lastlayer.train.table import read_table

FILES = ["calibrator.json", "coefficients.csv", "model.json", "model.safetensors", "out-of-fold.npz", "report.html"]


def write(path, columns):
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


@pytest.fixture(scope="module")
def cancer(tmp_path_factory):
    """Scikit-learn's breast cancer as a CSV file, with an id."""
    path = tmp_path_factory.mktemp("cancer") / "cancer.csv"
    data = load_breast_cancer()
    columns = {"nr": [f"p{i}" for i in range(len(data.target))]}
    columns |= dict(zip(data.feature_names, data.data.T.tolist(), strict=True))
    write(path, columns | {"finding": [["malignant", "benign"][k] for k in data.target]})
    return path


def loans(n=400, seed=0):
    """Two classes that depend on numbers with gaps, a truth value, a category and a text."""
    rng = np.random.default_rng(seed)
    age, owner = rng.normal(45, 12, n), rng.random(n) < 0.4
    job, words = rng.choice(["cook", "smith", "clerk"], n), rng.choice(["late", "prompt", "first", "again"], (n, 3))
    score = 0.08 * (age - 45) - 1.5 * owner + (job == "cook") + 1.2 * (words == "late").sum(1) - 0.9
    target = np.where(score + rng.logistic(size=n) > 0, "default", "paid")
    return {
        "age": ["" if rng.random() < 0.05 else f"{a:.1f}" for a in age],
        "owner": ["true" if o else "false" for o in owner],
        "job": job.tolist(),
        "note": [" ".join(w) for w in words],
        "site": rng.choice(["north", "south"], n).tolist(),
        "w": rng.integers(1, 4, n).tolist(),
        "y": target.tolist(),
    }


def wide():
    """So many features for so few rows make logits that are far too large out of fold."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 60))
    y = (x[:, 0] + rng.logistic(size=300) > 0).astype(int)
    return {f"x{j}": x[:, j].tolist() for j in range(60)} | {"y": y.tolist()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("loans.csv", loans())
    return tmp_path


def test_breast_cancer_from_a_table_to_predictions(run, here, cancer):
    card = run("train", cancer, "--target", "finding", "--id", "nr", "--out", "model")
    assert "569 rows, 2 classes (benign, malignant)" in card.stdout and "30 from 30 columns" in card.stdout
    assert max(map(len, card.stdout.split("\n")[1:])) <= 80
    assert card.stderr == "next: lastlayer predict model NEW -o predictions.csv\n"
    assert sorted(path.name for path in (here / "model").iterdir()) == FILES
    found = json.loads(run("train", cancer, "--target", "finding", "--id", "nr", "--out", "json", "--json").stdout)
    assert found["before"]["nll"]["value"] < 0.085 and found["before"]["accuracy"]["value"] > 0.97
    assert found["metrics"]["auroc"]["low"] > 0.98 and len(found["tried"]) == 6
    assert min(found["tried"], key=lambda t: t["nll"])["penalty"] == found["penalty"]

    outputs = load(here / "model" / "out-of-fold.npz")
    assert outputs.classes == ("benign", "malignant") and list(outputs.ids[:2]) == ["p0", "p1"]
    assert run("check", here / "model" / "out-of-fold.npz", "--no-html").stdout

    run("predict", "model", cancer, "-o", "new.csv")
    model, calibrator = load_model("model"), load_calibrator(here / "model" / "calibrator.json")
    logits, _ = model.logits(read_table(cancer))
    again = load(here / "new.csv")
    np.testing.assert_array_equal(again.scores, calibrator(logits))
    assert list(again.ids) == list(outputs.ids)
    assert (again.target == outputs.target).all(), "the table has the target"


def test_predictions_are_the_models_decision_function(run, here):
    from lastlayer.train._cross_fit import Labels, Settings, cross_fit

    run("train", "loans.csv", "--target", "y", "--penalty", "2", "--out", "model", "--text", "note", "--drop", "w")
    columns = read_table("loans.csv")
    labels = Labels.of("y", columns["y"])
    features = {name: values for name, values in columns.items() if name not in ("y", "w")}
    done = cross_fit(features, labels, None, Settings(2.0, text=("note",)))
    logits, notes = load_model("model").logits(columns)
    np.testing.assert_allclose(logits, done.model.decision_function(done.values), rtol=0, atol=1e-12)
    assert notes == ()
    np.testing.assert_allclose(load("model/out-of-fold.npz").scores, done.logits, rtol=0, atol=1e-9)


def test_out_of_fold_logits_come_from_models_that_had_not_seen_the_row(run, here):
    """A target that nothing predicts: in-sample logits of so many features would look right."""
    rng = np.random.default_rng(3)
    columns = {f"x{j}": rng.normal(size=80).tolist() for j in range(40)} | {"y": rng.integers(2, size=80).tolist()}
    write("noise.csv", columns)
    found = json.loads(run("train", "noise.csv", "--target", "y", "--penalty", "10", "--out", "m", "--json").stdout)
    assert abs(found["before"]["accuracy"]["value"] - 0.5) < 0.2
    logits, _ = load_model("m").logits(read_table("noise.csv"))
    assert ((logits > 0) == np.array(columns["y"])).mean() > 0.85


def test_predictions_are_calibrated(run, here):
    write("wide.csv", wide())
    card = run("train", "wide.csv", "--target", "y", "--penalty", "1e4", "--out", "m").stdout
    assert "judged above by fits without each fold" in " ".join(card.split())
    calibrator, (logits, _) = load_calibrator("m/calibrator.json"), load_model("m").logits(read_table("wide.csv"))
    assert calibrator.method != "identity"
    run("predict", "m", "wide.csv", "-o", "p.npz")
    scores = load("p.npz").scores
    np.testing.assert_array_equal(scores, calibrator(logits))
    assert np.abs(scores).mean() < 0.8 * np.abs(logits).mean()


def test_figures_after_calibration_are_of_calibrators_without_the_row(run, here):
    """Isotonic and its like look better on the rows of their own fit; the card shows what new rows would see."""
    write("wide.csv", wide())
    flags = ["--target", "y", "--penalty", "1e4", "--json"]
    for out, policy in (("m", ()), ("p", ("--coverage", "0.8"))):
        found = json.loads(run("train", "wide.csv", *flags, *policy, "--out", out).stdout)
        seen = load(f"{out}/out-of-fold.npz")
        own = nll(load_calibrator(f"{out}/calibrator.json").apply(seen).logits, seen.target)
        assert found["calibrator"] != "identity"
        assert float(own) < found["metrics"]["nll"]["value"] < found["before"]["nll"]["value"]


def test_separator(run, here):
    text = "size;kind\n" + "".join(f"{i % 7},5;{'ab'[i % 3 == 0]}\n" for i in range(60))
    (here / "european.csv").write_text(text.replace(",", "."))
    assert "is the separator ';'" in run("train", "european.csv", "--target", "kind", "--out", "m", code=3).stderr
    flags = ["--target", "kind", "--separator", ";"]
    assert "60 rows, 2 classes (a, b)" in run("train", "european.csv", *flags, "--out", "m").stdout
    assert "60 rows" in run("predict", "m", "european.csv", "--separator", ";", "-o", "p.csv").stderr
    assert "neither one character" in run("predict", "m", "x.csv", "--separator", ";;", "-o", "p.csv", code=2).stderr


def test_rows_of_weight_zero_teach_nothing(run, here):
    """Half of the rows say the opposite, and weigh nothing."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=400).tolist()
    y = (np.array(x) + rng.logistic(size=400) > 0).astype(int).tolist()
    write("good.csv", {"x": x, "y": y, "w": [1] * 400})
    write("both.csv", {"x": x + x, "y": y + [1 - k for k in y], "w": [1] * 400 + [0] * 400})
    for name in ("good", "both"):
        run("train", f"{name}.csv", "--target", "y", "--weight", "w", "--penalty", "none", "--out", name)
    good, both = load_model("good"), load_model("both")
    np.testing.assert_allclose(both.coef, good.coef, rtol=1e-5)
    first, second = (load(f"{name}/out-of-fold.npz").scores[:400] for name in ("good", "both"))
    assert np.abs(first - second).mean() < 0.2 < 0.6 < np.abs(first).mean(), "the folds differ, and nothing else"


def test_everything_at_once(run, here):
    flags = ["--text", "note", "--weight", "w", "--group", "site", "--drop", "site", "--cost", "wrong=10,review=1"]
    card = run("train", "loans.csv", "--target", "y", "--out", "model", "--penalty", "1", *flags).stdout
    assert "from 3 columns and 1 text" in card and "policy      cost: accepts" in card
    assert "age (" in card and "the median where a value is missing" in card
    outputs = load(here / "model" / "out-of-fold.npz")
    assert set(outputs.groups) == {"site"} and set(outputs.weight) == {1, 2, 3}
    assert "site" not in load_model("model").features.table.to_record()["columns"][2]["name"]
    result = run("predict", "model", "loans.csv", "-o", "-")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert list(rows[0]) == ["id", "class", "log_odds", "prob", "action", "logit_paid", "group_site", "target"]
    for row in rows:
        z = float(row["logit_paid"])
        assert row["class"] == ("paid" if z > 0 else "default")
        assert float(row["log_odds"]) == pytest.approx(abs(z))
        assert float(row["prob"]) == pytest.approx(1 / (1 + np.exp(-abs(z))))
        assert row["action"] == ("accept" if 10 * (1 - float(row["prob"])) <= 1 else "review")


@pytest.mark.parametrize("form", ["csv", "parquet", "npz"])
def test_predictions_in_every_format_are_read_by_check(run, here, form):
    write("three.csv", loans() | {"y": np.random.default_rng(0).choice(["a", "b", "c"], 400).tolist()})
    run("train", "three.csv", "--target", "y", "--out", "model", "--penalty", "1", "--drop", "note")
    run("predict", "model", "three.csv", "-o", f"new.{form}")
    outputs = load(f"new.{form}")
    assert outputs.classes == ("a", "b", "c") and outputs.kind == "logits"
    calibrated = load_calibrator("model/calibrator.json")(load_model("model").logits(read_table("three.csv"))[0])
    np.testing.assert_allclose(outputs.scores, calibrated, rtol=1e-15)
    assert run("check", f"new.{form}", "--no-html").exit_code == 0
    found = json.loads(run("predict", "model", "three.csv", "-o", f"again.{form}", "--json").stdout)
    assert found["rows"] == 400 and sum(found["classes"].values()) == 400 and found["accepted"] is None


def test_coefficients_with_errors_where_there_is_no_penalty(run, here):
    import math

    rng = np.random.default_rng(0)
    x, n = rng.integers(0, 2, 600), 600
    y = (rng.random(n) < np.where(x, 0.7, 0.4)).astype(int)
    write("two.csv", {"x": x.tolist(), "y": y.tolist()})
    run("train", "two.csv", "--target", "y", "--penalty", "none", "--out", "m")
    with open("m/coefficients.csv", newline="") as file:
        slope, _ = rows = list(csv.DictReader(file))
    assert [row["feature"] for row in rows] == ["x", "(intercept)"] and {row["class"] for row in rows} == {"1"}
    a, b, c, d = (int(((x == i) & (y == k)).sum()) for i, k in ((1, 1), (1, 0), (0, 1), (0, 0)))
    assert float(slope["coefficient"]) == pytest.approx(math.log(a * d / (b * c)), rel=1e-6)
    assert float(slope["standard_error"]) == pytest.approx(math.sqrt(1 / a + 1 / b + 1 / c + 1 / d), rel=1e-6)
    assert float(slope["odds_ratio"]) == pytest.approx(a * d / (b * c), rel=1e-6)


def test_units_of_a_column_do_not_matter(run, here):
    columns = loans()
    write("scaled.csv", columns | {"age": [a and f"{float(a) * 1e5}" for a in columns["age"]]})
    for name in ("loans", "scaled"):
        run("train", f"{name}.csv", "--target", "y", "--penalty", "0.1", "--drop", "note", "--out", name)
    first, second = (load(f"{name}/out-of-fold.npz").scores for name in ("loans", "scaled"))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_a_promise_rests_on_rows_that_the_calibrator_did_not_see(run, here):
    write("many.csv", loans(3000))
    run("train", "many.csv", "--target", "y", "--penalty", "1", "--text", "note", "--out", "m", "--risk", ".2")
    policy = json.loads((here / "m" / "policy.json").read_text())
    assert policy["policy"] == "risk" and policy["parameters"]["rows"] == 1000
    assert load_calibrator("m/calibrator.json").fitted_on.rows == 2000
    run("train", "many.csv", "--target", "y", "--penalty", "1", "--out", "n", "--coverage", ".9")
    assert json.loads((here / "n" / "policy.json").read_text())["parameters"]["low"] >= 0.9


def test_new_levels_and_gaps_are_said(run, here):
    columns = {name: values[:20] for name, values in loans().items()}
    write("new.csv", columns | {"job": ["pope"] * 20, "owner": [""] * 20})
    run("train", "loans.csv", "--target", "y", "--penalty", "1", "--out", "m")
    result = run("predict", "m", "new.csv", "-o", "p.csv")
    assert "job: pope not seen in training, counted as no level" in result.stderr
    assert "owner: 20 missing, where none was in training" in result.stderr
    assert run("predict", "m", "new.csv", "-o", "p.csv", "--force", "-q").stderr == ""


def test_the_same_seed_gives_the_same_files(run, here):
    for name in ("a", "b"):
        run("train", "loans.csv", "--target", "y", "--out", name, "--penalty", "1", "--text", "note", "--seed", "7")
    for name in ("model.json", "model.safetensors", "coefficients.csv"):
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()


BASE = loans(60)
BAD = {
    "no such target": ({}, ["--target", "yy"], "no column 'yy', which --target names. Fix: did you mean"),
    "no such text": ({}, ["--target", "y", "--text", "notes"], "no column 'notes', which --text names"),
    "constant": ({"y": ["a"] * 60}, ["--target", "y"], "the target is constant: all 60 rows are 'a'"),
    "missing": ({"y": ["", *BASE["y"][1:]]}, ["--target", "y"], "y: the target is missing. First rows: 0."),
    "one row": ({"y": ["odd", *BASE["y"][1:]]}, ["--target", "y"], "class 'odd' has one row"),
    "few rows": ({"y": ["odd"] * 3 + BASE["y"][3:]}, ["--target", "y"], "class 'odd' has 3 rows, too few for 5 folds"),
    "its folds": ({"y": ["odd"] * 3 + BASE["y"][3:]}, ["--target", "y"], "at most 3 folds: --cv 3"),
    "rows": ({"y": list(range(60))}, ["--target", "y"], "as many classes as rows, 60"),
    "continuous": ({"y": [0.5, *range(59)]}, ["--target", "y"], "numbers such as 0.5"),
    "endless": ({"y": ["inf", *range(59)]}, ["--target", "y"], "numbers such as inf"),
    "text": ({"age": ["old", *range(59)]}, ["--target", "y"], "age: text in a numeric column: 'old'. First rows: 0."),
    "infinite": ({"age": ["inf", *range(59)]}, ["--target", "y"], "age: an infinite number. First rows: 0."),
    "weight": ({"w": [-1] * 60}, ["--target", "y", "--weight", "w"], "w: a weight is a number of at least 0"),
    "two things": ({}, ["--target", "y", "--drop", "job", "--text", "job"], "job: is said to be two things"),
    "header": ({}, ["--target", "y", "--columns", "a,b"], "has 7 cells, the header has 2"),
    "separated": ({"x": [y == "paid" for y in BASE["y"]]}, ["--target", "y", "--penalty", "none"], "separated by x"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_in_a_sentence(run, here, name):
    change, flags, words = BAD[name]
    write("bad.csv", BASE | change)
    before = set(here.iterdir())
    result = run("train", "bad.csv", "--out", "model", *flags, code=3)
    assert result.stderr.startswith("error: bad.csv: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr and "Fix: " in result.stderr
    assert result.stdout == "" and set(here.iterdir()) == before, "nothing is written"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--target"),
        (["--target", "y", "--penalty", "-1"], "neither a number above 0"),
        (["--target", "y", "--penalty", "nan"], "neither a number above 0"),
        (["--target", "y", "--cv", "1"], "--cv"),
        (["--target", "y", "--cost", "wrong=10,review=1", "--risk", ".1"], "give one of --cost"),
        (["--target", "y", "--cost", "wrong=ten,review=1"], "wrong is a number"),
        (["--target", "y", "--risk", "5%"], "Write 0.05"),
    ],
)
def test_wrong_calls(run, here, flags, words):
    before = set(here.iterdir())
    assert words in run("train", "loans.csv", "--out", "model", *flags, code=2).stderr
    assert set(here.iterdir()) == before


def test_a_folder_is_replaced_only_with_force_and_only_if_it_is_a_model(run, here):
    flags = ["--target", "y", "--penalty", "1", "--drop", "note"]
    run("train", "loans.csv", *flags, "--out", "m")
    assert "m: holds a model already. Fix:" in run("train", "loans.csv", *flags, "--out", "m", code=3).stderr
    run("train", "loans.csv", *flags, "--out", "m", "--force", "--cost", "wrong=5,review=1")
    assert sorted(path.name for path in (here / "m").iterdir()) == sorted([*FILES, "policy.json"])
    assert "holds files, and no model" in run("train", "loans.csv", *flags, "--out", ".", "--force", code=3).stderr
    assert not list(here.glob(".*")), "nothing is left behind"


def test_predicting_without_a_model_or_a_column(run, here):
    run("train", "loans.csv", "--target", "y", "--penalty", "1", "--out", "m")
    assert "No such file" in run("predict", "n", "loans.csv", code=3).stderr
    write("few.csv", {"age": [1, 2]})
    assert "few.csv: header: there is no column 'owner'" in run("predict", "m", "few.csv", code=3).stderr
    write("text.csv", BASE | {"age": ["old"] * 60})
    assert "text in a numeric column: 'old'. First rows: 0." in run("predict", "m", "text.csv", code=3).stderr
    assert "written as .csv" in run("predict", "m", "loans.csv", "-o", "p.xlsx", code=2).stderr
    assert "standard output" in run("predict", "m", "loans.csv", "--json", code=2).stderr
    run("predict", "m", "loans.csv", "-o", "p.csv")
    assert "exists already" in run("predict", "m", "loans.csv", "-o", "p.csv", code=3).stderr
    record = json.loads((here / "m" / "model.json").read_text())
    (here / "m" / "model.json").write_text(json.dumps(record | {"schema_version": 9}))
    assert "schema_version: is 9" in run("predict", "m", "loans.csv", code=3).stderr


def test_a_target_that_the_model_does_not_know_is_left_out(run, here):
    run("train", "loans.csv", "--target", "y", "--penalty", "1", "--out", "m")
    write("new.csv", BASE | {"y": ["other", *BASE["y"][1:]]})
    result = run("predict", "m", "new.csv", "-o", "p.csv")
    assert "y is not written: 'other' is no class of the model" in result.stderr
    assert load("p.csv").target is None


def test_classes_that_are_numbers_are_sorted_as_such_and_lose_no_digit():
    from lastlayer.train._cross_fit import Labels

    long = ["9" * 40, "9" * 39 + "8"]
    found = Labels.of("y", np.array(["10", "9.0", " 9", "-1", *long], dtype=object))
    assert found.classes == ("-1", "9", "10", long[1], long[0])
    assert found.index.tolist() == [2, 1, 1, 0, 4, 3]
    assert Labels.of("y", np.array([1.0, 0.0])).classes == Labels.of("y", np.array([1, 0])).classes == ("0", "1")


def test_too_few_rows_for_a_calibrator_leave_the_logits_as_they_are(run, here):
    write("small.csv", {name: values[:24] for name, values in BASE.items() if name != "note"})
    card = run("train", "small.csv", "--target", "y", "--penalty", "1", "--cv", "2", "--out", "m").stdout
    assert "calibrated identity: 24 labelled rows are too few" in " ".join(card.split())
    assert load_calibrator("m/calibrator.json").method == "identity"


def test_real_tables(run, here, shared_data):
    """The heart disease of Cleveland has no header; its figures are those of research on this table."""
    names = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
    heart = shared_data / "tabular" / "processed.cleveland.data"
    assert (
        "the header is missing"
        in run("train", heart, "--format", "csv", "--target", "num", "--out", "m", code=3).stderr
    )
    (here / "heart.csv").write_text(
        "".join(f"{line.rpartition(',')[0]},{int(not line.endswith(',0'))}\n" for line in heart.read_text().split())
    )
    flags = ["--columns", names, "--category", "cp", "--category", "thal", "--category", "slope", "--penalty", "0.1"]
    found = json.loads(run("train", "heart.csv", *flags, "--target", "num", "--out", "m", "--json").stdout)
    assert found["rows"] == 303 and found["before"]["auroc"]["value"] > 0.895


@pytest.mark.slow
def test_real_texts(run, here, shared_data):
    sms = shared_data / "text" / "SMSSpamCollection.tsv.gz"
    flags = ["--columns", "label,message", "--unquoted"]
    run("train", sms, *flags, "--target", "label", "--text", "message", "--penalty", "100", "--out", "m")
    outputs = load("m/out-of-fold.npz")
    assert ((outputs.scores > 0) == outputs.target).mean() > 0.9869
    assert "5,574 rows" in run("predict", "m", sms, *flags, "-o", "p.npz").stderr
