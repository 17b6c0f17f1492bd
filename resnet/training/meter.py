"""Training metrics on their way from the device to the records, one dispatch late."""

import math
from collections.abc import Callable
from typing import Any

import jax

from resnet.training.signals import RunStopped


class Meter:
    """Averages the metrics of each step between two lines, and notices a loss that is not finite.

    The metrics of a dispatch are fetched when the next one is already on its way, so that the
    device never waits. The sums in flight are part of a checkpoint: a resumed run writes the same
    lines as one that never stopped.
    """

    def __init__(self, every: int, total_steps: int, write: Callable[[int, dict[str, float]], None]) -> None:
        self.every, self.total_steps = every, total_steps
        self.sums: dict[str, float] = {}
        self.count = 0
        self._write = write
        self._waiting: tuple[int, dict[str, Any]] | None = None

    def pending(self) -> dict[str, Any]:
        """The sums since the last line, for a checkpoint; everything must have been flushed."""
        # A copy: the save is asynchronous, and the next step adds to the sums before it is written.
        return {"sums": dict(self.sums), "count": self.count}

    def restore(self, pending: dict[str, Any]) -> None:
        """Takes up the sums of a checkpoint."""
        self.sums, self.count = pending.get("sums", {}), pending.get("count", 0)

    def add(self, first_step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of steps first_step, first_step + 1, … and reads those before them."""
        waiting, self._waiting = self._waiting, (first_step, metrics)
        self._read(waiting)

    def flush(self) -> None:
        """Reads all that was added; waits for the device."""
        waiting, self._waiting = self._waiting, None
        self._read(waiting)

    def _read(self, waiting: tuple[int, dict[str, Any]] | None) -> None:
        if waiting is None:
            return
        first_step, metrics = waiting[0], jax.device_get(waiting[1])
        for i in range(len(metrics["loss"])):
            step = first_step + i
            values = {name: float(series[i]) for name, series in metrics.items()}
            _check_finite(values, step, first_step, first_step + len(metrics["loss"]) - 1)
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
