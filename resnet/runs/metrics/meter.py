"""Training metrics of one run on their way to the records."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from resnet.runs.rollbacks import Diverged, reason

# A run that leaves out so many updates one after the other will not recover.
IN_A_ROW = 100


class Meter:
    """Averages the metrics of each step between two lines, and notices a loss that is not finite.

    The sums in flight are part of a checkpoint: a resumed run writes the same lines as one that
    never stopped.
    """

    def __init__(
        self,
        every: int,
        total_steps: int,
        write: Callable[[int, dict[str, float]], None],
        *,
        skips: bool = False,
        spike_factor: float = 0.0,
    ) -> None:
        """With `skips`, steps that diverged are counted, and not averaged."""
        self.every, self.total_steps = every, total_steps
        self.skips, self.spike_factor = skips, spike_factor
        self.sums: dict[str, float] = {}
        self.count = 0
        self.skipped = {"line": 0, "in_a_row": 0, "all": 0}
        self._write = write

    def pending(self) -> dict[str, Any]:
        """The sums since the last line, for a checkpoint."""
        # A copy: the save is asynchronous, and the next step adds to the sums before it is written.
        return {"sums": dict(self.sums), "count": self.count, "skipped": dict(self.skipped)}

    def restore(self, pending: dict[str, Any]) -> None:
        """Takes up the sums of a checkpoint."""
        self.sums, self.count = pending.get("sums", {}), pending.get("count", 0)
        self.skipped |= pending.get("skipped", {})

    def add(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of steps first_step, first_step + 1, …, which came from one dispatch.

        Raises Diverged at the first step that did, or, where such steps are skipped, after too many.
        """
        metrics = dict(metrics)
        norms = metrics.pop("gradient_norms", None)
        last_step = first_step + len(metrics["loss"]) - 1
        for i, step in enumerate(range(first_step, last_step + 1)):
            values = {name: float(series[i]) for name, series in metrics.items()}
            why = reason(values, self.spike_factor)
            self.skipped["in_a_row"] = self.skipped["in_a_row"] + 1 if why else 0
            if why and (not self.skips or self.skipped["in_a_row"] == IN_A_ROW):
                why += f", as in the {IN_A_ROW - 1} before it," if self.skips else ""
                raise Diverged(why, step, (first_step, last_step), None if norms is None else norms[i])
            values.pop("diverged", None)
            if why:
                self._count_skipped(step, why)
            else:
                self._add_step(values)
            if step % self.every == 0 or step == self.total_steps:
                self._write_line(step, values["learning_rate"])

    def _add_step(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def _count_skipped(self, step: int, why: str) -> None:
        self.skipped["line"] += 1
        self.skipped["all"] += 1
        logging.log_every_n_seconds(
            logging.WARNING, "step %d is left out: %s (%d so far)", 10, step, why, self.skipped["all"]
        )

    def _write_line(self, step: int, learning_rate: float) -> None:
        means = {name: total / self.count for name, total in self.sums.items()}
        skipped = {"skipped": self.skipped["line"]} if self.skips else {}
        self._write(step, means | {"learning_rate": learning_rate} | skipped)
        self.sums, self.count, self.skipped["line"] = {}, 0, 0
