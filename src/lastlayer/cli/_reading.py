"""Files to states and one report."""

import io
import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import click

from lastlayer._check import DataError
from lastlayer.calibrate import load as load_calibrator
from lastlayer.cli._common import how_again, shown
from lastlayer.cli._evaluating import Evaluating, merged
from lastlayer.measure import Evaluation
from lastlayer.report import Report

OF_STATES = "DATA"  # how a fix names the rows of states, which do not hold them any more
_STATE_NAME = slice(30, 39)  # of a zip archive: the name of its first member, which in a state is "state.npy"
_WRITES_ONE = "`lastlayer check FILE --state STATE` writes one."


def calibrator_from(file):
    """The calibrator in a file; None for None."""
    return None if file is None else load_calibrator(file)


class Found(NamedTuple):
    """A report, and the complaints about files that were skipped."""

    report: Report
    skipped: tuple[str, ...]


def report_of(files, how, calibrator_file=None, convention=None, *, resume=None, skip_bad=False) -> Found:
    """One `Report` of all files, each data or a state, read block by block.

    Where it is interrupted, what is done is written to NAME.partial, and the call that goes on is said.
    """
    calibrator = calibrator_from(calibrator_file)
    job = Evaluating(tuple(files), how, calibrator, convention, skip_bad)
    if resume is not None:
        job.resume(resume)
    states = [file for file in files if holds_state(file)]
    _refuse_late(states, calibrator, convention)
    data = OF_STATES if states else on_command_line(files, how)
    try:
        job.run(lambda file: _read_state(file) if file in states else None)
    except KeyboardInterrupt:
        _interrupted(job, files, how, calibrator_file, convention)
        raise
    words = None if calibrator is None else str(calibrator)
    evaluation = job.result()
    return Found(Report(evaluation, sources(files), job.done.before, words, data), job.done.skipped)


def _interrupted(job, files, how, calibrator_file, convention):
    partial = page_name(files).removesuffix(".report.html") + ".partial"
    if not job.save(partial):
        return
    options = "" if calibrator_file is None else f" --calibrator {shlex.quote(calibrator_file)}"
    options += "" if convention is None else f" --convention {convention}"
    options += " --skip-bad" if job.skip_bad else ""
    place = f"in file {job.done.file + 1} of {len(files)}, " if len(files) > 1 else ""
    click.echo(f"\ninterrupted {place}after row {job.done.row:,}; go on with:", err=True)
    click.echo(f"lastlayer check {on_command_line(files, how)}{options} --resume {shlex.quote(partial)}", err=True)


def _refuse_late(states, calibrator, convention):
    if states and (calibrator is not None or convention is not None):
        what = "--calibrator" if calibrator is not None else "--convention"
        raise DataError(
            f"is a state: its rows are summed already, so {what} comes too late.",
            file=shown(states[0]),
            fix=f"give {what} when the data is checked: lastlayer check DATA {what} ... --state STATE.",
        )


def state_of(files):
    """The states in the files as one."""
    total = _read_state(files[0])
    for file in files[1:]:
        total = merged(total, _read_state(file), file)
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
