"""Leaving a run early on purpose: signals that ask for it, and the exception that carries it out."""

import signal
import threading
from types import FrameType
from typing import Any

from resnet.training import processes


class RunStopped(Exception):
    """The run ended before its time; the message is for the user, `exit_code` for the shell."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """While entered, SIGTERM and SIGINT only set `received`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._polls = 0

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread set handlers; elsewhere the caller's stay in charge.
        if processes.several():
            # JAX catches SIGTERM then, to stop all processes after the same step.
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, processes.pass_on_interrupt)
        elif threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def poll(self) -> None:
        """To be called after every dispatch: whether one of several processes was told to stop."""
        self._polls += 1
        if processes.asked_to_stop(self._polls):
            self.received = signal.SIGTERM

    def stopped(self, step: int) -> RunStopped:
        """What to raise once the state of `step` is safe."""
        assert self.received is not None
        return RunStopped(
            f"stopped by {self.received.name} at step {step}; the same command resumes there",
            exit_code=128 + self.received,
        )
