"""``lastlayer train``: a table to a model, its out-of-fold logits, a calibrator, a policy and a report."""

import csv
import functools
import io
import json
import math
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from lastlayer._check import DataError
from lastlayer.calibrate import fit as fit_calibrator
from lastlayer.calibrate import out_of_fold
from lastlayer.cli._common import command, emit, force_option, progress, show, shown, suggest, table, usage
from lastlayer.cli._reading import sources
from lastlayer.cli.decide import Share, costs
from lastlayer.decide import Coverage, Policy, Risk
from lastlayer.io import FORMATS, save
from lastlayer.io.text import BLANKS
from lastlayer.measure import evaluate
from lastlayer.outputs import Outputs, brief
from lastlayer.report import Report, wording

_EXAMPLES = """
lastlayer train loans.csv --target default --out model
lastlayer train loans.csv --target default --id nr --drop notes --out model
lastlayer train loans.csv --target default --separator ";" --out model
lastlayer train loans.csv --target default --penalty none --out model
lastlayer train mails.csv --target folder --text subject --text body --out m
lastlayer train loans.csv --target default --cost wrong=10,review=1 --out m
"""
LOGITS, CALIBRATOR, POLICY = "out-of-fold.npz", "calibrator.json", "policy.json"
COEFFICIENTS, REPORT = "coefficients.csv", "report.html"
_TABLES = tuple(form for form in FORMATS if form not in ("npz", "npy", "safetensors"))
_CARD = ("nll", "accuracy", "auroc", "ece")
_PARTS = 3  # of the rows, one of which is kept from the calibrator where a policy promises something


class Penalty(click.ParamType):
    """``auto``, ``none``, or scikit-learn's C."""

    name = "C"

    def convert(self, value, param, ctx):
        if value in ("auto", "none"):
            return value
        try:
            penalty = float(value)
        except ValueError:
            penalty = math.nan
        if not 0 < penalty < math.inf:
            self.fail(f"{value!r} is neither a number above 0 nor auto or none.", param, ctx)
        return penalty


class Names(click.ParamType):
    """Names with commas between them."""

    name = "NAMES"

    def convert(self, value, param, ctx):
        return tuple(name.strip() for name in value.split(","))


class Separator(click.ParamType):
    """A single character, or ``blanks``."""

    name = "CHAR"

    def convert(self, value, param, ctx):
        if value != BLANKS and (len(value) != 1 or value in '"\r\n'):
            self.fail(f"{value!r} is neither one character that may stand between cells nor {BLANKS}.", param, ctx)
        return value


def table_options(function):
    """Options that say how a table is read, gathered in one dictionary ``how`` for `train.table.read_table`."""
    options = (
        click.option("--columns", "header", type=Names(), help="The names of the columns, where there is no header."),
        click.option("--separator", type=Separator(), help="Between the cells of a CSV file: a character, or blanks."),
        click.option("--unquoted", is_flag=True, help="Quotes are plain characters, as in many TSV files."),
        click.option("--format", type=click.Choice(_TABLES), help="Where the suffix does not say it."),
    )

    @functools.wraps(function)
    def gathered(**parameters):
        how = {name: parameters.pop(name) for name in ("header", "separator", "unquoted", "format")}
        return function(how=how, **parameters)

    return functools.reduce(lambda f, option: option(f), reversed(options), gathered)


def several(flag, words):
    """An option that names a column, any number of times."""
    return click.option(flag, metavar="COL", multiple=True, help=f"{words} Repeatable.")


