"""``lastlayer decide``: accept each row or have it reviewed, by costs or with a guarantee."""

import json
import os
from pathlib import Path
from typing import Any

import click
import numpy as np

from lastlayer._check import DataError
from lastlayer.calibrate.rows import Rows
from lastlayer.cli._common import (
    calibrator_option,
    command,
    data_options,
    emit,
    force_option,
    progress,
    say,
    suggest,
    usage,
)
from lastlayer.cli._reading import calibrator_from, sources
from lastlayer.decide import SCORES, ConformalSets, Cost, Coverage, Policy, Risk, Thresholds, read_costs
from lastlayer.io import atomic_writer, load
from lastlayer.measure.coverage import coverage as coverage_of
from lastlayer.outputs import brief
from lastlayer.transform import sigmoid

_EXAMPLES = """
lastlayer decide test.npz --calibrator c.json --cost wrong=10,review=1
lastlayer decide test.npz --calibrator c.json --cost costs.csv -o out.csv
lastlayer decide test.npz --calibrator c.json --risk .02 --held-out new.npz
lastlayer decide test.npz --calibrator c.json --coverage .9 --held-out new.npz
lastlayer decide test.npz --conformal aps --alpha .1 --held-out new.npz
"""
_LABELLED = "labelled ones: --held-out FILE"
_HELD_OUT = {
    "--risk": _LABELLED,
    "--conformal": _LABELLED,
    "--coverage": "labelled or not: --held-out FILE",
}
_FORMS = ("csv", "jsonl", "parquet")


class Share(click.ParamType):
    """A number between 0 and 1, both excluded."""

    name = "SHARE"

    def convert(self, value, param, ctx):
        try:
            share = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number.{_of_percent(value)}", param, ctx)
        if not 0 < share < 1:
            percent = f" Write {share / 100:g} for {share:g} %." if 1 < share < 100 else ""
            self.fail(f"{value} is not between 0 and 1, both excluded.{percent}", param, ctx)
        return share


