"""``lastlayer predict``: the classes of new rows by a trained model, calibrated, and actions where it has a policy."""

import csv
import io
from pathlib import Path

import click
import numpy as np

from lastlayer._check import DataError, require
from lastlayer.calibrate import load as load_calibrator
from lastlayer.cli._common import command, emit, force_option, progress, say, shown, suggest, usage
from lastlayer.cli._reading import sources
from lastlayer.cli.train import CALIBRATOR, POLICY, as_column, table_options
from lastlayer.decide import Decisions, Policy, choose
from lastlayer.io import atomic_writer
from lastlayer.outputs import Outputs

_EXAMPLES = """
lastlayer predict model new.csv -o predictions.csv
lastlayer predict model new.csv -o predictions.npz
lastlayer predict model new.csv -o -
"""
_FORMS = ("csv", "parquet", "npz")


@command("predict", _EXAMPLES)
@click.argument("folder", metavar="DIR")
@click.argument("data", metavar="DATA")
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to: .csv, .parquet, .npz, or - (CSV).")
@table_options
@force_option
def predict(folder, data, output, how, force, as_json, quiet):
    """The classes of new rows, by what `lastlayer train` wrote.

    DIR is the folder of the model, DATA a table with the columns of the training; others are not read. Each row gets
    its id, the class, its log-odds and probability, the calibrated logits, and where the model has a policy the action.
    FILE is read by every other command; where DATA has the target, it holds that too.
    """
    from lastlayer.train.model_file import load_model
    from lastlayer.train.table import read_table

    suffix = "csv" if output == "-" else Path(output).suffix.lower().removeprefix(".")
    if suffix not in _FORMS:
        raise usage(f"-o {output}: predictions are written as {', '.join('.' + form for form in _FORMS)}.")
    if output == "-" and as_json:
        raise usage("-o - and --json both want standard output; write the predictions to a file.")
    model = load_model(folder)
    calibrator, policy = _of_folder(Path(folder))
    with progress("predicting"):
        rows = read_table(data, **how)
        try:
            outputs, notes = _outputs(model, rows, sources([data]))
        except DataError as error:
            raise error.within(sources([data])) from None
        if calibrator is not None:
            outputs = calibrator.apply(outputs)
        decided = Decisions.of(outputs, None, np.ones(len(outputs), bool), choose(outputs))
        if policy is not None:
            decided = policy.decide(outputs)
    with atomic_writer(output, force=force) as file:
        _WRITERS[suffix](outputs, _told(decided, policy), file)
    counts = {name: int((decided.names == name).sum()) for name in model.classes}
    accepted = None if policy is None else int(decided.accept.sum())
    if as_json:
        emit(
            {
                "source": sources([data]),
                "model": shown(folder),
                "output": output,
                "rows": len(outputs),
                "classes": counts,
                "accepted": accepted,
                "notes": list(notes),
            }
        )
        return
    for note in notes:
        say(note)
    shares = ", ".join(f"{name} {count / len(outputs):.1%}" for name, count in list(counts.items())[:5])
    say(f"{sources([data])}: {len(outputs):,} rows: {shares}{', ...' if len(counts) > 5 else ''}")
    if policy is not None and accepted is not None:
        say(f"accepted {accepted:,} of them, {accepted / len(outputs):.1%}, by {policy.name}")
    if output != "-":
        say(f"saved {output}")
        if outputs.target is not None:
            suggest(f"lastlayer check {output}, as the rows have a target")


def _of_folder(folder):
    """The calibrator and the policy of a model, where it has them."""
    calibrator = load_calibrator(folder / CALIBRATOR) if (folder / CALIBRATOR).exists() else None
    path = folder / POLICY
    if not path.exists():
        return calibrator, None
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}.", file=path, fix="train again.") from None
    return calibrator, Policy.from_json(text, file=path)


def _outputs(model, rows, source):
    """The `Outputs` of new rows, with a target where all of them have one that is known."""
    logits, notes = model.logits(rows)
    target = None
    if model.target in rows:
        from lastlayer.train._cross_fit import Labels

        try:
            found = Labels.of(model.target, rows[model.target])
        except DataError as error:
            notes = (*notes, f"{model.target} is not written: {error.message}")
        else:
            new = [name for name in found.classes if name not in model.classes]
            if new:
                notes = (*notes, f"{model.target} is not written: {new[0]!r} is no class of the model")
            else:
                target = np.array([model.classes.index(name) for name in found.classes])[found.index]
    there = model.id is not None and model.id in rows
    outputs = Outputs(
        logits,
        "logits",
        target=target,
        classes=model.classes,
        groups={name: as_column(rows[name]) for name in model.groups if name in rows},
        ids=as_column(rows[model.id]) if there else np.arange(len(logits)),
        source=source,
    )
    return outputs, notes


def _told(decided, policy):
    """What is said of each row, by the name of its column."""
    told = {"class": decided.names.astype(np.str_), "log_odds": decided.log_odds, "prob": decided.prob}
    return told if policy is None else told | {"action": decided.action}


def _wide(outputs, told):
    """The columns of a table, a logit for each class, of two for the second."""
    classes, logits = outputs.classes, outputs.logits
    columns = {"id": outputs.ids} | told
    if outputs.task == "binary":
        columns[f"logit_{classes[1]}"] = logits
    else:
        columns |= {f"logit_{name}": logits[:, k] for k, name in enumerate(classes)}
    columns |= {f"group_{name}": values for name, values in outputs.groups.items()}
    if outputs.target is not None:
        columns["target"] = np.array(classes, dtype=np.str_)[outputs.target]
    return columns


def _write_csv(outputs, told, file):
    columns = _wide(outputs, told)
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    text.flush()
    text.detach()  # the file stays open; whoever opened it closes it


def _write_parquet(outputs, told, file):
    arrow = require("pyarrow", "tables", "writing parquet")
    parquet = require("pyarrow.parquet", "tables", "writing parquet")
    parquet.write_table(arrow.table({name: arrow.array(c) for name, c in _wide(outputs, told).items()}), file)


def _write_npz(outputs, told, file):
    arrays = {"logits": outputs.logits, "classes": np.array(outputs.classes), "task": np.array(outputs.task)}
    arrays |= {"id": outputs.ids} | told | {f"group_{name}": values for name, values in outputs.groups.items()}
    if outputs.target is not None:
        arrays["target"] = outputs.target
    np.savez(file, **arrays)


_WRITERS = {"csv": _write_csv, "parquet": _write_parquet, "npz": _write_npz}