@command("train", _EXAMPLES)
@click.argument("data", metavar="DATA")
@click.option("--target", metavar="COL", required=True, help="The column of the classes.")
@click.option("--out", metavar="DIR", required=True, help="A new folder for everything that is written.")
@click.option(
    "--penalty",
    type=Penalty(),
    default="auto",
    show_default=True,
    help="Ridge, as scikit-learn's C: small is strong. Auto: by the folds. None: with standard errors.",
)
@click.option("--cv", type=click.IntRange(2), metavar="N", default=5, show_default=True, help="Folds.")
@several("--text", "A column of texts, by its words and characters.")
@several("--category", "A column of names, even where they look like numbers.")
@several("--drop", "A column that is no feature.")
@click.option("--id", "ids", metavar="COL", help="The column that names the rows; no feature.")
@click.option("--weight", metavar="COL", help="The column that weighs the rows; no feature.")
@several("--group", "Report by the values of this column; a feature too, unless dropped.")
@click.option("--cost", metavar="COSTS", help="A policy: wrong=10,review=1, or a CSV file as in `decide`.")
@click.option("--risk", type=Share(), help="A policy: at most this share of the accepted rows is wrong.")
@click.option("--coverage", type=Share(), help="A policy: accept at least this share of the rows.")
@table_options
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True, help="Of folds.")
@force_option
def train(
    data,
    target,
    out,
    penalty,
    cv,
    text,
    category,
    drop,
    ids,
    weight,
    group,
    cost,
    risk,
    coverage,
    how,
    seed,
    force,
    as_json,
    quiet,
):
    """A linear classifier of a table, calibrated, with its report.

    DATA is CSV, TSV, JSON lines or parquet. Numbers are taken as they are, with a penalty that counts in standard
    deviations; what is missing becomes the median, and a feature that says so. Names become a feature for each level;
    rare ones share one. Everything is fitted again without each fold, so that the logits of a row, the calibrator, the
    policy and the report come from models that had not seen it. They speak for the model of all rows, which is one like
    those. With --risk and --coverage a third of the rows is kept from the calibrator, so that the promise rests on
    rows that nothing else was fitted on; only the penalty was chosen with them.

    DIR gets model.json, model.safetensors, out-of-fold.npz, calibrator.json, coefficients.csv, report.html, and
    policy.json where --cost, --risk or --coverage is given.
    """
    from lastlayer.train._cross_fit import Settings
    from lastlayer.train.model_file import refuse_folder
    from lastlayer.train.table import read_table

    if sum(goal is not None for goal in (cost, risk, coverage)) > 1:
        raise usage("give one of --cost, --risk and --coverage.")
    refuse_folder(out, force)
    rows, source = read_table(data, **how), sources([data])
    settings = Settings({"auto": None, "none": np.inf}.get(penalty, penalty), cv, seed, text, category)
    try:
        fitted = _fitted(rows, _Roles(target, text, category, drop, group, ids, weight), settings)
    except DataError as error:
        raise error.within(source) from None
    outputs = replace(fitted.outputs, source=f"{source}, out of fold")
    with progress("calibrating"):
        judged = _judged(outputs, cost, risk, coverage, seed)
        logits = shlex.quote(shown(str(Path(out) / LOGITS)))
        report = Report(judged.after, f"{source}, out of fold", judged.before, str(judged.calibrator), logits)
    written, unsure = _write(fitted, judged, report, out, force)
    if as_json:
        emit({"source": source, "out": shown(out), **_record(fitted, judged), "files": written})
    else:
        _card(source, fitted, judged, cv)
        if unsure is not None:
            _line("errors", unsure)
        _line("wrote", f"{shown(out)}: {', '.join(written)}")
    suggest(f"lastlayer predict {shlex.quote(shown(out))} NEW -o predictions.csv")


class _Roles(NamedTuple):
    """Which column is what."""

    target: str
    text: tuple[str, ...]
    category: tuple[str, ...]
    drop: tuple[str, ...]
    group: tuple[str, ...]
    ids: str | None
    weight: str | None

    def features(self, rows):
        """The columns that are features; names that are no columns, or contradict each other, are refused."""
        from lastlayer.train._cross_fit import named

        single = {"--target": self.target, "--id": self.ids, "--weight": self.weight}
        several = {"--text": self.text, "--category": self.category, "--drop": self.drop, "--group": self.group}
        for flag, names in (several | {flag: [name] for flag, name in single.items() if name is not None}).items():
            named(rows, names, flag)
        none = {*single.values(), *self.drop}
        for name in (*self.text, *self.category):
            if name in none or (name in self.text and name in self.category):
                raise DataError("is said to be two things.", field=name, fix="leave one of them out.")
        left = {name: values for name, values in rows.items() if name not in none}
        if not left:
            raise DataError("there is no column beside the target.", fix="drop less.")
        return left


