"""`Report`: an evaluation with its findings, to print, to write as JSON and to open as a page."""

import html
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from lastlayer._check import DataError
from lastlayer.measure import Evaluation, Metric, evaluate
from lastlayer.outputs import Outputs, wanted
from lastlayer.report.finding import Finding
from lastlayer.report.findings import find

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Report:
    """What `check` returns. ``before`` is the evaluation without the calibrator, where one was applied."""

    evaluation: Evaluation
    source: str = "outputs"
    before: Evaluation | None = None
    calibrator: str | None = None  # what was applied, in words
    data: str = "FILE"  # how a command line names the rows: files, quoted, and the options that read them
    findings: tuple[Finding, ...] = field(init=False)

    def __post_init__(self):
        if not self.evaluation.means.rows:
            raise DataError("no row was evaluated, so there is nothing to report.", file=self.source)
        findings = tuple(finding.about(self.data) for finding in find(self.evaluation))
        object.__setattr__(self, "findings", findings)

    @property
    def metrics(self) -> dict[str, Metric]:
        return self.evaluation.metrics()

    @property
    def verdict(self) -> str:
        """One sentence: what has to be mended, worst first, or that nothing has; a note may stand."""
        serious = [f"{f.title} ({f.code})" for f in self.findings if f.severity != "note"]
        if not serious:
            return "Nothing that must be fixed before these scores are used."
        more = f" and {len(serious) - 3} more" if len(serious) > 3 else ""
        return f"To fix before these scores are used: {', '.join(serious[:3])}{more}."

    def to_dict(self) -> dict:
        e = self.evaluation
        found = {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "rows": int(e.signs.rows),
            "scored_rows": int(e.means.rows),
            "task": e.task,
            "kind": e.kind,
            "classes": list(e.classes),
            "convention": e.convention,
            "verdict": self.verdict,
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "findings": [finding.to_dict() for finding in self.findings],
        }
        if self.before is not None:
            found["calibrator"] = self.calibrator
            found["before"] = {"metrics": {name: m.to_dict() for name, m in self.before.metrics().items()}}
        return found

    def to_json(self) -> str:
        """The report as JSON text: metrics with intervals, findings with their evidence and fixes."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_html(self, path, *, force=False) -> Path:
        """Write the report as one self-contained page (offline, no external request).

        It replaces an older page; a file that is something else is refused, unless ``force`` is true.
        """
        from lastlayer.io.atomic import atomic_writer
        from lastlayer.report.page import refuse_to_replace, render

        if not force and str(path) != "-":
            refuse_to_replace(path)
        with atomic_writer(path, force=True) as file:
            file.write(render(self).encode())
        return Path(path)

    def __rich__(self):
        from lastlayer.report.card import card

        return card(self)

    def __repr__(self):
        from rich.console import Console

        console = Console(width=80, no_color=True, highlight=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def _repr_html_(self):
        """The page in a frame of its own: its style and its content policy stay inside."""
        from lastlayer.report.page import render

        page = html.escape(render(self))
        return f'<iframe sandbox="allow-scripts" srcdoc="{page}" width="100%" height="900" style="border:0"></iframe>'


def check(outputs: Outputs, *, calibrator=None, convention: str | None = None) -> Report:
    """Evaluate labelled outputs and say what is wrong with them, with evidence and fixes.

    With a ``calibrator`` the report is about the calibrated rows, and ``before`` about the given ones. Findings have
    codes; ``lastlayer explain CODE`` prints the page of one.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(4000, 3)) * 2
    >>> y = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
    >>> check(Outputs(z * 3, "logits", target=y)).findings[0].title
    'over-confident'
    """
    outputs = wanted("check", outputs)
    source = outputs.source or "outputs"
    data = shlex.quote(source) if Path(source).exists() else "FILE"  # what a model put out has no file yet
    if calibrator is None:
        return Report(evaluate(outputs, convention=convention), source, data=data)
    after = evaluate(calibrator.apply(outputs), convention=convention)
    before = None if outputs.kind == "margin" else evaluate(outputs, convention=convention)
    return Report(after, source, before, str(calibrator), data)
