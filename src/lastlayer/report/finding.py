"""What `check` has found: a code, how bad it is, the evidence in numbers, its meaning, and the fix."""

from collections.abc import Mapping
from typing import NamedTuple

SEVERITIES = ("note", "warning", "error")


class Finding(NamedTuple):
    """One finding. ``fix`` is a line to run; in what `find` returns, ``{file}`` stands for the data in it."""

    code: str
    title: str
    severity: str
    evidence: str  # one sentence with the numbers
    numbers: Mapping[str, float]  # the same numbers by name
    meaning: str  # one sentence
    fix: str

    def about(self, data) -> "Finding":
        """The finding whose fix names the rows as ``data``, which is how a command line does."""
        return self._replace(fix=self.fix.replace("{file}", data))

    def to_dict(self) -> dict:
        """The finding for JSON."""
        return self._asdict() | {"numbers": dict(self.numbers)}
