"""Files to outputs, states and one report: shards are evaluated one by one and merged."""

import io
import os
import shlex
import sys
from pathlib import Path

from lastlayer._check import DataError
from lastlayer.calibrate import load as load_calibrator
from lastlayer.cli._common import how_again, progress, shown
from lastlayer.io import load
from lastlayer.measure import Evaluation, evaluate
from lastlayer.report import Report

OF_STATES = "DATA"  # how a fix names the rows of states, which do not hold them any more
_STATE_NAME = slice(30, 39)  # of a zip archive: the name of its first member, which in a state is "state.npy"
_WRITES_ONE = "`lastlayer check FILE --state STATE` writes one."


def calibrator_from(file):
    """The calibrator in a file; None for None."""
    return None if file is None else load_calibrator(file)


def report_of(files, how, calibrator_file=None, convention=None):
    """One `Report` of all files, each data or a state."""
    calibrator = calibrator_from(calibrator_file)
    after = before = None
    states = [holds_state(file) for file in files]
    with progress("evaluating", total=len(files) if len(files) > 1 else None) as advance:
        for file, is_state in zip(files, states, strict=True):
            one, other = _evaluated(file, is_state, how, calibrator, convention)
            after, before = _merged(after, one, file), _merged(before, other, file)
            advance()
    assert after is not None  # FILE... is at least one
    words = None if calibrator is None else str(calibrator)
    return Report(after, sources(files), before, words, OF_STATES if any(states) else on_command_line(files, how))


def state_of(files):
    """The states in the files as one."""
    total = _read_state(files[0])
    for file in files[1:]:
        total = _merged(total, _read_state(file), file)
    return total


def sources(files):
    """The files in words."""
    first = "standard input" if files[0] == "-" else shown(files[0])
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def on_command_line(files, how):
    """The files and the options that read them, as a shell wants them."""
    return " ".join(shlex.quote(shown(file)) for file in files) + how_again(how)


def page_name(files):
    """NAME.report.html, here: the name of the file, or what the names of several begin with."""
    stems = ["stdin" if file == "-" else Path(file).name.split(".")[0] or Path(file).name for file in files]
    first, last = min(stems), max(stems)  # what these two begin with, all do
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return f"{first[:shared].rstrip('-_ ') or stems[0]}.report.html"


def write_page(report, path, files, force, otherwise):
    """The page of a report at ``path``, or at its own name here, where ``otherwise`` mends a refusal; returns where."""
    if path is not None:
        return report.to_html(path, force=force)
    try:
        return report.to_html(page_name(files), force=force)
    except DataError as error:
        raise DataError(error.message, file=error.file, fix=otherwise) from error


def _evaluated(file, is_state, how, calibrator, convention):
    """Evaluations with the calibrator and, where there is one, without."""
    if is_state:
        if calibrator is not None or convention is not None:
            what = "--calibrator" if calibrator is not None else "--convention"
            raise DataError(
                f"is a state: its rows are summed already, so {what} comes too late.",
                file=shown(file),
                fix=f"give {what} when the data is checked: lastlayer check DATA {what} ... --state STATE.",
            )
        return _read_state(file), None
    outputs = load(file, **how)
    if calibrator is None:
        return evaluate(outputs, convention=convention), None
    after = evaluate(calibrator.apply(outputs), convention=convention)
    return after, None if outputs.kind == "margin" else evaluate(outputs, convention=convention)


def _merged(total, part, file):
    try:
        return part if total is None else total.merge(part)
    except DataError as error:
        raise error.within(shown(file)) from None


def holds_state(file):
    """Whether a file, or standard input, begins as a state does."""
    try:
        if file != "-" and not os.path.isfile(file):  # a pipe can be read once
            return False
        if file == "-":
            stdin = sys.stdin.buffer
            start = stdin.peek(_STATE_NAME.stop) if isinstance(stdin, io.BufferedReader) else b""
        else:
            with open(file, "rb") as opened:
                start = opened.read(_STATE_NAME.stop)
    except OSError:  # reading it as data says what is wrong
        return False
    return _begins_a_state(start)


def _begins_a_state(data):
    return data[_STATE_NAME] == b"state.npy"


def _read_state(file):
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}.",
            file=shown(file),
            fix=_WRITES_ONE,
        ) from None
    if not _begins_a_state(data):
        raise DataError("is not a state.", file=sources([file]), fix=_WRITES_ONE)
    try:
        return Evaluation.from_bytes(data)
    except DataError as error:
        raise DataError(error.message, file=sources([file]), fix=error.fix or _WRITES_ONE) from None
