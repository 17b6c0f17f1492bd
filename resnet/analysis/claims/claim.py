"""What a claim is: a sentence, the hypothesis that tests it, a measurement, and the rule that judges it."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet.analysis.claims.kept import Accuracies
from resnet.analysis.laws import LEAST_FIRST, Check, Holds, all_of
from resnet.config import Config, replaced
from resnet.training.loop import train

RUNS = 5
"""Seeds of the nets that are trained as runs."""

Rows = Sequence[Mapping[str, Any]]
"""What was measured: numbers, estimates and names, by the headings of the page's table; those that begin
with an underscore stand in no table."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What the measurements share."""

    chain: Config
    """The config of configs/chain.py; chains of blocks start from it."""
    digits: Config
    """The config of configs/digits_small.py; nets on digits start from it."""
    rotation: Config
    """The config of configs/digits_rotation.py; regressions start from it."""
    runs: Path
    """Folder of the nets that are trained. Those that are finished there serve as they are."""
    kept: Mapping[str, Accuracies]
    """What the studies in results/studies found, by name; it is judged too."""
    images: int = 32
    seeds: int = 2
    _measured: dict[Callable, Any] = dataclasses.field(default_factory=dict)

    def once(self, measure: Callable[["Bench"], Any]) -> Any:
        """What `measure` returns of this bench: several claims may rest on one measurement."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        return self._measured[measure]

    def trained(self, name: str, changes: Mapping[str, Any]) -> tuple[Path, list[float]]:
        """Trains a net on digits once for each seed, and keeps five checkpoints of each run.

        Returns the folder of the runs, seed0 and on, and their test accuracies in percent.
        """
        always = {"train.seeds": RUNS, "checkpoint.every": "20 %", "checkpoint.keep": 5}
        result = train(replaced(self.digits, always | dict(changes)), self.runs / name, command="make claims")
        return self.runs / name, [100 * run["top1"] for run in result["runs"]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the idea. Its verdict and the text of it follow from the rows alone."""

    sentence: str
    hypothesis: str
    """What is measured, and what must be found for the sentence to hold."""
    otherwise: str
    """What it means if the verdict is no."""
    measure: Callable[[Bench], Rows]
    rule: Callable[[Rows], list[Check]]
    pictures: Callable[[Rows], dict[str, Any]] = lambda rows: {}
    """Matplotlib figures by file name."""
    command: str = ""
    """What shows more of one of its nets."""

    def test(self, bench: Bench) -> "Finding":
        """Measures and judges."""
        return self.judge(self.measure(bench))

    def judge(self, rows: Rows) -> "Finding":
        """The verdict on what was measured."""
        return Finding(self, rows, self.rule(rows))


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim with what was found."""

    claim: Claim
    rows: Rows
    checks: list[Check]

    @property
    def holds(self) -> Holds:
        return all_of(self.checks)

    @property
    def judged(self) -> list[Check]:
        """The checks, those that fail first."""
        return sorted(self.checks, key=lambda check: LEAST_FIRST.index(check.holds))

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The rows as a table has them."""
        return [{key: _cell(value) for key, value in row.items() if key[0] != "_"} for row in self.rows]


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else "" if value is None else str(value)


def signal_command(model: Mapping[str, Any]) -> str:
    """The command that measures growth in a net with these fields, and more of the same net."""
    fields = shlex.join(f"--config.{name}={value}" for name, value in model.items())
    question = "python scripts/analyze.py --question=signal --config=configs/chain.py --images=32 --seeds=2"
    return f"{question} {fields}".strip()


def row_of(rows: Rows, **values: Any) -> Mapping[str, Any]:
    """The one row that has these values."""
    (found,) = (row for row in rows if all(row[name] == value for name, value in values.items()))
    return found
