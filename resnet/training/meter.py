"""Training metrics of one run on their way to the records."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resnet.training.signals import RunStopped


class Meter:
    """Averages the metrics of each step between two lines, and notices a loss that is not finite.

    The sums in flight are part of a checkpoint: a resumed run writes the same lines as one that
    never stopped.
    """

    def __init__(self, every: int, total_steps: int, write: Callable[[int, dict[str, float]], None]) -> None:
        self.every, self.total_steps = every, total_steps
        self.sums: dict[str, float] = {}
        self.count = 0
        self._write = write

    def pending(self) -> dict[str, Any]:
        """The sums since the last line, for a checkpoint."""
        # A copy: the save is asynchronous, and the next step adds to the sums before it is written.
        return {"sums": dict(self.sums), "count": self.count}

    def restore(self, pending: dict[str, Any]) -> None:
        """Takes up the sums of a checkpoint."""
        self.sums, self.count = pending.get("sums", {}), pending.get("count", 0)

    def add(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of steps first_step, first_step + 1, …, which came from one dispatch.

        Raises RunStopped at the first loss or gradient norm that is not finite.
        """
        last_step = first_step + len(metrics["loss"]) - 1
        for i, step in enumerate(range(first_step, last_step + 1)):
            values = {name: float(series[i]) for name, series in metrics.items()}
            _check_finite(values, step, first_step, last_step)
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1
            if step % self.every == 0 or step == self.total_steps:
                self._write_line(step, values["learning_rate"])

    def _write_line(self, step: int, learning_rate: float) -> None:
        means = {name: total / self.count for name, total in self.sums.items()}
        self._write(step, means | {"learning_rate": learning_rate})
        self.sums, self.count = {}, 0


def _check_finite(values: dict[str, float], step: int, first: int, last: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise RunStopped(
                f"{name} is {values[name]} at step {step} (window {first}-{last}); the checkpoints "
                "before it are kept; lower `schedule.learning_rate`, add a warm-up, or set "
                "`optimizer.clip_norm`",
                exit_code=1,
            )