class _Fitted(NamedTuple):
    """What was fitted, and the out-of-fold logits."""

    model: Any
    done: Any
    labels: Any
    weight: np.ndarray | None
    outputs: Outputs


def _fitted(rows, roles, settings):
    from lastlayer.train._cross_fit import Labels, cross_fit, weights
    from lastlayer.train.model_file import Model

    columns = roles.features(rows)
    labels = Labels.of(roles.target, rows[roles.target])
    labels.refuse(roles.target, settings.folds)
    weight = None if roles.weight is None else weights(roles.weight, rows[roles.weight])
    with progress("fitting", total=settings.fits, unit="fits") as advance:
        done = cross_fit(columns, labels, weight, settings, advance)
    model = Model(
        features=done.features,
        coef=done.model.coef_,
        intercept=done.model.intercept_,
        classes=labels.classes,
        target=roles.target,
        id=roles.ids,
        groups=roles.group,
        penalty=None if done.penalty == np.inf else done.penalty,
        rows=len(labels.index),
    )
    outputs = Outputs(
        done.logits,
        "logits",
        target=labels.index,
        classes=labels.classes,
        groups={name: as_column(rows[name]) for name in roles.group},
        weight=weight,
        ids=None if roles.ids is None else as_column(rows[roles.ids]),
    )
    return _Fitted(model, done, labels, weight, outputs)


def as_column(values):
    """Names, numbers or truth values as `Outputs` keeps them."""
    return values if values.dtype.kind in "biuf" else values.astype(np.str_)


class _Judged(NamedTuple):
    """What follows from the out-of-fold logits; ``why`` says why a calibrator that does nothing was taken."""

    calibrator: Any
    why: str
    policy: Policy | None
    summary: Any
    before: Any
    after: Any


def _judged(outputs, cost, risk, coverage, seed):
    promise = risk is not None or coverage is not None
    part = np.random.default_rng(seed).permutation(len(outputs)) % _PARTS
    fitted_on = part != 0 if promise else np.ones(len(outputs), bool)
    try:
        calibrator, why = fit_calibrator(outputs.rows(fitted_on), seed=seed), ""
    except DataError as error:
        calibrator, why = fit_calibrator(outputs, "identity"), f": {error.message}"
    logits = calibrator.calibrated(outputs)
    if calibrator.method != "identity":
        logits[fitted_on] = out_of_fold(outputs.rows(fitted_on), calibrator.method, seed=seed).logits
    calibrated = outputs.with_logits(logits)
    policy = None
    if cost is not None:
        policy = costs(cost, outputs.classes)
    elif risk is not None:
        policy = Risk.fit(calibrated.rows(part == 0), risk)
    elif coverage is not None:
        policy = Coverage.fit(calibrated.rows(part == 0), coverage)
    summary = None if policy is None else policy.decide(calibrated).summary()
    return _Judged(calibrator, why, policy, summary, evaluate(outputs), evaluate(calibrated))


def _write(fitted, judged, report, out, force):
    """Everything, at once; returns the names of the files, and why there are no standard errors if asked for."""
    from lastlayer.train.model_file import whole_folder

    estimates, unsure = _estimates(fitted)
    with whole_folder(out, force=force) as folder:
        fitted.model.save(folder)
        save(fitted.outputs, folder / LOGITS)
        judged.calibrator.save(folder / CALIBRATOR)
        if judged.policy is not None:
            (folder / POLICY).write_text(judged.policy.to_json(), "utf-8")
        (folder / COEFFICIENTS).write_text(_coefficients(fitted, estimates), "utf-8")
        report.to_html(folder / REPORT)
        written = sorted(path.name for path in folder.iterdir())
    return written, unsure


