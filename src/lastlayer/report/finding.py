"""What `check` has found: a code, how bad it is, the evidence in numbers, its meaning, and the fix."""

from collections.abc import Mapping
from typing import NamedTuple

SEVERITIES = ("note", "warning", "error")


class Finding(NamedTuple):
    """One finding. ``fix`` is a command line in which ``{file}`` stands for the data."""

    code: str
    title: str
    severity: str
    evidence: str  # one sentence with the numbers
    numbers: Mapping[str, float]  # the same numbers by name
    meaning: str  # one sentence
    fix: str

    def to_dict(self, data="FILE") -> dict:
        """The finding for JSON and pages; ``data`` is how a command line names the rows."""
        return self._asdict() | {"numbers": dict(self.numbers), "fix": self.fix.replace("{file}", data)}
