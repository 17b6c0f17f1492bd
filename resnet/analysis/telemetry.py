"""How signal, branch and gradient changed at every block while a run trained, as it recorded them.

Root mean squares over images, pixels and channels, of the batch that came next, with its statistics;
the gradient is that of the loss, where it enters the block. `config.train.telemetry_every` says how often.
Source: He 2015 (https://arxiv.org/abs/1502.01852) and Glorot 2010
(https://proceedings.mlr.press/v9/glorot10a.html), who follow activations and gradients over training.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from resnet.analysis.subject import Subject
from resnet.errors import InputError
from resnet.runs.metrics import telemetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """What the run recorded: base-ten logarithms by step and block."""

    rows: list[dict[str, Any]]

    def tables(self) -> dict[str, list[dict]]:
        """The first and the last record."""
        first, last = self.rows[0]["step"], self.rows[-1]["step"]
        return {
            f"log10 of root mean squares at step {step}": [row for row in self.rows if row["step"] == step]
            for step in dict.fromkeys((first, last))
        }

    def plot(self) -> "Figure":
        """Maps of step and block."""
        return telemetry.figure(self.rows)


def ask(subject: Subject, options: Options) -> Telemetry:
    """Reads the records in telemetry.csv of a run, up to the step of the subject."""
    last = subject.step
    rows = [] if last is None else [row for row in telemetry.read(subject.name) if row["step"] <= last]
    if not rows:
        raise InputError(f"{subject.name}, {subject.when}, has nothing in {telemetry.FILE}; train with "
                         "--config.train.telemetry_every=…")  # fmt: skip
    return Telemetry(rows)