def _record(fitted, judged):
    """The card as JSON holds it."""
    model, policy = fitted.model, judged.policy
    return {
        "rows": model.rows,
        "classes": list(model.classes),
        "features": len(model.features.names),
        "left_out": dict(model.features.table.left_out),
        "penalty": model.penalty,
        "tried": [{"penalty": C, "nll": loss} for C, loss in fitted.done.tried],
        "before": {name: metric.to_dict() for name, metric in judged.before.metrics().items()},
        "metrics": {name: metric.to_dict() for name, metric in judged.after.metrics().items()},
        "calibrator": str(judged.calibrator),
        "policy": None if policy is None else json.loads(policy.to_json()),
        "summary": None if policy is None else judged.summary._asdict(),
    }


def _estimates(fitted):
    """Standard errors without a penalty; or why there are none."""
    if fitted.done.penalty != np.inf:
        return None, None
    from lastlayer.train.inference import inference

    try:
        return inference(fitted.done.model, fitted.done.values, fitted.labels.index, fitted.weight), None
    except DataError as error:
        return None, f"none: {error.message}"


_HEADER = ("class", "feature", "coefficient", "standard_error", "z", "p", "low", "high", "odds_ratio")


def _coefficients(fitted, estimates) -> str:
    """The coefficients as CSV: with their errors where there are any, and then against the first class."""
    model, text = fitted.model, io.StringIO()
    names = [*model.features.names, "(intercept)"]
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADER[:3] if estimates is None else _HEADER)
    if estimates is None:
        told = model.classes[1:] if len(model.coef) == 1 else model.classes
        for name, coef, intercept in zip(told, model.coef.tolist(), model.intercept.tolist(), strict=True):
            rows.writerows((name, *pair) for pair in zip(names, [*coef, intercept], strict=True))
        return text.getvalue()
    for i, e in enumerate(estimates.rows):
        block, place = divmod(i, len(names))
        rows.writerow((model.classes[1 + block], names[place], e.coef, e.se, e.z, e.p, e.low, e.high, e.odds_ratio))
    return text.getvalue()


def _card(source, fitted, judged, folds):
    model, table_ = fitted.model, fitted.model.features.table
    counts = ((len(table_.columns), "column"), (len(model.features.texts), "text"))
    parts = [f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n]
    click.echo(f"{source}: {model.rows:,} rows, {len(model.classes)} classes ({brief(model.classes)})")
    _line("features", f"{len(model.features.names):,} from {' and '.join(parts)}")
    left_out: dict[str, list[str]] = {}
    for name, why in table_.left_out:
        left_out.setdefault(why, []).append(name)
    for why, names in left_out.items():
        _line("left out", f"{brief(tuple(names))}: {why}")
    filled = tuple(f"{c.name} ({c.fill:g})" for c in table_.columns if c.gaps and hasattr(c, "fill"))
    if filled:
        _line("filled", f"{brief(filled)}: the median where a value is missing, and a feature that says so")
    tried = len(fitted.done.tried)
    how = f", the best of {tried} by {folds} folds" if tried > 1 else f"; {folds} folds"
    _line("penalty", ("none" if model.penalty is None else f"C = {model.penalty:g}") + how)
    click.echo()
    show(_metrics(judged))
    click.echo()
    name = judged.calibrator.method
    judged_by = "" if name == "identity" else ", fitted to these rows; judged above by fits without each fold"
    _line("calibrated", f"{judged.calibrator}{judged.why or judged_by}")
    if judged.policy is not None:
        s = judged.summary
        error = "" if s.error is None else f", of which {s.error:.2%} are wrong"
        _line("policy", f"{judged.policy.name}: accepts {s.share:.1%} of these rows{error}")


def _metrics(judged):
    before, after = judged.before.metrics(), judged.after.metrics()
    rows = table("out of fold", ">as fitted", ">calibrated", "95 % interval")
    for name in (name for name in _CARD if name in after):
        value, interval = wording.metric_texts(name, after[name])
        rows.add_row(wording.NAMES[name].title, wording.metric_texts(name, before[name])[0], value, interval)
    return rows


def _line(name, value):
    """A name and what it is, wrapped at 80 columns."""
    click.echo(textwrap.fill(value, 80, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14))
