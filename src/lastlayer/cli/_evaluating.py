"""Files of any size to one evaluation: block by block, and where it is interrupted, to be taken up again."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.cli._common import progress, say, shown
from lastlayer.io import atomic_writer, blocks, load
from lastlayer.kernels import cold
from lastlayer.measure import Evaluation
from lastlayer.measure.evaluation import added, scored
from lastlayer.outputs import Outputs
from lastlayer.state import pack, unpack

INTERRUPTED = "InterruptedCheck"


class Done(NamedTuple):
    """What is summed so far: with the calibrator and, where there is one, without; and where to go on."""

    after: Evaluation | None = None
    before: Evaluation | None = None
    file: int = 0
    row: int = 0
    skipped: tuple[str, ...] = ()


@dataclass
class Evaluating:
    """The files of one call of ``check``, evaluated one after another; ``done`` is right at any moment."""

    files: tuple[str, ...]
    how: dict[str, Any]
    calibrator: Any
    convention: str | None
    skip_bad: bool = False
    done: Done = field(default_factory=Done)

    def run(self, state_of):
        """Evaluate the files that are left; ``state_of(file)`` is the state in a file that is one, else None."""
        if cold("evaluation_sums"):
            say("compiling the kernels of evaluation for this machine: a few seconds, this once.")
        with progress("evaluating", total=self._rows(state_of), unit="rows") as advance:
            advance(0)
            while self.done.file < len(self.files):
                file, start = self.files[self.done.file], self.done
                try:
                    self._file(file, state_of(file), advance)
                except DataError as error:
                    if not self.skip_bad:
                        raise
                    self.done = start._replace(skipped=(*start.skipped, str(error)))
                self.done = self.done._replace(file=self.done.file + 1, row=0)

    def result(self) -> Evaluation:
        """The evaluation of all files, once they have run."""
        if self.done.after is None:
            raise DataError(
                f"none of {len(self.files)} files could be read; the first: {self.done.skipped[0]}",
                fix="leave --skip-bad out to see each complaint.",
            )
        return self.done.after

    def _file(self, file, state, advance):
        if state is not None:
            after, before, _, row, skipped = self.done
            self.done = Done(merged(after, state, file), before, self.done.file, row, skipped)
            return
        first = None
        for block in self._blocks(file):
            first = block if first is None else first
            after, before, index, row, skipped = self.done
            if self.calibrator is not None:
                before = None if block.kind == "margin" else self._added(before, block, file)
                block = self.calibrator.apply(block)
            self.done = Done(self._added(after, block, file), before, index, row + len(block), skipped)
            advance(len(block))
        if first is not None and len(self.files) == 1 and self.done.after is not None:
            scored(self.done.after, first, self.done.row)

    def _added(self, total, block, file):
        try:
            return added(total, block, self.convention)
        except DataError as error:
            raise error.within(shown(file)) from None

    def _blocks(self, file):
        if file == "-":
            return [_from(load(file, **self.how), self.done.row)]
        return blocks(file, start=self.done.row, **self.how)

    def _rows(self, state_of):
        """All rows to come, as far as headers tell; None where they do not."""
        total = 0
        for file in self.files[self.done.file :]:
            try:
                rows = None if file == "-" or state_of(file) is not None else blocks(file, **self.how).rows
            except DataError:
                rows = None  # what is wrong with it is said when its turn comes
            if rows is None:
                return None
            total += rows
        return total - self.done.row

    def save(self, path):
        """Write down how far it is, for ``--resume``; False where nothing is done yet."""
        if self.done.after is None:
            return False
        arrays = {
            "call": np.array(self._call()),
            "place": np.array([self.done.file, self.done.row]),
            "skipped": np.array(json.dumps(self.done.skipped)),
            **{
                name: np.frombuffer(b"" if part is None else part.to_bytes(), np.uint8)
                for name, part in (("after", self.done.after), ("before", self.done.before))
            },
        }
        with atomic_writer(path, force=True) as file:
            file.write(pack(arrays, INTERRUPTED))
        return True

    def resume(self, path):
        """Go on from what `save` wrote; another call than the one that was interrupted is refused."""
        try:
            arrays = unpack(Path(path).read_bytes(), INTERRUPTED)
            call, place, skipped = str(arrays["call"]), arrays["place"].tolist(), json.loads(str(arrays["skipped"]))
            after, before = (
                Evaluation.from_bytes(arrays[name].tobytes()) if arrays[name].size else None
                for name in ("after", "before")
            )
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}.", file=path, fix="name what was written.") from None
        except (KeyError, ValueError, TypeError) as error:
            reason = error.message if isinstance(error, DataError) else f"not an interrupted check ({error})."
            raise DataError(reason, file=path, fix="start again without --resume.") from None
        if call != self._call():
            raise DataError(
                "belongs to another call: with other files, other options to read them, calibrator or convention.",
                file=path,
                fix="repeat the call that was interrupted, or start again without --resume.",
            )
        self.done = Done(after, before, int(place[0]), int(place[1]), tuple(skipped))

    def _call(self):
        calibrator = None if self.calibrator is None else self.calibrator.to_json()
        return json.dumps([[shown(f) for f in self.files], self.how, calibrator, self.convention], default=str)


def _from(outputs: Outputs, row):
    return outputs if row == 0 else outputs.rows(slice(row, None))


def merged(total, part, file):
    try:
        return part if total is None else total.merge(part)
    except DataError as error:
        raise error.within(shown(file)) from None