def _of_percent(text):
    """What to write for ``5%`` or ``5 %``."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        return ""
    return f" Write {percent / 100:g}." if 0 < percent < 100 else ""


@command("decide", _EXAMPLES)
@click.argument("file", metavar="FILE")
@calibrator_option
@click.option("--cost", metavar="COSTS", help="As wrong=10,review=1, or a CSV file with a cost per pair of classes.")
@click.option("--coverage", type=Share(), help="Accept at least this share of the rows. Needs --held-out.")
@click.option("--risk", type=Share(), help="At most this share of the accepted rows is wrong. Needs --held-out.")
@click.option("--conformal", type=click.Choice(list(SCORES)), help="The set of classes of each row. Needs --held-out.")
@click.option("--alpha", type=Share(), default=0.1, show_default=True, help="Share of rows whose set may miss.")
@click.option("--by", metavar="PART", help="Keep the promise in each part: class, or a GROUP of group_GROUP.")
@click.option("--held-out", metavar="FILE", help="Rows that nothing was fitted on; labelled but for --coverage.")
@click.option("--held-out-split", metavar="NAME", help="The split of the held-out rows, if not that of --split.")
@click.option("--confidence", type=Share(), default=0.95, show_default=True, help="With which the guarantee holds.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True, help="Of random sets."
)
@click.option("-o", "--output", metavar="FILE", help="Write the decisions: .csv, .jsonl, .parquet, or - (CSV).")
@data_options
@force_option
def decide(
    file,
    calibrator,
    cost,
    coverage,
    risk,
    conformal,
    alpha,
    by,
    held_out,
    held_out_split,
    confidence,
    seed,
    output,
    how,
    force,
    as_json,
    quiet,
):
    """Accept the class of each row, or have the row reviewed.

    --cost weighs the expected cost of an error against that of a review. --coverage and --risk find a threshold on
    held-out rows, and promise their share for rows like these. --conformal gives each row a set of classes, which
    misses the true one in a share --alpha of rows like these; a row whose set is its likeliest class is accepted.
    Probabilities must be true for costs to be: give the calibrator that `lastlayer fit` wrote.

    The CSV file of --cost has the true class in the first column, the chosen class in the header, and if you like a
    column `review`, what a review costs:

    \b
        ,cat,dog,review
        cat,0,5,1
        dog,20,0,1
    """
    goals = {"--cost": cost, "--coverage": coverage, "--risk": risk, "--conformal": conformal}
    _one_goal(goals, held_out, held_out_split)
    if by is not None and cost is not None:
        raise usage("--by says in which parts a promise is kept; --cost promises nothing.")
    _writable(output, as_json)
    if held_out is not None and _same_rows(file, how["split"], held_out, held_out_split or how["split"]):
        raise usage("--held-out names the rows to decide on; a guarantee rests on others.")
    fitted = calibrator_from(calibrator)
    with progress("deciding"):
        outputs = load(file, **how)
        if cost is not None:
            policy = costs(cost, outputs.classes)
        else:
            rows = load(held_out, **how | {"split": held_out_split or how["split"], "target_file": None})
            _refuse_rows_of_the_fit(rows, fitted)
            rows = _calibrated(rows, fitted)
            if conformal is not None:
                policy = SCORES[conformal].fit(rows, alpha, by=by, seed=seed)
            elif by is not None:
                policy = Thresholds.fit(rows, by, risk=risk, coverage=coverage, confidence=confidence)
            elif risk is not None:
                policy = Risk.fit(rows, risk, confidence)
            else:
                policy = Coverage.fit(rows, coverage, confidence)
        decisions = policy.decide(_calibrated(outputs, fitted))
    _write(decisions, output, force)
    summary = decisions.summary(confidence)
    if as_json:
        record = {"source": sources([file]), "calibrator": None if fitted is None else str(fitted)}
        record |= {"policy": json.loads(policy.to_json()), "summary": summary._asdict(), "decisions": output}
        emit(record if decisions.members is None else record | {"sets": _of_sets(decisions)})
        return
    for line in (*_lines(sources([file]), fitted, policy, summary), *_set_lines(decisions)):
        click.echo(line, err=output == "-")
    if output not in (None, "-"):
        click.echo(f"saved {output}")
    if fitted is None:
        say("without --calibrator these probabilities are taken as they are.")
    if output is None:
        suggest("the same with -o decisions.csv, to keep them")


def _one_goal(goals, held_out, held_out_split):
    given = [flag for flag, value in goals.items() if value is not None]
    if len(given) != 1:
        raise usage(f"give one of --cost, --coverage and --risk{', not ' + ' and '.join(given) if given else ''}.")
    if given != ["--cost"] and held_out is None:
        raise usage(f"{given[0]} is a guarantee: it needs rows that nothing was fitted on, {_HELD_OUT[given[0]]}.")
    if given == ["--cost"] and (held_out or held_out_split):
        raise usage("--cost rests on the costs alone; --held-out is for --coverage and --risk.")


def _writable(output, as_json):
    if output == "-" and as_json:
        raise usage("-o - and --json both want standard output; write the decisions to a file.")
    if output not in (None, "-") and Path(output).suffix.lower().removeprefix(".") not in _FORMS:
        raise usage(f"-o {output}: decisions are written as {', '.join('.' + form for form in _FORMS)}.")


def _same_rows(file, split, held_out, held_out_split):
    if split != held_out_split:
        return False
    return file == held_out or (os.path.exists(file) and os.path.exists(held_out) and os.path.samefile(file, held_out))


def _calibrated(outputs, fitted):
    return outputs if fitted is None else fitted.apply(outputs)


def costs(cost, classes) -> Policy:
    try:
        return read_costs(cost, classes)
    except DataError:
        raise
    except ValueError as error:
        raise usage(str(error)) from None


def _refuse_rows_of_the_fit(rows, fitted):
    """A bound on the rows that a calibrator was fitted to would be a bound on nothing."""
    if fitted is not None and fitted.fitted_on is not None and rows.target is not None:
        shared = fitted.fitted_on.shared(Rows.of(rows).hashes())
        if shared:
            what = "the rows" if shared == 1 else f"about {shared:{'.0%' if shared > 0.01 else '.1%'}} of the rows"
            raise DataError(
                f"holds {what} that the calibrator was fitted on, so it promises nothing about new ones.",
                file=rows.source,
                fix="keep a third part of the labelled rows for --held-out.",
            )


def _write(decisions, output, force):
    if output == "-":
        with atomic_writer("-") as file:
            decisions.dump(file, "csv")
    elif output is not None:
        decisions.write(output, force=force)


def _lines(source, fitted, policy, summary):
    """The summary in words, at most 80 columns wide."""
    yield f"{source}: {summary.rows:,} rows, {_rule(policy)}"
    if fitted is not None:
        yield f"  calibrated by  {fitted}"
    yield from summary.lines(_threshold(policy))


def _rule(policy):
    if isinstance(policy, Cost):
        return f"an error costs {policy.wrong:g}, a review {policy.review:g}"
    if isinstance(policy, Coverage):
        return f"at least {policy.coverage:.4g} accepted ({policy.confidence:.0%} confidence)"
    if isinstance(policy, Thresholds):
        found = next(part for part in policy.parts if part is not None)
        return f"{_rule(found).partition(' (')[0]} in each {policy.by} ({policy.confidence:.0%} confidence)"
    if isinstance(policy, ConformalSets):
        part = "" if policy.partition.by is None else f" of each {policy.partition.kind}"
        return f"sets by {policy.score.name} that miss at most {policy.alpha:g} of the rows{part}"
    if isinstance(policy, Risk):
        return f"at most {policy.risk:.4g} of the accepted wrong ({policy.confidence:.0%} confidence)"
    return "costs per pair of classes"


def _threshold(policy):
    if isinstance(policy, Thresholds) and policy.reviewed:
        return f", none of {policy.by} {brief(policy.reviewed)}"
    at = getattr(policy, "log_odds", None)
    return "" if at is None else f", from a probability of {sigmoid(at):.4f} (log-odds {at:.4g})"


def _of_sets(decisions):
    """Shares of sets by size, their mean size, and where the target is known how often they hold it."""
    members = decisions.members[np.ones(len(decisions), bool) if decisions.weight is None else decisions.weight > 0]
    size = members.sum(1)
    shares = {"mean_size": size.mean(), "empty": (size == 0).mean(), "one": (size == 1).mean()}
    record: dict[str, Any] = {name: float(value) for name, value in shares.items()}
    if decisions.target is not None:
        held = coverage_of(decisions.members, decisions.target, weight=decisions.weight).coverage
        record["coverage"] = held.to_dict()
    return record


def _set_lines(decisions):
    if decisions.members is None:
        return
    found = _of_sets(decisions)
    several = max(1 - found["one"] - found["empty"], 0.0)
    yield f"  sets           {found['mean_size']:.3g} classes on average"
    yield f"                 {found['one']:.1%} of one class, {several:.1%} of more"
    if found["empty"]:
        yield f"                 {found['empty']:.1%} empty: no class conforms"
    if "coverage" in found:
        held = found["coverage"]
        yield f"  coverage       {held['value']:.2%} hold the true class ({held['low']:.2%} to {held['high']:.2%})"
    if decisions.policy.always:
        yield f"  too few rows   always in the set: {brief(decisions.policy.always)}"
