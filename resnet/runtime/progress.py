"""How far a run is: a bar on a terminal, else now and then a line in the log."""

import datetime
import math
import sys
import time
from typing import Any

from absl import logging

from resnet.runtime.processes import index_of_this

LOG_SECONDS = 30.0  # between two lines where there is no terminal


class ProgressBar:
    """The way to the last step. Its ETA rests on the steps after the first report of the process, so
    that neither compilation nor the steps of an earlier session count."""

    def __init__(self, total_steps: int, steps_per_epoch: int, step: int = 0):
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.start: tuple[int, float] | None = None  # step and time of the first report
        self.logged, self.rate = -math.inf, "?"
        self.bar = _terminal_bar(total_steps, step) if sys.stderr.isatty() and not index_of_this() else None

    def show(self, step: int, images_per_second: float) -> None:
        """Reports `step` finished steps; 0 images/s: not measured yet, the last speed known is shown."""
        now = time.monotonic()
        self.start = self.start or (step, now)
        text = self._text(step, images_per_second, now)
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step, text=text)
        elif now - self.logged >= LOG_SECONDS or step == self.total_steps:
            logging.info("step %d of %d, %s", step, self.total_steps, text)
            self.logged = now

    def _text(self, step: int, images_per_second: float, now: float) -> str:
        assert self.start is not None
        done, elapsed = step - self.start[0], now - self.start[1]
        left = elapsed / done * (self.total_steps - step) if done else None
        eta = "?" if left is None else datetime.timedelta(seconds=round(left))
        self.rate = f"{images_per_second:,.0f}" if images_per_second else self.rate
        return f"epoch {step / self.steps_per_epoch:.1f}, {self.rate} images/s, ETA {eta}"

    def close(self) -> None:
        """Gives the terminal back."""
        if self.bar:
            self.bar.stop()
            _log_to_standard_error()
            self.bar = None


class Clock:
    """The speed of the steps, without what lies between two stretches of them and each one's first call."""

    def __init__(self, images: int):
        """`images` are those of a step."""
        self.images, self.steps, self.seconds = images, 0, 0.0
        self._from: tuple[int, float] | None = None  # step and time of the stretch's first call
        self._last = 0

    def tick(self, steps: range) -> float:
        """Images per second in this stretch so far; 0 at its first call, which may compile."""
        now, self._last = time.monotonic(), steps.stop
        self._from = self._from or (steps.stop, now)
        return (steps.stop - self._from[0]) * self.images / max(now - self._from[1], 1e-9)

    def pause(self) -> None:
        """Ends a stretch, once the device has done its steps."""
        if self._from:
            self.steps += self._last - self._from[0]
            self.seconds += time.monotonic() - self._from[1]
            self._from = None

    @property
    def mean(self) -> float:
        """Images per second over all stretches."""
        return self.steps * self.images / max(self.seconds, 1e-9)


def _terminal_bar(total_steps: int, step: int) -> Any:
    """A bar on standard error, for standard output is the result's; log lines pass above it."""
    from rich import console, progress

    texts = progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}")
    screen = console.Console(stderr=True)
    bar = progress.Progress(progress.BarColumn(), *texts, console=screen, redirect_stdout=False)
    bar.add_task("", total=total_steps, completed=step, text="compiling")
    bar.start()
    _log_to_standard_error()
    return bar


def _log_to_standard_error() -> None:
    """absl keeps the stream it found at its start; the bar has put its own in the way since."""
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)
