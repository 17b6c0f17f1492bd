"""The progress of a run: a bar on a terminal, elsewhere a line in the log every half minute."""

import datetime
import math
import sys
import time
from typing import Any

from absl import logging

from resnet.runtime.processes import index_of_this

LOG_SECONDS = 30.0  # between two lines where there is no terminal


class ProgressBar:
    """The progress to the last step, with the expected time of the end.

    That time is estimated from the steps after the process's first report, so compilation and the steps of
    earlier sessions do not count.
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, step: int = 0):
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.start: tuple[int, float] | None = None  # step and time of the first report
        self.logged, self.rate = -math.inf, "?"
        self.bar = _terminal_bar(total_steps, step) if sys.stderr.isatty() and not index_of_this() else None

    def show(self, step: int, images_per_second: float, waiting: float | None = None) -> None:
        """Reports `step` finished steps; a speed of 0 is not measured yet, so the last known one is shown.

        `waiting` is the share of the time for which the devices wait for images, where they are streamed.
        """
        now = time.monotonic()
        self.start = self.start or (step, now)
        text = self._text(step, images_per_second, now)
        text += "" if waiting is None else f", {waiting:.0%} waiting for images"
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
        """Removes the bar from the terminal."""
        if self.bar:
            self.bar.stop()
            _log_to_standard_error()
            self.bar = None


class Clock:
    """The speed of the steps, without pauses and without the first call after each pause."""

    def __init__(self, images: int):
        """`images` are those of a step."""
        self.images, self.steps, self.seconds, self.waited = images, 0, 0.0, 0.0
        # Step, time and time waited at the stretch's first call.
        self._from: tuple[int, float, float] | None = None
        self._last = 0, 0.0

    def tick(self, steps: range, waited: float = 0.0) -> float:
        """Images per second in this stretch so far; 0 at its first call, which may compile.

        `waited` are the seconds for which images have been waited for in all.
        """
        now, self._last = time.monotonic(), (steps.stop, waited)
        self._from = self._from or (steps.stop, now, waited)
        return (steps.stop - self._from[0]) * self.images / max(now - self._from[1], 1e-9)

    def pause(self) -> None:
        """Ends a stretch, once the device has done its steps."""
        if self._from:
            self.steps += self._last[0] - self._from[0]
            self.seconds += time.monotonic() - self._from[1]
            self.waited += self._last[1] - self._from[2]
            self._from = None

    @property
    def waiting(self) -> float:
        """Share of the time for which images were waited for, this stretch included."""
        start = self._from or (0, time.monotonic(), self._last[1])
        waited, seconds = self._last[1] - start[2], time.monotonic() - start[1]
        return (self.waited + waited) / max(self.seconds + seconds, 1e-9)

    @property
    def mean(self) -> float | None:
        """Images per second over all stretches; None where each had one call only, so nothing is measured."""
        return self.steps * self.images / max(self.seconds, 1e-9) if self.steps else None


def _terminal_bar(total_steps: int, step: int) -> Any:
    """A bar on standard error, because standard output is for the result; log lines pass above it."""
    from rich import console, progress

    texts = progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}")
    screen = console.Console(stderr=True)
    bar = progress.Progress(progress.BarColumn(), *texts, console=screen, redirect_stdout=False)
    bar.add_task("", total=total_steps, completed=step, text="compiling")
    bar.start()
    _log_to_standard_error()
    return bar


def _log_to_standard_error() -> None:
    """Makes absl log to the present standard error: it keeps the stream from its start, before the bar."""
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)
