"""Signals to a run (stop, save, stop at once), and the exception that ends it early."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from jax.errors import JaxRuntimeError

from resnet.runtime import processes

STOPS = (signal.SIGTERM, signal.SIGINT)
NOTHING_LOST = "before its first step; nothing is lost"
# What a process still does when it leaves at once; a job of a cluster asks to be started again.
BEFORE_LEAVING: list[Callable[[], object]] = []
_MAY_END_PROCESS = threading.Event()


def may_end_process() -> None:
    """Allows a stop to end this process at once; only a script, which owns its process, may call it.

    Elsewhere a stop is raised as an exception: the kernel of a notebook holds more than the run.
    """
    _MAY_END_PROCESS.set()


class RunStopped(Exception):
    """The run ended before its time; the message is for the user, `exit_code` for the shell."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """While entered, SIGTERM and SIGINT set `received`, and SIGUSR1 asks for a checkpoint.

    A second SIGINT ends the run at once, and so does any stop while there is `nothing_to_lose`. In a script
    such a stop ends the process, even during a compilation; a thread does so, because no Python code runs in
    the main thread then. Elsewhere it is raised as RunStopped, and a second SIGINT as KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.nothing_to_lose = True
        """Before the first step of a session, when all there is to save is on disk."""
        self._save_asked = False
        self._polls = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        handlers: dict[signal.Signals, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            pass  # Python lets no other thread set handlers: the caller's stay in charge.
        elif processes.several():
            # JAX catches SIGTERM then, to stop all processes after the same step; none may save alone.
            handlers = {signal.SIGINT: processes.pass_on_interrupt, signal.SIGUSR1: signal.SIG_IGN}
        else:
            handlers = dict.fromkeys((*STOPS, signal.SIGUSR1), self._receive)
        self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        if handlers and _MAY_END_PROCESS.is_set():
            self._start_watching()
        return self

    def _start_watching(self) -> None:
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(ours,), daemon=True)
        watcher.start()
        # Called last to first: the end of the pairing ends the thread.
        for release in (ours.close, watcher.join, pythons.close):
            self._closing.callback(release)
        self._closing.callback(signal.set_wakeup_fd, before)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._closing.close()
        if self.received and isinstance(error, JaxRuntimeError):
            # XLA compiles for a GPU with programs of its own, which a signal to all of a job ends too.
            raise RunStopped(
                f"stopped by {self.received.name} while compiling; the same command resumes from the last "
                "checkpoint",
                exit_code=128 + self.received,
            ) from error

    @property
    def waiting(self) -> bool:
        """Whether the run should pause after this step, to save or to stop."""
        return self._save_asked or self.received is not None

    def poll(self) -> None:
        """Notes whether another process of the run was told to stop; to be called after every dispatch."""
        self._polls += 1
        if processes.asked_to_stop(self._polls):
            self.received = signal.SIGTERM

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last time."""
        asked, self._save_asked = self._save_asked, False
        return asked

    def stopped(self, step: int, failure: str = "") -> RunStopped:
        """The exception to raise once the state of `step` is saved, or could not be because of `failure`."""
        assert self.received is not None
        there = f"from the checkpoint before it, for {failure}" if failure else "there"
        return RunStopped(
            f"stopped by {self.received.name} at step {step}; the same command resumes {there}",
            exit_code=128 + self.received,
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save_asked = True
            return
        again, self.received = self.received is signal.SIGINT, signal.Signals(number)
        if _MAY_END_PROCESS.is_set():
            return  # The thread that watches has left where that was due.
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.nothing_to_lose:
            raise RunStopped(f"stopped by {self.received.name} {NOTHING_LOST}", exit_code=128 + number)

    def _watch(self, numbers: socket.socket) -> None:
        """Reads the numbers of signals as they arrive, whatever the main thread is doing."""
        interrupts = 0
        while number := numbers.recv(1):
            interrupts += number[0] == signal.SIGINT
            if interrupts > 1:
                _leave(signal.SIGINT, "a second time; what was not saved yet is lost")
            elif number[0] in STOPS and self.nothing_to_lose:
                _leave(signal.Signals(number[0]), NOTHING_LOST)


def _leave(number: signal.Signals, when: str) -> None:
    """Ends the process without waiting for anything; the terminal gets its cursor back."""
    cursor = "\x1b[?25h" if os.isatty(2) else ""
    os.write(2, f"{cursor}error: stopped by {number.name} {when}\n".encode())
    try:
        for action in BEFORE_LEAVING:
            action()
    finally:
        os._exit(128 + number)
