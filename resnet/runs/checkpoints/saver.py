"""Checkpoints saved in the background while training goes on; a save that failed is tried again."""

import contextlib
import functools
import logging as python_logging
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import logging

from resnet.runs.checkpoints import checkpoint

# The errors of a disk that refuses: the system's own, and tensorstore's, which is a status in words.
_REFUSED = (OSError, ValueError)


class Saver:
    """The checkpoints of a run, written in the background.

    A save that fails logs a warning and changes nothing on disk; the next save tries again.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.failure = ""
        """Why the latest save failed; "" if it is whole, or on its way."""
        self._saving: int | None = None
        self._manager: Any = None
        self._closing = contextlib.ExitStack()
        _hush_orbax()

    @property
    def whole(self) -> set[int]:
        """Steps of the complete checkpoints on disk; none before the first save."""
        return set(self._manager.all_steps()) - {self._saving} if self._manager else set()

    def save(self, state: Any, metadata: dict[str, Any]) -> None:
        """Starts a save once the previous one has ended."""
        self.wait()
        try:
            if not self.workdir.is_dir():  # Orbax would make it anew, perhaps where a disk is missing.
                raise FileNotFoundError(f"{self.workdir} is gone")
            if self._manager is None:
                self._manager = self._closing.enter_context(checkpoint.managing(self.workdir))
            elif not self._manager.directory.is_dir():  # Temporary folders, and links there, are tidied up.
                raise FileNotFoundError(f"{self._manager.directory} is gone")
            self._saving = int(state.step)
            checkpoint.save(self._manager, state, metadata)
        except _REFUSED as error:
            self._saving = None
            self.fail(int(state.step), error)

    def poll(self) -> None:
        """Notices how the save in flight ended, if it has."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the save in flight."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            self.failure = ""
        except _REFUSED as error:
            self.fail(step, error)

    def remove_all_but(self, steps: Collection[int]) -> None:
        """Removes all checkpoints except those of `steps` and the latest."""
        for step in self.whole - {*steps, max(self.whole)}:
            try:
                self._manager.delete(step)
            except _REFUSED as error:
                logging.warning("%s: checkpoint %d could not be removed (%s)", self.workdir, step, error)

    def fail(self, step: int, error: Exception) -> None:
        """Reports a save that failed, and makes ready for another."""
        self.close()
        # Tensorstore gives the system's number at the end of a long text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(number[1])) if number else " ".join(str(error).split())[:300]
        self.failure = f"the checkpoint of step {step} could not be written ({reason})"
        logging.warning("%s: %s; the next one that is due tries again", self.workdir, self.failure)

    def close(self) -> None:
        """Waits for the save in flight, and releases all; may be called twice."""
        self.wait()
        self._manager = None
        with contextlib.suppress(*_REFUSED):
            self._closing.close()


def _hush_orbax() -> None:
    """Keeps the tracebacks of orbax's threads out of the log: a failed save raises an exception as well."""
    python_logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
    hook = sys.unraisablehook
    if getattr(hook, "func", None) is not _unless_left_over:
        sys.unraisablehook = functools.partial(_unless_left_over, hook)


def _is_no_traceback_of_orbax(record: python_logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname or not record.exc_info


def _unless_left_over(hook: Any, unraisable: Any) -> None:
    """Calls `hook`, except for coroutines of orbax and for writes whose event loop is closed."""
    code = getattr(unraisable.object, "cr_code", None)
    ours = code is not None and "/orbax/" in code.co_filename
    if not ours and str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)
