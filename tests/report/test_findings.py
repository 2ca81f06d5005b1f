"""`find`: each code is found where its fault is and nowhere else, and shards say what the whole says."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import lastlayer as ll
from lastlayer.cli import main
from lastlayer.measure import Evaluation, evaluate
from lastlayer.outputs import Outputs
from lastlayer.report.chance import ALPHA, clear_gap, log_chance
from lastlayer.report.codes import CODES
from lastlayer.report.finding import SEVERITIES
from lastlayer.report.findings import find
from report.generators import (
    GENERATORS,
    anything_clean,
    binary,
    discrete_clean,
    draw,
    multiclass,
    multilabel,
    sigmoid,
    softmax,
)

# Codes that a generator can not avoid, because its fault is one of theirs, too.
ALSO = {
    "L403": {"L401"},  # a class that is never probable is too improbable on average
    "L503": {"L501"},  # one over-confident group makes the whole over-confident
}


def found(outputs):
    return {f.code: f for f in find(evaluate(outputs))}


@pytest.fixture(scope="module")
def densenet(shared_data):
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as file:
        return Outputs(file["test_logits"], "logits", target=file["test_labels"])


@pytest.mark.parametrize("code", CODES)
def test_each_code_is_found_where_its_fault_is_and_no_other(code):
    findings = found(GENERATORS[code]())
    assert code in findings
    assert set(findings) - {code} <= ALSO.get(code, set())
    assert all(f.severity != "error" for f in findings.values() if f.code != code)


@pytest.mark.parametrize("code", CODES)
def test_a_finding_is_complete_and_writes_as_json(code):
    finding = found(GENERATORS[code]())[code]
    assert finding.title == CODES[code].title and finding.severity in SEVERITIES
    assert finding.numbers and any(character.isdigit() for character in finding.evidence)
    for sentence in (finding.evidence, finding.meaning):
        assert sentence and not sentence.endswith(".")
    assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["code"] == code
    assert "{" not in finding.about("a.npz").fix


@pytest.mark.parametrize("clean", [multiclass, binary, multilabel])
def test_nothing_is_found_in_calibrated_outputs(clean):
    assert found(clean()) == {}


def false_alarms(runs, most):
    alarms = []
    for run in range(runs):
        outputs = anything_clean(np.random.default_rng([2, run]), most)
        alarms += [(run, code) for code in found(outputs) if code != "L104"]
    return {run for run, _ in alarms}, alarms


def test_false_alarms_stay_below_one_percent_all_codes_together():
    runs, alarms = false_alarms(300, 1e5)
    assert len(runs) <= 3, alarms


def test_discrete_models_have_few_outputs_and_no_other_finding():
    alarms = []
    for run in range(200):
        told = find(evaluate(discrete_clean(np.random.default_rng([3, run]))))
        alarms += [(run, f) for f in told if f.code != "L104" and (f.code, f.severity) != ("L103", "note")]
    assert len({run for run, _ in alarms}) <= 2, alarms


@pytest.mark.slow
def test_false_alarms_stay_below_one_percent_in_many_runs():
    runs, alarms = false_alarms(2000, 1e6)
    assert len(runs) <= 20, alarms


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("convention", [None, "kull2019"])
def test_merged_shards_give_the_findings_of_the_whole(code, convention):
    outputs = GENERATORS[code]()
    rng = np.random.default_rng(3)
    cuts = np.sort(rng.integers(1, len(outputs), 4))
    parts = [p for p in np.split(rng.permutation(len(outputs)), cuts) if len(p)]
    merged = Evaluation.of(outputs.rows(parts[0]), convention)
    for part in parts[1:]:
        merged = merged.merge(Evaluation.of(outputs.rows(part), convention))
    whole, sum_of_parts = find(evaluate(outputs, convention=convention)), find(merged)
    assert [f[:4] for f in sum_of_parts] == [f[:4] for f in whole]
    assert [f.fix for f in sum_of_parts] == [f.fix for f in whole]
    assert find(Evaluation.from_bytes(merged.to_bytes())) == sum_of_parts


def test_findings_stand_worst_first_then_by_code():
    worse = replace(GENERATORS["L503"](), scores=GENERATORS["L303"]().scores * 2)
    order = [(-SEVERITIES.index(f.severity), f.code) for f in find(evaluate(worse))]
    assert len(order) >= 2 and order == sorted(order)


# The real file.


def test_the_real_file_is_over_confident_and_calibrated_it_is_not(densenet):
    as_it_is = found(densenet)
    assert set(as_it_is) == {"L501"} and as_it_is["L501"].severity == "error"
    numbers = as_it_is["L501"].numbers
    p = softmax(densenet.scores.astype(np.float64)).max(1)
    assert numbers["confidence"] == pytest.approx(p.mean(), abs=1e-9)
    assert numbers["gap"] == pytest.approx(p.mean() - 0.9242, abs=1e-9)
    exact = (p.sum() - 9242) / np.sqrt((p * (1 - p)).sum())
    assert 0.9 * exact < numbers["z"] <= exact  # the variance is bounded from above, bin by bin
    assert found(replace(densenet, scores=densenet.scores / np.float32(2.88256))) == {}


def test_swapped_columns_are_found_on_the_real_file(densenet):
    swapped = densenet.scores.copy()
    swapped[:, [3, 5]] = swapped[:, [5, 3]]
    finding = found(replace(densenet, scores=swapped))["L204"]
    assert finding.severity == "error"
    assert "-> 92.42 %" in finding.evidence and "columns 3 and 5 are swapped" in finding.evidence
    assert finding.numbers["accuracy_then"] == pytest.approx(0.9242)
    assert finding.fix.startswith("logits[:, [3, 5]] = logits[:, [5, 3]]")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_double_softmax_is_found_on_the_real_file(densenet, dtype):
    probs = softmax(softmax(densenet.scores.astype(np.float64))).astype(dtype)
    errors = {c for c, f in found(replace(densenet, scores=probs, kind="probs")).items() if f.severity == "error"}
    assert errors == {"L202"}
    logits = replace(densenet, scores=np.log(probs))
    assert "L202" in found(logits) and "L201" not in found(logits)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_probabilities_declared_as_logits_are_found_on_the_real_file(densenet, dtype):
    probs = softmax(densenet.scores.astype(np.float64)).astype(dtype)
    finding = found(replace(densenet, scores=probs))["L201"]
    assert finding.severity == "error" and finding.fix == "lastlayer check {file} --kind probs"


def test_float32_probabilities_of_the_real_file_are_saturated(densenet):
    probs = softmax(densenet.scores.astype(np.float64)).astype("float32")
    finding = found(replace(densenet, scores=probs, kind="probs"))["L301"]
    assert finding.numbers["rows"] == (probs == 1).sum() > 5000
    assert finding.severity == "warning"


# The bound.


@pytest.mark.parametrize("n, p", [(300, 0.001), (300, 0.2), (5000, 0.0005), (20000, 0.5)])
def test_the_bound_is_above_the_exact_tail_and_not_by_much(n, p):
    count = np.arange(int(n * p) + 1, int(n * p + 9 * np.sqrt(n * p) + 9))
    exact = stats.binom.logsf(count - 1, n, p)
    bound = log_chance(count - n * p, n * p * (1 - p), 1 - p)
    assert (bound >= exact).all()
    assert (bound <= 0.7 * exact)[exact < np.log(ALPHA)].all()


def test_the_bound_of_no_gap_is_certainty_and_of_no_variance_impossibility():
    assert log_chance(0.0, 1.0, 1.0) == 0 and log_chance(-3.0, 1.0, 1.0) == 0
    assert log_chance(1.0, 0.0, 1.0) == -np.inf and log_chance(0.0, 0.0, 1.0) == 0
    assert np.exp(log_chance(30.0, 100.0, 1.0)) == pytest.approx(np.exp(-100 * (1.3 * np.log(1.3) - 0.3)))


@pytest.mark.parametrize("variance", [0.0, 0.5, 40.0, 1e6])
def test_a_clear_gap_is_clear(variance):
    assert log_chance(clear_gap(variance, 2.0, tests=7), variance, 2.0) + np.log(7) <= np.log(ALPHA)


def test_weights_widen_the_variance_and_a_single_heavy_row_shows_nothing():
    clean = multiclass(rows=3000)
    heavy = np.ones(3000)
    wrong = np.flatnonzero(clean.scores.argmax(1) != clean.target)[0]
    heavy[wrong] = 3000.0
    assert set(found(replace(clean, weight=heavy))) <= {"L104"}
    assert "L501" in found(replace(GENERATORS["L501"](), weight=np.full(4000, 1e-3)))


# Severity.


def test_a_significant_but_tiny_gap_is_a_note():
    clean = multiclass(rows=200_000, classes=3)
    finding = found(replace(clean, scores=clean.scores * 1.05))["L501"]
    assert finding.severity == "note" and finding.numbers["z"] > 5


@pytest.mark.parametrize("scale, severity", [(1.15, "warning"), (1.5, "error"), (0.86, "warning"), (0.6, "error")])
def test_severity_follows_the_gap(scale, severity):
    clean = multiclass(rows=20_000)
    finding = found(replace(clean, scores=clean.scores * scale))["L501" if scale > 1 else "L502"]
    assert finding.severity == severity
    assert (abs(finding.numbers["gap"]) >= 0.05) == (severity == "error")


def test_a_gap_that_could_hide_is_said_with_the_rows_that_would_show_it():
    finding = found(multiclass(rows=300))["L104"]
    assert finding.severity == "note"
    assert found(multiclass(rows=int(finding.numbers["rows_wanted"] * 1.1))) == {}


# The order of columns.


def test_a_weak_or_biased_model_has_no_other_order():
    rng = np.random.default_rng(5)
    for k in (2, 3, 10, 60):
        target = rng.choice(k, 3000, p=(w := rng.random(k) + 0.02) / w.sum())
        knows_nothing = rng.normal(size=(3000, k)) + rng.normal(size=k)
        favours_the_rare = rng.normal(size=(3000, k)) - 2 * np.log(w)
        one_too_high = np.eye(k)[np.minimum(target + 1, k - 1)] * 3 + rng.normal(size=(3000, k))
        constant = np.eye(k)[np.zeros(3000, int)] + rng.normal(size=(3000, k)) * 1e-3
        for scores in (knows_nothing, favours_the_rare, constant, one_too_high)[: 4 if k in (2, 3, 10) else 3]:
            assert "L204" not in found(Outputs(scores, "logits", target=target)), k


def test_classes_without_rows_stay_where_they_are():
    rng = np.random.default_rng(0)
    for absent in (3, 4, 5):
        z = rng.normal(size=(4000, 8)) * 2
        z[:, absent:] -= 40
        target = draw(rng, softmax(z))
        for other in range(absent, 8):
            swapped = z.copy()
            swapped[:, [0, other]] = swapped[:, [other, 0]]
            finding = found(Outputs(swapped, "logits", target=target))["L204"]
            assert f"columns 0 and {other} are swapped" in finding.evidence


def test_many_classes_and_few_rows_have_no_other_order_by_luck():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores, target = rng.normal(size=(300, 100)), rng.integers(0, 100, 300)
        assert "L204" not in found(Outputs(scores, "logits", target=target))


def test_a_rare_class_that_is_never_predicted_is_no_other_order():
    target = np.r_[np.zeros(2000, int), np.ones(20, int)]
    scores = np.random.default_rng(0).normal(size=(2020, 2)) + np.array([0.4, 0.0])
    assert "L204" not in found(Outputs(scores, "logits", target=target))


@pytest.mark.parametrize("shift", [1, 3])
def test_columns_that_are_all_shifted_are_put_back(shift):
    clean = multiclass(classes=12, spread=3.0)
    finding = found(replace(clean, scores=np.roll(clean.scores, shift, axis=1)))["L204"]
    logits = np.roll(clean.scores, shift, axis=1)
    logits = run(finding.fix, "logits", logits)
    np.testing.assert_array_equal(logits, clean.scores)
    assert finding.numbers["accuracy_then"] == pytest.approx((clean.scores.argmax(1) == clean.target).mean())


def test_many_classes_in_a_random_order_are_counted_rather_than_listed():
    clean = multiclass(rows=6000, classes=40, spread=4.0)
    finding = found(replace(clean, scores=clean.scores[:, np.random.default_rng(0).permutation(40)]))["L204"]
    assert "of 40 columns" in finding.evidence and finding.fix == CODES["L204"].fix


@pytest.mark.parametrize("kind", ["logits", "probs", "logp", "margin"])
def test_a_turned_binary_score_is_found_and_turned_back(kind):
    clean = binary()
    z = -clean.scores
    scores = {"logits": z, "margin": z, "probs": sigmoid(z), "logp": np.log(sigmoid(z))}[kind]
    turned = replace(clean, scores=scores, kind=kind)
    finding = found(turned)["L204"]
    assert found(replace(turned, scores=run(finding.fix, kind, scores))) == {}


# What a declaration says, and whether its fix mends it.


def run(fix, name, value, **more):
    """The variable ``name`` after the line of code."""
    scope = {"np": np, "ll": ll, name: value.copy(), **more}
    exec(fix, scope)
    return scope["probs" if "probs =" in fix else name]


def test_undoing_a_softmax_gives_the_probabilities_back():
    outputs = GENERATORS["L202"]()
    fix = found(outputs)["L202"].fix
    once = run(fix, "probs", outputs.scores)
    np.testing.assert_allclose(once, softmax(multiclass(spread=5.0).scores), atol=1e-9)
    logits = np.log(outputs.scores) + 3.0
    fix = found(replace(outputs, scores=logits, kind="logits"))["L202"].fix
    np.testing.assert_allclose(run(fix, "logits", logits), once, atol=1e-9)


@pytest.mark.parametrize("clean", [binary, multilabel])
def test_a_sigmoid_applied_twice_is_found_and_undone(clean):
    outputs = clean(spread=5.0)
    outputs = replace(outputs, scores=outputs.scores - 1)
    twice = replace(outputs, scores=sigmoid(sigmoid(outputs.scores)), kind="probs", task=outputs.task)
    finding = found(twice)["L202"]
    np.testing.assert_allclose(run(finding.fix, "probs", twice.scores), sigmoid(outputs.scores), atol=1e-9)


def test_a_weak_model_within_the_range_of_a_double_softmax_is_not_one():
    clean = multiclass(classes=2, spread=0.25)
    assert found(clean) == {}
    assert found(replace(clean, scores=softmax(clean.scores), kind="probs")) == {}
    shrunk = replace(multiclass(classes=2, spread=0.8), scores=multiclass(classes=2, spread=0.8).scores * 0.2)
    assert "L202" not in found(shrunk) and "L502" in found(shrunk)


@pytest.mark.parametrize("clean", [binary, multilabel])
def test_probabilities_declared_as_logits_need_evidence_where_they_need_not_sum_to_one(clean):
    outputs = clean()
    assert "L201" in found(replace(outputs, scores=sigmoid(outputs.scores), task=outputs.task))
    rng = np.random.default_rng(4)
    z = rng.random(outputs.scores.shape)
    target = (rng.random(z.shape) < sigmoid(z)).astype(int)
    assert found(Outputs(z, "logits", target=target)) == {}  # true logits that lie in [0, 1]


def test_scores_that_are_no_probabilities_are_said_with_the_distance():
    clean = multiclass()
    off = softmax(clean.scores) * 1.002
    note = found(replace(clean, scores=softmax(clean.scores) * 1.0002, kind="probs"))
    assert note["L203"].severity == "note"
    warning = found(replace(clean, scores=off, kind="probs"))["L203"]
    assert warning.severity == "warning" and warning.numbers["worst_sum"] == pytest.approx(0.002)
    assert found(replace(clean, scores=run(warning.fix, "probs", off), kind="probs")) == {}
    as_logp = found(replace(clean, kind="logp"))["L203"]
    assert as_logp.severity == "error" and as_logp.fix == "lastlayer check {file} --kind logits"
    rounded = softmax(clean.scores).astype("float32").astype("float64")
    assert found(replace(clean, scores=rounded, kind="probs")) == {}
    logp = np.log(softmax(clean.scores))
    assert found(replace(clean, scores=logp.astype("float32"), kind="logp")) == {}


def as_kind(outputs, kind):
    """Logits as scores of ``kind``."""
    if kind == "logits":
        return outputs
    p = softmax(outputs.scores) if outputs.task == "multiclass" else sigmoid(outputs.scores)
    scores = p if kind == "probs" else np.log(p)
    return replace(outputs, scores=scores, kind=kind)


@pytest.mark.parametrize("clean", [binary, multiclass, multilabel])
def test_rows_that_rounding_takes_out_of_range_are_told_and_put_back(clean):
    outputs = as_kind(clean(), "probs")
    scores = outputs.scores.astype("float32").reshape(4000, -1)
    scores[:200, 0] = -1e-7 if outputs.task == "multiclass" else 1.0000001
    target = outputs.target.copy()
    target[:200] = 1
    outputs = replace(outputs, scores=scores.reshape(outputs.scores.shape), target=target)
    assert evaluate(outputs).means.rows == 3800
    finding = found(outputs)["L203"]
    assert finding.numbers["left_out"] == 200 and finding.severity == "error"
    mended = replace(outputs, scores=run(finding.fix, "probs", outputs.scores))
    assert evaluate(mended).means.rows == 4000 and "L203" not in found(mended)


def test_binary_logarithms_above_0_are_put_back():
    outputs = as_kind(binary(), "logp")
    scores = outputs.scores.astype("float32")
    scores[:200] = 1e-7
    outputs = replace(outputs, scores=scores, target=np.where(np.arange(4000) < 200, 1, outputs.target))
    mended = replace(outputs, scores=run(found(outputs)["L203"].fix, "logp", scores))
    assert evaluate(mended).means.rows == 4000 and "L203" not in found(mended)


@pytest.mark.parametrize("clean", [binary, multilabel, multiclass])
def test_undoing_a_second_softmax_in_float32_loses_no_row(clean):
    outputs = clean(spread=5.0)
    outputs = replace(outputs, scores=outputs.scores - (outputs.task != "multiclass"))
    once = as_kind(outputs, "probs").scores
    twice = (softmax(once) if outputs.task == "multiclass" else sigmoid(once)).astype("float32")
    outputs = replace(outputs, scores=twice, kind="probs")
    mended = run(found(outputs)["L202"].fix, "probs", twice)
    assert evaluate(replace(outputs, scores=mended)).means.rows == 4000
    np.testing.assert_allclose(mended, once, atol=2e-6)


def fitted(fix, outputs, folder):
    """The calibrator that the command writes for these rows."""
    data, where = folder / "data.npz", folder / "calibrator.json"
    ll.save(outputs, data)
    arguments = shlex.split(fix.replace("{file}", str(data)).replace("calibrator.json", str(where)))
    result = CliRunner(catch_exceptions=False).invoke(main, arguments[1:])
    assert result.exit_code == 0, result.output
    return ll.calibrate.load(where)


@pytest.mark.parametrize("clean", [binary, multiclass, multilabel])
@pytest.mark.parametrize("kind", ["logits", "probs", "logp"])
def test_class_bias_is_mended_in_every_task_and_kind_with_nan_rows(clean, kind, tmp_path):
    outputs = clean()
    shift = np.array([0.6, 0.0, 0.0, 0.0, -0.6]) if outputs.task != "binary" else 0.5
    scores = outputs.scores + shift
    scores[:30] = np.nan
    outputs = as_kind(replace(outputs, scores=scores), kind)
    finding = found(outputs)["L401"]
    assert set(found(fitted(finding.fix, outputs, tmp_path).apply(outputs))) == {"L101"}


@pytest.mark.parametrize("clean", [binary, multiclass, multilabel])
@pytest.mark.parametrize("kind", ["logits", "probs", "logp"])
def test_the_rows_to_look_at_are_the_ones_that_are_counted(clean, kind):
    outputs = as_kind(clean(), kind)
    for code, value in (("L101", np.nan), ("L102", -np.inf if kind == "logp" else np.inf)):
        scores = outputs.scores.copy()
        scores[5:12] = value
        fix = found(replace(outputs, scores=scores))[code].fix
        scope = {"np": np, kind: scores}
        exec(fix, scope)
        assert np.flatnonzero(scope["bad"]).tolist() == list(range(5, 12))


def test_rows_of_a_dead_class_are_named():
    outputs = GENERATORS["L403"]()
    scope = {"np": np, "target": outputs.target}
    exec(found(outputs)["L403"].fix, scope)
    assert scope["rows"].tolist() == np.flatnonzero(outputs.target == 4).tolist()


@pytest.mark.parametrize("name", ["it's", "flag"])
def test_groups_that_are_apart_get_calibrators_of_their_own(name, tmp_path):
    outputs = GENERATORS["L503"]()
    flag = outputs.groups["time"] == "night"
    outputs = replace(outputs, groups={name: np.where(flag, 'a "b"', "c")})
    calibrator = fitted(found(outputs)["L503"].fix, outputs, tmp_path)
    assert set(calibrator.parts) == {'a "b"', "c"}
    after = found(calibrator.apply(outputs))
    assert "L501" in found(outputs.rows(flag)) and not {"L501", "L503"} & set(after)


def test_a_rescaled_margin_has_its_resolution_back():
    outputs = GENERATORS["L304"]()
    for scale in (1.0, 1e10):
        margin = outputs.scores * scale
        fix = found(replace(outputs, scores=margin))["L304"].fix
        assert found(replace(outputs, scores=run(fix, "margin", margin))) == {}


# Rows and columns.


def test_rows_of_weight_zero_are_not_looked_at():
    for code in ("L101", "L102", "L303"):
        outputs = GENERATORS[code]()
        weight = (np.arange(len(outputs)) >= 12).astype(float)
        assert found(replace(outputs, weight=weight)) == {}


def test_one_percent_of_nan_is_an_error():
    outputs = multiclass()
    scores = outputs.scores.copy()
    scores[:40] = np.nan
    assert found(replace(outputs, scores=scores))["L101"].severity == "error"
    scores[39] = 0.0
    assert found(replace(outputs, scores=scores))["L101"].severity == "warning"


def test_impossible_labels_are_counted_in_every_task_and_kind():
    for clean in (multiclass(), binary(), multilabel()):
        logits = clean.scores.copy()
        right = clean.target[:3]
        if clean.task == "multiclass":
            logits[np.arange(3), right] = -np.inf
        else:
            logits[:3] = np.where(right == 1, -np.inf, np.inf)
        probs = softmax(logits) if clean.task == "multiclass" else sigmoid(logits)
        with np.errstate(divide="ignore"):
            forms = {"logits": logits, "probs": probs, "logp": np.log(probs)}
        for kind, scores in forms.items():
            finding = found(replace(clean, scores=scores, kind=kind, task=clean.task))["L303"]
            assert finding.numbers["rows"] == 3, (clean, kind)
            assert not np.isfinite(evaluate(replace(clean, scores=scores, kind=kind)).metrics()["nll"])


def test_a_label_overruled_by_an_infinite_score_is_impossible():
    outputs = multiclass()
    scores = outputs.scores.copy()
    scores[np.arange(2), (outputs.target[:2] + 1) % 5] = np.inf
    assert found(replace(outputs, scores=scores))["L303"].numbers["rows"] == 2


def test_masked_classes_and_shifted_logits_are_fine():
    clean = multiclass(classes=4)
    masked = clean.scores.copy()
    masked[np.arange(4000), (clean.target + 1) % 4] = -np.inf
    target = draw(np.random.default_rng(9), softmax(masked))
    assert found(Outputs(masked, "logits", target=target)) == {}
    for shifted in (clean.scores - clean.scores.max(1, keepdims=True), clean.scores - clean.scores[:, :1]):
        assert found(replace(clean, scores=shifted)) == {}


def test_duplicates_beyond_the_sketch_are_an_estimate():
    clean = multiclass(rows=20_000, classes=3)
    twice = clean.rows(np.r_[np.arange(20_000), np.arange(4_000)])
    finding = found(twice)["L103"]
    assert finding.numbers["share"] == pytest.approx(1 / 6, abs=0.01) and finding.severity == "error"
    assert "estimated" in finding.evidence
    assert "estimated" not in found(GENERATORS["L103"]())["L103"].evidence


def test_few_distinct_outputs_are_a_note_and_a_file_read_twice_is_an_error():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(64, 3)) * 2)[rng.integers(0, 64, 5000)]
    tree = Outputs(z, "logits", target=draw(rng, softmax(z)))
    findings = found(tree)
    assert set(findings) == {"L103"} and findings["L103"].severity == "note"
    assert findings["L103"].evidence.startswith("few distinct outputs: 64 different rows; ")
    clean = multiclass()
    for copies in (2, 3):
        assert found(clean.rows(np.tile(np.arange(4000), copies)))["L103"].severity == "error"
    assert found(clean.rows(np.r_[np.arange(4000), np.arange(3000)]))["L103"].severity == "error"


def test_hard_zeros_and_ones_are_saturated_however_few_they_are():
    target = np.random.default_rng(0).integers(0, 2, 4000)
    assert found(Outputs(target.astype(float), "probs", target=target))["L301"].severity == "warning"


def test_rows_of_nan_do_not_hide_duplicates():
    clean = multiclass(rows=2150)
    scores = clean.scores.copy()
    scores[:150, 0] = np.nan  # different rows all the same
    rows = np.r_[np.arange(2150), np.arange(150, 250)]
    finding = found(replace(clean, scores=scores).rows(rows))["L103"]
    assert finding.numbers["rows"] == pytest.approx(100)


def test_rows_of_nan_are_no_duplicates():
    outputs = multiclass()
    scores = outputs.scores.copy()
    scores[:100] = np.nan
    assert set(found(replace(outputs, scores=scores))) == {"L101"}


def test_a_class_that_is_masked_everywhere_is_a_note():
    clean = multiclass(classes=4)
    masked = np.column_stack([clean.scores, np.full(4000, -np.inf)])
    findings = found(Outputs(masked, "logits", target=clean.target))
    assert {code: f.severity for code, f in findings.items()} == {"L402": "note"}


def test_one_row_can_hide_any_gap():
    finding = found(multiclass().rows(slice(1)))["L104"]
    assert finding.numbers["gap"] == 1 and "with 1 row a gap" in finding.evidence


def test_a_constant_model_is_an_error_and_nothing_else_is_said():
    target = np.random.default_rng(0).integers(0, 3, 4000)
    findings = found(Outputs(np.ones((4000, 3)) * [3.0, 1.0, 2.0], "logits", target=target))
    assert set(findings) == {"L402"} and findings["L402"].severity == "error"
    one_score = found(Outputs(np.full(4000, 0.25), "logits", target=target % 2))
    assert one_score["L402"].severity == "error"


def test_an_unseen_binary_class_is_found_on_either_side():
    clean = binary(spread=1.0)
    for only in (0, 1):
        finding = found(replace(clean, target=np.full(4000, only)))["L404"]
        assert f"class {1 - only} should be" in finding.evidence


def test_class_bias_is_the_probability_in_the_wrong_classes(tmp_path):
    outputs = GENERATORS["L401"]()
    finding = found(outputs)["L401"]
    gap = softmax(outputs.scores).mean(0) - np.bincount(outputs.target) / 4000
    assert finding.numbers["misplaced"] == pytest.approx(np.abs(gap[[0, 4]]).sum() / 2)
    assert found(fitted(finding.fix, outputs, tmp_path).apply(outputs)) == {}


@pytest.mark.parametrize("clean", [binary, multilabel])
def test_class_bias_of_one_logit_per_label_is_the_largest_gap_and_mended(clean, tmp_path):
    outputs = clean()
    outputs = replace(outputs, scores=outputs.scores + 0.5)
    finding = found(outputs)["L401"]
    gap = sigmoid(outputs.scores).mean(0) - outputs.target.mean(0)
    assert finding.numbers["misplaced"] == pytest.approx(np.abs(gap).max())
    assert "L401" not in found(fitted(finding.fix, outputs, tmp_path).apply(outputs))


def test_an_over_confident_model_without_bias_has_no_class_bias():
    for seed in range(40):
        clean = multiclass(seed, rows=1000)
        assert "L401" not in found(replace(clean, scores=clean.scores * 8)), seed


def test_a_class_that_a_few_heavy_rows_expect_may_be_absent():
    rng = np.random.default_rng(0)
    logits = np.r_[np.full(10, -2.0), np.full(3000, -9.0)] + rng.normal(size=3010) * 0.01
    weight = np.r_[np.full(10, 300.0), np.ones(3000)]  # 360 expected by weight, 1.2 by rows
    assert "L404" not in found(Outputs(logits, "logits", target=np.zeros(3010, int), weight=weight))


# Groups.


def test_groups_as_badly_calibrated_as_the_rest_are_no_finding():
    rng = np.random.default_rng(6)
    outputs = replace(GENERATORS["L501"](), groups={"g": rng.integers(0, 5, 4000)})
    assert set(found(outputs)) == {"L501"}


def test_the_better_of_two_groups_is_not_the_finding():
    finding = found(GENERATORS["L503"]())["L503"]
    assert "time = night" in finding.evidence and "day" not in finding.evidence
    outputs = GENERATORS["L503"]()
    gap = softmax(outputs.scores).max(1) - (outputs.scores.argmax(1) == outputs.target)
    night = outputs.groups["time"] == "night"
    assert finding.numbers["groups"] == 1 and finding.numbers["rows"] == night.sum()
    assert finding.numbers["gap"] == pytest.approx(gap[night].mean())
    assert finding.numbers["elsewhere"] == pytest.approx(gap[~night].mean())


def test_a_grouping_with_one_value_has_no_rest():
    assert found(multiclass(groups={"g": ["all"] * 4000})) == {}


# Odd evaluations.


def test_a_margin_is_asked_only_what_it_can_say():
    outputs = replace(GENERATORS["L501"](), kind="margin")
    assert found(outputs) == {}
    assert set(found(replace(GENERATORS["L204"](), kind="margin"))) == {"L204"}
    assert set(found(replace(GENERATORS["L104"](), kind="margin"))) == {"L104"}


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["logits", "probs", "logp", "margin"])
def test_a_few_rows_are_never_more_than_too_few(rows, classes, kind):
    z = np.random.default_rng(rows).normal(size=(rows, classes))
    p = softmax(z)
    scores = {"logits": z, "margin": z, "probs": p, "logp": np.log(p)}[kind]
    assert set(found(Outputs(scores, kind, target=np.zeros(rows, int)))) <= {"L104"}


def test_an_empty_state_says_that_no_row_is_scored():
    assert [f.code for f in find(Evaluation.empty(("a", "b")))] == ["L104"]
